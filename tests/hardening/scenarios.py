"""The scenarios of the loop itself: callbacks, timers, descriptors, sock_*, names.

See world.py for what a scenario is. `SCENARIOS` has all, those of streams.py too.
"""

import asyncio
import contextlib
import contextvars
import fcntl
import importlib.util
import os
import signal
import socket
import sys

from world import World, until

SCENARIOS = {}

#: Those that leave the interpreter itself damaged when its allocations fail: when types
#: are made, CPython leaks, and 3.12.1 and 3.13.0 lose exceptions and keys of dicts.
OWN_PROCESS = []


def scenario(function):
    """Make a function of a World one of the scenarios."""
    assert function.__name__ not in SCENARIOS, function
    SCENARIOS[function.__name__] = function
    return function


def target(*args):
    pass


# --- loops and callbacks ------------------------------------------------------


@scenario
def loop_life(w: World):
    with w.armed():
        loop = w.new_loop()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
    assert loop.is_closed()


@scenario
def loop_dropped(w: World):
    with w.armed():
        loop = w.new_loop()
        loop.call_soon(target, loop)
        loop.call_later(1000, target, loop)
    w.loops.remove(loop)


@scenario
def loop_closed_with_work(w: World):
    loop = w.loop
    left, _ = w.pair()
    with w.armed():
        loop.call_soon(target, loop)
        loop.call_later(1000, target)
        loop.add_reader(left, target)
        loop.close()
    assert not loop._ready and not loop._scheduled


@scenario
def run_function(w: World):
    """pyloop.run(), with loops that do not wait for ever."""
    from pyloop import _policy

    def make():
        return w.watched(w.new_loop())

    async def main():
        await asyncio.sleep(0)
        return 5

    coro = main()
    try:
        with w.armed():
            result = _policy.run(coro, loop_factory=make)
    finally:
        coro.close()
    w.check_gave_up()
    assert result == 5


@scenario
def module(w: World):
    """The C module's own making, for a second instance of it."""
    core = importlib.import_module("pyloop._core")
    spec = core.__spec__
    with w.armed():
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
    assert made.Loop is not core.Loop


OWN_PROCESS.append(module)


@scenario
def call_soon(w: World):
    seen = []
    context = contextvars.copy_context()
    add = w.call(lambda *args: seen.append(args))
    w.loop  # noqa: B018
    with w.armed():
        for count in (0, 1, 3, 4, 20):
            w.loop.call_soon(add, *range(count))
        w.loop.call_soon(add, "c", context=context)
        w.loop.call_soon(add, "never").cancel()
        w.run_once()
    assert [len(args) for args in seen] == [0, 1, 3, 4, 20, 1]


@scenario
def many_callbacks(w: World):
    """Enough for the ready queue to grow."""
    seen = []
    w.loop  # noqa: B018
    with w.armed():
        for number in range(700):
            w.loop.call_soon(seen.append, number)
        w.run_once()
    assert seen == list(range(700))


@scenario
def timers(w: World):
    seen = []
    add = w.call(seen.append)
    w.loop  # noqa: B018
    with w.armed():
        now = w.loop.time()
        for number in range(20):
            w.loop.call_at(now - 1 + number / 100, add, number)
        w.loop.call_later(-2, add, "first")
        w.loop.call_later(1000, add, "never").cancel()
        later = w.loop.call_later(1000, add, "never")
        list(w.loop._scheduled)
        w.run_once()
        later.cancel()
    assert seen == ["first", *range(20)]


@scenario
def sleeping(w: World):
    with w.armed():
        w.run(asyncio.sleep(0.001))


@scenario
def handle_attributes(w: World):
    w.loop  # noqa: B018
    with w.armed():
        for handle in (
            w.loop.call_soon(target, 1, 2, 3, 4, 5),
            w.loop.call_soon(target, 1),
            w.loop.call_at(0, target, 1),
        ):
            repr(handle)
            hash(handle)
            assert handle == handle and not handle.cancelled()
            for name in ("_callback", "_args", "_context", "_loop", "_repr"):
                getattr(handle, name)
            handle._args = (1, 2)
            handle.cancel()
            repr(handle)
        list(w.loop._ready)


