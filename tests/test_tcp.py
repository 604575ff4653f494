"""TCP transports: options, addresses, extra information, and who owns the socket.

Source: asyncio's documentation of transports and of get_extra_info().
"""

import asyncio
import errno
import re
import socket

import pytest
from streamkit import (
    KINDS,
    PY,
    Recorder,
    connected,
    fill,
    listening,
    loopback,
    needs_ipv6,
    on_loop,
    oracle_bug,
    pending,
    settle,
    socket_pair,
    until,
)

TCP = [socket.AF_INET, pytest.param(socket.AF_INET6, marks=needs_ipv6)]


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


# -- a whole conversation ------------------------------------------------------------


@pytest.mark.parametrize("family", TCP)
@on_loop
async def test_client_and_server_in_one_loop(loop, family):
    accepted = []

    def factory():
        accepted.append(Echo())
        return accepted[-1]

    server = await loop.create_server(factory, loopback(family), 0)
    address = server.sockets[0].getsockname()
    transport, client = await loop.create_connection(Recorder, *address[:2])
    transport.write(b"hello ")
    transport.writelines([b"wo", b"rld"])
    assert await client.received(11) == b"hello world"
    transport.write_eof()
    assert await client.lost is None
    assert await accepted[0].lost is None
    assert client.names[-2:] == ["eof_received", "connection_lost"]
    server.close()
    await server.wait_closed()


