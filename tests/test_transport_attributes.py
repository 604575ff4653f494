"""What asyncio's documents do not say of transports, and programs use all the same."""

import asyncio
import logging
import os
import socket
import ssl
import sys

import pytest
from datagramkit import bound
from pipekit import reading, writing
from streamkit import (
    Recorder,
    connected,
    has_ipv6,
    listening,
    loopback,
    on_loop,
    oracle_bug,
    pattern,
    settle,
    until,
)

STREAM = {asyncio.Transport, asyncio.ReadTransport, asyncio.WriteTransport}

BASES = {
    "socket": STREAM,
    "reader": {asyncio.ReadTransport},
    "writer": STREAM,  # by way of asyncio's _FlowControlMixin
    "datagram": {*STREAM, asyncio.DatagramTransport},
}


def bases_of(transport):
    every = set().union(*BASES.values(), {asyncio.SubprocessTransport})
    assert isinstance(transport, asyncio.BaseTransport)
    return {base for base in every if isinstance(transport, base)}


@on_loop
async def test_isinstance(loop, loop_kind):
    async with connected() as (transport, _, _):
        assert bases_of(transport) == BASES["socket"]
    async with reading() as (transport, _, _):
        assert bases_of(transport) == BASES["reader"]
    async with writing() as (transport, _, _):
        assert bases_of(transport) == BASES["writer"]
    oracle_bug(loop_kind, sys.version_info < (3, 12), "no DatagramTransport")
    async with bound("udp", None) as (transport, _, _):
        assert bases_of(transport) == BASES["datagram"]


# --- max_size: how much an event receives ------------------------------------------


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@on_loop
async def test_a_socket_is_read_in_pieces_of_max_size(loop, kind):
    async with connected(kind=kind) as (transport, protocol, peer):
        assert transport.max_size == 256 * 1024
        transport.max_size = 10
        assert transport.max_size == 10
        peer.sendall(b"x" * 25)
        await protocol.received(25)
        pieces = [call[1] for call in protocol.calls if call[0] == "data_received"]
        assert pieces == [b"x" * 10, b"x" * 10, b"x" * 5]
        transport.max_size = 1 << 20
        data = pattern(3 << 20)
        writing_all = loop.run_in_executor(None, peer.sendall, data)
        assert (await protocol.received(25 + len(data)))[25:] == data
        await writing_all


@on_loop
async def test_a_pipe_is_read_in_pieces_of_max_size(loop):
    async with reading() as (transport, protocol, far):
        assert transport.max_size == 256 * 1024
        transport.max_size = 3
        far.write(b"abcdefgh")
        await protocol.received(8)
        pieces = [call[1] for call in protocol.calls if call[0] == "data_received"]
        assert pieces == [b"abc", b"def", b"gh"]


@on_loop
async def test_datagrams_are_cut_off_at_max_size(loop, tmp_path):
    for kind in ("udp", "unix"):
        async with bound(kind, tmp_path) as (transport, protocol, address):
            assert transport.max_size == 256 * 1024
            transport.max_size = 3
            with socket.socket(transport._sock.family, socket.SOCK_DGRAM) as peer:
                for data in (b"abcdef", b"", b"abc", b"ab"):
                    peer.sendto(data, address)
                expected = [b"abc", b"", b"abc", b"ab"]
                assert await protocol.received(4) == expected


@on_loop
async def test_max_size_is_a_positive_int(loop, loop_kind):
    """asyncio takes anything, and fails when it reads."""
    oracle_bug(loop_kind, True, "takes anything")
    async with connected() as (transport, _, _):
        for wrong in (0, -1):
            with pytest.raises(ValueError, match="^max_size must be positive, not "):
                transport.max_size = wrong
        for wrong in (1.5, "1", None):
            with pytest.raises(TypeError):
                transport.max_size = wrong
        with pytest.raises(AttributeError):
            del transport.max_size
        assert transport.max_size == 256 * 1024


# --- marks ------------------------------------------------------------------------


