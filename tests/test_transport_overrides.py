"""What programs and tests override, mock, and look at, on transports and servers.

They work as on asyncio's objects: instances take attributes, methods can be replaced,
weak references and isinstance() work, and what asyncio's own helpers look for is there.
"""

import asyncio
import copy
import pickle
import socket
import unittest.mock
import weakref

import pytest
import support
from streamkit import (
    Recorder,
    connected,
    on_loop,
    pattern,
    pending,
    read_all,
    settle,
    tcp_pair,
    until,
)

# -- kinds of object -----------------------------------------------------------------


@on_loop
async def test_isinstance(loop):
    async with connected() as (transport, _, _):
        for kind in (
            asyncio.BaseTransport,
            asyncio.ReadTransport,
            asyncio.WriteTransport,
            asyncio.Transport,
            asyncio.transports._FlowControlMixin,
        ):
            assert isinstance(transport, kind)
        assert not isinstance(transport, asyncio.DatagramTransport)


@on_loop
async def test_identity(loop):
    async with connected() as (one, _, _), connected() as (two, _, _):
        assert one == one and one != two
        assert len({one, two, one}) == 2
        assert bool(one) is True
        for attempt in (copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                attempt(one)


@on_loop
async def test_weak_references(loop):
    async with connected() as (transport, protocol, _):
        ended = []
        reference = weakref.ref(transport)
        weakref.finalize(transport, ended.append, "gone")
        registry = weakref.WeakKeyDictionary({transport: 1})
        assert reference() is transport
        assert registry[transport] == 1
        transport.close()
        await protocol.lost
        assert reference() is transport and not ended
    del transport, protocol, registry
    await settle(loop)
    support.collect()
    assert ended == ["gone"] and reference() is None


@on_loop
async def test_attributes(loop):
    async with connected() as (transport, _, _):
        transport.user_data = {"a": 1}
        assert vars(transport)["user_data"] == {"a": 1}
        del transport.user_data
        assert not hasattr(transport, "user_data")
        with pytest.raises(AttributeError):
            transport.nothing  # noqa: B018


@on_loop
async def test_what_asyncios_own_helpers_look_for(loop):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        assert transport._loop is loop
        assert transport._start_tls_compatible is True
        modes = asyncio.constants._SendfileMode
        assert transport._sendfile_compatible in (modes.TRY_NATIVE, modes.FALLBACK)
        assert transport._protocol_paused is False
        transport.write(bytes(1 << 20))
        assert transport._protocol_paused is True
        await read_all(loop, peer, 1 << 20)
        await protocol.called("resume_writing")
        assert transport._protocol_paused is False


# -- replaced methods ----------------------------------------------------------------


@on_loop
async def test_a_mocked_write(loop):
    async with connected() as (transport, _, peer):
        transport.write = unittest.mock.Mock()
        transport.write(b"to the mock")
        transport.write.assert_called_once_with(b"to the mock")
        assert pending(peer) == b""
        del transport.write
        transport.write(b"to the peer")
        assert pending(peer) == b"to the peer"


@pytest.mark.parametrize(
    "name",
    [
        "write",
        "writelines",
        "close",
        "abort",
        "is_closing",
        "pause_reading",
        "resume_reading",
        "get_extra_info",
        "get_write_buffer_size",
        "set_protocol",
        "write_eof",
    ],
)
@on_loop
async def test_patch_object(loop, name):
    async with connected() as (transport, _, peer):
        with unittest.mock.patch.object(transport, name) as mock:
            assert getattr(transport, name) is mock
            getattr(transport, name)()
            mock.assert_called_once_with()
        assert getattr(transport, name) is not mock
        transport.write(b"works again")
        assert pending(peer) == b"works again"


@on_loop
async def test_patch_a_class_that_asyncio_inherits_from(loop):
    """asyncio's transports have get_extra_info from their bases."""
    udp, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    async with connected() as (tcp, _, _):
        assert isinstance(udp, asyncio.Transport)
        kinds = (asyncio.BaseTransport, asyncio.Transport, asyncio.DatagramTransport)
        for kind in kinds:
            original = kind.get_extra_info

            def replaced(self, name, default=None, *, original=original):
                return "mine" if name == "x" else original(self, name, default)

            for transport in (tcp, udp):
                name = transport.get_extra_info("sockname")
                with unittest.mock.patch.object(kind, "get_extra_info", replaced):
                    mine = "mine" if isinstance(transport, kind) else 7
                    assert transport.get_extra_info("x", default=7) == mine
                    assert transport.get_extra_info("y", 7) == 7
                    assert transport.get_extra_info("sockname") == name
                assert transport.get_extra_info("x", default=7) == 7
        with unittest.mock.patch("asyncio.Transport.get_extra_info") as mock:
            assert tcp.get_extra_info("sockname") is mock.return_value
            mock.assert_called_once_with("sockname")
    udp.close()
    await settle(loop)


@on_loop
async def test_mocks_made_after_a_transport(loop):
    async with connected() as (transport, _, _):
        mock = unittest.mock.Mock(spec=transport)
        mock.write(b"x")
        mock.close()
        with pytest.raises(AttributeError):
            mock.no_such_method()
        assert isinstance(mock, asyncio.Transport)
        unittest.mock.create_autospec(transport).write(b"x")


@on_loop
async def test_stream_writers_call_the_replaced_methods(loop):
    near, far = socket.socketpair()
    with far:
        _, writer = await asyncio.open_connection(sock=near)
        transport = writer.transport
        transport.write = unittest.mock.Mock(side_effect=transport.write)
        transport.close = unittest.mock.Mock(side_effect=transport.close)
        writer.write(b"hello")
        transport.write.assert_called_once_with(b"hello")
        writer.close()
        transport.close.assert_called_once_with()
        await writer.wait_closed()
        assert far.recv(10) == b"hello"


@on_loop
async def test_protocol_callbacks_replaced_on_the_class(loop):
    class Plain(asyncio.Protocol):
        def data_received(self, data):
            raise AssertionError

    got = loop.create_future()
    async with connected(Plain) as (_, _, peer):
        Plain.data_received = lambda self, data: got.set_result(data)
        peer.send(b"data")
        assert await got == b"data"


@on_loop
async def test_a_mock_as_protocol(loop):
    protocol = unittest.mock.Mock(spec=asyncio.Protocol)
    protocol.eof_received.return_value = None
    near, peer = socket.socketpair()
    transport, given = await loop.create_connection(lambda: protocol, sock=near)
    assert given is protocol
    protocol.connection_made.assert_called_once_with(transport)
    peer.send(b"data")
    await until(lambda: protocol.data_received.called)
    protocol.data_received.assert_called_once_with(b"data")
    peer.close()
    await until(lambda: protocol.connection_lost.called)
    protocol.eof_received.assert_called_once_with()
    protocol.connection_lost.assert_called_once_with(None)
    assert transport.is_closing()
    await settle(loop)


# -- loops ---------------------------------------------------------------------------


def subclass(loop_kind, **methods):
    """A loop of a subclass of the kind under test."""
    return type("Sub", (support.loop_class(loop_kind),), methods)()


def run_with(loop, main):
    try:
        return support.run(loop, main(loop))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def test_the_hook_that_makes_transports_can_be_overridden(loop_kind):
    made = []

    def _make_socket_transport(self, *args, **kwargs):
        base = super(type(self), self)
        made.append(base._make_socket_transport(*args, **kwargs))
        return made[-1]

    async def main(loop):
        near, far = socket.socketpair()
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        assert made == [transport]
        far.close()
        await protocol.lost
        await settle(loop)

    run_with(subclass(loop_kind, _make_socket_transport=_make_socket_transport), main)
    made.clear()


@pytest.mark.parametrize("where", ["class", "instance"])
def test_the_hook_makes_accepted_transports_too(loop_kind, where):
    made = []

    def _make_socket_transport(self, *args, **kwargs):
        base = super(type(self), self)
        made.append(base._make_socket_transport(*args, **kwargs))
        return made[-1]

    async def main(loop):
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        if where == "instance":
            loop._make_socket_transport = _make_socket_transport.__get__(loop)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            await until(lambda: made and made[0].get_protocol().names)
            made[0].write(b"hello")
            assert await read_all(loop, client, 5) == b"hello"
            assert made[0].get_extra_info("peername") == client.getsockname()
            made[0].abort()
            server.close()
            await server.wait_closed()
        await settle(loop)

    methods = {"_make_socket_transport": _make_socket_transport}
    run_with(subclass(loop_kind, **(methods if where == "class" else {})), main)
    made.clear()


def test_an_overridden_call_soon_sees_the_transports_callbacks(loop_kind):
    seen = []

    def call_soon(self, callback, *args, context=None):
        seen.append(callback)
        return super(type(self), self).call_soon(callback, *args, context=context)

    async def main(loop):
        async with connected() as (transport, protocol, peer):
            peer.send(b"data")
            assert await protocol.received(4) == b"data"
            transport.close()
            await protocol.lost

    run_with(subclass(loop_kind, call_soon=call_soon), main)
    assert seen


@pytest.mark.parametrize("name", ["create_connection", "create_server", "getaddrinfo"])
@on_loop
async def test_mocked_loop_methods(loop, name):
    mock = unittest.mock.AsyncMock(return_value=(None, None))
    with unittest.mock.patch.object(loop, name, mock):
        await getattr(loop, name)(1, 2)
    mock.assert_awaited_once_with(1, 2)
    assert getattr(loop, name) is not mock


@on_loop
async def test_open_connection_uses_a_mocked_create_connection(loop):
    async with connected() as (transport, _, _):
        mock = unittest.mock.AsyncMock(return_value=(transport, None))
        with unittest.mock.patch.object(loop, "create_connection", mock):
            _, writer = await asyncio.open_connection("name.test", 80)
        assert writer.transport is transport
        assert mock.await_args.args[1:] == ("name.test", 80)


@on_loop
async def test_create_connection_uses_a_mocked_sock_connect(loop):
    """Tools that count or refuse connections replace this method."""
    refuse = unittest.mock.AsyncMock(side_effect=ConnectionRefusedError("by the test"))
    with unittest.mock.patch.object(loop, "sock_connect", refuse):
        with pytest.raises(ConnectionRefusedError, match="by the test"):
            await loop.create_connection(Recorder, "127.0.0.1", 1)
    refuse.assert_awaited_once()


# -- servers -------------------------------------------------------------------------


@on_loop
async def test_servers_take_attributes_mocks_and_weak_references(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    server.user_data = 7
    reference = weakref.ref(server)
    assert reference() is server and vars(server)["user_data"] == 7
    with unittest.mock.patch.object(server, "close") as mock:
        server.close()
        mock.assert_called_once_with()
        assert server.is_serving()
    server.close()
    assert not server.is_serving()
    assert isinstance(server, asyncio.Server)
    assert isinstance(server, asyncio.AbstractServer)


@on_loop
async def test_async_with_calls_a_replaced_close(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    server.close = unittest.mock.Mock(side_effect=server.close)
    async with server:
        pass
    server.close.assert_called_once_with()


# -- sockets of the user's own kind --------------------------------------------------


class Loud(socket.socket):
    """A socket whose methods change what goes through them."""

    def recv(self, size):
        return super().recv(size).upper()

    def send(self, data):
        return super().send(bytes(data).upper())


@on_loop
async def test_sock_methods_call_the_methods_of_a_subclass(loop):
    plain, far = tcp_pair()
    with plain, far, Loud(fileno=plain.dup().detach()) as near:
        near.setblocking(False)
        far.send(b"hello")
        assert await loop.sock_recv(near, 10) == b"HELLO"
        task = asyncio.ensure_future(loop.sock_recv(near, 10))
        await settle(loop)
        far.send(b"later")
        assert await task == b"LATER"
        await loop.sock_sendall(near, b"bye")
        assert far.recv(10) == b"BYE"


@on_loop
async def test_sock_methods_work_on_what_only_looks_like_a_socket(loop):
    class Wrapper:
        def __init__(self, sock):
            self._sock = sock

        def __getattr__(self, name):
            return getattr(self._sock, name)

    plain, far = tcp_pair()
    with plain, far:
        plain.setblocking(False)
        near = Wrapper(plain)
        task = asyncio.ensure_future(loop.sock_recv(near, 10))
        await settle(loop)
        far.send(b"hello")
        assert await task == b"hello"
        data = pattern(1 << 20)
        task = asyncio.ensure_future(loop.sock_sendall(near, data))
        assert await read_all(loop, far, len(data)) == data
        await task


@on_loop
async def test_a_transport_on_a_subclass_of_socket(loop):
    class Named(socket.socket):
        name = "mine"

    plain, peer = tcp_pair()
    with peer:
        near = Named(fileno=plain.detach())
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        transport.write(b"hello")
        peer.settimeout(5)
        assert peer.recv(10) == b"hello"
        peer.send(b"answer")
        assert await protocol.received(6) == b"answer"
        transport.close()
        await protocol.lost
        await settle(loop)
        assert near.fileno() == -1
