"""create_server() and the Server it returns, as each Python version defines them.

Source: asyncio's documentation of create_server and of Server objects.
"""

import asyncio
import contextlib
import socket

import pytest
import support
from streamkit import (
    PY,
    Recorder,
    listening,
    needs_ipv6,
    on_loop,
    resource_warnings,
    settle,
    until,
)


class Accepted(list):
    """A protocol factory that keeps the Recorders it has made."""

    def __call__(self):
        self.append(Recorder())
        return self[-1]

    async def wait(self, count):
        await until(
            lambda: len(self) >= count and all(p.made.done() for p in self),
            f"{count} accepted connections",
        )
        return self


def client_of(server, index=0):
    """A blocking socket connected to one of the server's sockets."""
    address = server.sockets[index].getsockname()
    sock = socket.create_connection(address[:2])
    sock.settimeout(10)
    return sock


async def serve(loop, factory=Recorder, host="127.0.0.1", port=0, **arguments):
    return await loop.create_server(factory, host, port, **arguments)


# -- what is bound -------------------------------------------------------------------


@on_loop
async def test_port_zero_gives_a_free_port(loop):
    first, second = await serve(loop), await serve(loop)
    ports = {server.sockets[0].getsockname()[1] for server in (first, second)}
    assert len(ports) == 2 and 0 not in ports
    for server in (first, second):
        server.close()
        await server.wait_closed()


@on_loop
async def test_a_list_of_hosts(loop):
    accepted = Accepted()
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
    server = await serve(loop, accepted, hosts)
    names = [sock.getsockname()[0] for sock in server.sockets]
    assert sorted(names) == ["127.0.0.1", "127.0.0.2"], "the double is bound once"
    for index in range(2):
        client_of(server, index).close()
    await accepted.wait(2)
    server.close()
    await settle(loop)


@pytest.mark.parametrize("host", [None, ""])
@on_loop
async def test_no_host_means_all_interfaces(loop, host):
    port = support.free_port()
    server = await serve(loop, host=host, port=port)
    names = {sock.getsockname()[0] for sock in server.sockets}
    assert "0.0.0.0" in names
    assert names <= {"0.0.0.0", "::"}
    server.close()


@needs_ipv6
@on_loop
async def test_ipv6_sockets_take_ipv6_only(loop):
    server = await serve(loop, host="::1")
    sock = server.sockets[0]
    assert sock.family == socket.AF_INET6
    assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    with client_of(server):
        server.close()
    await settle(loop)


@on_loop
async def test_family_restricts(loop):
    server = await serve(loop, host=None, family=socket.AF_INET)
    assert {sock.family for sock in server.sockets} == {socket.AF_INET}
    server.close()


@on_loop
async def test_a_name_is_resolved(loop):
    server = await serve(loop, host="localhost", family=socket.AF_INET)
    assert server.sockets[0].getsockname()[0] == "127.0.0.1"
    server.close()


@on_loop
async def test_address_in_use(loop):
    with listening() as user:
        host, port = user.getsockname()
        with pytest.raises(OSError) as caught:
            await serve(loop, host=host, port=port)
        with pytest.raises(OSError):
            await serve(loop, host=["127.0.0.2", host], port=port)
    assert caught.value.errno == 98
    text = str(caught.value)
    assert f"error while attempting to bind on address ('{host}', {port}): " in text
    assert text.endswith("address already in use")


@on_loop
async def test_an_address_that_is_not_ours(loop):
    """192.0.2.0/24 belongs to nobody (RFC 5737)."""
    with pytest.raises(OSError) as caught:
        await serve(loop, host="192.0.2.1")
    if PY >= (3, 13):
        assert str(caught.value).startswith("could not bind on any address out of [(")
    else:
        assert "cannot assign requested address" in str(caught.value)


@on_loop
async def test_socket_options(loop):
    def option(server, name):
        return server.sockets[0].getsockopt(socket.SOL_SOCKET, name)

    server = await serve(loop)
    assert option(server, socket.SO_REUSEADDR)
    assert not option(server, socket.SO_REUSEPORT)
    server.close()
    server = await serve(loop, reuse_address=False)
    assert not option(server, socket.SO_REUSEADDR)
    server.close()
    if PY >= (3, 13):
        server = await serve(loop, keep_alive=True)
        assert option(server, socket.SO_KEEPALIVE)
        server.close()


@on_loop
async def test_reuse_port(loop):
    first = await serve(loop, reuse_port=True)
    port = first.sockets[0].getsockname()[1]
    with pytest.raises(OSError):
        await serve(loop, port=port)
    second = await serve(loop, port=port, reuse_port=True)
    assert second.sockets[0].getsockname() == first.sockets[0].getsockname()
    first.close()
    second.close()


@on_loop
async def test_backlog_is_given_to_listen(loop):
    given = []

    class Spy(socket.socket):
        def listen(self, backlog):
            given.append(backlog)
            super().listen(backlog)

    for arguments in ({}, {"backlog": 7}):
        sock = Spy()
        sock.bind(("127.0.0.1", 0))
        server = await loop.create_server(Recorder, sock=sock, **arguments)
        server.close()
    assert given == [100, 7]


