"""start_tls(): a plain connection becomes a TLS one, on either side, at any time.

Source: asyncio's documentation of loop.start_tls() and StreamWriter.start_tls().
"""

import asyncio
import contextlib
import socket
import ssl

import pytest
from streamkit import (
    PY,
    Recorder,
    TlsRecorder,
    connected,
    on_loop,
    pattern,
    record_errors,
    settle,
    socket_pair,
)


@contextlib.asynccontextmanager
async def plain_pair(kind="tcp"):
    """Two connected plain ends: [(transport, protocol), (transport, protocol)]."""
    loop = asyncio.get_running_loop()
    near, far = socket_pair(kind)
    ends = [
        await loop.create_connection(TlsRecorder, sock=near),
        await loop.create_connection(TlsRecorder, sock=far),
    ]
    try:
        yield ends
    finally:
        for plain, protocol in ends:
            protocol.transport.close()
            if plain.get_protocol() is not None:
                plain.abort()
        await settle(loop, 5)


async def upgrade(loop, certificates, ends, **arguments):
    """Upgrade both ends; their protocols get the new transports, which are returned."""
    (client, client_protocol), (server, server_protocol) = ends
    arguments.setdefault("server_hostname", "localhost")
    new_server, new_client = await asyncio.gather(
        loop.start_tls(
            server, server_protocol, certificates.server_context(), server_side=True
        ),
        loop.start_tls(
            client, client_protocol, certificates.client_context(), **arguments
        ),
    )
    client_protocol.transport = new_client
    server_protocol.transport = new_server
    return new_client, new_server


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@on_loop
async def test_both_sides(loop, certificates, kind):
    async with plain_pair(kind) as ends:
        (plain, client), (_, server) = ends
        plain.write(b"STARTTLS")
        assert await server.received(8) == b"STARTTLS"
        new_client, new_server = await upgrade(loop, certificates, ends)
        assert new_client is not plain
        assert client.count("connection_made") == 1, "not called a second time"
        new_client.write(b"secret")
        assert await server.received(14) == b"STARTTLSsecret"
        new_server.write(b"answer")
        assert await client.received(6) == b"answer"
        new_client.close()
        assert await client.lost is None
        await server.lost
        assert client.count("connection_lost") == server.count("connection_lost") == 1


@on_loop
async def test_the_bytes_on_the_wire_are_encrypted(loop, certificates):
    near, peer = socket_pair("tcp")
    peer.setblocking(False)
    transport, protocol = await loop.create_connection(TlsRecorder, sock=near)
    task = asyncio.create_task(
        loop.start_tls(
            transport,
            protocol,
            certificates.client_context(),
            server_hostname="localhost",
        )
    )
    with peer:
        hello = await loop.sock_recv(peer, 1 << 16)
        assert hello[:2] == b"\x16\x03"
        task.cancel()
        await asyncio.wait([task])
        await settle(loop, 5)


@on_loop
async def test_extra_info(loop, certificates):
    async with plain_pair() as ends:
        plain = ends[0][0]
        peername = plain.get_extra_info("peername")
        new_client, new_server = await upgrade(loop, certificates, ends)
        assert new_client.get_extra_info("peername") == peername
        assert new_client.get_extra_info("ssl_object") is not None
        assert new_client.get_extra_info("sslcontext") is not None
        assert new_server.get_extra_info("ssl_object").server_side
        sock = new_client.get_extra_info("socket")
        assert sock is plain.get_extra_info("socket")


@on_loop
async def test_large_data_before_and_after(loop, certificates):
    async with plain_pair() as ends:
        (plain, _), (_, server) = ends
        size = 2 << 20
        plain.write(pattern(size, 1))
        assert await server.received(size) == pattern(size, 1)
        new_client, _ = await upgrade(loop, certificates, ends)
        new_client.write(pattern(size, 2))
        assert (await server.received(2 * size))[size:] == pattern(size, 2)


@on_loop
async def test_right_after_a_plain_write(loop, certificates):
    """Plain data still queued goes out before the handshake, unencrypted."""
    async with plain_pair() as ends:
        (plain, _), (server_side, server) = ends
        size = 4 << 20
        # sslproto cannot take over a transport that has paused its protocol.
        plain.set_write_buffer_limits(high=2 * size)
        plain.write(pattern(size))
        starting = asyncio.create_task(
            loop.start_tls(
                plain,
                ends[0][1],
                certificates.client_context(),
                server_hostname="localhost",
            )
        )
        # The server must take exactly the plain bytes, and TLS from there on.
        rest = size
        sock = server_side.get_extra_info("socket")
        server_side.pause_reading()
        rest -= len(server.data)
        with socket.socket(fileno=sock.dup().detach()) as copy:
            copy.setblocking(False)
            got = bytes(server.data)
            while rest:
                data = await loop.sock_recv(copy, rest)
                rest -= len(data)
                got += data
        assert got == pattern(size)
        server_side.resume_reading()
        new_server = await loop.start_tls(
            server_side, server, certificates.server_context(), server_side=True
        )
        server.transport = new_server
        ends[0][1].transport = await starting
        ends[0][1].transport.write(b"secret")
        await server.received(len(server.data) + 6)
        assert bytes(server.data[-6:]) == b"secret"


