"""call_soon_threadsafe: wake-ups, order, closed loops, calls from many threads."""

import asyncio
import concurrent.futures
import contextvars
import sys
import threading
import weakref

import pytest
import support
from support import run_once


def start_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


# --- wake-up ------------------------------------------------------------------


def test_a_call_wakes_a_loop_that_waits_for_nothing(loop):
    """With no timer and no descriptor only the wake-up can end this run."""
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.stop,))
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


def test_a_call_wakes_a_loop_that_has_gone_to_sleep(loop):
    """The thread waits until the loop's thread is blocked in the kernel."""
    loop_thread = threading.get_native_id()

    def wait_and_call():
        support.wait_until_asleep(loop_thread)
        loop.call_soon_threadsafe(loop.stop)

    for _ in range(5):
        thread = threading.Thread(target=wait_and_call)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()


def test_a_call_before_the_run_is_not_lost(loop):
    support.run_in_thread(loop.call_soon_threadsafe, loop.stop)
    loop.run_forever()


def test_each_of_many_single_calls_wakes_the_loop(loop):
    """Ping-pong: a wake-up that is lost, or merged away, hangs."""
    count = 2000
    go = threading.Semaphore(0)

    def body():
        for _ in range(count):
            go.acquire()
            loop.call_soon_threadsafe(pong)
        go.acquire()
        loop.call_soon_threadsafe(loop.stop)

    def pong():
        pongs.append(None)
        go.release()

    pongs = []
    thread = start_thread(body)
    go.release()
    loop.run_forever()
    thread.join()
    assert len(pongs) == count


def test_a_call_wakes_a_loop_that_waits_for_a_timer(loop):
    handle = loop.call_later(10_000, pytest.fail)
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.stop,))
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    handle.cancel()


def test_a_call_during_the_batch_runs_in_the_next(loop):
    order = []

    def first():
        loop.call_soon_threadsafe(order.append, "threadsafe")
        support.run_in_thread(loop.call_soon_threadsafe, order.append, "thread")
        order.append("first")

    loop.call_soon(first)
    loop.call_soon(order.append, "second")
    run_once(loop)
    assert order == ["first", "second"]
    run_once(loop)
    assert order == ["first", "second", "threadsafe", "thread"]


# --- order --------------------------------------------------------------------


def test_one_thread_s_calls_keep_their_order(loop):
    order = []
    for i in range(10_000):
        loop.call_soon_threadsafe(order.append, i)
    run_once(loop)
    assert order == list(range(10_000))


def test_calls_from_the_loop_s_own_thread_are_in_line_with_call_soon(loop):
    """From its own thread the two are one queue, in asyncio."""
    order = []

    def schedule():
        for i in range(0, 100, 2):
            loop.call_soon(order.append, i)
            loop.call_soon_threadsafe(order.append, i + 1)

    loop.call_soon(schedule)
    run_once(loop)
    run_once(loop)
    assert order == list(range(100))


def test_before_the_run_too_the_two_are_one_queue(loop):
    order = []
    for i in range(0, 100, 2):
        loop.call_soon_threadsafe(order.append, i)
        loop.call_soon(order.append, i + 1)
    run_once(loop)
    assert order == list(range(100))


def test_many_threads(loop):
    threads_count, calls = 8, 2000
    seen = {i: [] for i in range(threads_count)}
    finished = []

    def body(number):
        for i in range(calls):
            loop.call_soon_threadsafe(seen[number].append, i)
        loop.call_soon_threadsafe(finish)

    def finish():
        finished.append(None)
        if len(finished) == threads_count:
            loop.stop()

    threads = [start_thread(body, i) for i in range(threads_count)]
    loop.run_forever()
    for thread in threads:
        thread.join()
    assert all(calls_seen == list(range(calls)) for calls_seen in seen.values())


def test_threads_beside_a_loop_that_is_busy(loop):
    seen = []
    done = []

    def body():
        for i in range(500):
            loop.call_soon_threadsafe(seen.append, i)
        loop.call_soon_threadsafe(done.append, True)

    def busy():
        if done:
            loop.stop()
        else:
            loop.call_soon(busy)

    thread = start_thread(body)
    loop.call_soon(busy)
    loop.run_forever()
    thread.join()
    assert seen == list(range(500))