# -- given sockets and bad arguments -------------------------------------------------


@pytest.mark.parametrize("listens", [True, False])
@on_loop
async def test_a_given_socket(loop, listens):
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    if listens:
        sock.listen()
    accepted = Accepted()
    server = await loop.create_server(accepted, sock=sock)
    assert server.sockets[0].fileno() == sock.fileno()
    assert sock.gettimeout() == 0
    with client_of(server):
        await accepted.wait(1)
    await accepted[0].lost
    server.close()
    assert sock.fileno() == -1


BAD = [
    ({}, ValueError, "Neither host/port nor sock were specified"),
    (
        {"host": "127.0.0.1", "port": 0, "sock": socket.socket},
        ValueError,
        "host/port and sock can not be specified at the same time",
    ),
    (
        {"sock": lambda: socket.socket(type=socket.SOCK_DGRAM)},
        ValueError,
        "A Stream Socket was expected, got ",
    ),
    (
        {"host": "127.0.0.1", "port": 0, "ssl": True},
        TypeError,
        "ssl argument must be an SSLContext or None",
    ),
    (
        {"host": "127.0.0.1", "port": 0, "ssl_handshake_timeout": 1},
        ValueError,
        "ssl_handshake_timeout is only meaningful with ssl",
    ),
    pytest.param(
        {"host": "127.0.0.1", "port": 0, "ssl_shutdown_timeout": 1},
        ValueError,
        "ssl_shutdown_timeout is only meaningful with ssl",
        marks=pytest.mark.skipif(
            PY < (3, 11), reason="ssl_shutdown_timeout is new in Python 3.11"
        ),
    ),
]


@pytest.mark.parametrize("arguments, error, text", BAD)
@on_loop
async def test_bad_arguments(loop, arguments, error, text):
    with contextlib.ExitStack() as stack:
        given = dict(arguments)
        if "sock" in given:
            given["sock"] = stack.enter_context(given["sock"]())
        with pytest.raises(error) as caught:
            await loop.create_server(Recorder, **given)
        assert str(caught.value).startswith(text)


# -- serving -------------------------------------------------------------------------


@on_loop
async def test_attributes(loop):
    server = await serve(loop)
    assert isinstance(server, asyncio.Server)
    assert isinstance(server, asyncio.AbstractServer)
    assert server.get_loop() is loop
    assert server.is_serving() is True
    assert isinstance(server.sockets, tuple)
    (sock,) = server.sockets
    assert sock.getsockname()[0] == "127.0.0.1"
    assert repr(server) == f"<Server sockets={server.sockets!r}>"
    server.close()
    assert server.sockets == ()
    assert server.is_serving() is False
    assert repr(server) == "<Server sockets=()>"
    assert sock.fileno() == -1


@on_loop
async def test_start_serving_false(loop):
    accepted = Accepted()
    server = await serve(loop, accepted, start_serving=False)
    assert not server.is_serving()
    with pytest.raises(ConnectionRefusedError):
        client_of(server)
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving()
    with client_of(server):
        await accepted.wait(1)
    server.close()
    await settle(loop)


@on_loop
async def test_accepts_many_that_wait_at_once(loop):
    accepted = Accepted()
    server = await serve(loop, accepted, start_serving=False, backlog=300)
    await server.start_serving()
    clients = [client_of(server) for _ in range(150)]
    await accepted.wait(150)
    assert len({p.transport.get_extra_info("peername") for p in accepted}) == 150
    for sock in clients:
        sock.close()
    for protocol in accepted:
        assert await protocol.lost is None
    server.close()
    await settle(loop)


@on_loop
async def test_accepts_more_than_its_backlog_over_time(loop):
    accepted = Accepted()
    server = await serve(loop, accepted, backlog=1)
    for count in range(1, 20):
        client_of(server).close()
        await accepted.wait(count)
    await asyncio.gather(*(protocol.lost for protocol in accepted))
    server.close()
    await settle(loop)


@on_loop
async def test_two_servers_do_not_mix(loop):
    first_accepted, second_accepted = Accepted(), Accepted()
    first, second = (
        await serve(loop, first_accepted),
        await serve(loop, second_accepted),
    )
    with client_of(second):
        await second_accepted.wait(1)
    assert not first_accepted
    await second_accepted[0].lost
    first.close()
    second.close()


@on_loop
async def test_a_client_that_is_gone_before_it_is_accepted(loop):
    accepted = Accepted()
    server = await serve(loop, accepted)
    gone = [client_of(server) for _ in range(5)]
    for sock in gone:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    with client_of(server) as last:
        last.send(b"alive")
        await until(lambda: any(p.data == b"alive" for p in accepted))
    await asyncio.gather(*(protocol.lost for protocol in accepted))
    server.close()
    await settle(loop)


# -- close and wait_closed -----------------------------------------------------------