@scenario
def callback_errors(w: World):
    def fail(*args):
        raise LookupError

    w.loop  # noqa: B018
    with w.armed():
        w.loop.call_soon(fail, 1)
        w.loop.call_at(0, fail)
        w.run_once()
    assert w.seen.names == ["LookupError"] * 2


@scenario
def failing_exception_handler(w: World):
    def fail(*args):
        raise LookupError

    w.loop.set_exception_handler(fail)
    with w.armed():
        w.loop.call_soon(fail, 1)
        w.run_once()
    assert "LookupError" in w.seen.names


@scenario
def wrong_calls(w: World):
    w.loop  # noqa: B018
    with w.armed():
        for function, *args in (
            (w.loop.call_soon,),
            (w.loop.call_later, None, target),
            (w.loop.call_later, "x", target),
            (w.loop.add_reader, -1, target),
            (w.loop.add_reader, "x", target),
            (w.loop.add_reader, 9999, target),
            (w.loop.set_task_factory, 1),
            (w.loop.sock_recv, 1),
        ):
            try:
                function(*args)
            except (TypeError, ValueError, OSError):
                pass
            else:
                raise AssertionError(function)


@scenario
def threadsafe(w: World):
    """The inbox: the loop runs, according to itself, in another thread."""
    seen = []
    add = w.call(seen.append)
    w.loop  # noqa: B018
    w.loop._thread_id = 1
    try:
        with w.armed():
            for number in range(70):
                w.loop.call_soon_threadsafe(add, number)
            w.loop.call_soon_threadsafe(add, "never").cancel()
    finally:
        w.loop._thread_id = None
    w.run_once()
    assert seen == list(range(70))


@scenario
def taking_the_inbox(w: World):
    seen = []
    w.loop._thread_id = 1
    for number in range(700):
        w.loop.call_soon_threadsafe(seen.append, number)
    w.loop._thread_id = None
    with w.armed():
        w.run_once()
    w.run_once()
    assert seen == list(range(700))


@scenario
def threadsafe_own(w: World):
    seen = []
    add = w.call(seen.append)
    w.loop  # noqa: B018
    with w.armed():
        w.loop.call_soon_threadsafe(add, 1)
        w.run_once()
    assert seen == [1]


@scenario
def tasks(w: World):
    async def child(number):
        await asyncio.sleep(0)
        return number

    async def main():
        task = w.loop.create_task(child(1))
        w.loop.create_task(child(2), name="named")
        cancelled = asyncio.ensure_future(asyncio.sleep(1000))
        await asyncio.sleep(0)
        cancelled.cancel()
        return await asyncio.gather(task, child(3))

    w.loop  # noqa: B018
    with w.armed():
        result = w.run(main())
    assert result == [1, 3]


@scenario
def overridden(w: World):
    seen = []
    loop = w.loop
    time, call_soon, call_at = loop.time, loop.call_soon, loop.call_at
    create_future = loop.create_future
    left, right = w.pair()
    try:
        with w.armed():
            loop.time = lambda: time()
            loop.call_soon = lambda *args, **kw: call_soon(*args, **kw)
            loop.call_at = lambda *args, **kw: call_at(*args, **kw)
            loop.create_future = lambda: create_future()
            loop.call_later(0, seen.append, 1)
            transport = loop._make_socket_transport(left, asyncio.Protocol())
            w.run_once()
            w.run_once()
            transport.close()
            receiving = asyncio.ensure_future(loop.sock_recv(right, 1), loop=loop)
            w.run(receiving)
    finally:
        for name in ("time", "call_soon", "call_at", "create_future"):
            loop.__dict__.pop(name, None)
    assert seen == [1]


@scenario
def debug_mode(w: World):
    seen = []

    async def main():
        await asyncio.sleep(0)
        seen.append(2)

    loop = w.loop
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    with w.armed():
        handle = loop.call_soon(seen.append, 1)
        timer = loop.call_later(1000, target)
        repr(handle)
        timer.cancel()
        repr(timer)
        w.run(main())
    loop.set_debug(False)
    assert seen == [1, 2]


@scenario
def nested_run(w: World):
    seen = []

    def inner():
        w.loop.call_soon(seen.append, "inside")
        w.loop._run_once()

    w.loop  # noqa: B018
    with w.armed():
        w.loop.call_soon(w.call(inner))
        w.run_once()
    assert seen == ["inside"]


