"""The scenarios of servers, TLS among them; see scenarios.py."""

import asyncio
import contextlib
import os
import resource
import socket
import tempfile

from scenarios import scenario
from streams import take
from world import Recorder, World, until


def recorders(w: World, **options):
    """A protocol factory, and the list of what it made."""
    made = []

    def factory():
        made.append(Recorder(w, **options))
        return made[-1]

    return factory, made


async def exchange(w: World, serving, protocols, **options):
    """A client's echo by a TCP server, and the ends of all of them."""
    client = Recorder(w)
    transport, _ = await w.loop.create_connection(
        lambda: client, *serving.sockets[0].getsockname(), **options
    )
    transport.write(b"abc")
    await until(lambda: len(client.data) == 3 or client.lost)
    transport.close()
    await until(lambda: client.lost and all(p.lost for p in protocols))
    serving.close()
    await serving.wait_closed()


@scenario
def server(w: World):
    factory, protocols = recorders(w, echo=True)

    async def main():
        serving = w.close_later(await loop.create_server(factory, "127.0.0.1", 0))
        await exchange(w, serving, protocols)

    loop = w.loop
    with w.armed():
        w.run(main())
    assert len(protocols) == 1


@scenario
def connection_refused(w: World):
    """Of what a name stands for."""
    listener = w.listener()
    address = listener.getsockname()
    listener.close()
    entry = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)

    async def resolve(*args, **keywords):
        return [entry]

    loop = w.loop
    loop.getaddrinfo = resolve
    with w.armed(), contextlib.suppress(ConnectionRefusedError):
        w.run(loop.create_connection(lambda: Recorder(w), "name.test", 1))
        raise AssertionError("it connected")


@scenario
def connection_given_up(w: World):
    """By each of the ways that end a coroutine, in each of its steps."""
    address = w.listener().getsockname()

    async def main(rounds):
        task = asyncio.ensure_future(loop.create_connection(asyncio.Protocol, *address))
        for _ in range(rounds):
            await asyncio.sleep(0)
        if not task.cancel():
            (await task)[0].abort()
        await asyncio.wait([task])
        await asyncio.sleep(0)

    loop = w.loop
    with w.armed():
        for rounds in range(1, 5):
            w.run(main(rounds))
        coroutine = loop.create_connection(asyncio.Protocol, *address)
        coroutine.send(None)
        coroutine.close()


@scenario
def accepting(w: World):
    """One iteration that accepts several connections."""
    factory, protocols = recorders(w)

    serving = w.close_later(w.run(w.loop.create_server(factory, "127.0.0.1", 0)))
    address = serving.sockets[0].getsockname()
    clients = [w.close_later(socket.create_connection(address)) for _ in range(3)]
    with w.armed():
        w.run(until(lambda: sum(p.made for p in protocols) == 3))
        for client in clients:
            client.send(b"x")
        w.run(until(lambda: all(p.data == b"x" for p in protocols)))
        for client in clients:
            client.close()
        w.run(until(lambda: all(p.lost for p in protocols)))


@scenario
def accepted_extras(w: World):
    """What is known of an accepted connection; its socket object is made then."""
    factory, protocols = recorders(w)

    serving = w.close_later(w.run(w.loop.create_server(factory, "127.0.0.1", 0)))
    address = serving.sockets[0].getsockname()
    client = w.close_later(socket.create_connection(address))
    with w.armed():
        w.run(until(lambda: protocols and protocols[0].made))
        transport = protocols[0].transport
        assert transport.get_extra_info("peername") == client.getsockname()
        assert transport.get_extra_info("sockname") == address
        assert transport.get_extra_info("socket").getpeername() == client.getsockname()
        assert transport._sock.fileno() == transport._sock_fd
        transport.close()
        w.run(until(lambda: protocols[0].lost))


@scenario
def own_transports(w: World):
    """A loop with a _make_socket_transport of its own: asyncio's coroutine accepts."""
    loop = w.loop
    factory, protocols = recorders(w, echo=True)
    make = loop._make_socket_transport
    loop._make_socket_transport = lambda *args, **keywords: make(*args, **keywords)
    try:
        serving = w.close_later(w.run(loop.create_server(factory, "127.0.0.1", 0)))
        client = w.close_later(
            socket.create_connection(serving.sockets[0].getsockname())
        )
        client.setblocking(False)
        # What fails there, asyncio tells in debug mode only.
        with w.armed(), contextlib.suppress(ConnectionResetError):
            client.send(b"abc")
            assert w.run(take(client, 3)) in (b"abc", b"")
            client.close()
            w.run(until(lambda: all(p.lost for p in protocols)))
    finally:
        del loop._make_socket_transport


