"""Reading from a stream transport: data, EOF, pausing, and changing the protocol.

Source: asyncio's documentation of ReadTransport and of streaming protocols.
"""

import asyncio
import contextvars
import socket

import pytest
from streamkit import (
    KINDS,
    PY,
    BufferedRecorder,
    Recorder,
    connected,
    on_loop,
    oracle_bug,
    pattern,
    pending,
    read_all,
    settle,
    until,
)

# -- data and EOF --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_order_of_the_callbacks(loop, kind):
    async with connected(kind=kind) as (transport, protocol, peer):
        peer.sendall(b"hello")
        await protocol.received(5)
        peer.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
        assert protocol.names == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]
        assert protocol.transport is transport


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 4095, 65536, 65537, 262144, 262145, 3000001])
@on_loop
async def test_data_arrives_whole_and_in_order(loop, kind, size):
    async with connected(kind=kind) as (_, protocol, peer):
        data = pattern(size)
        peer.setblocking(False)
        await loop.sock_sendall(peer, data)
        assert await protocol.received(size) == data
        peer.shutdown(socket.SHUT_WR)
        await protocol.lost
        assert bytes(protocol.data) == data


@on_loop
async def test_many_small_pieces(loop):
    async with connected() as (_, protocol, peer):
        for n in range(500):
            peer.send(b"%03d" % n)
            if n % 7 == 0:
                await asyncio.sleep(0)
        expected = b"".join(b"%03d" % n for n in range(500))
        assert await protocol.received(1500) == expected


@on_loop
async def test_each_chunk_is_a_bytes_object_of_its_own(loop):
    async with connected() as (_, protocol, peer):
        for n, piece in enumerate((b"first", b"second", b"x" * 100000), 1):
            peer.send(piece)
            await protocol.called("data_received", n)
        chunks = [call[1] for call in protocol.calls if call[0] == "data_received"]
        assert [chunks[0], chunks[1], b"".join(chunks[2:])[:1]] == [
            b"first",
            b"second",
            b"x",
        ]
        assert all(type(chunk) is bytes for chunk in chunks)


@pytest.mark.parametrize("keep_open", [None, False, 0, ""])
@on_loop
async def test_eof_received_false_closes(loop, keep_open):
    async with connected() as (transport, protocol, peer):
        protocol.keep_open = keep_open
        peer.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
        assert transport.is_closing()
        assert peer.recv(10) == b""


@pytest.mark.parametrize("keep_open", [True, 1, "yes"])
@on_loop
async def test_eof_received_true_leaves_the_write_side_open(loop, keep_open):
    async with connected() as (transport, protocol, peer):
        protocol.keep_open = keep_open
        peer.sendall(b"question")
        peer.shutdown(socket.SHUT_WR)
        await protocol.called("eof_received")
        await settle(loop)
        assert protocol.count("eof_received") == 1, "the end is told once"
        assert not transport.is_closing()
        transport.write(b"answer")
        assert peer.recv(100) == b"answer"
        transport.close()
        assert await protocol.lost is None
        assert protocol.names == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_the_end_is_told_once(loop, loop_kind, kind):
    oracle_bug(loop_kind, True, "eof_received() again after a pause")
    async with connected(kind=kind) as (transport, protocol, peer):
        protocol.keep_open = True
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: "eof_received" in protocol.names)
        transport.pause_reading()
        transport.resume_reading()
        await settle(loop)
        assert protocol.names.count("eof_received") == 1


@on_loop
async def test_eof_received_closes_after_queued_data(loop):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        data = pattern(1 << 20)
        transport.write(data)
        peer.shutdown(socket.SHUT_WR)
        await protocol.called("eof_received")
        assert not protocol.lost.done()
        assert await read_all(loop, peer) == data
        assert await protocol.lost is None


@on_loop
async def test_data_before_eof_is_not_lost_when_the_peer_closes(loop):
    async with connected() as (_, protocol, peer):
        peer.sendall(pattern(100000))
        peer.close()
        assert await protocol.lost is None
        assert bytes(protocol.data) == pattern(100000)


