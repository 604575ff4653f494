"""The scenarios of what others do with a loop: tools, threads, forks, factories.

See scenarios.py.
"""

import asyncio
import contextlib
import socket
import sys
import threading

import support
from scenarios import scenario, target
from world import World, until

# --- tools that iterate by themselves -------------------------------------------


@scenario
def own_iteration(w: World):
    """An iteration of asyncio's kind, in Python, of _selector and _ready."""
    left, right = w.pair()
    loop = w.loop
    seen = []
    add = w.call(seen.append)
    right.send(b"x")
    with w.armed():
        loop.add_reader(left, add, "read")
        loop.call_soon(add, "soon")
        loop.call_at(loop.time() - 1, add, "late")
        for _ in range(10):
            loop._selector.select(0)
            while loop._ready:
                loop._ready.popleft()._run()
            if "read" in seen:
                loop.remove_reader(left)
            timers = [t for t in loop._scheduled if t._args == ("late",)]
            if timers:
                loop._add_callback(timers[0])
        repr(loop._ready)
    assert sorted(seen) == ["late", "read", "soon"]


@scenario
def added_handles(w: World):
    """Handles that were made elsewhere."""
    loop = w.loop
    seen = []
    with w.armed():
        for add in (loop._add_callback, loop._add_callback_signalsafe):
            add(asyncio.Handle(seen.append, (len(seen),), loop))
            timer = loop.call_later(1000, seen.append, "timer")
            timer.when()
            add(timer)
        loop._write_to_self()
        w.run_once()
        timer._run()
    assert seen == [0, "timer", 0, "timer", "timer"]


# --- tasks and futures ----------------------------------------------------------


async def child(value):
    await asyncio.sleep(0)
    return value


@scenario
def task_factories(w: World):
    loop = w.loop
    factories = [lambda loop, coro, **options: asyncio.Task(coro, loop=loop)]
    if sys.version_info >= (3, 12):
        factories.append(asyncio.eager_task_factory)

    async def main():
        return [await loop.create_task(child(n)) for n in range(2)]

    try:
        with w.armed():
            for factory in factories:
                loop.set_task_factory(factory)
                assert w.run(main()) == [0, 1]
    finally:
        loop.set_task_factory(None)


@scenario
def futures(w: World):
    loop = w.loop
    seen = []

    async def main():
        future = loop.create_future()
        future.add_done_callback(lambda done: seen.append(done.result()))
        loop.call_soon(future.set_result, 1)
        await future
        failed = loop.create_future()
        loop.call_later(0, failed.set_exception, LookupError())
        with contextlib.suppress(LookupError):
            await failed
            raise AssertionError("it did not fail")
        try:
            await asyncio.wait_for(loop.create_future(), 0.001)
        except asyncio.TimeoutError:
            seen.append(2)

    with w.armed():
        w.run(main())
    assert seen == [1, 2]


# --- threads --------------------------------------------------------------------


@scenario
def woken_by_thread(w: World):
    """A thread, made before, wakes a loop that waits."""
    loop = w.loop
    seen = []
    begin = threading.Event()

    def work():
        begin.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(seen.append, 1)

    async def main():
        begin.set()
        while not seen:
            await asyncio.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with w.armed():
            w.run(main())
    finally:
        begin.set()
        thread.join()
    assert seen == [1]


@scenario
def watched_by_thread(w: World):
    """Another thread has descriptors watched, and no more, while the loop waits."""
    loop = w.loop
    left, right = w.pair()
    other, _ = w.pair()
    right.send(b"x")
    main_thread = threading.get_native_id()
    seen = []
    begin = threading.Event()

    def readable():
        seen.append(left.recv(1))

    def work():
        begin.wait()
        support.wait_until_asleep(main_thread)
        try:
            loop.add_reader(other, target)
            loop.add_reader(left, readable)
            loop.remove_reader(other)
        except (OSError, RuntimeError) as exc:  # RuntimeError: it is closed already
            w.seen.add(exc, "in the thread")

    async def main():
        begin.set()
        while not seen:
            await asyncio.sleep(0.05)
        loop.remove_reader(left)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with w.armed():
            w.run(main())
    finally:
        begin.set()
        thread.join()
        loop.remove_reader(left)
        loop.remove_reader(other)
    assert seen == [b"x"]


@scenario
def executor(w: World):
    loop = w.loop
    w.run(loop.run_in_executor(None, target))  # its thread is there
    with w.armed():
        result = w.run(asyncio.wait_for(loop.run_in_executor(None, len, "abc"), None))
    assert result == 3


@scenario
def names_by_executor(w: World):
    """What is no literal is looked up in a thread; and a lookup driven by hand."""
    loop = w.loop
    w.run(loop.run_in_executor(None, target))

    async def main():
        answers = await loop.getaddrinfo(None, 80, type=socket.SOCK_STREAM)
        assert answers[0][1] == socket.SOCK_STREAM
        with contextlib.suppress(socket.gaierror):
            await loop.getaddrinfo("127.0.0.1", "no such service")
            raise AssertionError("there is such a service")
        left = loop.getaddrinfo(None, 80)
        with contextlib.suppress(StopIteration):  # the thread may be fast
            left.send(None)
        left.close()
        left = loop.getaddrinfo(None, 80)
        with contextlib.suppress(StopIteration, LookupError):
            left.send(None)
            left.throw(LookupError())
        repr(left)
        loop.getaddrinfo("127.0.0.1", 80).close()

    with w.armed():
        w.run(main())


# --- forks ----------------------------------------------------------------------


@scenario
def forked(w: World):
    """What the child of a fork does to its parent's loop, which it runs and closes."""
    left, right = w.pair()
    loop = w.loop
    seen = []
    loop.add_reader(left, seen.append, 1)
    loop.add_writer(right, target)
    w.run_once()
    w.hooks.pretend_fork()
    with w.armed():
        loop.remove_writer(right)
        loop.call_soon_threadsafe(target)
        right.send(b"x")
        try:
            w.run(until(lambda: seen))
            loop.remove_reader(left)
        finally:
            loop.close()
    assert loop.is_closed()
