"""What goes wrong while accepting: failing factories, no descriptors, closing midway.

Source: asyncio's selector loop, which reports "out of system resource", stops
accepting, and tries again after a second.
"""

import asyncio
import contextlib
import errno
import os
import resource
import socket

import pytest
import support
from streamkit import (
    PY,
    Recorder,
    listening,
    on_loop,
    oracle_bug,
    record_errors,
    resource_warnings,
    settle,
    until,
)

RETRY = 1.0
"""Seconds a server waits after running out of descriptors (asyncio.constants)."""


def connect(address, count=1):
    clients = [socket.create_connection(address) for _ in range(count)]
    for client in clients:
        client.settimeout(10)
    return clients


class FailingFactory:
    """Raises for the first *failures* connections."""

    def __init__(self, failures=1):
        self.failures = failures
        self.made = []

    def __call__(self):
        if self.failures:
            self.failures -= 1
            raise ZeroDivisionError("in the factory")
        self.made.append(Recorder())
        return self.made[-1]


# -- the factory ---------------------------------------------------------------------


@pytest.mark.parametrize("debug", [False, True])
@on_loop
async def test_a_failing_factory_drops_its_connection_only(loop, loop_kind, debug):
    """The server goes on. asyncio reports it in debug mode only, pyloop always."""
    loop.set_debug(debug)
    errors = record_errors(loop)
    factory = FailingFactory()
    server = await loop.create_server(factory, "127.0.0.1", 0)
    first, second = connect(server.sockets[0].getsockname(), 2)
    with first, second, resource_warnings():
        second.send(b"hello")
        await until(lambda: factory.made and factory.made[0].data == b"hello")
        if debug or loop_kind == "pyloop":
            context = errors.only()
            assert context["message"] == (
                "Error on transport creation for incoming connection"
            )
            assert isinstance(context["exception"], ZeroDivisionError)
        else:
            assert errors.contexts == []
        errors.contexts.clear()
        context = None
        # asyncio leaves closing the first connection's socket to the collector.
        support.collect()
        assert first.recv(10) == b""
    await factory.made[0].lost
    server.close()
    await settle(loop)


@on_loop
async def test_connection_made_that_raises_in_a_server(loop):
    errors = record_errors(loop)
    made = []

    class Failing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(self)
            raise ZeroDivisionError("in connection_made")

    server = await loop.create_server(Failing, "127.0.0.1", 0)
    (client,) = connect(server.sockets[0].getsockname())
    with client:
        client.send(b"hello")
        await until(lambda: made and made[0].data == b"hello")
        assert isinstance(errors.only()["exception"], ZeroDivisionError)
        made[0].transport.write(b"answer")
        assert client.recv(10) == b"answer"
    await made[0].lost
    server.close()
    await settle(loop)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_factory_that_ends_the_program(loop, asyncio_log, error):
    def factory():
        raise error("in the factory")

    server = loop.run_until_complete(loop.create_server(factory, "127.0.0.1", 0))
    (client,) = connect(server.sockets[0].getsockname())
    with client, resource_warnings():
        with pytest.raises(error, match="in the factory"):
            loop.run_forever()
        server.close()
        loop.run_until_complete(asyncio.sleep(0))
        support.collect()
    asyncio_log.take()  # a loop that accepts in tasks also logs the task's end


