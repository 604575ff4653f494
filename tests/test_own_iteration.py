"""An iteration in Python in the place of `_run_once`, made of _selector and _ready.

As nest_asyncio has one. It has to run everything that the loop's own runs.
"""

import asyncio
import heapq
import os
import signal
import socket
import threading

import pytest
import support
from streamkit import record_errors
from support import run_once


def iterate(loop):
    """One iteration as asyncio's: select, move due timers, run what is ready."""
    scheduled, ready = loop._scheduled, loop._ready
    while scheduled and scheduled[0]._cancelled:
        heapq.heappop(scheduled)
    timeout = None
    if ready or loop._stopping:
        timeout = 0
    elif scheduled:
        timeout = max(0, scheduled[0]._when - loop.time())
    loop._process_events(loop._selector.select(timeout))
    while scheduled and scheduled[0]._when <= loop.time():
        ready.append(heapq.heappop(scheduled))
    for _ in range(len(ready)):
        if not ready:
            break
        handle = ready.popleft()
        if not handle._cancelled:
            handle._run()


@pytest.fixture
def loop(loop_kind):
    """A loop whose class has the iteration above."""
    members = {"_run_once": lambda self: iterate(self)}
    loop = type("Iterated", (support.loop_class(loop_kind),), members)()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_timers_run_in_order(loop):
    order = []
    late, early = loop.time() + 0.002, loop.time() + 0.001
    loop.call_at(late, order.append, "late")
    loop.call_at(early, order.append, "early")
    loop.call_at(early, order.append, "cancelled").cancel()
    loop.call_at(late + 0.001, loop.stop)
    loop.run_forever()
    assert order == ["early", "late"]
    assert not loop._scheduled


def test_streams(loop):
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"hello\n")
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return data

    assert support.run(loop, main()) == b"HELLO\n"


def test_descriptors_and_sockets(loop):
    async def main():
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            ready = asyncio.Event()
            loop.add_reader(left, ready.set)
            await loop.sock_sendall(right, b"data")
            await ready.wait()
            loop.remove_reader(left)
            return await loop.sock_recv(left, 10)

    assert support.run(loop, main()) == b"data"


def test_threads_and_executors(loop):
    async def main():
        woken = asyncio.Event()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(woken.set,))
        thread.start()
        await woken.wait()
        thread.join()
        return await loop.run_in_executor(None, threading.get_ident)

    assert support.run(loop, main()) != threading.get_ident()


def test_signals(loop):
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.run_forever()
    assert loop.remove_signal_handler(signal.SIGUSR1)


def test_an_iteration_inside_a_callback(loop):
    """What the outer iteration found ready is the inner one's to run."""
    order = []
    left, right = socket.socketpair()
    with left, right:

        def outer():
            order.append("outer")
            right.send(b"x")
            while "read" not in order:
                loop._run_once()
            order.append("outer ends")
            loop.stop()

        def read():
            order.append("read")
            loop.remove_reader(left)

        loop.add_reader(left, read)
        loop.call_soon(outer)
        loop.call_soon(order.append, "next")
        loop.run_forever()
    assert order == ["outer", "next", "read", "outer ends"]


def test_select_does_not_wait_while_something_is_ready(loop):
    handle = loop.call_soon(print)
    assert list(loop._selector.select(None) if loop._ready == [handle] else "") == []
    assert len(loop._ready) == 1
    handle.cancel()
    run_once(loop)


@pytest.mark.pyloop_only
def test_a_timer_that_is_made_ready_waits_no_longer(loop):
    """asyncio's caller takes it out of _scheduled himself."""
    calls = []
    handle = loop.call_later(1000, calls.append, "called")
    loop._ready.append(handle)
    assert loop._scheduled == []
    assert loop._ready == [handle] and list(loop._ready) == [handle]
    run_once(loop)
    assert calls == ["called"]


def test_ready_is_a_queue(loop):
    first, second = loop.call_soon(print), loop.call_soon(print)
    assert len(loop._ready) == 2 and first in loop._ready
    assert loop._ready.popleft() is first
    assert loop._ready.popleft() is second
    assert not loop._ready
    with pytest.raises(IndexError):
        loop._ready.popleft()
    loop._ready.append(first)
    loop._ready.clear()
    assert not loop._ready


@pytest.mark.pyloop_only
def test_arguments_of_the_steps(loop):
    for wrong in ("1", object()):
        with pytest.raises(TypeError):
            loop._poll(wrong)
        with pytest.raises(TypeError):
            loop._dispatch(wrong)
    for word in (0, 1, 2**64 - 1, 12345):
        loop._dispatch(word)  # of no descriptor that is ready
    with pytest.raises(OverflowError):
        loop._dispatch(-1)
    loop._poll(-1)
    loop._poll(float("nan"))


def test_handles_of_asyncios_own_class(loop):
    """Libraries make them, and asyncio's code for signals; one may be cancelled."""
    order = []
    runs, late, early = (
        asyncio.Handle(order.append, (word,), loop) for word in ("ran", "late", "early")
    )
    early.cancel()
    for handle in (early, runs, late):
        loop._add_callback(handle)
    assert list(loop._ready) == [runs, late]
    assert loop._ready[0] is runs
    assert runs in loop._ready
    late.cancel()
    errors = record_errors(loop)
    run_once(loop)
    assert order == ["ran"]
    assert not errors.contexts
    loop._ready.append(runs)
    assert loop._ready.popleft() is runs
    assert not loop._ready


@pytest.mark.skipif(
    not hasattr(asyncio.BaseEventLoop, "_run_forever_setup"),
    reason="asyncio has the parts of run_forever() from Python 3.13 on",
)
def test_a_run_of_ones_own_around_the_iteration(loop_kind):
    """What a GUI toolkit's loop does: set up, iterate when it likes, clean up."""
    loop = support.make_loop(loop_kind)
    seen = []

    async def main():
        seen.append(asyncio.get_running_loop())
        await asyncio.sleep(0.001)
        seen.append(await loop.run_in_executor(None, int))

    loop._run_forever_setup()
    task = loop.create_task(main())
    while not task.done():
        assert loop.is_running()
        loop._run_once()
    loop._run_forever_cleanup()
    assert seen == [loop, 0]
    assert not loop.is_running()
    assert asyncio._get_running_loop() is None
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
