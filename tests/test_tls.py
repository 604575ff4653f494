"""TLS on both sides: handshakes, their failures, data, shutdown, extra information.

The work is done by the standard library's asyncio.sslproto on top of the loop's
transports, so these tests are about what that needs of them.
"""

import asyncio
import contextlib
import os
import socket
import ssl

import pytest
import support
from streamkit import (
    PY,
    BufferedRecorder,
    TlsRecorder,
    listening,
    on_loop,
    pattern,
    read_all,
    record_errors,
    reset,
    resource_warnings,
    settle,
    socket_pair,
    tcp_pair,
    until,
)


class TlsBuffered(BufferedRecorder):
    """A BufferedRecorder that closes its transport at the end, as TlsRecorder does."""

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self.transport.close()


class Echo(TlsRecorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


@contextlib.asynccontextmanager
async def tls_pair(
    certificates,
    client_factory=TlsRecorder,
    server_factory=TlsRecorder,
    *,
    server_context=None,
    client_context=None,
    kind="tcp",
    **arguments,
):
    """Two ends of one TLS connection: yields their protocols, (client, server)."""
    loop = asyncio.get_running_loop()
    near, far = socket_pair(kind)
    arguments.setdefault("server_hostname", "localhost")
    (_, server), (_, client) = await asyncio.gather(
        loop.connect_accepted_socket(
            server_factory, far, ssl=server_context or certificates.server_context()
        ),
        loop.create_connection(
            client_factory,
            sock=near,
            ssl=client_context or certificates.client_context(),
            **arguments,
        ),
    )
    try:
        yield client, server
    finally:
        for end in (client, server):
            end.transport.abort()
        await settle(loop, 5)


async def serve(loop, certificates, factory=Echo, context=None, **arguments):
    server = await loop.create_server(
        factory,
        "127.0.0.1",
        0,
        ssl=context or certificates.server_context(),
        **arguments,
    )
    return server, server.sockets[0].getsockname()


# -- data ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unix", "tcp", "tcp6"])
@on_loop
async def test_a_conversation(loop, certificates, kind):
    async with tls_pair(certificates, server_factory=Echo, kind=kind) as (
        client,
        server,
    ):
        client.transport.write(b"hello")
        assert await client.received(5) == b"hello"
        client.transport.close()
        assert await client.lost is None
        assert await server.lost is None
        assert client.names[0] == server.names[0] == "connection_made"
        assert client.names[-1] == server.names[-1] == "connection_lost"
        assert client.count("connection_lost") == server.count("connection_lost") == 1


@on_loop
async def test_client_and_server_by_address(loop, certificates):
    server, (host, port) = await serve(loop, certificates)
    transport, client = await loop.create_connection(
        TlsRecorder, "localhost", port, ssl=certificates.client_context()
    )
    transport.writelines([b"he", b"llo"])
    assert await client.received(5) == b"hello"
    transport.close()
    await client.lost
    server.close()
    await settle(loop, 10)
    assert host == "127.0.0.1"


@pytest.mark.parametrize("size", [1, 16384, 16385, 300000, 5 << 20])
@on_loop
async def test_large_transfers_both_ways(loop, certificates, size):
    async with tls_pair(certificates) as (client, server):
        there, back = pattern(size, 1), pattern(size, 2)
        client.transport.write(there)
        server.transport.write(back)
        assert await server.received(size) == there
        assert await client.received(size) == back


@on_loop
async def test_many_small_writes(loop, certificates):
    async with tls_pair(certificates) as (client, server):
        for n in range(1000):
            client.transport.write(b"%05d" % n)
        expected = b"".join(b"%05d" % n for n in range(1000))
        assert await server.received(5000) == expected


@pytest.mark.parametrize("factory", [TlsRecorder, TlsBuffered])
@on_loop
async def test_protocol_kinds(loop, certificates, factory):
    async with tls_pair(certificates, server_factory=factory) as (client, server):
        data = pattern(100000)
        client.transport.write(data)
        assert await server.received(len(data)) == data


@on_loop
async def test_bytes_like_objects(loop, certificates):
    async with tls_pair(certificates) as (client, server):
        for data in (bytearray(b"one"), memoryview(b"two")):
            client.transport.write(data)
        assert await server.received(6) == b"onetwo"
        with pytest.raises(TypeError):
            client.transport.write("text")


@on_loop
async def test_flow_control(loop, certificates):
    """The peer does not read: the writer is paused, and resumed when it does."""
    async with tls_pair(certificates) as (client, server):
        server.transport.pause_reading()
        sent = bytearray()
        while client.names[-1] != "pause_writing":
            sent += pattern(1 << 16, len(sent))
            client.transport.write(sent[-(1 << 16) :])
            assert len(sent) < 64 << 20
            await asyncio.sleep(0)
        await settle(loop)
        assert client.names == ["connection_made", "pause_writing"]
        server.transport.resume_reading()
        assert await server.received(len(sent)) == sent
        await client.called("resume_writing")
        assert client.names[1:] == ["pause_writing", "resume_writing"]


@on_loop
async def test_pause_reading(loop, certificates):
    async with tls_pair(certificates) as (client, server):
        server.transport.pause_reading()
        assert not server.transport.is_reading()
        client.transport.write(b"data")
        await settle(loop, 5)
        assert not server.data
        server.transport.resume_reading()
        assert await server.received(4) == b"data"


# -- shutting down -------------------------------------------------------------------


@on_loop
async def test_close_sends_what_is_queued(loop, certificates):
    async with tls_pair(certificates) as (client, server):
        size = 4 << 20
        client.transport.write(pattern(size))
        client.transport.close()
        assert client.transport.is_closing()
        await server.lost
        assert bytes(server.data) == pattern(size)
        assert await client.lost is None


@on_loop
async def test_abort(loop, certificates):
    async with tls_pair(certificates) as (client, server):
        client.transport.abort()
        assert client.transport.is_closing()
        assert await client.lost is None
        await server.lost


@on_loop
async def test_a_peer_that_resets(loop, certificates):
    near, far = tcp_pair()
    context = certificates.server_context()
    serving = asyncio.create_task(
        loop.connect_accepted_socket(TlsRecorder, far, ssl=context)
    )
    with near:
        tls = await handshake_by_hand(loop, near, certificates.client_context())
        transport, protocol = await serving
        reset(near)
        assert isinstance(await protocol.lost, (ConnectionResetError, type(None)))
        assert transport.is_closing()
        assert tls is not None


@on_loop
async def test_a_peer_that_closes_without_goodbye(loop, certificates):
    near, far = tcp_pair()
    serving = asyncio.create_task(
        loop.connect_accepted_socket(
            TlsRecorder, far, ssl=certificates.server_context()
        )
    )
    with near:
        await handshake_by_hand(loop, near, certificates.client_context())
        transport, protocol = await serving
        near.shutdown(socket.SHUT_WR)
        await protocol.lost
        assert protocol.count("connection_lost") == 1
        assert transport.is_closing()


@pytest.mark.skipif(PY < (3, 11), reason="ssl_shutdown_timeout is new in Python 3.11")
@on_loop
async def test_shutdown_timeout(loop, certificates):
    """The peer never answers the goodbye."""
    near, far = tcp_pair()
    serving = asyncio.create_task(
        loop.connect_accepted_socket(
            TlsRecorder,
            far,
            ssl=certificates.server_context(),
            ssl_shutdown_timeout=0.05,
        )
    )
    with near:
        await handshake_by_hand(loop, near, certificates.client_context())
        transport, protocol = await serving
        transport.close()
        assert isinstance(await protocol.lost, asyncio.TimeoutError)


async def handshake_by_hand(loop, sock, context):
    """A TLS client of its own on a plain socket: returns the SSLObject."""
    sock.setblocking(False)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        await loop.sock_sendall(sock, outgoing.read())
        if done:
            return tls
        incoming.write(await loop.sock_recv(sock, 1 << 16))


# -- failing handshakes --------------------------------------------------------------


@pytest.mark.parametrize("case", ["hostname", "authority"])
@on_loop
async def test_certificates_that_do_not_fit(loop, certificates, case):
    errors = record_errors(loop)
    near, far = tcp_pair()
    if case == "authority":
        context, name = ssl.create_default_context(), "localhost"
    else:
        context, name = certificates.client_context(), "elsewhere.test"
    server_error, error = await asyncio.gather(
        loop.connect_accepted_socket(
            TlsRecorder, far, ssl=certificates.server_context()
        ),
        loop.create_connection(
            TlsRecorder, sock=near, ssl=context, server_hostname=name
        ),
        return_exceptions=True,
    )
    await settle(loop, 5)
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert isinstance(server_error, (ssl.SSLError, ConnectionError))
    assert case != "hostname" or "Hostname mismatch" in str(error)
    assert near.fileno() == far.fileno() == -1, "a failed handshake closes"
    assert all("SSL handshake failed" in m for m in errors.messages)


@on_loop
async def test_a_peer_that_speaks_no_tls(loop, certificates):
    errors = record_errors(loop)
    near, far = tcp_pair()
    with far:
        far.sendall(b"HTTP/1.1 400 this is no TLS\r\n\r\n" * 10)
        with pytest.raises(ssl.SSLError):
            await loop.create_connection(
                TlsRecorder,
                sock=near,
                ssl=certificates.client_context(),
                server_hostname="localhost",
            )
        await settle(loop)
        assert near.fileno() == -1
    assert errors.messages in ([], ["SSL handshake failed"])


@on_loop
async def test_a_server_survives_failing_clients(loop, certificates):
    """Garbage, silence, resets and early ends: none of them stops the server."""
    loop.set_debug(False)  # debug mode reports each of them
    errors = record_errors(loop)
    server, address = await serve(loop, certificates)
    garbage = socket.create_connection(address)
    garbage.sendall(os.urandom(1000) + b"\r\n\r\n")
    silent = socket.create_connection(address)
    gone = socket.create_connection(address)
    reset(gone)
    cut = socket.create_connection(address)
    cut.sendall(b"\x16\x03\x01\x02\x00\x01")
    cut.close()
    transport, client = await loop.create_connection(
        TlsRecorder,
        *address,
        ssl=certificates.client_context(),
        server_hostname="localhost",
    )
    transport.write(b"hello")
    assert await client.received(5) == b"hello"
    transport.close()
    await client.lost
    garbage.close()
    silent.close()
    server.close()
    await settle(loop, 10)
    assert all("SSL handshake failed" in m for m in errors.messages)


@pytest.mark.parametrize("side", ["client", "server"])
@on_loop
async def test_handshake_timeout(loop, certificates, side):
    near, far = tcp_pair()
    with far:
        if side == "client":
            attempt = loop.create_connection(
                TlsRecorder,
                sock=near,
                ssl=certificates.client_context(),
                server_hostname="localhost",
                ssl_handshake_timeout=0.05,
            )
        else:
            attempt = loop.connect_accepted_socket(
                TlsRecorder,
                near,
                ssl=certificates.server_context(),
                ssl_handshake_timeout=0.05,
            )
        with pytest.raises(ConnectionAbortedError) as caught:
            await attempt
        assert "SSL handshake is taking longer than 0.05 seconds" in str(caught.value)
        await settle(loop)
        assert near.fileno() == -1


@pytest.mark.parametrize("timeout", [0, -1])
@on_loop
async def test_a_handshake_timeout_that_is_no_time(loop, certificates, timeout):
    with listening() as listener:
        with resource_warnings():
            with pytest.raises(ValueError, match="should be a positive number, got"):
                await loop.create_connection(
                    TlsRecorder,
                    *listener.getsockname(),
                    ssl=certificates.client_context(),
                    ssl_handshake_timeout=timeout,
                )
            support.collect()


@on_loop
async def test_the_peer_leaves_during_the_handshake(loop, certificates):
    near, far = tcp_pair()
    far.shutdown(socket.SHUT_WR)
    with far:
        with pytest.raises(ConnectionResetError):
            await loop.create_connection(
                TlsRecorder,
                sock=near,
                ssl=certificates.client_context(),
                server_hostname="localhost",
            )
        await settle(loop)
        assert near.fileno() == -1


@on_loop
async def test_cancel_during_the_handshake(loop, certificates):
    near, far = tcp_pair()
    with far:
        task = asyncio.create_task(
            loop.create_connection(
                TlsRecorder,
                sock=near,
                ssl=certificates.client_context(),
                server_hostname="localhost",
            )
        )
        await settle(loop)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle(loop, 5)
        assert near.fileno() == -1
        assert (await read_all(loop, far))[:2] == b"\x16\x03", "a hello had been sent"


# -- what is agreed ------------------------------------------------------------------


@on_loop
async def test_extra_info(loop, certificates):
    server_context = certificates.server_context()
    client_context = certificates.client_context()
    async with tls_pair(
        certificates, server_context=server_context, client_context=client_context
    ) as (client, server):
        get = client.transport.get_extra_info
        assert get("sslcontext") is client_context
        assert server.transport.get_extra_info("sslcontext") is server_context
        tls = get("ssl_object")
        assert isinstance(tls, ssl.SSLObject)
        assert tls.version().startswith("TLSv1")
        assert get("cipher") == tls.cipher()
        assert get("compression") is None
        assert get("peercert") == tls.getpeercert()
        names = dict(get("peercert"))["subjectAltName"]
        assert ("DNS", "localhost") in names
        assert server.transport.get_extra_info("peercert") is None
        sock = get("socket")
        assert get("peername") == sock.getpeername()
        assert get("sockname") == sock.getsockname()
        assert get("nothing", 7) == 7
        assert client.transport.can_write_eof() is False


@on_loop
async def test_alpn(loop, certificates):
    server_context = certificates.server_context()
    client_context = certificates.client_context()
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    client_context.set_alpn_protocols(["spdy", "http/1.1"])
    async with tls_pair(
        certificates, server_context=server_context, client_context=client_context
    ) as ends:
        for end in ends:
            tls = end.transport.get_extra_info("ssl_object")
            assert tls.selected_alpn_protocol() == "http/1.1"


@on_loop
async def test_server_name_indication(loop, certificates):
    server_context = certificates.server_context()
    seen = []
    server_context.sni_callback = lambda tls, name, context: seen.append(name)
    async with tls_pair(certificates, server_context=server_context):
        assert seen == ["localhost"]


@on_loop
async def test_an_empty_server_hostname_skips_the_check(loop, certificates):
    context = certificates.client_context()
    context.check_hostname = False
    async with tls_pair(certificates, client_context=context, server_hostname="") as (
        client,
        server,
    ):
        client.transport.write(b"x")
        await server.received(1)


@pytest.mark.parametrize("given", [True, False])
@on_loop
async def test_client_certificates(loop, certificates, given):
    """TLS 1.2, so that a missing certificate fails in the client's handshake too."""
    server_context = certificates.server_context()
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(certificates.ca_path)
    client_context = certificates.client_context()
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    if given:
        client_context.load_cert_chain(certificates.chain_path, certificates.key_path)
        async with tls_pair(
            certificates, server_context=server_context, client_context=client_context
        ) as (_, server):
            peercert = server.transport.get_extra_info("peercert")
            assert ("DNS", "localhost") in dict(peercert)["subjectAltName"]
        return
    errors = record_errors(loop)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with tls_pair(
            certificates, server_context=server_context, client_context=client_context
        ):
            pass
    await settle(loop, 10)
    assert set(errors.messages) <= {"SSL handshake failed"}


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@on_loop
async def test_versions(loop, certificates, version):
    context = certificates.client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    async with tls_pair(certificates, server_factory=Echo, client_context=context) as (
        client,
        _,
    ):
        client.transport.write(b"hello")
        assert await client.received(5) == b"hello"
        tls = client.transport.get_extra_info("ssl_object")
        assert tls.version() == version.replace("_", ".")


# -- callbacks that fail, and servers that end ---------------------------------------


@on_loop
async def test_data_received_that_raises(loop, certificates):
    async with tls_pair(certificates) as (client, server):
        errors = record_errors(loop)
        error = ZeroDivisionError("in data_received")

        def fail(name):
            if name == "data_received":
                raise error

        server.on = fail
        client.transport.write(b"x")
        assert await server.lost is error
        assert errors.exceptions == [error]
        await client.lost


@on_loop
async def test_the_server_ends_its_tls_connections(loop, certificates):
    made = []

    class Keeper(TlsRecorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(self)

    server, address = await serve(loop, certificates, Keeper)
    _, client = await loop.create_connection(
        TlsRecorder,
        *address,
        ssl=certificates.client_context(),
        server_hostname="localhost",
    )
    await until(lambda: made)
    server.close()
    made[0].transport.write(b"bye")
    made[0].transport.close()
    await client.lost
    assert client.data == b"bye"
    await server.wait_closed()
    await settle(loop, 5)