def test_threads_that_start_threads(loop):
    seen = []
    threads = []

    def body(depth):
        loop.call_soon_threadsafe(record, depth)
        if depth:
            for _ in range(2):
                threads.append(start_thread(body, depth - 1))

    def record(depth):
        seen.append(depth)
        if len(seen) == 31:
            loop.stop()

    threads.append(start_thread(body, 4))
    loop.run_forever()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [0] * 16 + [1] * 8 + [2] * 4 + [3] * 2 + [4]


# --- handles ------------------------------------------------------------------


def test_cancel_before_it_runs(loop):
    token = threading.Event()
    watch = weakref.ref(token)
    handle = loop.call_soon_threadsafe(lambda argument: pytest.fail("ran"), token)
    del token
    handle.cancel()
    assert watch() is None
    run_once(loop)
    assert handle.cancelled()


def test_cancel_by_the_thread_that_called(loop):
    seen = []

    def body():
        for i in range(1000):
            handle = loop.call_soon_threadsafe(seen.append, i)
            if i % 2:
                handle.cancel()

    def in_callback():
        support.run_in_thread(body)

    loop.call_soon(in_callback)
    support.spin(loop, 2)
    assert seen == list(range(0, 1000, 2))


def test_cancel_from_another_thread_while_the_loop_runs(loop):
    """Whether each call wins is open; that it runs at most once, or never, is not."""
    count = 3000
    runs = [0] * count
    before_cancel = [None] * count

    def body():
        for i in range(count):
            handle = loop.call_soon_threadsafe(run, i)
            if i % 2:
                handle.cancel()
                before_cancel[i] = runs[i]
        loop.call_soon_threadsafe(loop.stop)

    def run(i):
        runs[i] += 1

    thread = start_thread(body)
    loop.run_forever()
    thread.join()
    assert all(runs[i] == 1 for i in range(0, count, 2))
    assert all(runs[i] in (0, 1) for i in range(1, count, 2))


def test_context_of_the_calling_thread(loop):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    def body():
        variable.set("in the thread")
        loop.call_soon_threadsafe(lambda: seen.append(variable.get()))
        context = contextvars.Context()
        context.run(variable.set, "given")
        loop.call_soon_threadsafe(lambda: seen.append(variable.get()), context=context)

    support.run_in_thread(body)
    run_once(loop)
    assert seen == ["in the thread", "given"]
    assert variable.get() == "unset"


def test_exception_in_a_callback(loop):
    with support.ErrorRecorder(loop) as errors:
        handle = loop.call_soon_threadsafe(lambda: 1 / 0)
        run_once(loop)
        context = errors.only()
        assert isinstance(context["exception"], ZeroDivisionError)
        assert context["handle"] is handle


# --- closed loops -------------------------------------------------------------