@on_loop
async def test_a_factory_that_closes_its_server(loop, loop_kind):
    """The connection being made may live or be dropped; the loop goes on."""
    oracle_bug(loop_kind, PY >= (3, 13), "the dropped transport fails in __del__")
    made = []

    def factory():
        server.close()
        made.append(Recorder())
        return made[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    (client,) = connect(server.sockets[0].getsockname())
    with client, resource_warnings():
        await until(lambda: made)
        await settle(loop)
        support.collect()
        assert server.sockets == ()
        if made[0].transport is not None:
            made[0].transport.close()
        assert client.recv(10) == b""
    await settle(loop)


@on_loop
async def test_close_with_connections_waiting_in_the_backlog(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    clients = connect(server.sockets[0].getsockname(), 5)
    server.close()
    await settle(loop)
    for client in clients:
        with client, contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""


@on_loop
async def test_close_from_connection_made(loop):
    """Connections of the same batch of accepts may be dropped, the first one lives."""
    made = []

    class Closer(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(self)
            server.close()

    server = await loop.create_server(Closer, "127.0.0.1", 0)
    clients = connect(server.sockets[0].getsockname(), 3)
    with resource_warnings():
        await until(lambda: made)
        await settle(loop)
        made[0].transport.write(b"alive")
        answers = []
        for protocol in made:
            protocol.transport.close()
        await asyncio.gather(*(protocol.lost for protocol in made))
        support.collect()
        for client in clients:
            with client, contextlib.suppress(ConnectionResetError):
                answers.append(client.recv(10))
        assert answers.count(b"alive") == 1
        assert set(answers) <= {b"alive", b""}


# -- no descriptors left -------------------------------------------------------------


@contextlib.contextmanager
def no_more_descriptors():
    """Inside the block the process cannot open another descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError):
            os.dup(0)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def starve(loop, errors, backlog):
    """A server whose waiting clients cannot be accepted: (server, clients, made)."""
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    listener = listening()
    clients = connect(listener.getsockname(), 3)
    for client in clients:
        client.send(b"hello")
    with no_more_descriptors():
        server = await loop.create_server(factory, sock=listener, backlog=backlog)
        await until(lambda: errors.messages, "the report")
        await asyncio.sleep(0.01)
    return server, clients, made


@pytest.mark.parametrize("backlog", [1, 100])
def test_out_of_descriptors(loop, loop_kind, backlog):
    """Reported, and accepted all the same once there are descriptors again."""

    @on_loop
    async def body(loop):
        errors = record_errors(loop)
        server, clients, made = await starve(loop, errors, backlog)
        assert set(errors.messages) == {"socket.accept() out of system resource"}
        if loop_kind == "pyloop":
            # asyncio reports once for each connection that it tries to accept.
            assert len(errors.messages) == 1
        context = errors.contexts[0]
        assert set(context) == {"message", "exception", "socket"}
        assert isinstance(context["exception"], OSError)
        assert context["exception"].errno == errno.EMFILE
        assert context["socket"].fileno() == server.sockets[0].fileno()
        context = None
        errors.contexts.clear()
        assert made == []
        assert server.is_serving()
        started = loop.time()
        await until(lambda: len(made) == 3)
        assert loop.time() - started < 5 * RETRY
        for protocol in made:
            assert await protocol.received(5) == b"hello"
        for client in clients:
            client.close()
        await asyncio.gather(*(protocol.lost for protocol in made))
        server.close()
        assert errors.messages == []
        await settle(loop)

    body(loop=loop)


@pytest.mark.pyloop_only
@on_loop
async def test_out_of_descriptors_and_of_memory(loop):
    """No timer is to be had for the pause: reported too, and tried again at once."""
    errors = record_errors(loop)
    refused = []
    original = loop.call_later

    def call_later(delay, callback, *args):
        if delay == RETRY and len(refused) < 2:
            refused.append(callback)
            raise MemoryError
        return original(delay, callback, *args)

    loop.call_later = call_later
    server, clients, made = await starve(loop, errors, 100)
    assert len(refused) == 2
    kinds = {type(context["exception"]) for context in errors.contexts}
    assert kinds == {OSError, MemoryError}
    errors.contexts.clear()
    await until(lambda: len(made) == 3)
    for client in clients:
        client.close()
    await asyncio.gather(*(protocol.lost for protocol in made))
    server.close()


@pytest.mark.pyloop_only
@on_loop
async def test_close_while_out_of_descriptors(loop):
    """Nothing is left that would try to accept again; asyncio reports an error."""
    errors = record_errors(loop)
    server, clients, made = await starve(loop, errors, 1)
    errors.contexts.clear()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(1.2 * RETRY)
    assert errors.messages == []
    assert made == []
    for client in clients:
        client.close()


def test_the_loop_closes_while_out_of_descriptors(new_loop):
    loop = new_loop()
    errors = record_errors(loop)
    server, clients, _ = loop.run_until_complete(starve(loop, errors, 1))
    server.close()
    loop.run_until_complete(server.wait_closed())
    errors.contexts.clear()
    loop.close()
    for client in clients:
        client.close()


@on_loop
async def test_connecting_without_descriptors_is_an_error_and_nothing_more(loop):
    with listening() as listener:
        with no_more_descriptors():
            with pytest.raises(OSError) as caught:
                await loop.create_connection(Recorder, *listener.getsockname())
            assert caught.value.errno == errno.EMFILE
        transport, protocol = await loop.create_connection(
            Recorder, *listener.getsockname()
        )
        transport.close()
        await protocol.lost
        await settle(loop)


@on_loop
async def test_existing_connections_work_without_descriptors(loop):
    made = []

    class Echo(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(self)

        def data_received(self, data):
            super().data_received(data)
            self.transport.write(data)

    server = await loop.create_server(Echo, "127.0.0.1", 0)
    (client,) = connect(server.sockets[0].getsockname())
    await until(lambda: made)
    with client, no_more_descriptors():
        for n in range(1, 10):
            client.send(b"ping")
            await made[0].received(4 * n)
            assert client.recv(10) == b"ping"
    await made[0].lost
    server.close()
    await settle(loop)


# -- a factory that makes no protocol --------------------------------------------------


@pytest.mark.parametrize("debug", [False, True])
@on_loop
async def test_a_factory_without_a_protocol(loop, loop_kind, debug):
    """The connection is dropped, the server goes on. asyncio says so in debug mode."""
    made = [None, Recorder()]
    loop.set_debug(debug)
    errors = record_errors(loop)
    server = await loop.create_server(lambda: made.pop(0), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    with resource_warnings(), connect(address)[0] as client:
        await until(lambda: len(made) == 1)
        await settle(loop)
        errors.contexts, seen = [], errors.contexts
        kinds = [(c["message"], type(c["exception"])) for c in seen]
        del seen
        support.collect()
        assert client.recv(1) == b""
    if debug or loop_kind == "pyloop":
        message = "Error on transport creation for incoming connection"
        assert kinds == [(message, AttributeError)]
    else:
        assert not kinds
    server.close()
    if loop_kind == "pyloop":  # asyncio's 3.12 still counts the connection
        await server.wait_closed()


@on_loop
async def test_a_client_without_a_protocol(loop):
    """Nothing is made: the AttributeError is create_connection()'s."""
    errors = record_errors(loop)
    with support.socket_pair() as (left, right):
        with resource_warnings():
            with pytest.raises(AttributeError, match="connection_made"):
                await loop.create_connection(lambda: None, sock=left)
            support.collect()
        right.settimeout(10)
        assert right.recv(1) == b""
    assert not errors.contexts
