"""The buffer of asyncio's SSLProtocol: there for who asks, else not made by pyloop."""

import asyncio
import contextlib
import inspect
import unittest.mock
from asyncio import sslproto

import pytest
from streamkit import PY, TlsRecorder, on_loop, pattern, settle, socket_pair, until

pytestmark = pytest.mark.skipif(
    PY < (3, 11), reason="asyncio.sslproto is another program there, without a buffer"
)

MOST = 256 * 1024


@contextlib.asynccontextmanager
async def from_the_start(loop, certificates):
    """Two ends, TLS from the start: [(transport, protocol), (transport, protocol)]."""
    near, far = socket_pair("tcp")
    server, client = TlsRecorder(), TlsRecorder()
    serving = loop.create_task(
        loop.connect_accepted_socket(
            lambda: server, far, ssl=certificates.server_context()
        )
    )
    new_client, _ = await loop.create_connection(
        lambda: client,
        sock=near,
        ssl=certificates.client_context(),
        server_hostname="localhost",
    )
    new_server, _ = await serving
    yield [(new_client, client), (new_server, server)]
    new_client.abort()
    new_server.abort()
    await settle(loop)


@contextlib.asynccontextmanager
async def upgraded(loop, certificates):
    """As from_the_start, by start_tls()."""
    near, far = socket_pair("tcp")
    plain_client, client = await loop.create_connection(TlsRecorder, sock=near)
    plain_server, server = await loop.create_connection(TlsRecorder, sock=far)
    new_server, new_client = await asyncio.gather(
        loop.start_tls(
            plain_server, server, certificates.server_context(), server_side=True
        ),
        loop.start_tls(
            plain_client,
            client,
            certificates.client_context(),
            server_hostname="localhost",
        ),
    )
    yield [(new_client, client), (new_server, server)]
    new_client.abort()
    new_server.abort()
    await settle(loop)


MADE_BY = pytest.mark.parametrize("made_by", [from_the_start, upgraded])


@pytest.mark.pyloop_only
@MADE_BY
@on_loop
async def test_no_connection_needs_it(loop, certificates, made_by):
    """Neither the handshake, nor data of any size, nor the end."""
    async with made_by(loop, certificates) as [(near, client), (far, server)]:
        below = [end._ssl_protocol for end in (near, far)]
        data = pattern(1 << 20)
        near.write(data)
        assert await server.received(len(data)) == data
        far.write(b"answer")
        assert await client.received(6) == b"answer"
        near.close()
        assert await client.lost is None
        assert await server.lost is None
        assert [len(protocol._ssl_buffer) for protocol in below] == [0, 0]


@MADE_BY
@on_loop
async def test_who_asks_for_it_gets_it(loop, certificates, made_by):
    async with made_by(loop, certificates) as [(near, client), (far, _)]:
        protocol = near._ssl_protocol
        assert protocol.max_size == MOST
        assert "max_size" not in vars(protocol)
        assert len(protocol.get_buffer(10)) >= 10
        assert len(protocol.get_buffer(-1)) == MOST
        far.write(b"data")
        assert await client.received(4) == b"data"


@MADE_BY
@on_loop
async def test_read_by_a_function_of_one_protocol(loop, certificates, made_by):
    """asyncio's own way goes by the buffer, in every state of a connection."""
    async with made_by(loop, certificates) as [(near, client), (far, server)]:
        protocol = near._ssl_protocol
        calls = []
        update = protocol.buffer_updated

        def buffer_updated(count):
            calls.append(count)
            update(count)

        protocol.buffer_updated = buffer_updated
        far.write(b"data")
        assert await client.received(4) == b"data"
        assert len(calls) == 1
        far.close()
        await until(lambda: server.lost.done() and client.lost.done(), "the end")
        assert len(calls) > 1


@MADE_BY
@on_loop
async def test_another_class_in_its_place(loop, certificates, made_by):
    made = []

    class Noting(sslproto.SSLProtocol):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(len(self._ssl_buffer))

    with unittest.mock.patch("asyncio.sslproto.SSLProtocol", Noting):
        async with made_by(loop, certificates) as [(near, client), (far, _)]:
            assert type(near._ssl_protocol) is Noting
            assert made == [MOST, MOST], "it has what asyncio gives it"
            far.write(b"data")
            assert await client.received(4) == b"data"


@MADE_BY
@on_loop
async def test_a_protocol_that_cannot_be_made(loop, certificates, made_by):
    context = certificates.client_context()
    with pytest.raises(ValueError, match="ssl_handshake_timeout"):
        if made_by is upgraded:
            near, far = socket_pair("tcp")
            with far:
                transport, protocol = await loop.create_connection(
                    TlsRecorder, sock=near
                )
                try:
                    await loop.start_tls(
                        transport, protocol, context, ssl_handshake_timeout=-1
                    )
                finally:
                    transport.abort()
                    await settle(loop)
        else:
            near, far = socket_pair("tcp")
            with near, far:
                await loop.create_connection(
                    TlsRecorder,
                    sock=near,
                    ssl=context,
                    server_hostname="localhost",
                    ssl_handshake_timeout=-1,
                )


def test_start_tls_is_asyncios_to_look_at(loop):
    ours, theirs = type(loop).start_tls, asyncio.BaseEventLoop.start_tls
    assert inspect.iscoroutinefunction(ours)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert ours.__doc__ == theirs.__doc__
    assert ours.__name__ == "start_tls"