def test_a_closed_loop_refuses(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.call_soon_threadsafe(print)
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        support.run_in_thread(loop.call_soon_threadsafe, print)


def test_close_drops_what_threads_have_put_in(loop):
    token = threading.Event()
    watch = weakref.ref(token)
    support.run_in_thread(loop.call_soon_threadsafe, print, token)
    del token
    loop.close()
    support.collect()
    assert watch() is None


def test_close_while_threads_call(new_loop):
    """Each call either takes, or raises RuntimeError; nothing else happens."""
    for _ in range(20):
        loop = new_loop()
        started = threading.Barrier(4)
        errors = []

        def body(loop=loop, started=started, errors=errors):
            started.wait()
            try:
                while True:
                    loop.call_soon_threadsafe(int)
            except Exception as exc:
                errors.append(exc)

        threads = [start_thread(body) for _ in range(3)]
        started.wait()
        run_once(loop)
        loop.close()
        for thread in threads:
            thread.join()
        assert [type(error) for error in errors] == [RuntimeError] * 3
        assert {str(error) for error in errors} == {"Event loop is closed"}


# --- what is built on it ------------------------------------------------------


def test_run_coroutine_threadsafe(loop):
    async def add(a, b):
        await asyncio.sleep(0.001)
        return a + b

    async def fail():
        raise LookupError("from the loop")

    def body():
        results.append(asyncio.run_coroutine_threadsafe(add(1, 2), loop).result(30))
        with pytest.raises(LookupError, match="from the loop"):
            asyncio.run_coroutine_threadsafe(fail(), loop).result(30)
        sleeper = asyncio.run_coroutine_threadsafe(asyncio.sleep(1000), loop)
        sleeper.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            sleeper.result(30)
        loop.call_soon_threadsafe(loop.stop)

    results = []
    thread = start_thread(body)
    loop.run_forever()
    thread.join()
    support.spin(loop)  # the cancelled sleep
    assert results == [3]


def test_futures_of_threads_are_awaited(loop):
    async def main():
        future = concurrent.futures.Future()
        thread = start_thread(future.set_result, "from the thread")
        result = await asyncio.wrap_future(future)
        thread.join()
        return result

    assert loop.run_until_complete(main()) == "from the thread"


def test_a_queue_fed_by_threads(loop):
    async def main():
        queue = asyncio.Queue()

        def body(base):
            for i in range(200):
                loop.call_soon_threadsafe(queue.put_nowait, base + i)

        threads = [start_thread(body, base) for base in (0, 1000, 2000)]
        items = [await queue.get() for _ in range(600)]
        for thread in threads:
            thread.join()
        return items

    items = loop.run_until_complete(main())
    for base in (0, 1000, 2000):
        assert [i for i in items if base <= i < base + 1000] == [
            base + i for i in range(200)
        ]


# --- calls that are not thread-safe, made from threads, without debug mode ----


def test_call_soon_from_a_thread_corrupts_nothing(loop):
    """asyncio tolerates it outside debug mode, though nothing wakes the loop for it."""
    count = 2000
    seen = []

    def body(number):
        for i in range(count):
            loop.call_soon(seen.append, (number, i))
        finished.release()

    finished = threading.Semaphore(0)
    threads = [start_thread(body, number) for number in range(3)]

    def busy():
        if len(seen) == 3 * count:
            loop.stop()
        else:
            loop.call_soon(busy)

    loop.call_soon(busy)
    loop.run_forever()
    for thread in threads:
        thread.join()
    for number in range(3):
        assert [i for n, i in seen if n == number] == list(range(count))


@pytest.mark.pyloop_only
def test_timers_from_a_thread_corrupt_nothing(loop):
    """asyncio's heap may notice two threads in it and raise."""
    seen = []

    def body():
        for i in range(2000):
            handle = loop.call_later(0, seen.append, i)
            if i % 2:
                handle.cancel()

    def busy():
        if done:
            loop.call_later(0.005, loop.stop)
        else:
            loop.call_soon(busy)

    done = []
    thread = threading.Thread(target=lambda: (body(), done.append(True)))
    thread.start()
    loop.call_soon(busy)
    loop.run_forever()
    thread.join()
    assert set(range(0, 2000, 2)) <= set(seen)
    assert len(seen) == len(set(seen))


def test_descriptors_from_a_thread_corrupt_nothing(loop, loop_kind):
    support.oracle_bug(
        loop_kind,
        support.FREE_THREADED,
        "removing takes away what another thread is about to call",
    )
    with support.socket_pair() as (left, right):
        seen = []

        def body():
            for _ in range(1000):
                loop.add_reader(left, int)
                loop.add_writer(left, int)
                loop.remove_reader(left)
                loop.remove_writer(left)
            loop.call_soon_threadsafe(seen.append, "done")

        def busy():
            if seen:
                loop.stop()
            else:
                loop.call_soon(busy)

        right.send(b"x")
        thread = start_thread(body)
        loop.call_soon(busy)
        loop.run_forever()
        thread.join()
        assert loop.remove_reader(left) is False


def test_stop_from_a_thread_takes_effect_at_the_next_wake(loop):
    def body():
        loop.stop()
        loop.call_soon_threadsafe(int)

    thread = threading.Thread(target=body)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


@pytest.mark.skipif(
    sys.version_info < (3, 14), reason="the lock of these handles came with Python 3.14"
)
@pytest.mark.parametrize("method", ["cancel", "cancelled"])
def test_another_thread_waits_for_a_callback_that_runs(loop, method):
    events = []
    running = threading.Event()

    def callback():
        running.set()
        support.wait_until_asleep(thread.native_id)  # it waits for us
        events.append("callback")

    def body():
        handle = loop.call_soon_threadsafe(callback)
        running.wait()
        getattr(handle, method)()
        events.append(method)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=body)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert events == ["callback", method]