@on_loop
async def test_data_that_came_before_the_transport_was_made(loop):
    near, peer = socket.socketpair()
    with peer:
        peer.sendall(b"early")
        peer.shutdown(socket.SHUT_WR)
        _, protocol = await loop.create_connection(Recorder, sock=near)
        assert await protocol.lost is None
        assert protocol.names == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]


@on_loop
async def test_the_awaiting_task_runs_after_connection_made(loop):
    near, peer = socket.socketpair()
    with peer:
        peer.sendall(b"early")
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        assert protocol.names[0] == "connection_made"
        assert protocol.transport is transport
        transport.abort()


# -- pausing -------------------------------------------------------------------------


@on_loop
async def test_is_reading(loop):
    async with connected() as (transport, protocol, _):
        assert transport.is_reading() is True
        transport.pause_reading()
        assert transport.is_reading() is False
        transport.resume_reading()
        assert transport.is_reading() is True
        transport.close()
        assert transport.is_reading() is False
        await protocol.lost
        assert transport.is_reading() is False


@on_loop
async def test_pause_and_resume_may_be_repeated(loop):
    async with connected() as (transport, protocol, peer):
        transport.resume_reading()
        transport.pause_reading()
        transport.pause_reading()
        peer.send(b"x")
        await settle(loop)
        assert not protocol.data
        transport.resume_reading()
        transport.resume_reading()
        assert await protocol.received(1) == b"x"


@on_loop
async def test_nothing_arrives_while_paused(loop):
    async with connected() as (transport, protocol, peer):
        transport.pause_reading()
        peer.sendall(b"data")
        peer.shutdown(socket.SHUT_WR)
        await settle(loop)
        assert protocol.names == ["connection_made"]
        transport.write(b"writing goes on")
        assert peer.recv(100) == b"writing goes on"
        transport.resume_reading()
        assert await protocol.lost is None
        assert protocol.names[1:] == [
            "data_received",
            "eof_received",
            "connection_lost",
        ]


@on_loop
async def test_the_end_of_a_paused_transport_waits_for_resume(loop):
    """The kernel reports a hang-up even to those who do not read."""
    async with connected() as (transport, protocol, peer):
        transport.pause_reading()
        peer.close()
        await settle(loop, 10)
        assert protocol.names == ["connection_made"]
        assert not transport.is_closing()
        transport.resume_reading()
        assert await protocol.lost is None


def test_paused_in_connection_made(loop, loop_kind):
    oracle_bug(loop_kind, PY < (3, 11), "reads although paused in connection_made")

    @on_loop
    async def body(loop):
        class Shy(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.pause_reading()

        async with connected(Shy) as (transport, protocol, peer):
            peer.send(b"data")
            await settle(loop)
            assert not transport.is_reading()
            assert protocol.names == ["connection_made"]
            transport.resume_reading()
            await protocol.received(4)

    body(loop=loop)


@on_loop
async def test_pause_inside_data_received_holds_the_rest(loop):
    async with connected() as (transport, protocol, peer):

        def pause(name):
            if name == "data_received":
                transport.pause_reading()

        protocol.on = pause
        peer.setblocking(False)
        sender = asyncio.create_task(loop.sock_sendall(peer, pattern(4 << 20)))
        rounds = 0
        while len(protocol.data) < 4 << 20:
            rounds += 1
            await protocol.called("data_received", rounds)
            await settle(loop)
            assert protocol.count("data_received") == rounds
            transport.resume_reading()
        await sender
        assert bytes(protocol.data) == pattern(4 << 20)
        assert rounds > 1


@on_loop
async def test_pause_and_resume_inside_data_received(loop):
    async with connected() as (transport, protocol, peer):

        def flicker(name):
            if name == "data_received":
                transport.pause_reading()
                transport.resume_reading()

        protocol.on = flicker
        for n in range(1, 20):
            peer.send(b"x")
            await protocol.called("data_received", n)
        peer.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None


@on_loop
async def test_resume_in_a_later_callback(loop):
    async with connected() as (transport, protocol, peer):

        def pause(name):
            if name == "data_received":
                transport.pause_reading()
                loop.call_soon(transport.resume_reading)

        protocol.on = pause
        peer.setblocking(False)
        await loop.sock_sendall(peer, pattern(1 << 20))
        peer.shutdown(socket.SHUT_WR)
        await protocol.lost
        assert bytes(protocol.data) == pattern(1 << 20)


@pytest.mark.parametrize("method", ["pause_reading", "resume_reading"])
@on_loop
async def test_pausing_a_closed_transport_does_nothing(loop, method):
    async with connected() as (transport, protocol, peer):
        peer.send(b"never read")
        transport.pause_reading()
        transport.close()
        getattr(transport, method)()
        assert await protocol.lost is None
        getattr(transport, method)()
        await settle(loop)
        assert protocol.names == ["connection_made", "connection_lost"]


@on_loop
async def test_close_while_paused(loop):
    async with connected() as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"unread")
        await settle(loop)
        transport.close()
        assert await protocol.lost is None
        assert not protocol.data