@on_loop
async def test_inside_a_conversation_of_protocols(loop, certificates):
    """The server upgrades when asked, from within data_received."""
    upgraded = loop.create_future()

    class Server(TlsRecorder):
        def data_received(self, data):
            super().data_received(data)
            if data == b"STARTTLS\n":
                self.transport.pause_reading()
                self.transport.write(b"GO\n")
                self.task = loop.create_task(self.upgrade())

        async def upgrade(self):
            self.transport = await loop.start_tls(
                self.transport, self, certificates.server_context(), server_side=True
            )
            self.transport.write(b"welcome")
            upgraded.set_result(self)

    server = await loop.create_server(Server, "127.0.0.1", 0)
    transport, client = await loop.create_connection(
        TlsRecorder, *server.sockets[0].getsockname()
    )
    transport.write(b"STARTTLS\n")
    assert await client.received(3) == b"GO\n"
    client.transport = await loop.start_tls(
        transport, client, certificates.client_context(), server_hostname="localhost"
    )
    assert await client.received(10) == b"GO\nwelcome"
    client.transport.close()
    await client.lost
    protocol = await upgraded
    await protocol.lost
    server.close()
    await server.wait_closed()
    await settle(loop, 5)


# -- errors --------------------------------------------------------------------------


@on_loop
async def test_no_context(loop):
    async with connected() as (transport, protocol, peer):
        for thing in (None, True, "context", ssl):
            with pytest.raises(TypeError) as caught:
                await loop.start_tls(transport, protocol, thing)
            assert str(caught.value) == (
                "sslcontext is expected to be an instance of ssl.SSLContext, "
                f"got {thing!r}"
            )
        peer.send(b"undisturbed")
        await protocol.received(11)


@on_loop
async def test_a_transport_that_cannot(loop, certificates):
    thing = asyncio.Transport()
    with pytest.raises(TypeError) as caught:
        await loop.start_tls(thing, Recorder(), certificates.client_context())
    assert str(caught.value) == f"transport {thing!r} is not supported by start_tls()"


@on_loop
async def test_hostname_mismatch(loop, certificates):
    errors = record_errors(loop)
    async with plain_pair() as ends:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            client, server = ends
            waiting = asyncio.create_task(
                loop.start_tls(*server, certificates.server_context(), server_side=True)
            )
            try:
                await loop.start_tls(
                    *client,
                    certificates.client_context(),
                    server_hostname="elsewhere.test",
                )
            finally:
                await asyncio.wait([waiting])
                assert isinstance(waiting.exception(), (ssl.SSLError, ConnectionError))
        assert ends[0][0].is_closing()
    assert set(errors.messages) <= {
        "SSL handshake failed",
        "SSL handshake failed on verifying the certificate",
    }


@on_loop
async def test_timeout(loop, certificates):
    async with connected(TlsRecorder, kind="tcp") as (transport, protocol, _):
        with pytest.raises(ConnectionAbortedError, match=r"longer than 0.05 seconds"):
            await loop.start_tls(
                transport,
                protocol,
                certificates.client_context(),
                server_hostname="localhost",
                ssl_handshake_timeout=0.05,
            )
        await settle(loop)
        assert transport.is_closing()


@on_loop
async def test_the_peer_leaves(loop, certificates):
    async with connected(TlsRecorder, kind="tcp") as (transport, protocol, peer):
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            await loop.start_tls(
                transport,
                protocol,
                certificates.client_context(),
                server_hostname="localhost",
            )
        await settle(loop)
        assert transport.is_closing()


@on_loop
async def test_cancel(loop, certificates):
    async with connected(TlsRecorder, kind="tcp") as (transport, protocol, _):
        task = asyncio.create_task(
            loop.start_tls(
                transport,
                protocol,
                certificates.client_context(),
                server_hostname="localhost",
            )
        )
        await settle(loop)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle(loop, 5)
        assert transport.is_closing()


# -- streams -------------------------------------------------------------------------


@pytest.mark.skipif(PY < (3, 11), reason="StreamWriter.start_tls is new in Python 3.11")
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@on_loop
async def test_stream_writers(loop, certificates, kind):
    served = loop.create_future()

    async def serve(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"GO\n")
        await writer.start_tls(certificates.server_context())
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
        served.set_result(None)

    near, far = socket_pair(kind)
    server_reader = asyncio.StreamReader()
    await loop.connect_accepted_socket(
        lambda: asyncio.StreamReaderProtocol(server_reader, serve), far
    )
    reader, writer = await asyncio.open_connection(sock=near)
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"GO\n"
    await writer.start_tls(certificates.client_context(), server_hostname="localhost")
    assert writer.get_extra_info("ssl_object") is not None
    writer.write(b"secret\n")
    assert await reader.readline() == b"SECRET\n"
    assert await reader.read() == b""
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
    await served
    await settle(loop, 5)
