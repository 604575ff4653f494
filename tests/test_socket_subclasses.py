"""Sockets with methods of their own: what reads and writes calls these, as on asyncio.

People count bytes in them, go through proxies, slow a connection down, make it fail.
Source: asyncio's selector_events, for what is called when.
"""

import asyncio
import io
import socket
import tempfile
from asyncio import selector_events

import pytest
import spykit
import streamkit
import support
from spykit import Plain, Spied, always, at_most, once, over, plain, spied
from streamkit import (
    PY,
    BufferedRecorder,
    Recorder,
    listening,
    on_loop,
    pattern,
    read_all,
    record_errors,
    resource_warnings,
    settle,
    socket_pair,
    tcp_pair,
    until,
)

import pyloop
from pyloop import _core

# From this version on what is queued goes out by sendmsg().
QUEUE_METHOD = "sendmsg" if PY >= (3, 12) else "send"


# --- streams ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", streamkit.KINDS)
@on_loop
async def test_a_conversation(loop, kind):
    async with spied(kind=kind) as (sock, protocol, peer):
        transport = protocol.transport
        transport.write(b"question")
        assert peer.recv(100) == b"question"
        peer.sendall(b"answer")
        assert await protocol.received(6) == b"answer"
        assert sock.calls == {"send": 1, "recv": 1}
        assert (sock.sent, sock.got) == (8, 6)
        assert transport.get_extra_info("socket")._sock is sock
        assert transport.get_extra_info("sockname") == sock.getsockname()
        assert transport.get_extra_info("peername") == sock.getpeername()
        transport.close()
        assert await protocol.lost is None
        await settle(loop, 1)
        assert sock.calls == {"send": 1, "recv": 1, "close": 1}


@on_loop
async def test_streams(loop):
    near, peer = tcp_pair()
    sock = Spied.of(near)
    with peer:
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(b"GET /\r\n")
        await writer.drain()
        assert peer.recv(100) == b"GET /\r\n"
        peer.sendall(b"one\ntwo\nthree")
        assert await reader.readline() == b"one\n"
        assert await reader.readuntil(b"o\n") == b"two\n"
        peer.shutdown(socket.SHUT_WR)
        assert await reader.read() == b"three"
        writer.close()
        await writer.wait_closed()
    assert sock.sent == 7 and sock.got == 13


@on_loop
async def test_a_buffered_protocol(loop):
    async with spied(BufferedRecorder) as (sock, protocol, peer):
        peer.sendall(b"abc")
        assert await protocol.received(3) == b"abc"
        assert sock.calls == {"recv_into": 1}
        protocol.transport.set_protocol(other := Recorder())
        peer.sendall(b"def")
        assert await other.received(3) == b"def"
        assert sock.calls == {"recv_into": 1, "recv": 1}
        protocol.transport.set_protocol(protocol)


@on_loop
async def test_recv_is_asked_for_max_size(loop):
    sizes = []

    def recv(method, size):
        sizes.append(size)
        return method(2)

    async with spied(recv=recv) as (_, protocol, peer):
        peer.sendall(b"abc")
        assert await protocol.received(3) == b"abc"
        assert sizes == [protocol.transport.max_size] * 2
        assert [call[1] for call in protocol.calls[1:]] == [b"ab", b"c"]


@on_loop
async def test_much_is_sent_piece_by_piece(loop):
    size = 300_000
    data = pattern(size)
    slow = at_most(10_000)
    async with spied(send=slow, sendmsg=slow) as (sock, protocol, peer):
        transport = protocol.transport
        transport.write(data[:100_000])
        assert protocol.names == ["connection_made", "pause_writing"]
        transport.writelines([data[100_000:100_010], data[100_010:]])
        assert await read_all(loop, peer, size) == data
        await until(lambda: transport.get_write_buffer_size() == 0, "an empty queue")
        assert protocol.names == ["connection_made", "pause_writing", "resume_writing"]
        assert sock.sent == size
        assert sock.calls["send"] + sock.calls["sendmsg"] == 30
        if QUEUE_METHOD == "sendmsg":
            assert sock.calls["send"] == 1


@on_loop
async def test_closing_waits_for_what_is_queued(loop):
    slow = at_most(7)
    async with spied(send=slow, sendmsg=slow) as (sock, protocol, peer):
        protocol.transport.write(b"twenty bytes of data")
        protocol.transport.close()
        assert protocol.transport.is_closing()
        assert await protocol.lost is None
        assert peer.recv(100) == b"twenty bytes of data"
        assert peer.recv(100) == b""
        assert sock.calls["close"] == 1