# -- changing the protocol -----------------------------------------------------------


@on_loop
async def test_get_protocol_and_set_protocol(loop):
    async with connected() as (transport, first, peer):
        assert transport.get_protocol() is first
        second = Recorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        peer.send(b"data")
        await second.received(4)
        peer.close()
        await second.lost
        assert second.names == ["data_received", "eof_received", "connection_lost"]
        assert first.names == ["connection_made"]


@pytest.mark.parametrize("first_kind", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("second_kind", [Recorder, BufferedRecorder])
@on_loop
async def test_set_protocol_inside_a_callback(loop, first_kind, second_kind):
    """What is read after the change goes to the new protocol, in its own way."""
    async with connected(first_kind) as (transport, first, peer):
        second = second_kind()

        def switch(name):
            if name in ("data_received", "buffer_updated"):
                transport.set_protocol(second)

        first.on = switch
        peer.send(b"one")
        await first.received(3)
        peer.send(b"two")
        assert await second.received(3) == b"two"
        second.on = lambda name: transport.set_protocol(first)
        first.on = lambda name: None
        peer.send(b"three")
        assert await second.received(8) == b"twothree"
        peer.send(b"four")
        assert await first.received(7) == b"onefour"
        peer.close()
        await first.lost


@on_loop
async def test_set_protocol_in_the_middle_of_much_data(loop):
    """Each piece goes to the protocol that is set when it is read."""
    size = 4 << 20
    order = bytearray()
    async with connected(Recorder) as (transport, first, peer):
        second = BufferedRecorder(1 << 16)

        def take(name):
            if name == "data_received":
                order.extend(first.data)
                first.data.clear()
                transport.set_protocol(second)

        def take_buffered(name):
            if name == "buffer_updated":
                order.extend(second.data)
                second.data.clear()
                transport.set_protocol(first)

        first.on, second.on = take, take_buffered
        peer.setblocking(False)
        await loop.sock_sendall(peer, pattern(size))
        await until(lambda: len(order) == size)
        assert order == pattern(size)
        assert abs(first.count("data_received") - second.count("buffer_updated")) <= 1


@on_loop
async def test_set_protocol_while_data_waits_in_the_kernel(loop):
    async with connected() as (transport, first, peer):
        transport.pause_reading()
        peer.send(b"waiting")
        await settle(loop)
        second = BufferedRecorder(3)
        transport.set_protocol(second)
        transport.resume_reading()
        assert await second.received(7) == b"waiting"
        assert first.names == ["connection_made"]


@on_loop
async def test_set_protocol_after_close(loop):
    """connection_lost goes to the protocol that is set when it is due."""
    async with connected() as (transport, first, _):
        second = Recorder()
        transport.close()
        transport.set_protocol(second)
        assert await second.lost is None
        assert first.names == ["connection_made"]


@on_loop
async def test_patched_protocol_methods_are_called(loop):
    """A callback is looked up when it is called, not when the transport is made."""
    async with connected() as (_, protocol, peer):
        got = []
        peer.send(b"one")
        await protocol.received(3)
        protocol.data_received = got.append
        peer.send(b"two")
        await until(lambda: got)
        assert got == [b"two"]
        protocol.eof_received = lambda: got.append("eof")
        protocol.connection_lost = lambda exc: got.append(exc)
        peer.close()
        await until(lambda: len(got) == 3)
        assert got == [b"two", "eof", None]


@on_loop
async def test_a_protocol_without_base_class(loop):
    """Only the methods that are called are needed."""

    class Bare:
        lost = False
        data = b""

        def connection_made(self, transport):
            pass

        def data_received(self, data):
            self.data += data

        def eof_received(self):
            pass

        def connection_lost(self, exc):
            self.lost = True

    async with connected(Bare) as (_, protocol, peer):
        peer.send(b"data")
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: protocol.lost)
        assert protocol.data == b"data"


