"""The scenarios of what is rare: wrong arguments, attributes, debug mode, ends.

See scenarios.py.
"""

import asyncio
import contextlib
import contextvars
import functools
import gc
import importlib
import os
import signal
import socket
import ssl
import types
import weakref
from unittest import mock

from scenarios import scenario, target
from streams import connect
from world import Recorder, World, until


def raises(kinds, function, *args, **keywords):
    """That it raises one of these; any other exception is passed on."""
    try:
        function(*args, **keywords)
    except kinds:
        return
    raise AssertionError(f"{function} took {args} {keywords}")


def read_attributes(thing):
    """Read all that is an attribute in C of what one of the core's types made."""
    for name, value in vars(type(thing)).items():
        if isinstance(value, (types.GetSetDescriptorType, types.MemberDescriptorType)):
            with contextlib.suppress(AttributeError):
                getattr(thing, name)


# --- the module, its types and their attributes -----------------------------------


@functools.cache
def derived_loop():
    core = importlib.import_module("pyloop._core")
    return core, type("Derived", (core.Loop,), {})


@scenario
def module_functions(w: World):
    core, derived = derived_loop()
    with w.armed():
        assert set(core.debug_stats()) >= {"loops", "handles"}
        core.own_methods(derived, ("call_soon", "time"))
        raises(TypeError, core.own_methods, int, ("time",))
        raises(TypeError, core.own_methods, derived, ("_closed",))
        raises(TypeError, core.own_methods, derived)
        raises(AttributeError, core.own_methods, derived, ("nothing",))
    assert "time" in vars(derived)


@scenario
def attributes(w: World):
    left, right = w.pair()
    datagrams = w.close_later(socket.socket(type=socket.SOCK_DGRAM))
    datagrams.setblocking(False)
    loop = w.loop
    pipes = [w.close_later(os.fdopen(fd, "rb+", 0)) for fd in os.pipe()]
    with w.armed():
        transports = [
            loop._make_socket_transport(left, asyncio.Protocol()),
            loop._make_datagram_transport(datagrams, asyncio.DatagramProtocol()),
            loop._make_read_pipe_transport(pipes[0], asyncio.Protocol()),
            loop._make_write_pipe_transport(pipes[1], asyncio.Protocol()),
        ]
        coroutines = [loop.sock_recv(right, 1), loop.getaddrinfo("127.0.0.1", 80)]
        handles = [loop.call_soon(target), loop.call_at(0, target)]
        for thing in (*transports, *coroutines, *handles):
            read_attributes(thing)
            repr(thing)
            weakref.ref(thing)
        core_loop = derived_loop()[0].Loop()
        read_attributes(core_loop)
        core_loop._close_core()
        read_attributes(core_loop)
        w.run_once()
        for coroutine in coroutines:
            coroutine.close()
        transports[0]._force_close(None)
        transports[1]._force_close(None)
        transports[2]._pipe = None  # it is given up
        transports[3].abort()
        w.run_once()
        w.run_once()


@scenario
def handle_setters(w: World):
    loop = w.loop
    seen = []
    with w.armed():
        for handle in (
            loop.call_soon(target),
            loop.call_at(0, target),
            loop.call_soon_threadsafe(target),
        ):
            handle._callback = seen.append
            handle._args = (1,)
            handle._context = contextvars.copy_context()
            handle._repr = "it"
            handle._source_traceback = None
            weakref.ref(handle)
            read_attributes(handle)
        w.run_once()
    assert seen == [1, 1, 1]


# --- wrong arguments ------------------------------------------------------------


