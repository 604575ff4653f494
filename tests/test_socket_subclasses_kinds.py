"""Servers, TLS, datagrams and sock_* over sockets with methods of their own.

Source: as for streams, test_socket_subclasses.
"""

import asyncio
import contextlib
import errno
import socket

import datagramkit
import pytest
import streamkit
from spykit import Plain, Spied, always, at_most, once, plain
from streamkit import (
    PY,
    Recorder,
    TlsRecorder,
    listening,
    loopback,
    on_loop,
    pattern,
    record_errors,
    settle,
    tcp_pair,
    until,
)

import pyloop
from pyloop import _core

# --- servers ------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(listener, factory, **arguments):
    """A server on a listening socket."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, sock=listener, **arguments)
    try:
        yield server
    finally:
        server.close()
        await server.wait_closed()


class Accepted(list):
    """A protocol factory that keeps what it made."""

    def __init__(self, cls=Recorder):
        self.cls = cls

    def __call__(self):
        self.append(self.cls())
        return self[-1]

    async def lost(self):
        for protocol in self:
            protocol.transport.abort()
            await protocol.lost


@on_loop
async def test_a_server_s_accept(loop):
    accepted = Accepted()
    listener = Spied.of(listening())
    address = listener.getsockname()
    async with serving(listener, accepted) as server:
        assert server.sockets[0].getsockname() == address
        clients = [socket.create_connection(address) for _ in range(3)]
        with contextlib.ExitStack() as stack:
            for number, client in enumerate(clients):
                stack.enter_context(client)
                client.send(b"%d" % number)
            await until(lambda: sum(bool(made.data) for made in accepted) == 3)
            assert sorted(made.data for made in accepted) == [b"0", b"1", b"2"]
            for made in accepted:
                sock = made.transport.get_extra_info("socket")._sock
                assert type(sock) is Spied and sock.got == 1
                assert made.transport.get_extra_info("peername") in [
                    client.getsockname() for client in clients
                ]
            assert listener.calls["accept"] >= 3
            if loop.__module__.startswith("pyloop"):
                kinds = [found.kind for found in pyloop.open_transports(loop)]
                assert sorted(kinds) == ["TCP", "TCP", "TCP", "server"]
        await accepted.lost()
    assert listener.calls["close"] == 1
    assert loop.remove_reader(listener) is False if listener.fileno() >= 0 else True


@on_loop
async def test_a_listener_s_class_makes_the_connections(loop):
    """Without an accept() of its own: what socket.accept() calls is."""

    class Counting(socket.socket):
        count = 0

        def _accept(self):
            found = super()._accept()
            Counting.count += 1
            return found

    plain = listening()
    listener = Counting(fileno=plain.detach())
    accepted = Accepted()
    async with serving(listener, accepted):
        with socket.create_connection(listener.getsockname()) as client:
            client.send(b"abc")
            await until(lambda: accepted and accepted[0].data == b"abc")
        await accepted.lost()
    assert Counting.count == 1


@on_loop
async def test_a_unix_server(loop, tmp_path):
    accepted = Accepted()
    listener = Spied(socket.AF_UNIX)
    listener.bind(path := str(tmp_path / "socket"))
    server = await loop.create_unix_server(accepted, sock=listener)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.send(b"abc")
        await until(lambda: accepted and accepted[0].data == b"abc")
    await accepted.lost()
    server.close()
    await server.wait_closed()
    assert listener.calls["accept"] >= 1


@on_loop
async def test_a_server_out_of_descriptors(loop, monkeypatch):
    """The method says so: serving goes on after the pause that asyncio makes."""
    monkeypatch.setattr(asyncio.constants, "ACCEPT_RETRY_DELAY", 0.01)
    errors = record_errors(loop)
    exc = OSError(errno.EMFILE, "too many")
    listener = Spied.of(listening(), accept=once(exc))
    accepted = Accepted()
    async with serving(listener, accepted, backlog=1):
        with socket.create_connection(listener.getsockname()) as client:
            client.send(b"abc")
            await until(lambda: accepted and accepted[0].data == b"abc")
        await accepted.lost()
    context = errors.contexts[0]
    assert context["message"] == "socket.accept() out of system resource"
    assert context["exception"] is exc


@on_loop
async def test_an_accept_that_fails(loop):
    errors = record_errors(loop)
    exc = LookupError("bug")
    listener = Spied.of(listening(), accept=once(exc))
    accepted = Accepted()
    async with serving(listener, accepted):
        with socket.create_connection(listener.getsockname()) as client:
            client.send(b"abc")
            await until(lambda: accepted and accepted[0].data == b"abc")
        await accepted.lost()
    context = errors.only()
    assert context["exception"] is exc
    assert context["message"].startswith("Exception in callback ")


@on_loop
async def test_start_serving_later(loop):
    listener = Spied.of(listening())
    accepted = Accepted()
    async with serving(listener, accepted, start_serving=False) as server:
        with socket.create_connection(listener.getsockname()):
            await settle(loop)
            assert not listener.calls and not accepted
            await server.start_serving()
            await until(lambda: accepted)
            await accepted[0].made
        await accepted.lost()


# --- TLS ----------------------------------------------------------------------------


@on_loop
async def test_tls(loop, certificates):
    accepted = Accepted(TlsRecorder)
    listener = Spied.of(listening())
    data = pattern(200_000)
    async with serving(listener, accepted, ssl=certificates.server_context()):
        near = socket.create_connection(listener.getsockname())
        sock = Spied.of(near)
        transport, protocol = await loop.create_connection(
            TlsRecorder,
            sock=sock,
            ssl=certificates.client_context(),
            server_hostname="localhost",
        )
        transport.write(data)
        await until(lambda: accepted[0].data == data)
        accepted[0].transport.write(data)
        assert await protocol.received(len(data)) == data
        assert sock.sent > len(data) and sock.got > len(data)
        inner = accepted[0].transport.get_extra_info("socket")._sock
        assert inner.sent > len(data) and inner.got > len(data)
        if loop.__module__.startswith("pyloop"):
            kinds = [found.kind for found in pyloop.open_transports(loop)]
            assert sorted(kinds) == ["TLS", "TLS", "server"]
        transport.close()
        await protocol.lost
        await accepted[0].lost
        await settle(loop)


@on_loop
async def test_start_tls(loop, certificates):
    near, far = tcp_pair()
    socks = Spied.of(near), Spied.of(far)
    ends = [await loop.create_connection(TlsRecorder, sock=sock) for sock in socks]
    (client, client_protocol), (server, server_protocol) = ends
    client.write(b"STARTTLS")
    assert await server_protocol.received(8) == b"STARTTLS"
    new_server, new_client = await asyncio.gather(
        loop.start_tls(
            server, server_protocol, certificates.server_context(), server_side=True
        ),
        loop.start_tls(
            client,
            client_protocol,
            certificates.client_context(),
            server_hostname="localhost",
        ),
    )
    client_protocol.transport, server_protocol.transport = new_client, new_server
    before = socks[0].sent
    new_client.write(b"secret")
    assert await server_protocol.received(14) == b"STARTTLSsecret"
    assert socks[0].sent > before + 6
    new_client.close()
    await client_protocol.lost
    await server_protocol.lost
    await settle(loop)


# --- datagrams ----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def endpoint(connected=False, **ways):
    """A Spied datagram socket's transport: yields (sock, protocol, peer)."""
    loop = asyncio.get_running_loop()
    sock = Spied(socket.AF_INET, socket.SOCK_DGRAM, ways=ways)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(streamkit.PEER_TIMEOUT)
        for one in (sock, peer):
            one.bind((loopback(), 0))
        sock.setblocking(False)
        if connected:
            socket.socket.connect(sock, peer.getsockname())
        transport, protocol = await loop.create_datagram_endpoint(
            datagramkit.Recorder, sock=sock
        )
        await protocol.called("connection_made")
        await settle(loop, 1)
        try:
            yield sock, protocol, peer
        finally:
            transport.abort()
            await protocol.lost