@on_loop
async def test_many_connections_speak_at_once(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = [await loop.create_connection(Recorder, *address) for _ in range(50)]
    for round_ in range(5):
        for n, (transport, _) in enumerate(clients):
            transport.write(b"%03d/%d " % (n, round_))
    for n, (_, client) in enumerate(clients):
        expected = b"".join(b"%03d/%d " % (n, round_) for round_ in range(5))
        assert await client.received(30) == expected
    for transport, _ in clients:
        transport.close()
    for _, client in clients:
        await client.lost
    server.close()
    await server.wait_closed()
    await settle(loop)


# -- socket options ------------------------------------------------------------------


@pytest.mark.parametrize("family", TCP)
@on_loop
async def test_nodelay_is_set_on_both_ends(loop, family):
    accepted = loop.create_future()

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            accepted.set_result(transport)

    server = await loop.create_server(Server, loopback(family), 0)
    address = server.sockets[0].getsockname()
    transport, _ = await loop.create_connection(asyncio.Protocol, *address[:2])
    for end in (transport, await accepted):
        sock = end.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        end.close()
    server.close()
    await settle(loop)


@on_loop
async def test_nodelay_is_set_on_a_given_socket(loop):
    with listening() as listener:
        near = socket.create_connection(listener.getsockname())
        assert not near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.abort()
        await settle(loop)


@on_loop
async def test_a_unix_socket_has_no_nodelay(loop):
    async with connected(kind="unix") as (transport, _, _):
        sock = transport.get_extra_info("socket")
        with pytest.raises(OSError):
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_a_blocking_socket_is_made_non_blocking(loop, kind):
    near, peer = socket_pair(kind)
    near.settimeout(3.5)
    with peer:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        assert near.gettimeout() == 0
        transport.abort()
        await settle(loop)


# -- extra information ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_extra_info_before_and_after_close(loop, kind):
    near, peer = socket_pair(kind)
    with peer:
        sockname, peername = near.getsockname(), near.getpeername()
        transport, protocol = await loop.create_connection(Recorder, sock=near)

        def check():
            assert transport.get_extra_info("sockname") == sockname
            assert transport.get_extra_info("peername") == peername
            assert transport.get_extra_info("socket") is not None
            assert transport.get_extra_info("nothing") is None
            assert transport.get_extra_info("nothing", 7) == 7
            assert transport.get_extra_info("peername", 7) == peername
            assert transport.get_extra_info("sslcontext") is None

        check()
        sock = transport.get_extra_info("socket")
        assert transport.get_extra_info("socket") is sock
        assert sock.fileno() == near.fileno()
        assert sock.family == near.family
        assert sock.type == socket.SOCK_STREAM
        assert sock.getsockname() == sockname
        assert sock.getpeername() == peername
        assert sock.gettimeout() == 0
        transport.close()
        check()
        await protocol.lost
        await settle(loop)
        check()
        assert sock.fileno() == -1
        assert near.fileno() == -1, "the transport has closed the caller's socket"


@on_loop
async def test_extra_info_of_an_accepted_connection(loop):
    accepted = loop.create_future()

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            accepted.set_result(transport)

    server = await loop.create_server(Server, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    with socket.create_connection(address) as client:
        transport = await accepted
        assert transport.get_extra_info("peername") == client.getsockname()
        assert transport.get_extra_info("sockname") == address
        sock = transport.get_extra_info("socket")
        assert sock.getpeername() == client.getsockname()
        assert sock.gettimeout() == 0
        assert not sock.get_inheritable()
        transport.close()
    server.close()
    await settle(loop)


@needs_ipv6
@on_loop
async def test_ipv6_addresses_have_four_parts(loop):
    async with connected(kind="tcp6") as (transport, _, peer):
        assert len(transport.get_extra_info("peername")) == 4
        assert transport.get_extra_info("sockname") == peer.getpeername()


@on_loop
async def test_the_peername_of_a_connection_that_is_gone_already(loop):
    """The peer may reset before the transport asks for its name."""
    near, peer = socket_pair("tcp")
    peer.close()
    transport, protocol = await loop.create_connection(Recorder, sock=near)
    assert transport.get_extra_info("sockname") is not None
    await protocol.lost


@on_loop
async def test_the_socket_can_be_used_for_options(loop):
    async with connected(kind="tcp") as (transport, _, _):
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


# -- repr ----------------------------------------------------------------------------

OPEN = re.compile(
    r"<\w+ fd=(?P<fd>\d+) read=(?P<read>polling|idle) "
    r"write=<(?P<write>polling|idle), bufsize=(?P<size>\d+)>>"
)


@on_loop
async def test_repr(loop):
    async with connected(sndbuf=4096) as (transport, protocol, _):
        number = transport.get_extra_info("socket").fileno()
        await settle(loop)
        match = OPEN.fullmatch(repr(transport))
        assert match.group("fd", "read", "write", "size") == (
            str(number),
            "polling",
            "idle",
            "0",
        )
        transport.pause_reading()
        assert OPEN.fullmatch(repr(transport))["read"] == "idle"
        fill(transport)
        match = OPEN.fullmatch(repr(transport))
        assert match["write"] == "polling"
        assert int(match["size"]) == transport.get_write_buffer_size()
        transport.close()
        assert re.match(rf"<\w+ closing fd={number} ", repr(transport))
        transport.abort()
        await protocol.lost
        await settle(loop)
        assert re.match(rf"<\w+ closed fd={number}", repr(transport))


# -- the descriptor is the transport's -----------------------------------------------


def used_by(transport):
    return rf"^File descriptor .* is used by transport {re.escape(repr(transport))}$"


@pytest.mark.parametrize("as_number", [True, False])
@pytest.mark.parametrize(
    "method", ["add_reader", "add_writer", "remove_reader", "remove_writer"]
)
@on_loop
async def test_the_loop_refuses_to_watch_a_transports_descriptor(
    loop, method, as_number
):
    async with connected() as (transport, protocol, peer):
        sock = transport.get_extra_info("socket")
        watched = sock.fileno() if as_number else sock
        arguments = [lambda: None] if method.startswith("add") else []
        with pytest.raises(RuntimeError, match=used_by(transport)) as info:
            getattr(loop, method)(watched, *arguments)
        assert f"File descriptor {watched!r} is used" in str(info.value)
        peer.send(b"undisturbed")
        await protocol.received(11)


@pytest.mark.parametrize("method", ["sock_recv", "sock_recv_into"])
@on_loop
async def test_sock_reads_refuse_a_transports_descriptor(loop, method):
    near, peer = socket_pair("tcp")
    with peer:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        argument = bytearray(10) if method == "sock_recv_into" else 10
        with pytest.raises(RuntimeError, match=used_by(transport)):
            await getattr(loop, method)(near, argument)
        peer.send(b"undisturbed")
        await protocol.received(11)
        transport.abort()
        await settle(loop)


@on_loop
async def test_sock_sendall_that_has_to_wait_refuses_a_transports_descriptor(loop):
    near, peer = socket_pair("unix")
    with peer:
        transport, _ = await loop.create_connection(Recorder, sock=near)
        with pytest.raises(RuntimeError, match=used_by(transport)):
            await loop.sock_sendall(near, bytes(64 << 20))
        transport.abort()
        await settle(loop)


class Kept(socket.socket):
    """asyncio closes a socket that gets no transport, from some 3.14 on."""

    def close(self):
        pass


def test_a_second_transport_on_one_descriptor_is_refused(loop, loop_kind):
    oracle_bug(loop_kind, PY < (3, 12), "lets two transports have one descriptor")

    @on_loop
    async def body(loop):
        near, peer = socket_pair("unix")
        with peer:
            transport, protocol = await loop.create_connection(Recorder, sock=near)
            twin = Kept(fileno=near.fileno())
            with pytest.raises(RuntimeError, match=used_by(transport)):
                await loop.create_connection(Recorder, sock=twin)
            twin.detach()
            peer.send(b"undisturbed")
            await protocol.received(11)
            transport.abort()
            await settle(loop)

    body(loop=loop)


@on_loop
async def test_a_closing_transport_no_longer_counts_as_a_user(loop):
    near, peer = socket_pair("unix")
    with peer:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        transport.close()
        assert loop.remove_reader(near) is False
        assert loop.remove_writer(near) is False
        await protocol.lost
        await settle(loop)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@on_loop
async def test_a_socket_closed_behind_the_transports_back(loop, kind):
    """Its number may be another socket's by now: nothing may be written to that one."""
    near, peer = socket_pair(kind)
    with peer:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        number = near.fileno()
        near.close()
        one, two = socket.socketpair()
        with one, two:
            assert number in (one.fileno(), two.fileno())
            transport.write(b"stray")
            assert pending(one) == pending(two) == b""
            exc = await protocol.lost
            assert isinstance(exc, OSError) and exc.errno == errno.EBADF
            await settle(loop)
            one.send(b"the new sockets work")
            assert pending(two) == b"the new sockets work"


@on_loop
async def test_reading_from_a_socket_closed_behind_the_transports_back(loop):
    """Nor may what is another socket's by now be read from."""
    near, peer = socket_pair("unix")
    with peer:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        transport.pause_reading()
        number = near.fileno()
        near.close()
        one, two = socket.socketpair()
        with one, two:
            mine, other = (one, two) if one.fileno() == number else (two, one)
            assert mine.fileno() == number
            other.send(b"not for the transport")
            transport.resume_reading()
            exc = await protocol.lost
            assert isinstance(exc, OSError) and exc.errno == errno.EBADF
            await settle(loop)
            assert protocol.data == b""
            assert pending(mine) == b"not for the transport"


@on_loop
async def test_a_closed_transports_number_is_free_for_add_reader(loop):
    async with connected() as (transport, protocol, _):
        number = transport.get_extra_info("socket").fileno()
        transport.abort()
        await protocol.lost
        await asyncio.sleep(0)
        near, peer = socket.socketpair()
        with near, peer:
            assert number in (near.fileno(), peer.fileno())
            got = []
            loop.add_reader(near, lambda: got.append(near.recv(10)))
            loop.add_reader(peer, lambda: got.append(peer.recv(10)))
            near.send(b"1")
            peer.send(b"2")
            await until(lambda: len(got) == 2)
            assert loop.remove_reader(near)
            assert loop.remove_reader(peer)


@on_loop
async def test_another_socket_object_on_the_same_file_may_be_used(loop):
    """A duplicate has its own descriptor; both see the same stream."""
    async with connected() as (transport, protocol, peer):
        with transport.get_extra_info("socket").dup() as copy:
            copy.setblocking(False)
            transport.pause_reading()
            await settle(loop)
            receiving = asyncio.create_task(loop.sock_recv(copy, 10))
            await settle(loop)
            peer.send(b"for the copy")
            assert await receiving == b"for the co"
            transport.resume_reading()
            assert await protocol.received(2) == b"py"