@scenario
def wrong_arguments(w: World):
    left, _ = w.pair()
    loop = w.loop
    number = 1 << 40
    with w.armed():
        raises(TypeError, loop.call_later, 1)
        raises(TypeError, loop.call_later, 1, target, delay=2)
        raises(TypeError, loop.call_soon, target, nothing=1)
        raises(ValueError, loop.call_later, float("nan"), target)
        raises(TypeError, loop.call_at, None, target)
        raises(TypeError, loop.sock_recv, left)
        raises(TypeError, loop.sock_recv, left, 1, sock=left)
        raises(TypeError, loop.sock_recv, left, nothing=1)
        raises(TypeError, loop.add_reader, left, target, context=None)
        raises(ValueError, loop.add_reader, object(), target)
        raises((ValueError, OverflowError), loop.add_reader, number, target)
        assert not loop.remove_reader(number)
        raises(ValueError, loop.sock_recv(left, -1).send, None)
        raises(TypeError, loop.sock_recv(left, "x").send, None)
        raises(TypeError, loop.sock_recv_into(left, b"x").send, None)
        raises(TypeError, loop.sock_sendall(left, "x").send, None)
        raises(TypeError, loop.sock_sendto(left, b"x", 1).send, None)
        raises(TypeError, loop._make_socket_transport, left)
        raises(TypeError, loop.create_task, 1)
        raises(TypeError, loop.getaddrinfo)
    assert not loop._ready


@scenario
def wrong_calls_of_transports(w: World):
    left, _ = w.pair()
    loop = w.loop
    protocol = connect(w, left)
    transport = protocol.transport
    with w.armed():
        transport.set_write_buffer_limits(high=1.5, low=0.5)
        raises(ValueError, transport.set_write_buffer_limits, high=0.5, low=1.5)
        raises(ValueError, transport.set_write_buffer_limits, high=1, low=2)
        transport.max_size = 1000
        raises(ValueError, setattr, transport, "max_size", 0)
        raises(TypeError, setattr, transport, "max_size", "x")
        raises(AttributeError, delattr, transport, "max_size")
        raises(TypeError, transport.write, "x")
        raises(TypeError, transport.writelines, 1)
        raises(TypeError, transport.writelines, ["x"])
        raises(RuntimeError, loop.add_reader, left, target)
        raises(RuntimeError, loop._make_socket_transport, left, asyncio.Protocol())
        raises(RuntimeError, loop.sock_recv(left, 1).send, None)
        transport.write_eof()
        raises(RuntimeError, transport.write, b"x")
        raises(RuntimeError, transport.writelines, [b"x"])
        transport.abort()
        w.run(until(lambda: protocol.lost))


# --- coroutines ------------------------------------------------------------------


@scenario
def coroutine_calls(w: World):
    left, _ = w.pair()
    loop = w.loop
    with w.armed():
        coro = loop.sock_recv(left, 10)
        raises(TypeError, coro.send, 1)
        raises(TypeError, coro.throw)
        raises(TypeError, coro.throw, 5)
        raises(TypeError, coro.throw, LookupError(), 1)
        raises(TypeError, coro.throw, LookupError, None, 5)
        assert coro.__await__() is coro
        coro.send(None)
        raises(RuntimeError, coro.__await__)
        raises(LookupError, coro.throw, LookupError, "value")
        raises(RuntimeError, coro.send, None)
        raises(RuntimeError, loop.sock_recv(left, 10).throw, StopIteration)


class Awaited:
    """In the place of a future: what is thrown in is not always raised."""

    def __init__(self, ends):
        self.ends = ends

    def done(self):
        return True

    def __await__(self):
        try:
            yield
        except LookupError:
            if not self.ends:
                yield


class AwaitedWrongly(Awaited):
    def __await__(self):
        return 5


@scenario
def coroutines_over_other_awaitables(w: World):
    left, right = w.pair()
    loop = w.loop
    seen = []
    try:
        with w.armed():
            for wrong in (lambda: 5, lambda: AwaitedWrongly(True)):
                loop.create_future = wrong
                raises(TypeError, loop.sock_recv(left, 10).send, None)
            for ends in (False, True):
                loop.create_future = functools.partial(Awaited, ends)
                coro = loop.sock_recv(left, 10)
                coro.send(None)
                right.send(b"abc")
                try:
                    coro.throw(LookupError())
                    for _ in range(3):
                        coro.send(None)
                except StopIteration as stop:
                    seen.append(stop.value)
    finally:
        loop.__dict__.pop("create_future", None)
    loop.remove_reader(left)
    assert seen == [b"abc", b"abc"]


# --- sockets of other types, and debug mode -------------------------------------------


class Socket(socket.socket):
    """What is not exactly a socket.socket is used by its methods."""


