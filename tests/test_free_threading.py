"""Threads that use loops at once: many loops, calls and cancels from elsewhere, misuse.

All of it holds with a GIL too; on a free-threaded build the threads really run side by
side, and what is tested is that the core's own structures survive it.
"""

import asyncio
import gc
import socket
import sys
import threading

import pytest
import support
from support import run_once

THREADS = 4


def in_threads(*bodies):
    """Run each body in a thread of its own, all at once; raise what one raised."""
    errors = []
    barrier = threading.Barrier(len(bodies))

    def run(body):
        try:
            barrier.wait(support.PATIENCE)
            body()
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        try:
            raise errors[0]
        finally:
            errors.clear()


def beside(loop, *bodies):
    """Run bodies in threads while the loop runs, busy, in this one."""
    done = threading.Event()

    def busy():
        if done.is_set():
            loop.stop()
        else:
            loop.call_soon(busy)

    def work():
        try:
            in_threads(*bodies)
        except BaseException as exc:
            errors.append(exc)
        finally:
            done.set()
            loop.call_soon_threadsafe(int)

    errors = []
    thread = threading.Thread(target=work)
    loop.call_soon(thread.start)
    loop.call_soon(busy)
    loop.run_forever()
    thread.join()
    assert errors == []


# --- what is promised -----------------------------------------------------------


@pytest.mark.skipif(
    not support.FREE_THREADED, reason="for free-threaded builds of Python"
)
@pytest.mark.pyloop_only
def test_the_gil_stays_off(loop_kind):
    script = "import sys, pyloop\nassert not sys._is_gil_enabled()\n"
    support.run_script(script, flags=["-W", "error"], env={"PYTHON_GIL": ""})