# -- the context of the callbacks ----------------------------------------------------

mark = contextvars.ContextVar("mark", default="unset")


class ContextRecorder(Recorder):
    def on(self, name):
        self.__dict__.setdefault("marks", []).append((name, mark.get()))
        mark.set("set by the protocol")


@on_loop
async def test_callbacks_run_in_a_copy_of_the_creators_context(loop):
    mark.set("creator")
    async with connected(ContextRecorder) as (_, protocol, peer):
        assert mark.get() == "creator", "what a callback sets stays in its context"
        mark.set("changed later")
        peer.send(b"x")
        await protocol.received(1)
        peer.close()
        await protocol.lost
        marks = dict(protocol.marks)
        assert marks["connection_made"] == "creator"
        assert marks["data_received"] in ("creator", "set by the protocol")
        assert "changed later" not in marks.values()


@pytest.mark.parametrize("secure", [False, True])
@on_loop
async def test_callbacks_of_accepted_connections_have_the_servers_context(
    loop, certificates, secure
):
    """Each connection has a copy. From 3.15 on it is the context of all its callbacks,
    before only of those of TLS; without, connection_made has another copy.
    """
    mark.set("server")
    accepted = []

    def factory():
        accepted.append(ContextRecorder())
        accepted[-1].marks = [("factory", mark.get())]
        mark.set("set by the factory")
        return accepted[-1]

    server = await loop.create_server(
        factory,
        "127.0.0.1",
        0,
        ssl=certificates.server_context() if secure else None,
    )
    mark.set("client")
    for _ in range(2):
        transport, _ = await loop.create_connection(
            asyncio.Protocol,
            *server.sockets[0].getsockname(),
            ssl=certificates.client_context() if secure else None,
            server_hostname="localhost" if secure else None,
        )
        transport.write(b"x")
        transport.close()
    await until(lambda: len(accepted) == 2)
    last = "protocol" if secure or PY >= (3, 15) else "factory"
    for protocol in accepted:
        await protocol.lost
        protocol.transport.close()  # else TLS warns on 3.10
        assert protocol.marks[:3] == [
            ("factory", "server"),
            ("connection_made", "set by the factory"),
            ("data_received", f"set by the {last}"),
        ]
        assert {word for _, word in protocol.marks[3:]} == {"set by the protocol"}
    server.close()
    await server.wait_closed()


@on_loop
async def test_pending_data_survives_until_asked(loop):
    """Reading stops at once: what comes after the pause stays in the kernel."""
    async with connected() as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"kept")
        await settle(loop)
        sock = transport.get_extra_info("socket")
        assert socket.socket(fileno=sock.fileno()).detach() == sock.fileno()
        with socket.socket(fileno=sock.dup().detach()) as copy:
            assert pending(copy) == b"kept"
        assert not protocol.data