@pytest.mark.parametrize("connected", [False, True])
@on_loop
async def test_datagrams(loop, connected):
    async with endpoint(connected) as (sock, protocol, peer):
        transport = protocol.transport
        transport.sendto(b"question", None if connected else peer.getsockname())
        data, address = peer.recvfrom(100)
        assert data == b"question" and address == sock.getsockname()
        peer.sendto(b"answer", address)
        assert await protocol.received(1) == [b"answer"]
        assert protocol.calls[1] == (
            "datagram_received",
            b"answer",
            peer.getsockname(),
        )
        assert sock.calls["recvfrom"] >= 1
        assert sock.calls["send" if connected else "sendto"] == 1
        assert sock.calls["sendto" if connected else "send"] == 0
        assert transport.get_extra_info("socket")._sock is sock
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(sock, print)
        if loop.__module__.startswith("pyloop"):
            assert [found.kind for found in pyloop.open_transports(loop)] == ["UDP"]


@on_loop
async def test_a_datagram_that_would_block(loop):
    way = once(BlockingIOError())
    async with endpoint(sendto=way, recvfrom=once(BlockingIOError())) as found:
        sock, protocol, peer = found
        protocol.transport.sendto(b"one", peer.getsockname())
        protocol.transport.sendto(b"two", peer.getsockname())
        assert protocol.transport.get_write_buffer_size() >= 6
        await until(lambda: sock.calls["sendto"] == 3, "three calls")
        assert [peer.recv(100), peer.recv(100)] == [b"one", b"two"]
        peer.sendto(b"answer", sock.getsockname())
        assert await protocol.received(1) == [b"answer"]


