"""How a stream transport ends: close(), abort(), write_eof(), and connection_lost().

Source: asyncio's documentation of BaseTransport, WriteTransport and Protocol.
"""

import asyncio
import gc
import socket
import weakref

import pytest
from streamkit import (
    KINDS,
    BufferedRecorder,
    Recorder,
    connected,
    fill,
    on_loop,
    oracle_bug,
    pattern,
    pending,
    read_all,
    record_errors,
    resource_warnings,
    settle,
)

# -- close ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_close(loop, kind):
    async with connected(kind=kind) as (transport, protocol, peer):
        assert transport.is_closing() is False
        assert transport.close() is None
        assert transport.is_closing() is True
        assert protocol.names == ["connection_made"], "connection_lost comes later"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert protocol.calls == [("connection_made",), ("connection_lost", None)]
        assert peer.recv(10) == b""
        assert transport.is_closing() is True


@on_loop
async def test_connection_lost_comes_in_the_next_iteration(loop):
    """Callbacks scheduled before close() run before it, those after it run after."""
    async with connected() as (transport, protocol, _):
        order = []
        protocol.on = order.append
        loop.call_soon(order.append, "before")
        transport.close()
        loop.call_soon(order.append, "after")
        await protocol.lost
        await asyncio.sleep(0)
        assert order == ["before", "connection_lost", "after"]


@on_loop
async def test_close_is_idempotent(loop):
    async with connected() as (transport, protocol, _):
        for _ in range(3):
            transport.close()
        await protocol.lost
        transport.close()
        await settle(loop)
        transport.close()
        assert protocol.count("connection_lost") == 1


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_close_sends_what_is_queued_first(loop, kind):
    async with connected(kind=kind, sndbuf=4096) as (transport, protocol, peer):
        data = pattern(2 << 20)
        transport.write(data)
        assert transport.get_write_buffer_size() > 0
        transport.close()
        await settle(loop)
        assert not protocol.lost.done()
        assert transport.is_closing()
        assert await read_all(loop, peer) == data
        assert await protocol.lost is None


@on_loop
async def test_nothing_is_read_after_close(loop):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        filled = fill(transport)
        transport.close()
        peer.send(b"too late")
        await settle(loop)
        assert not protocol.data
        await read_all(loop, peer, filled)
        await protocol.lost
        assert protocol.names[-1] == "connection_lost"
        assert protocol.count("data_received") == 0


@on_loop
async def test_close_drops_data_that_was_ready_but_not_read(loop):
    async with connected() as (transport, protocol, peer):
        peer.send(b"ready")
        transport.close()
        await protocol.lost
        assert protocol.names == ["connection_made", "connection_lost"]


@on_loop
async def test_a_queued_close_ends_when_the_peer_goes(loop):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        fill(transport)
        transport.close()
        peer.close()
        exc = await protocol.lost
        assert isinstance(exc, (BrokenPipeError, ConnectionResetError))


# -- abort ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_abort_drops_what_is_queued(loop, kind):
    async with connected(kind=kind, sndbuf=4096) as (transport, protocol, peer):
        data = pattern(4 << 20)
        transport.write(data)
        queued = transport.get_write_buffer_size()
        assert transport.abort() is None
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        assert not protocol.lost.done()
        assert await protocol.lost is None
        got = await read_all(loop, peer)
        assert got == data[: len(data) - queued]


@on_loop
async def test_abort_twice_and_after_close(loop):
    async with connected() as (transport, protocol, _):
        transport.close()
        transport.abort()
        transport.abort()
        transport.close()
        assert await protocol.lost is None
        await settle(loop)
        assert protocol.count("connection_lost") == 1


@on_loop
async def test_abort_ends_a_close_that_waits(loop):
    async with connected(sndbuf=4096) as (transport, protocol, _):
        fill(transport)
        transport.close()
        await settle(loop)
        assert not protocol.lost.done()
        transport.abort()
        assert await protocol.lost is None
        await settle(loop)
        assert protocol.count("connection_lost") == 1


@pytest.mark.pyloop_only
@on_loop
async def test_abort_after_a_close_that_had_to_wait(loop):
    """asyncio's transport has forgotten its loop by then: AttributeError."""
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        fill(transport)
        transport.close()
        await read_all(loop, peer)
        assert await protocol.lost is None
        transport.abort()
        await settle(loop)
        assert protocol.count("connection_lost") == 1


# -- write_eof -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_write_eof_half_closes(loop, kind):
    async with connected(kind=kind) as (transport, protocol, peer):
        assert transport.can_write_eof() is True
        transport.write(b"request")
        assert transport.write_eof() is None
        assert not transport.is_closing()
        assert await read_all(loop, peer) == b"request"
        await loop.sock_sendall(peer, b"response")
        assert await protocol.received(8) == b"response"
        peer.close()
        assert await protocol.lost is None


@on_loop
async def test_write_eof_twice_and_after_close(loop):
    async with connected() as (transport, protocol, peer):
        transport.write_eof()
        transport.write_eof()
        transport.close()
        transport.write_eof()
        assert await protocol.lost is None
        assert peer.recv(10) == b""
    async with connected() as (transport, protocol, peer):
        transport.close()
        transport.write_eof()
        await protocol.lost
        transport.write_eof()