@on_loop
async def test_what_would_block(loop):
    """Not more than a method that says so would."""
    ways = {
        name: once(exc())
        for name, exc in (
            ("recv", BlockingIOError),
            ("send", InterruptedError),
            ("sendmsg", BlockingIOError),
        )
    }
    async with spied(**ways) as (sock, protocol, peer):
        protocol.transport.write(b"question")
        assert protocol.transport.get_write_buffer_size() == 8
        assert (await read_all(loop, peer, 8)) == b"question"
        peer.send(b"answer")
        assert await protocol.received(6) == b"answer"
        assert sock.calls["recv"] == 2
        assert sock.calls["send"] + sock.calls["sendmsg"] == (
            3 if QUEUE_METHOD == "sendmsg" else 2
        )
        assert protocol.count("connection_lost") == 0


@pytest.mark.parametrize("kind", [ConnectionResetError, LookupError])
@pytest.mark.parametrize("name", ["recv", "recv_into", "send", "sendmsg"])
@on_loop
async def test_a_method_that_fails(loop, name, kind):
    if name == "sendmsg" and QUEUE_METHOD != name:
        pytest.skip("asyncio uses it from 3.12 on")
    exc = kind("said so")
    factory = BufferedRecorder if name == "recv_into" else Recorder
    ways = {name: always(exc)}
    if name == "sendmsg":
        ways["send"] = always(BlockingIOError())
    errors = record_errors(loop)
    async with spied(factory, **ways) as (sock, protocol, peer):
        if name.startswith("recv"):
            peer.send(b"x")
        else:
            protocol.transport.write(b"x")
        assert await protocol.lost is exc
        assert sock.calls[name] == 1 and sock.calls["close"] == 1
        assert protocol.names == ["connection_made", "connection_lost"]
        if kind is ConnectionResetError:  # as when the kernel says it
            assert not errors.contexts
        else:
            context = errors.only()
            verb = "read" if name.startswith("recv") else "write"
            assert context["message"] == f"Fatal {verb} error on socket transport"
            assert context["exception"] is exc
            assert context["transport"] is protocol.transport
            assert context["protocol"] is protocol


@on_loop
async def test_pausing(loop):
    async with spied() as (sock, protocol, peer):
        transport = protocol.transport
        transport.pause_reading()
        assert not transport.is_reading()
        peer.send(b"held")
        await settle(loop)
        assert not sock.calls and not protocol.data
        transport.resume_reading()
        assert transport.is_reading()
        assert await protocol.received(4) == b"held"


@on_loop
async def test_the_ends_of_both_directions(loop):
    async with spied() as (sock, protocol, peer):
        protocol.keep_open = True
        peer.shutdown(socket.SHUT_WR)
        await protocol.called("eof_received")
        await settle(loop)
        assert sock.calls == {"recv": 1}
        protocol.transport.write(b"last")
        protocol.transport.write_eof()
        assert sock.calls == {"recv": 1, "send": 1, "shutdown": 1}
        assert peer.recv(100) == b"last" and peer.recv(100) == b""
        protocol.transport.close()
        assert await protocol.lost is None


@on_loop
async def test_an_end_closes(loop):
    async with spied() as (sock, protocol, peer):
        peer.close()
        assert await protocol.lost is None
        assert protocol.names == ["connection_made", "eof_received", "connection_lost"]
        assert sock.calls == {"recv": 1, "close": 1}


@on_loop
async def test_abort_drops_what_is_queued(loop):
    async with spied(send=always(BlockingIOError())) as (sock, protocol, peer):
        protocol.transport.write(b"lost")
        protocol.transport.abort()
        assert await protocol.lost is None
        assert peer.recv(100) == b""
        assert sock.calls["close"] == 1


@on_loop
async def test_connect_accepted_socket(loop):
    near, peer = tcp_pair()
    sock = Spied.of(near)
    with peer:
        transport, protocol = await loop.connect_accepted_socket(Recorder, sock)
        peer.send(b"abc")
        assert await protocol.received(3) == b"abc"
        transport.close()
        await protocol.lost
    assert sock.calls == {"recv": 1, "close": 1}