@on_loop
async def test_a_datagram_that_fails(loop):
    refused, bug = ConnectionRefusedError("nobody"), LookupError("bug")
    errors = record_errors(loop)
    async with endpoint(sendto=once(refused)) as (sock, protocol, peer):
        protocol.transport.sendto(b"one", peer.getsockname())
        assert protocol.errors == [refused]
        sock.ways["recvfrom"] = once(refused)
        peer.sendto(b"x", sock.getsockname())
        await protocol.called("error_received", 2)
        assert protocol.errors == [refused, refused]
        assert await protocol.received(1) == [b"x"]
        assert not errors.contexts
        sock.ways["recvfrom"] = always(bug)
        peer.sendto(b"x", sock.getsockname())
        assert await protocol.lost is bug
        context = errors.only()
        assert context["message"] == "Fatal read error on datagram transport"
        assert context["exception"] is bug


@pytest.mark.pyloop_only
@on_loop
async def test_other_subclasses_of_datagrams(loop):
    sock = Plain(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((loopback(), 0))
    transport, protocol = await loop.create_datagram_endpoint(
        datagramkit.Recorder, sock=sock
    )
    assert type(transport) is _core.DatagramTransport
    transport.close()
    await protocol.lost


# --- sock_* -------------------------------------------------------------------------


@contextlib.contextmanager
def spied_pair():
    """Two connected sockets, both Spied, which do not block."""
    near, far = (Spied.of(sock) for sock in tcp_pair())
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


@on_loop
async def test_sock_recv_and_its_like(loop):
    buffer = bytearray(10)
    with spied_pair() as (near, far):
        await loop.sock_sendall(far, b"abcdefgh")
        assert far.calls == {"send": 1}
        assert await loop.sock_recv(near, 2) == b"ab"
        assert await loop.sock_recv_into(near, buffer) == 6
        assert buffer[:6] == b"cdefgh"
        assert near.calls == {"recv": 1, "recv_into": 1}
        receiving = loop.create_task(loop.sock_recv(near, 10))
        await settle(loop, 1)
        far.ways["send"] = at_most(3)
        await loop.sock_sendall(far, b"0123456789")
        assert far.calls == {"send": 1 + 4}
        assert await receiving == b"012"
        assert near.calls == {"recv": 1 + 2, "recv_into": 1}
        bug = LookupError("bug")
        near.ways["recv"] = far.ways["send"] = always(bug)
        with pytest.raises(LookupError):
            await loop.sock_recv(near, 1)
        with pytest.raises(LookupError):
            await loop.sock_sendall(far, b"x")


@on_loop
async def test_sock_recv_of_an_instance_s_attribute(loop):
    sock, peer = plain()
    with sock, peer:
        sock.setblocking(False)
        sock.recv = lambda size: Plain.recv(sock, size).upper()
        peer.send(b"abc")
        assert await loop.sock_recv(sock, 10) == b"ABC"
        del sock.recv


@pytest.mark.skipif(PY < (3, 11), reason="asyncio has them from 3.11 on")
@on_loop
async def test_sock_recvfrom_and_its_like(loop):
    buffer = bytearray(10)
    ends = [Spied(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    with ends[0] as near, ends[1] as far:
        for one in ends:
            one.bind((loopback(), 0))
            one.setblocking(False)
        far_name = far.getsockname()
        await loop.sock_sendto(far, b"one", near.getsockname())
        await loop.sock_sendto(far, b"two", near.getsockname())
        assert far.calls == {"sendto": 2}
        assert await loop.sock_recvfrom(near, 10) == (b"one", far_name)
        assert await loop.sock_recvfrom_into(near, buffer) == (3, far_name)
        assert buffer[:3] == b"two"
        assert near.calls == {"recvfrom": 1, "recvfrom_into": 1}


@on_loop
async def test_sock_accept_and_sock_connect(loop):
    with Spied.of(listening()) as listener, Spied() as client:
        listener.setblocking(False)
        client.setblocking(False)
        accepting = loop.create_task(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        connection, address = await accepting
        with connection:
            assert type(connection) is Spied
            assert connection.gettimeout() == 0
            assert address == client.getsockname()
            assert client.calls["connect"] == 1 and listener.calls["accept"] >= 1
            await loop.sock_sendall(connection, b"abc")
            assert await loop.sock_recv(client, 10) == b"abc"
            assert connection.sent == 3