@scenario
def factory_fails(w: World):
    """Connections for which no protocol is made, or the server is closed."""

    def factory():
        if len(failed) == 2:
            loop._stop_serving(listener)
            return Recorder(w)
        failed.append(1)
        if len(failed) == 2:
            return object()
        raise LookupError

    failed = []
    listener = w.listener()
    clients = [
        w.close_later(socket.create_connection(listener.getsockname()))
        for _ in range(3)
    ]
    for client in clients:
        client.setblocking(False)
    loop = w.loop
    with w.armed():
        loop._start_serving(factory, listener)
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                assert w.run(take(client, 1)) == b""
    assert {"LookupError", "AttributeError"} <= set(w.seen.names)


@scenario
def out_of_descriptors(w: World):
    """accept() says EMFILE: serving goes on when the timer that is made then ends."""
    loop = w.loop
    factory, made = recorders(w)

    def call_later(delay, callback):
        resuming.append(callback)
        return asyncio.Handle(callback, (), loop)

    resuming = []
    listener = w.listener()
    client = w.close_later(socket.create_connection(listener.getsockname()))
    loop._start_serving(factory, listener)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    loop.call_later = call_later
    try:
        with os.fdopen(os.dup(client.fileno()), closefd=True) as first_free:
            lowest = first_free.fileno()
        with w.armed():
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                for _ in range(3):
                    w.run_once()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            del loop.call_later
            resuming.pop()()
            w.run(until(lambda: made and made[0].made))
    finally:
        loop.__dict__.pop("call_later", None)
        loop._stop_serving(listener)
    assert "errno 24" in w.seen.names


@scenario
def unix_server(w: World):
    factory, _ = recorders(w, echo=True)

    async def main():
        serving = w.close_later(await loop.create_unix_server(factory, path))
        client = Recorder(w)
        transport, _ = await loop.create_unix_connection(lambda: client, path)
        transport.write(b"abc")
        await until(lambda: len(client.data) == 3 or client.lost)
        transport.close()
        await until(lambda: client.lost)
        serving.close()

    loop = w.loop
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        with w.armed():
            w.run(main())


@scenario
def accepted_socket(w: World):
    """A connection that was accepted elsewhere."""
    left, right = w.pair(socket.AF_INET)
    protocol = Recorder(w, echo=True)
    loop = w.loop
    with w.armed():
        transport, _ = w.run(loop.connect_accepted_socket(lambda: protocol, left))
        assert transport.can_write_eof()
        right.send(b"abc")
        data = w.run(take(right, 3))
        transport.close()
        w.run(until(lambda: protocol.lost))
    assert data == b"abc"


@scenario
def serving_ends(w: World):
    """A server with an open connection is closed while serve_forever() runs."""
    factory, protocols = recorders(w)

    async def main():
        serving = w.close_later(
            await loop.create_server(factory, "127.0.0.1", 0, start_serving=False)
        )
        client.setblocking(False)
        running = asyncio.ensure_future(serving.serve_forever())
        await until(serving.is_serving)
        await loop.sock_connect(client, serving.sockets[0].getsockname())
        await until(lambda: protocols and protocols[0].made)
        running.cancel()
        protocols[0].transport.abort()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        assert not serving.is_serving()
        await serving.wait_closed()

    client = w.close_later(socket.socket())
    loop = w.loop
    with w.armed():
        w.run(main())
    assert protocols[0].lost == 1


@scenario
def stream_api(w: World):
    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()

    async def both():
        serving = w.close_later(await asyncio.start_server(handle, "127.0.0.1", 0))
        address = serving.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        w.transports.append(writer.transport)
        writer.write(b"0\n")
        assert await reader.readline() == b"0\n"  # readers.py says why
        return serving, reader, writer

    async def main():
        try:
            writer.write(b"abc\n")
            await writer.drain()
            line = await reader.readline()
            writer.write_eof()
            rest = await reader.read()
        finally:
            writer.close()
        serving.close()
        return line, rest

    serving, reader, writer = w.run(both())
    with w.armed():
        result = w.run(main())
    assert result == (b"ABC\n", b"")


@scenario
def server_backlog_error(w: World):
    """A listening socket that fails: accept() says EINVAL."""
    sock = w.close_later(socket.socket())
    sock.setblocking(False)
    loop = w.loop
    with w.armed():
        loop._start_serving(lambda: Recorder(w), sock)
        w.run_once()
        w.run_once()
        loop._stop_serving(sock)
    assert "OSError" in w.seen.names


@scenario
def tls(w: World):
    factory, protocols = recorders(w, echo=True)

    async def main():
        serving = w.close_later(
            await loop.create_server(factory, "127.0.0.1", 0, ssl=server_context)
        )
        await exchange(
            w, serving, protocols, ssl=client_context, server_hostname="localhost"
        )

    loop = w.loop
    server_context = w.certificates.server_context()
    client_context = w.certificates.client_context()
    # What fails on the server's side, asyncio tells in debug mode only.
    with w.armed(), contextlib.suppress(ConnectionResetError):
        w.run(main())