@on_loop
async def test_write_eof_waits_for_queued_data(loop):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        data = pattern(1 << 20)
        transport.write(data)
        transport.write_eof()
        assert transport.get_write_buffer_size() > 0
        assert await read_all(loop, peer) == data
        assert not transport.is_closing()
        assert transport.is_reading()
        await loop.sock_sendall(peer, b"still heard")
        await protocol.received(11)


@on_loop
async def test_close_after_write_eof_with_queued_data(loop):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        data = pattern(1 << 20)
        transport.write(data)
        transport.write_eof()
        transport.close()
        assert await read_all(loop, peer) == data
        assert await protocol.lost is None


@on_loop
async def test_both_sides_half_close(loop):
    async with connected() as (transport, protocol, peer):
        protocol.keep_open = True
        transport.write_eof()
        peer.shutdown(socket.SHUT_WR)
        await protocol.called("eof_received")
        await settle(loop)
        assert not transport.is_closing()
        transport.close()
        assert await protocol.lost is None


# -- after the end -------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "abort", "peer"])
@on_loop
async def test_a_dead_transport_answers(loop, end):
    async with connected() as (transport, protocol, peer):
        descriptor = transport.get_extra_info("socket").fileno()
        peer.close() if end == "peer" else getattr(transport, end)()
        assert await protocol.lost is None
        await settle(loop)
        transport.close()
        transport.abort()
        transport.write_eof()
        transport.pause_reading()
        transport.resume_reading()
        transport.write(b"dropped")
        assert transport.is_closing() is True
        assert transport.is_reading() is False
        assert transport.get_write_buffer_size() == 0
        assert transport.get_write_buffer_limits() == (16384, 65536)
        assert transport.get_protocol() is None
        assert transport.get_extra_info("socket").fileno() == -1
        assert "closed" in repr(transport)
        assert str(descriptor) in repr(transport)
        await settle(loop)
        assert protocol.count("connection_lost") == 1


@on_loop
async def test_the_socket_is_open_during_connection_lost_and_closed_after(loop):
    async with connected() as (transport, protocol, _):
        seen = []
        sock = transport.get_extra_info("socket")

        def look(name):
            if name == "connection_lost":
                seen.append((sock.fileno() >= 0, transport.get_protocol() is protocol))

        protocol.on = look
        transport.close()
        await protocol.lost
        assert seen == [(True, True)]
        await asyncio.sleep(0)
        assert sock.fileno() == -1


@on_loop
async def test_a_dead_transport_lets_go_of_its_protocol(loop):
    class Holder(asyncio.Protocol):
        pass

    async with connected(Holder) as (transport, protocol, _):
        reference = weakref.ref(protocol)
        transport.close()
        await settle(loop)
        del protocol
        gc.collect()
        # The caller of this block still holds it: `connected` does.
    gc.collect()
    assert reference() is None


# -- ending from inside the callbacks ------------------------------------------------

ENDS = ["close", "abort", "write_eof, close", "close, abort"]
PLACES = ["connection_made", "data_received", "eof_received", "pause_writing"]


def ender(protocol, place, end):
    """A handler that ends the transport in *place*, with a collection around it."""

    def act(name):
        if name == place:
            gc.collect()
            for method in end.split(", "):
                getattr(protocol.transport, method)()
            gc.collect()

    return act