@on_loop
async def test_create_unix_connection(loop):
    near, peer = socket_pair("unix")
    sock = Spied.of(near)
    with peer:
        transport, protocol = await loop.create_unix_connection(Recorder, sock=sock)
        peer.send(b"abc")
        assert await protocol.received(3) == b"abc"
        transport.close()
        await protocol.lost
    assert sock.calls == {"recv": 1, "close": 1}


# --- whose methods they are ---------------------------------------------------------


@on_loop
async def test_an_attribute_of_the_instance(loop):
    sock, peer = plain()
    received = []

    def recv(size):
        received.append(data := Plain.recv(sock, size))
        return data.upper()

    sock.recv = recv
    async with over(sock, peer) as protocol:
        peer.send(b"abc")
        assert await protocol.received(3) == b"ABC"
        assert received == [b"abc"]
    del sock.recv


@on_loop
async def test_a_class_that_makes_its_attributes_up(loop):
    looked_up = []

    class Made(socket.socket):
        def __getattribute__(self, name):
            looked_up.append(name)
            return super().__getattribute__(name)

    near, peer = tcp_pair()
    async with over(Made(fileno=near.detach()), peer) as protocol:
        looked_up.clear()
        protocol.transport.write(b"abc")
        assert looked_up[0] == "send"
    looked_up.clear()


@on_loop
async def test_a_socket_around_another(loop):
    """It is no socket.socket, and has but what asyncio uses."""

    class Around:
        def __init__(self, sock):
            self.inner = sock
            self.sent = 0

        def send(self, data):
            self.sent += len(data)
            return self.inner.send(data)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    near, peer = tcp_pair()
    near.setblocking(False)
    sock = Around(near)
    async with over(sock, peer) as protocol:
        protocol.transport.write(b"abc")
        assert sock.sent == 3 and peer.recv(100) == b"abc"
        peer.send(b"def")
        assert await protocol.received(3) == b"def"
        assert protocol.transport.get_extra_info("socket")._sock is sock