def test_loops_of_many_threads(loop_kind):
    """Each with timers, a server, connections and an executor of its own."""

    async def serve(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async def talk(address):
        reader, writer = await asyncio.open_connection(*address)
        for i in range(20):
            writer.write(b"%5d" % i)
            assert await reader.readexactly(5) == b"%5d" % i
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        await asyncio.gather(*(talk(address) for _ in range(3)), asyncio.sleep(0.001))
        assert await asyncio.to_thread(int, "7") == 7
        server.close()
        await server.wait_closed()

    def body():
        for _ in range(5):
            loop = support.make_loop(loop_kind)
            try:
                loop.run_until_complete(main())
                loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                loop.close()

    in_threads(*[body] * THREADS)


def test_a_storm_of_calls_from_threads(loop):
    """None is lost, none runs twice, and each thread's are in order."""
    calls = 3000
    seen = [[] for _ in range(THREADS)]

    def storm(number):
        for i in range(calls):
            loop.call_soon_threadsafe(seen[number].append, i)

    beside(loop, *(lambda number=n: storm(number) for n in range(THREADS)))
    run_once(loop)
    assert seen == [list(range(calls))] * THREADS


def test_calls_from_threads_to_a_loop_that_does_not_run_yet(loop):
    seen = []

    def fill():
        for _ in range(500):
            loop.call_soon_threadsafe(seen.append, "threadsafe")

    in_threads(*[fill] * THREADS)
    run_once(loop)
    assert seen == ["threadsafe"] * 500 * THREADS


def test_cancels_from_other_threads(loop, loop_kind):
    """A handle runs or is cancelled before; its cancel may come from anywhere."""
    support.oracle_bug(
        loop_kind,
        support.FREE_THREADED and sys.version_info < (3, 14),
        "cancel() takes away what another thread is about to call",
    )
    count = 2000
    ran = [0] * count
    handles = []

    def call(i):
        ran[i] += 1

    def schedule():
        for i in range(count):
            handles.append(loop.call_soon_threadsafe(call, i))

    def cancel():
        for i in range(count):
            while i >= len(handles):
                pass
            handles[i].cancel()

    beside(loop, schedule, cancel, cancel)
    run_once(loop)
    assert set(ran) <= {0, 1}
    assert all(handle.cancelled() for handle in handles)


def test_futures_of_threads(loop):
    """run_coroutine_threadsafe and run_in_executor, from and to several threads."""

    async def double(number):
        await asyncio.sleep(0)
        return 2 * await loop.run_in_executor(None, int, str(number))

    def body():
        for i in range(50):
            future = asyncio.run_coroutine_threadsafe(double(i), loop)
            assert future.result(support.PATIENCE) == 2 * i

    beside(loop, *[body] * THREADS)


@pytest.mark.pyloop_only
def test_one_thread_at_a_time_runs_a_loop(loop):
    """asyncio without a GIL may let two in."""

    def tick():
        assert loop._thread_id == threading.get_ident()
        nonlocal timer
        timer = loop.call_later(0.0001, tick)
        loop.stop()

    def body():
        for _ in range(50):
            try:
                loop.run_forever()
            except RuntimeError as exc:
                assert str(exc) == "This event loop is already running"

    timer = loop.call_soon(tick)
    in_threads(body, body)
    timer.cancel()
    assert not loop.is_running()


# --- what is not: nothing may crash, be lost or be corrupted ------------------------


@pytest.mark.pyloop_only
def test_call_soon_and_timers_from_many_threads(loop):
    count = 500
    seen = []

    def body(number):
        for i in range(count):
            loop.call_soon(seen.append, (number, i))
            loop.call_later(0, seen.append, (number, -1))
            later = loop.call_later(1000, seen.append, None)
            repr(later), later.when(), loop._scheduled, loop._ready
            later.cancel()

    beside(loop, *(lambda number=n: body(number) for n in range(THREADS)))
    support.run_until(loop, lambda: len(seen) == 2 * count * THREADS)
    for number in range(THREADS):
        assert [i for n, i in seen if n == number and i >= 0] == list(range(count))
    assert loop._scheduled == []


@pytest.mark.pyloop_only
def test_one_handle_from_many_threads(loop):
    """Its attributes are looked at, set and cleared while it may be run."""
    for _ in range(30):
        handle = loop.call_soon(int)
        timer = loop.call_later(0, int)

        def use(handle=handle, timer=timer):
            for one in (handle, timer):
                repr(one), one._callback, one._args, one.get_context()
                one._source_traceback = []
                one._source_traceback = None
                one.cancel()
                one.cancelled()

        in_threads(*[use] * THREADS)
        run_once(loop)


@pytest.mark.pyloop_only
def test_descriptors_from_many_threads(loop):
    pairs = [socket.socketpair() for _ in range(THREADS)]

    def body(near, far):
        far.send(b"x")
        for _ in range(300):
            for sock in (near, pairs[0][0]):  # one of its own, one of everybody's
                loop.add_reader(sock, int)
                loop.add_writer(sock, int)
                loop.remove_writer(sock)
                loop.remove_reader(sock)

    beside(loop, *(lambda pair=pair: body(*pair) for pair in pairs))
    for near, far in pairs:
        assert loop.remove_reader(near) is False
        near.close()
        far.close()


class Counting(asyncio.Protocol):
    """Counts the bytes that come, and what else is called."""

    def __init__(self):
        self.received = 0
        self.lost = 0

    def data_received(self, data):
        self.received += len(data)

    def connection_lost(self, exc):
        self.lost += 1


@pytest.mark.pyloop_only
def test_one_transport_from_many_threads(loop):
    """All that was written comes, though not in an order; it is lost once."""
    count, size = 300, 10
    near, far = socket.socketpair()
    ours, theirs = Counting(), Counting()

    async def connect():
        near_transport, _ = await loop.create_connection(lambda: ours, sock=near)
        await loop.create_connection(lambda: theirs, sock=far)
        return near_transport

    transport = loop.run_until_complete(connect())

    def body():
        for i in range(count):
            transport.write(bytes(size))
            transport.pause_reading()
            transport.get_extra_info("socket")
            transport.get_write_buffer_size(), transport.is_closing()
            transport.set_write_buffer_limits(high=i)
            repr(transport)
            transport.resume_reading()
            transport.set_protocol(ours)
            transport.get_protocol()

    beside(loop, *[body] * THREADS)
    support.run_until(loop, lambda: theirs.received == count * size * THREADS)
    beside(loop, *[transport.close] * THREADS, *[transport.abort] * THREADS)
    support.run_until(loop, lambda: ours.lost and theirs.lost)
    assert (ours.lost, theirs.lost) == (1, 1)


@pytest.mark.pyloop_only
def test_one_coroutine_from_many_threads(loop):
    """One of them runs it; the others are told."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.send(b"data")
    with near, far:
        for _ in range(30):
            coroutine = loop.sock_recv(near, 0)
            outcomes = []

            def send(coroutine=coroutine, outcomes=outcomes):
                try:
                    coroutine.send(None)
                except (StopIteration, RuntimeError, ValueError) as exc:
                    outcomes.append(type(exc))

            in_threads(*[send] * THREADS)
            assert outcomes.count(StopIteration) == 1
            assert len(outcomes) == THREADS


@pytest.mark.pyloop_only
def test_tasks_made_in_other_threads(loop):
    made = []

    async def work(i):
        await asyncio.sleep(0)
        return i

    def body():
        for i in range(200):
            made.append((i, loop.create_task(work(i))))

    beside(loop, *[body] * THREADS)
    for i, task in made:
        assert loop.run_until_complete(task) == i
    made.clear()


@pytest.mark.pyloop_only
def test_the_collector_of_another_thread(loop):
    """It finds what the loop's thread drops, and ends it."""

    async def drop():
        for _ in range(30):
            near, far = socket.socketpair()
            transport, protocol = await loop.create_connection(Counting, sock=near)
            protocol.cycle = [transport, protocol]
            transport.abort()
            far.close()
            cycle = []
            cycle.append(loop.call_later(1000, int, cycle))
            cycle[0].cancel()
            await asyncio.sleep(0)

    def collect():
        # Not without end: a free-threaded collector stops all threads, and one that
        # goes on at once starves them when there is much to look at.
        for _ in range(20):
            gc.collect()

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        loop.run_until_complete(drop())
    finally:
        thread.join()


@pytest.mark.pyloop_only
def test_attributes_of_a_running_loop(loop):
    """Read, and set to what they are, from everywhere."""

    def body():
        for _ in range(500):
            seen = [loop.is_running(), loop.is_closed(), loop.get_debug(), loop.time()]
            seen += [loop._thread_id, loop._task_factory, loop._current_handle]
            loop.set_task_factory(None)
            seen += [loop._stopping, repr(loop)]

    beside(loop, *[body] * THREADS)
    assert loop._thread_id is None