@pytest.mark.parametrize("base", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("place", PLACES)
@on_loop
async def test_end_inside_a_callback(loop, place, end, base):
    """connection_lost comes exactly once, and is the last call."""

    class Ender(base):
        def __init__(self):
            super().__init__()
            where = place
            if base is BufferedRecorder and place == "data_received":
                where = "buffer_updated"
            self.on = ender(self, where, end)

    async with connected(Ender, sndbuf=4096) as (transport, protocol, peer):
        if place == "pause_writing":
            transport.write(bytes(1 << 20))
            peer.setblocking(False)
            reader = asyncio.create_task(read_all(loop, peer))
        elif place == "data_received":
            peer.sendall(bytes(100000))
        elif place == "eof_received":
            peer.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
        await settle(loop)
        if place == "pause_writing":
            await reader
        assert protocol.count("connection_lost") == 1
        assert protocol.names[-1] == "connection_lost"
        assert protocol.count("data_received") <= 1
        assert protocol.count("buffer_updated") <= 1


@pytest.mark.parametrize("end", ENDS)
@on_loop
async def test_end_inside_resume_writing(loop, loop_kind, end):
    oracle_bug(loop_kind, "abort" in end, "abort() in resume_writing closes twice")
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        protocol.on = ender(protocol, "resume_writing", end)
        transport.write(bytes(1 << 20))
        await read_all(loop, peer)
        assert await protocol.lost is None
        await settle(loop)
        assert protocol.names[-1] == "connection_lost"
        assert protocol.count("connection_lost") == 1


@pytest.mark.parametrize("end", ENDS)
@on_loop
async def test_end_inside_connection_lost(loop, end):
    async with connected() as (transport, protocol, _):
        protocol.on = ender(protocol, "connection_lost", end)
        transport.close()
        await protocol.lost
        await settle(loop)
        assert protocol.count("connection_lost") == 1


@on_loop
async def test_write_inside_the_callbacks_that_end(loop):
    """Writes in eof_received go out; those in connection_lost are dropped."""

    class Polite(Recorder):
        def on(self, name):
            if name in ("eof_received", "connection_lost"):
                self.transport.write(name.encode())

    async with connected(Polite) as (_, protocol, peer):
        peer.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
        assert await read_all(loop, peer) == b"eof_received"


@on_loop
async def test_a_transport_dropped_inside_its_own_callback(loop):
    """The last reference may go while the transport is calling its protocol."""
    done = loop.create_future()

    class Dropper(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.close()
            del self.transport
            gc.collect()

        def connection_lost(self, exc):
            done.set_result(exc)

    near, peer = socket.socketpair()
    with peer:
        transport, protocol = await loop.create_connection(Dropper, sock=near)
        del transport, protocol
        gc.collect()
        peer.send(b"x")
        assert await done is None
        await settle(loop)
        peer.settimeout(5)
        assert peer.recv(1) == b""


@on_loop
async def test_one_transport_ends_another_in_the_same_batch_of_events(loop):
    """An event that was collected for a transport closed meanwhile is dropped."""
    async with connected() as (a, first, peer_a), connected() as (b, second, peer_b):
        a.pause_reading()
        b.pause_reading()
        peer_a.send(b"x")
        peer_b.send(b"x")
        await settle(loop)
        first.on = lambda name: b.abort() if name == "data_received" else None
        second.on = lambda name: a.abort() if name == "data_received" else None
        a.resume_reading()
        b.resume_reading()
        await first.lost if first.lost.done() else await settle(loop, 5)
        assert first.count("data_received") + second.count("data_received") == 1


@on_loop
async def test_the_number_of_a_closed_descriptor_may_be_reused_at_once(loop):
    """A new transport on the same number gets only its own events."""
    for _ in range(20):
        async with connected() as (transport, protocol, peer):
            number = transport.get_extra_info("socket").fileno()
            peer.send(b"old")
            transport.abort()
            await protocol.lost
            await asyncio.sleep(0)
            async with connected() as (fresh, successor, new_peer):
                fresh_number = fresh.get_extra_info("socket").fileno()
                await settle(loop, 1)
                assert successor.names == ["connection_made"]
                new_peer.send(b"new")
                assert await successor.received(3) == b"new"
                assert pending(new_peer) == b""
                assert fresh_number == number


# -- the loop goes first -------------------------------------------------------------


def test_the_loop_closes_with_open_transports(new_loop):
    """Each then warns as it is collected, and closes its socket."""
    loop = new_loop()
    near, peer = socket.socketpair()
    peer.settimeout(5)
    transport, protocol = loop.run_until_complete(
        loop.create_connection(asyncio.Protocol, sock=near)
    )
    loop.close()
    with resource_warnings() as messages:
        del transport, protocol, loop, near
        gc.collect()
    assert any(text.startswith("unclosed transport <") for text in messages)
    assert peer.recv(1) == b""
    peer.close()


@on_loop
async def test_an_abandoned_transport_warns_and_closes_its_socket(loop):
    near, peer = socket.socketpair()
    transport, protocol = await loop.create_connection(asyncio.Protocol, sock=near)
    transport.pause_reading()  # nothing but this frame holds it then
    text = repr(transport)
    with resource_warnings() as messages:
        del transport, protocol, near
        gc.collect()
    assert f"unclosed transport {text}" in messages
    peer.settimeout(5)
    assert peer.recv(1) == b""
    peer.close()


@on_loop
async def test_a_reading_transport_is_kept_alive_by_the_loop(loop):
    got = loop.create_future()

    class Listener(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            got.set_result(data)
            self.transport.close()

    near, peer = socket.socketpair()
    with peer:
        await loop.create_connection(Listener, sock=near)
        del near
        gc.collect()
        peer.send(b"heard")
        assert await got == b"heard"
        await settle(loop)


@on_loop
async def test_callbacks_that_fail_at_the_end_are_reported(loop):
    async with connected() as (transport, protocol, peer):
        errors = record_errors(loop)
        error = ZeroDivisionError("in connection_lost")

        def fail(name):
            if name == "connection_lost":
                raise error

        protocol.on = fail
        transport.close()
        await protocol.lost
        await settle(loop)
        assert errors.exceptions == [error]
        assert transport.get_extra_info("socket").fileno() == -1
        assert peer.recv(1) == b""


@on_loop
async def test_a_user_s_reader_while_it_closes(loop):
    """The descriptor is free for others once the transport closes."""
    async with connected() as (transport, _, _):
        fill(transport)
        fd = transport.get_extra_info("socket").fileno()
        transport.close()
        loop.add_reader(fd, print)
        assert loop.remove_reader(fd) is True
        assert loop.remove_reader(fd) is False