@scenario
def signals(w: World):
    seen = []
    w.loop  # noqa: B018
    before = signal.getsignal(signal.SIGUSR1)
    try:
        with w.armed():
            w.loop.add_signal_handler(signal.SIGUSR1, w.call(seen.append), 1)
            signal.raise_signal(signal.SIGUSR1)
            while not seen:
                w.run_once()
            w.loop.remove_signal_handler(signal.SIGUSR1)
    finally:
        w.loop.remove_signal_handler(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)
    assert seen == [1]


# --- descriptors --------------------------------------------------------------


@scenario
def readers(w: World):
    seen = []
    left, right = w.pair()
    add = w.call(seen.append)
    loop = w.loop
    with w.armed():
        right.send(b"x")
        loop.add_reader(left, add, "replaced")
        loop.add_reader(left, add, "read")
        loop.add_writer(left.fileno(), add, "write")
        while not seen:
            w.run_once()
        assert loop.remove_reader(left) and loop.remove_writer(left)
        assert not loop.remove_reader(left)
        w.run_once()
    assert seen == ["read", "write"]


@scenario
def reader_fails(w: World):
    def fail():
        loop.remove_reader(left)
        raise LookupError

    left, right = w.pair()
    loop = w.loop
    right.send(b"x")
    with w.armed():
        loop.add_reader(left, w.call(fail))
        w.run_once()
        w.run_once()
    assert w.seen.names == ["LookupError"]


@scenario
def high_descriptor(w: World):
    """The table of descriptors grows twice."""
    left, _ = w.pair()
    numbers = [fcntl.fcntl(left, fcntl.F_DUPFD, least) for least in (200, 500)]
    seen = []
    try:
        loop = w.loop
        with w.armed():
            for number in numbers:
                loop.add_writer(number, seen.append, number)
            while len(seen) < 2:
                w.run_once()
            for number in numbers:
                loop.remove_writer(number)
    finally:
        for number in numbers:
            w.loop.remove_writer(number)
            os.close(number)
    assert sorted(seen) == numbers


@scenario
def closed_while_watched(w: World):
    """A duplicate keeps the closed file open: the poller starts anew, with others."""
    left, right = w.pair()
    other, far = w.pair()
    loop = w.loop
    seen = []
    loop.add_reader(other, seen.append, 1)
    copy = left.dup()
    w.close_later(copy)
    right.send(b"x")
    number = left.fileno()
    try:
        with w.armed():
            loop.add_reader(number, target)
            w.run_once()
            left.close()
            w.run_once()
            w.run_once()
            far.send(b"x")
            w.run(until(lambda: seen))
    finally:
        loop.remove_reader(number)
        loop.remove_reader(other)


# --- sock_* -------------------------------------------------------------------


@scenario
def sock_recv(w: World):
    left, right = w.pair()

    async def main():
        receiving = asyncio.ensure_future(loop.sock_recv(left, 100))
        await asyncio.sleep(0)
        await loop.sock_sendall(right, b"abc")
        buffer = bytearray(10)
        first = await receiving
        while len(first) < 3:
            first += await loop.sock_recv(left, 100)
        into = asyncio.ensure_future(loop.sock_recv_into(left, buffer))
        await asyncio.sleep(0)
        await loop.sock_sendall(right, bytearray(b"def"))
        count = await into
        while count < 3:
            rest = memoryview(buffer)[count:]
            count += await loop.sock_recv_into(left, rest)
        return first, count, bytes(buffer[:3])

    loop = w.loop
    with w.armed():
        result = w.run(main())
    assert result == (b"abc", 3, b"def")


@scenario
def sock_sendall(w: World):
    left, right = w.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    data = bytes(range(256)) * 80

    async def main():
        received = bytearray()
        sending = asyncio.ensure_future(loop.sock_sendall(left, data))
        while len(received) < len(data):
            part = await loop.sock_recv(right, 20000)
            if not part:
                break
            received += part
        await sending
        return bytes(received)

    loop = w.loop
    with w.armed():
        result = w.run(main())
    assert result == data