@scenario
def socket_methods(w: World):
    listener = w.close_later(Socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    client = w.close_later(Socket())
    near = w.close_later(Socket(type=socket.SOCK_DGRAM))
    near.bind(("127.0.0.1", 0))
    for sock in (listener, client, near):
        sock.setblocking(False)
    address = near.getsockname()
    buffer = bytearray(10)
    loop = w.loop

    async def main():
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await asyncio.sleep(0)
        await loop.sock_connect(client, listener.getsockname())
        server, _ = await accepting
        w.close_later(server)
        await loop.sock_sendall(server, b"abc")
        assert await loop.sock_recv_into(client, buffer) == 3
        for data in (b"d", b"ef"):
            await loop.sock_sendto(near, data, address)
        assert await loop.sock_recvfrom(near, 10) == (b"d", address)
        assert await loop.sock_recvfrom_into(near, buffer) == (2, address)

    with w.armed():
        w.run(main())
    assert buffer[:3] == b"efc"


class Own(socket.socket):
    """One that asyncio's own transports read and accept on."""

    def recv(self, size):
        return super().recv(size)

    def accept(self):
        return super().accept()


@scenario
def sockets_with_methods_of_their_own(w: World):
    left, right = w.pair()
    own = w.close_later(Own(fileno=os.dup(left.fileno())))
    listener = w.close_later(Own())
    listener.bind(("127.0.0.1", 0))
    for sock in (own, listener):
        sock.setblocking(False)
    listener.listen()
    loop = w.loop
    with w.armed():
        transport = loop._make_socket_transport(own, asyncio.Protocol())
        raises(RuntimeError, loop.add_reader, own, target)
        raises(RuntimeError, loop.sock_recv(own, 1).send, None)
        right.send(b"abc")
        w.run_once()
        repr(transport)
        transport.abort()
        w.run_once()
        w.run_once()
        loop._start_serving(asyncio.Protocol, listener)
        loop._stop_serving(listener)


@scenario
def tls_sockets_refused(w: World):
    left, _ = w.pair(socket.AF_INET)
    context = w.certificates.client_context()
    wrapped = w.close_later(
        context.wrap_socket(
            left, do_handshake_on_connect=False, server_hostname="localhost"
        )
    )
    assert isinstance(wrapped, ssl.SSLSocket)
    loop = w.loop
    with w.armed():
        raises(TypeError, loop.sock_recv(wrapped, 1).send, None)
        raises(TypeError, w.run, loop.create_connection(object, sock=wrapped))


@scenario
def debugged_sockets(w: World):
    left, right = w.pair()
    blocking = w.close_later(socket.socket())
    loop = w.loop
    w.run(loop.run_in_executor(None, target))
    loop.set_debug(True)

    async def main():
        await loop.sock_sendall(right, b"abc")
        data = await loop.sock_recv(left, 10)
        raises(ValueError, loop.sock_recv(blocking, 1).send, None)
        await loop.getaddrinfo("127.0.0.1", 80)
        return data

    with w.armed():
        data = w.run(main())
    loop.set_debug(False)
    assert data == b"abc"


@scenario
def debugged_transports(w: World):
    """What is told of connections, transports and their ends in debug mode."""
    loop = w.loop
    protocols = []

    def factory():
        protocols.append(Recorder(w))
        return protocols[-1]

    async def main():
        serving = w.close_later(await loop.create_server(factory, "127.0.0.1", 0))
        client = Recorder(w, close_on_eof=False)
        transport, _ = await loop.create_connection(
            lambda: client, *serving.sockets[0].getsockname()
        )
        await until(lambda: protocols and protocols[0].made)
        transport.pause_reading()
        transport.resume_reading()
        protocols[0].transport.write_eof()
        await until(lambda: client.eof or client.lost)
        transport.close()
        await until(lambda: client.lost and protocols[0].lost)
        serving.close()

    loop.set_debug(True)
    with w.armed():
        w.run(main())
    loop.set_debug(False)


# --- descriptors -------------------------------------------------------------------


class File:
    """Something with a descriptor, which it does not tell once it is closed."""

    def __init__(self, number):
        self.number = number

    def fileno(self):
        if self.number < 0:
            raise ValueError("it is closed")
        return self.number


@scenario
def private_descriptors(w: World):
    left, right = w.pair()
    loop = w.loop
    seen = []
    file = File(right.fileno())
    with w.armed():
        loop._add_writer(left.fileno(), w.call(seen.append), 1)
        loop._add_reader(left.fileno(), target)
        loop.add_reader(file, target)
        w.run(until(lambda: seen))
        assert loop._remove_writer(left.fileno())
        assert loop._remove_reader(left.fileno())
        file.number = -1
        assert loop.remove_reader(file)
        raises(ValueError, loop.remove_reader, file)


@scenario
def number_taken_over(w: World):
    """A watched number becomes another file's, while a duplicate keeps the first open.

    The kernel goes on to tell of the first one, so the poller starts anew.
    """
    left, right = w.pair()
    other, far = w.pair()
    loop = w.loop
    seen = []

    def readable():
        with contextlib.suppress(BlockingIOError):
            seen.append(other.recv(1))

    number = os.dup(left.fileno())
    try:
        loop.add_reader(number, target)
        loop.add_writer(number, target)
        w.run_once()
        os.dup2(other.fileno(), number)
        right.send(b"x")
        with w.armed():
            loop.add_reader(number, w.call(readable))
            w.run_once()
            w.run_once()
            far.send(b"x")
            w.run(until(lambda: seen))
            assert loop.remove_reader(number)
    finally:
        for remove in (loop.remove_reader, loop.remove_writer):
            remove(number)
        os.close(number)


# --- names -------------------------------------------------------------------------


@scenario
def replaced_names(w: World):
    """Functions of the socket module that somebody has replaced are called."""
    loop = w.loop
    w.run(loop.run_in_executor(None, target))

    def getaddrinfo(*args, **keywords):
        return ["here"]

    def getnameinfo(*args):
        return "there"

    async def main():
        return (
            await loop.getaddrinfo("127.0.0.1", 80),
            await loop.getnameinfo(("127.0.0.1", 80)),
        )

    with mock.patch.multiple(socket, getaddrinfo=getaddrinfo, getnameinfo=getnameinfo):
        with w.armed():
            result = w.run(main())
    assert result == (["here"], "there")


# --- what interrupts a run, and what is abandoned -------------------------------------


@scenario
def interrupted(w: World):
    """KeyboardInterrupt leaves the run, which goes on the next time."""
    loop = w.loop
    seen = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt():
        if "over" not in seen:
            signal.raise_signal(signal.SIGINT)

    try:
        with w.armed():
            loop.call_soon(interrupt)
            loop.call_soon(seen.append, "next")
            with contextlib.suppress(KeyboardInterrupt):
                w.run_once()
                raise AssertionError("it was not interrupted")
            w.run_once()
    finally:
        seen.append("over")
        signal.signal(signal.SIGINT, before)
    assert seen == ["next", "over"]


def abandon(w: World):
    """A loop that is used for everything, and its peers; nobody keeps the loop."""
    loop = w.new_loop()
    sockets = [sock for _ in range(4) for sock in w.pair()]
    datagrams = w.close_later(socket.socket(type=socket.SOCK_DGRAM))
    datagrams.setblocking(False)
    pipes = [w.close_later(os.fdopen(fd, "rb+", 0)) for fd in os.pipe()]
    loop._make_socket_transport(sockets[0], asyncio.Protocol()).write(bytes(1000))
    loop._make_datagram_transport(datagrams, asyncio.DatagramProtocol())
    loop._make_read_pipe_transport(pipes[0], asyncio.Protocol())
    loop._make_write_pipe_transport(pipes[1], asyncio.Protocol())
    loop._start_serving(asyncio.Protocol, w.listener())
    loop.add_reader(sockets[2], target, loop)
    loop.add_writer(sockets[3], target, loop)
    loop.create_task(asyncio.sleep(1000))
    task = loop.create_task(main := receive(loop, sockets[4]))
    loop.call_soon(loop.stop)
    loop.run_forever()
    query = loop.getaddrinfo("127.0.0.1", 80)
    loop.call_later(1000, target, loop, main, task, query)
    loop.call_soon_threadsafe(target, loop)
    w.loops.remove(loop)


async def receive(loop, sock):
    await loop.sock_recv(sock, 1)


@scenario
def collected(w: World):
    abandon(w)
    with w.armed():
        gc.collect()
    gc.collect()