@on_loop
async def test_the_marks(loop):
    async with connected() as (first, _, _), writing() as (second, _, _):
        async with bound("udp", None) as (third, _, _):
            for transport in (first, second, third):
                assert (transport._low_water, transport._high_water) == (16384, 65536)
                transport.set_write_buffer_limits(high=100, low=7)
                assert (transport._low_water, transport._high_water) == (7, 100)


@on_loop
async def test_protocol_connected(loop):
    async with connected() as (transport, _, _):
        assert transport._protocol_connected is True
    async with bound("udp", None) as (transport, _, _):
        assert transport._protocol_connected is True


# --- sockets that are none ----------------------------------------------------------


@on_loop
async def test_no_transport_sends_plain_data_through_an_ssl_socket(loop, loop_kind):
    """asyncio does not look everywhere, and fails when the transport reads."""
    oracle_bug(loop_kind, True, "create_unix_connection() takes an SSLSocket")
    near, far = socket.socketpair()
    context = ssl.create_default_context()
    wrapped = context.wrap_socket(
        near, do_handshake_on_connect=False, server_hostname="localhost"
    )
    with wrapped, far:
        with pytest.raises(TypeError, match="^Socket cannot be of type SSLSocket$"):
            await loop.create_unix_connection(Recorder, sock=wrapped)
        with pytest.raises(TypeError, match="^Socket cannot be of type SSLSocket$"):
            loop._make_socket_transport(wrapped, Recorder())


# --- debug mode's log -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@on_loop
async def test_debug_mode_logs_new_connections(loop, kind, caplog, tmp_path):
    caplog.set_level(logging.DEBUG, logger="asyncio")
    made = loop.create_future()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            made.set_result(transport)

    if kind == "tcp":
        listener = listening()
        server = await loop.create_server(Protocol, sock=listener)
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.fspath(tmp_path / "socket"))
        server = await loop.create_unix_server(Protocol, sock=listener)
    loop.set_debug(True)
    with socket.socket(listener.family) as peer:
        peer.connect(listener.getsockname())
        name = peer.getsockname()
        transport = await made
        started = f"{server!r} got a new connection from {name!r}: <socket.socket fd="
        lines = [line for line in caplog.messages if "new connection" in line]
        assert len(lines) == 1
        assert lines[0].startswith(started)
        loop.set_debug(False)
        assert transport.get_extra_info("socket").fileno() == transport._sock_fd
        transport.close()
        await settle(loop)
    server.close()
    await server.wait_closed()


# --- addresses, which the kernel forgets when a descriptor closes ---------------------


@pytest.mark.parametrize("asked", ["before and after", "after"])
@pytest.mark.parametrize("name", ["AF_INET", "AF_INET6", "AF_UNIX"])
@on_loop
async def test_addresses_of_a_closed_transport(loop, tmp_path, name, asked):
    family = getattr(socket, name)
    if family == socket.AF_INET6 and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    accepted = []
    with socket.socket(family) as listener:
        is_unix = family == socket.AF_UNIX
        listener.bind(str(tmp_path / "s") if is_unix else (loopback(family), 0))
        listener.listen()
        create = loop.create_unix_server if is_unix else loop.create_server
        server = await create(
            lambda: accepted.append(Recorder()) or accepted[0], sock=listener
        )
        with socket.socket(family) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, listener.getsockname())
            names = (sock.getsockname(), sock.getpeername())
            transport, protocol = await loop.create_connection(Recorder, sock=sock)
            await until(lambda: accepted, "the connection")
            peer = accepted[0].transport
            if asked == "before and after":
                assert addresses(transport) == names
                assert addresses(peer) == names[::-1]
            for closed, recorder in [(transport, protocol), (peer, accepted[0])]:
                closed.abort()
                await recorder.lost
            await settle(loop)
            assert addresses(transport) == names
            assert addresses(peer) == names[::-1]
        server.close()
        await server.wait_closed()


def addresses(transport):
    return tuple(map(transport.get_extra_info, ("sockname", "peername")))