@on_loop
async def test_names_of_its_own(loop):
    class Proxied(socket.socket):
        options = []

        def getpeername(self):
            return ("example.org", 80)

        def getsockname(self):
            raise OSError("who knows")

        def setsockopt(self, *args):
            self.options.append(args)

    near, peer = tcp_pair()
    async with over(Proxied(fileno=near.detach()), peer) as protocol:
        transport = protocol.transport
        assert transport.get_extra_info("peername") == ("example.org", 80)
        assert transport.get_extra_info("sockname") is None
        assert Proxied.options == [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


@on_loop
async def test_a_class_in_the_place_of_socket_s(loop, monkeypatch):
    """How proxies are put under programs that know nothing of them."""
    with listening() as listener:
        monkeypatch.setattr(socket, "socket", Spied)
        transport, protocol = await loop.create_connection(
            Recorder, *listener.getsockname()
        )
        peer, _ = listener.accept()
        with peer:
            peer.send(b"abc")
            assert await protocol.received(3) == b"abc"
            sock = transport.get_extra_info("socket")._sock
            assert isinstance(sock, Spied) and sock.got == 3
            transport.close()
            await protocol.lost
    assert sock.calls["close"] == 1


@pytest.mark.pyloop_only
@on_loop
async def test_other_subclasses_are_read_and_written_in_c(loop):
    """It is quicker."""
    sock, peer = plain()
    async with over(sock, peer) as protocol:
        assert type(protocol.transport) is _core.SocketTransport
        assert protocol.transport.get_extra_info("socket")._sock is sock


@pytest.mark.pyloop_only
@on_loop
async def test_a_transport_s_socket_is_none_of_its_own(loop):
    errors = record_errors(loop)
    near, peer = tcp_pair()
    with near:
        wrapped = asyncio.trsock.TransportSocket(near)
        async with over(wrapped, peer) as protocol:
            assert type(protocol.transport) is _core.SocketTransport
        await settle(loop, 1)
    # It cannot be closed, or should not: an AttributeError from Python 3.11 on.
    assert errors.only()["message"] == "Closing the file of a transport failed"


# --- what others see ----------------------------------------------------------------


@on_loop
async def test_nobody_else_uses_its_descriptor(loop):
    async with spied() as (sock, protocol, peer):
        for attempt in (
            lambda: loop.add_reader(sock, print),
            lambda: loop.add_writer(sock.fileno(), print),
            lambda: loop.remove_reader(sock),
            lambda: loop.remove_writer(sock),
        ):
            with pytest.raises(RuntimeError, match="is used by transport"):
                attempt()
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(sock, 1)
        peer.send(b"abc")
        assert await protocol.received(3) == b"abc"
        fd = sock.fileno()
        protocol.transport.abort()
        assert loop.remove_reader(fd) is False  # it is free now
        await protocol.lost
    near, far = socket.socketpair()
    with near, far:  # one of them has the number again
        assert fd in (near.fileno(), far.fileno())
        loop.add_reader(fd, print)
        assert loop.remove_reader(fd) is True


@on_loop
async def test_a_transport_that_nobody_has_any_more(loop):
    near, peer = socket_pair("unix")
    with peer:
        fd = near.fileno()
        transport, _ = await loop.create_connection(
            asyncio.Protocol, sock=Spied.of(near)
        )
        transport.pause_reading()  # else the loop has it
        with resource_warnings() as texts:
            del transport, _
            support.collect()
        assert len([text for text in texts if "unclosed transport" in text]) == 1
        assert peer.recv(1) == b""
        assert loop.remove_reader(fd) is False


@on_loop
async def test_debug_mode_and_repr(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 60
    near, peer = socket_pair("unix")
    near.setblocking(False)
    sock = Spied.of(near)
    caplog.set_level("DEBUG", "asyncio")
    async with over(sock, peer) as protocol:
        transport, fd = protocol.transport, sock.fileno()
        await settle(loop, 1)
        assert f" fd={fd} read=polling write=<idle, bufsize=0>" in repr(transport)
        transport.pause_reading()
        assert f" fd={fd} read=idle write=<idle, bufsize=0>" in repr(transport)
        transport.resume_reading()
        sock.ways["send"] = always(BlockingIOError())
        transport.write(b"abc")
        assert f" fd={fd} read=polling write=<polling, bufsize=3>" in repr(transport)
        transport.abort()
        assert f" closing fd={fd} read=idle write=<idle, bufsize=0>" in repr(transport)
        await protocol.lost
        await settle(loop, 1)
        assert f" closed fd={fd}" in repr(transport)
    texts = [record.getMessage() for record in caplog.records]
    assert any(text.endswith("pauses reading") for text in texts)
    loop.set_debug(False)


@pytest.mark.pyloop_only
@on_loop
async def test_open_transports_and_metrics(loop):
    loop.set_debug(True)
    async with spied(kind="tcp") as (sock, protocol, _):
        transport = protocol.transport
        [found] = pyloop.open_transports(loop)
        assert found.kind == "TCP" and found.transport is transport
        assert found.fd == sock.fileno()
        assert found.address == sock.getsockname()
        assert found.peer == sock.getpeername()
        assert found.created_at.filename == spykit.__file__
        assert 0 <= found.age <= pyloop.open_transports(loop)[0].age
        assert loop.metrics().transports == 1
        transport.pause_reading()
        assert len(pyloop.open_transports(loop)) == 1
        transport.close()
        await protocol.lost
        await settle(loop, 1)
        assert pyloop.open_transports(loop) == []
        assert loop.metrics().transports == 0
    loop.set_debug(False)


@pytest.mark.pyloop_only
@on_loop
async def test_a_transport_that_the_program_makes(loop):
    """asyncio's class, by hand: it is known, and its age from the first look on."""
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        made = selector_events._SelectorSocketTransport(loop, near, asyncio.Protocol())
        [found] = pyloop.open_transports(loop)
        assert found.transport is made
        assert 0 <= found.age <= pyloop.open_transports(loop)[0].age
        made.abort()
        await settle(loop)
    assert pyloop.open_transports(loop) == []


@pytest.mark.parametrize("fallback", [True, False])
@on_loop
async def test_sendfile(loop, fallback):
    """The kernel sends a file; what is no file goes through the method."""
    data = pattern(500_000)
    async with spied(kind="tcp") as (sock, protocol, peer):
        transport = protocol.transport
        reading = loop.create_task(read_all(loop, peer, 3 + len(data) + 5))
        transport.write(b"abc")
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            kind = io.BytesIO(data) if fallback else file
            assert await loop.sendfile(transport, kind, fallback=fallback) == len(data)
        transport.write(b"after")
        assert await reading == b"abc" + data + b"after"
        assert sock.sent == (8 + len(data) if fallback else 8)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(sock, print)
        peer.send(b"xyz")
        assert await protocol.received(3) == b"xyz"