@on_loop
async def test_close_stops_listening_at_once_but_keeps_connections(loop):
    accepted = Accepted()
    server = await serve(loop, accepted)
    address = server.sockets[0].getsockname()
    with client_of(server) as client:
        await accepted.wait(1)
        assert server.close() is None
        server.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        client.send(b"still heard")
        assert await accepted[0].received(11) == b"still heard"
        accepted[0].transport.write(b"and answered")
        assert client.recv(100) == b"and answered"
    await accepted[0].lost


@on_loop
async def test_wait_closed_without_connections(loop):
    server = await serve(loop)
    waiter = asyncio.create_task(server.wait_closed())
    await settle(loop)
    assert not waiter.done()
    server.close()
    await waiter
    await server.wait_closed()


@on_loop
async def test_wait_closed_with_connections(loop):
    """From 3.12 it waits for the connections; before, a closed server is closed."""
    accepted = Accepted()
    server = await serve(loop, accepted)
    with client_of(server):
        await accepted.wait(1)
        server.close()
        waiter = asyncio.create_task(server.wait_closed())
        await settle(loop)
        assert waiter.done() is (PY < (3, 12))
    await accepted[0].lost
    await waiter
    await server.wait_closed()


@on_loop
async def test_wait_closed_called_before_close_waits_for_connections(loop):
    accepted = Accepted()
    server = await serve(loop, accepted)
    waiter = asyncio.create_task(server.wait_closed())
    with client_of(server), client_of(server):
        await accepted.wait(2)
        server.close()
        await settle(loop)
        assert not waiter.done()
        accepted[0].transport.close()
        await accepted[0].lost
        await settle(loop)
        assert not waiter.done()
        accepted[1].transport.abort()
    await waiter
    assert accepted[1].lost.done()


@on_loop
async def test_connections_that_ended_before_close_are_not_waited_for(loop):
    accepted = Accepted()
    server = await serve(loop, accepted)
    for _ in range(3):
        client_of(server).close()
    await accepted.wait(3)
    await asyncio.gather(*(protocol.lost for protocol in accepted))
    await settle(loop)
    server.close()
    await server.wait_closed()


@on_loop
async def test_async_with(loop):
    accepted = Accepted()
    async with await serve(loop, accepted) as server:
        assert server.is_serving()
        with client_of(server):
            await accepted.wait(1)
        await accepted[0].lost
    assert not server.is_serving()
    assert server.sockets == ()


@pytest.mark.skipif(PY < (3, 13), reason="new in Python 3.13")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
@on_loop
async def test_ending_the_clients(loop, method):
    accepted = Accepted()
    server = await serve(loop, accepted)
    with client_of(server) as one, client_of(server) as two:
        await accepted.wait(2)
        server.close()
        if method == "close_clients":
            accepted[0].transport.write(b"last words")
        getattr(server, method)()
        assert all(p.transport.is_closing() for p in accepted)
        await server.wait_closed()
        assert [p.lost.result() for p in accepted] == [None, None]
        received = one.recv(100) + two.recv(100)
        assert received == (b"last words" if method == "close_clients" else b"")


@pytest.mark.skipif(PY < (3, 13), reason="new in Python 3.13")
@on_loop
async def test_abort_clients_drops_what_close_clients_would_send(loop):
    accepted = Accepted()
    server = await serve(loop, accepted)
    with client_of(server):
        await accepted.wait(1)
        accepted[0].transport.write(bytes(32 << 20))
        server.close()
        server.close_clients()
        await settle(loop)
        assert not accepted[0].lost.done()
        server.abort_clients()
        await server.wait_closed()
        assert accepted[0].lost.result() is None


# -- serve_forever -------------------------------------------------------------------


@on_loop
async def test_serve_forever_and_cancel(loop):
    accepted = Accepted()
    server = await serve(loop, accepted, start_serving=False)
    task = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    assert server.is_serving()
    with client_of(server):
        await accepted.wait(1)
    await accepted[0].lost
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving()
    assert server.sockets == ()


@on_loop
async def test_serve_forever_ends_when_closed(loop):
    server = await serve(loop)
    task = asyncio.create_task(server.serve_forever())
    await settle(loop)
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await task


@on_loop
async def test_serve_forever_twice(loop):
    server = await serve(loop)
    task = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError) as caught:
        await server.serve_forever()
    assert str(caught.value) == (
        f"server {server!r} is already being awaited on serve_forever()"
    )
    server.close()
    await asyncio.wait([task])
    with pytest.raises(RuntimeError) as caught:
        await server.serve_forever()
    assert str(caught.value) == f"server {server!r} is closed"


def test_the_loop_closes_with_a_serving_server(new_loop):
    """The listening socket is the server's, and dies with it."""
    loop = new_loop()
    server = loop.run_until_complete(loop.create_server(Recorder, "127.0.0.1", 0))
    address = server.sockets[0].getsockname()
    loop.close()
    with resource_warnings():
        del server, loop
        support.collect()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