@scenario
def sock_datagrams(w: World):
    sockets = []
    for _ in range(2):
        sock = w.close_later(socket.socket(type=socket.SOCK_DGRAM))
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        sockets.append(sock)
    left, right = sockets

    async def main():
        receiving = asyncio.ensure_future(loop.sock_recvfrom(left, 100))
        await asyncio.sleep(0)
        sent = await loop.sock_sendto(right, b"abc", left.getsockname())
        data, address = await receiving
        assert (sent, data, address) == (3, b"abc", right.getsockname())
        buffer = bytearray(10)
        await loop.sock_sendto(right, b"defg", left.getsockname())
        return await loop.sock_recvfrom_into(left, buffer), bytes(buffer[:4])

    loop = w.loop
    with w.armed():
        result = w.run(main())
    assert result == ((4, right.getsockname()), b"defg")


@scenario
def sock_connect_accept(w: World):
    listener = w.listener()
    client = w.close_later(socket.socket())
    client.setblocking(False)

    async def main():
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await asyncio.sleep(0)
        await loop.sock_connect(client, listener.getsockname())
        server, address = await accepting
        w.close_later(server)
        assert address == client.getsockname()

    loop = w.loop
    with w.armed():
        w.run(main())


@scenario
def sock_connect_refused(w: World):
    listener = w.listener()
    address = listener.getsockname()
    listener.close()
    client = w.close_later(socket.socket())
    client.setblocking(False)
    loop = w.loop
    with w.armed(), contextlib.suppress(ConnectionRefusedError):
        w.run(loop.sock_connect(client, address))
        raise AssertionError("it connected")


@scenario
def sock_subclass(w: World):
    """Methods are called of what is not exactly a socket.socket."""

    class Socket(socket.socket):
        pass

    left, right = w.pair()
    left = w.close_later(Socket(fileno=os.dup(left.fileno())))
    left.setblocking(False)

    async def main():
        receiving = asyncio.ensure_future(loop.sock_recv(left, 100))
        await asyncio.sleep(0)
        await loop.sock_sendall(right, b"abc")
        first = await receiving
        while len(first) < 3:
            first += await loop.sock_recv(left, 100)
        assert first == b"abc"
        await loop.sock_sendall(left, b"x" * 300)

    loop = w.loop
    with w.armed():
        w.run(main())


@scenario
def coroutine_protocol(w: World):
    left, right = w.pair()
    loop = w.loop
    with w.armed():
        coro = loop.sock_recv(left, 10)
        repr(coro)
        coro.send(None)
        coro.close()
        coro = loop.sock_recv(left, 10)
        coro.send(None)
        try:
            coro.throw(LookupError("x"))
        except LookupError:
            pass
        coro = loop.sock_recv(left, 10)
        right.send(b"abc")
        try:
            coro.send(None)
        except StopIteration as stop:
            assert stop.value == b"abc"
        try:
            coro.send(None)
        except RuntimeError:
            pass
        loop.sock_recv(left, 10)  # never awaited


@scenario
def sock_cancelled(w: World):
    left, right = w.pair()

    async def main():
        receiving = asyncio.ensure_future(loop.sock_recv(left, 100))
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        right.send(b"abc")
        return await loop.sock_recv(left, 100)

    loop = w.loop
    with w.armed():
        result = w.run(main())
    assert result == b"abc"


# --- names --------------------------------------------------------------------


@scenario
def names(w: World):
    async def main():
        answers = await loop.getaddrinfo("127.0.0.1", 80)
        await loop.getaddrinfo("::1", 80, type=socket.SOCK_STREAM)
        await loop.getaddrinfo(b"127.1", 80, type=socket.SOCK_DGRAM)
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        name = await loop.getnameinfo(("127.0.0.1", 80), numeric)
        return answers[0][4], name

    loop = w.loop
    with w.armed():
        result = w.run(main())
    assert result == (("127.0.0.1", 80), ("127.0.0.1", "80"))


def names_of(patterns):
    """The scenarios whose names contain one of the patterns; all without any."""
    import accelerated  # noqa: F401
    import corners  # noqa: F401
    import datagrams  # noqa: F401
    import diagnostics  # noqa: F401
    import outside  # noqa: F401
    import pipe_transports  # noqa: F401
    import readers  # noqa: F401
    import servers  # noqa: F401
    import services  # noqa: F401
    import streams  # noqa: F401  (adds its own)

    chosen = [
        name
        for name in SCENARIOS
        if not patterns
        or any(
            pattern[1:] == name if pattern[:1] == "=" else pattern in name
            for pattern in patterns
        )
    ]
    if not chosen:
        sys.exit(f"no scenario is named like {patterns}")
    return chosen
