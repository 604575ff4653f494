"""run_in_executor, to_thread, the default executor and its shutdown."""

import asyncio
import concurrent.futures
import contextvars
import sys
import threading
import time

import pytest
import support


def ident():
    return threading.get_ident()


def stop_default_executor(loop):
    loop.run_until_complete(loop.shutdown_default_executor())


# --- calls --------------------------------------------------------------------


def test_a_result_from_another_thread(loop):
    future = loop.run_in_executor(None, ident)
    assert isinstance(future, asyncio.Future)
    assert loop.run_until_complete(future) != ident()


def test_arguments(loop):
    async def main():
        assert await loop.run_in_executor(None, max, 1, 5, 3) == 5
        with pytest.raises(TypeError):
            loop.run_in_executor(None)
        with pytest.raises(TypeError):
            loop.run_in_executor(None, int, base=2)

    support.run(loop, main())


def test_an_exception_from_another_thread(loop):
    async def main():
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)

        def fail():
            raise KeyError("key")

        with pytest.raises(KeyError, match="key"):
            await loop.run_in_executor(None, fail)

    support.run(loop, main())


def test_it_starts_at_once_not_when_the_loop_runs(loop):
    started = threading.Event()
    future = loop.run_in_executor(None, started.set)
    assert started.wait(support.PATIENCE)
    loop.run_until_complete(future)


def test_a_result_wakes_a_loop_that_waits_for_nothing(loop):
    loop.run_until_complete(loop.run_in_executor(None, time.sleep, 0.01))


def test_many_calls(loop):
    async def main():
        return await asyncio.gather(
            *(loop.run_in_executor(None, pow, i, 2) for i in range(500))
        )

    assert support.run(loop, main()) == [i * i for i in range(500)]


def test_threads_work_beside_each_other(loop):
    barrier = threading.Barrier(3, timeout=support.PATIENCE)

    async def main():
        await asyncio.gather(
            *(loop.run_in_executor(None, barrier.wait) for _ in range(3))
        )

    support.run(loop, main())


def test_threads_work_beside_the_loop(loop):
    """Each side waits for the other, so neither may hold the other up."""
    to_thread, to_loop = threading.Event(), asyncio.Event()

    def body():
        loop.call_soon_threadsafe(to_loop.set)
        return to_thread.wait(support.PATIENCE)

    async def main():
        future = loop.run_in_executor(None, body)
        await to_loop.wait()
        to_thread.set()
        return await future

    assert support.run(loop, main()) is True


def test_threads_have_asyncio_s_names(loop):
    future = loop.run_in_executor(None, lambda: threading.current_thread().name)
    assert loop.run_until_complete(future).startswith("asyncio_")


def test_an_executor_of_ones_own(loop):
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        future = loop.run_in_executor(pool, lambda: threading.current_thread().name)
        assert loop.run_until_complete(future).startswith("mine")


class InlineExecutor(concurrent.futures.Executor):
    """Runs everything at once, in the calling thread."""

    def submit(self, function, *args):
        future = concurrent.futures.Future()
        future.set_result(function(*args))
        return future


def test_an_executor_that_has_the_result_at_once(loop):
    future = loop.run_in_executor(InlineExecutor(), ident)
    assert loop.run_until_complete(future) == ident()


def test_an_executor_that_is_shut_down(loop):
    pool = concurrent.futures.ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        loop.run_in_executor(pool, ident)


def test_cancelling_what_has_not_started(loop):
    release = threading.Event()

    async def main():
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = loop.run_in_executor(pool, release.wait, support.PATIENCE)
            second = loop.run_in_executor(pool, pytest.fail)
            second.cancel()
            release.set()
            assert await first is True
            with pytest.raises(asyncio.CancelledError):
                await second

    support.run(loop, main())


def test_cancelling_what_runs(loop):
    """The waiter is gone at once; the thread goes on and its result is dropped."""
    release = threading.Event()

    async def main():
        future = loop.run_in_executor(None, release.wait, support.PATIENCE)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.005)
        assert future.cancelled()
        release.set()

    support.run(loop, main())


def test_the_context_is_not_passed_but_to_thread_passes_it(loop):
    variable = contextvars.ContextVar("variable", default="unset")

    async def main():
        variable.set("set")
        assert await loop.run_in_executor(None, variable.get) == "unset"
        assert await asyncio.to_thread(variable.get) == "set"
        assert await asyncio.to_thread(int, "11", base=2) == 3

    support.run(loop, main())


def test_a_closed_loop_refuses(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.run_in_executor(None, ident)


# --- the default executor -----------------------------------------------------


def test_setting_the_default_executor(loop):
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="default")
    loop.set_default_executor(pool)
    future = loop.run_in_executor(None, lambda: threading.current_thread().name)
    assert loop.run_until_complete(future).startswith("default")
    stop_default_executor(loop)
    with pytest.raises(RuntimeError):
        pool.submit(ident)


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="3.10 takes any executor, with a warning"
)
@pytest.mark.parametrize("executor", [None, 1, InlineExecutor()], ids=repr)
def test_the_default_executor_must_be_a_thread_pool(loop, executor):
    with pytest.raises(TypeError, match="executor must be ThreadPoolExecutor instance"):
        loop.set_default_executor(executor)


def test_shutting_down_without_an_executor(loop):
    assert loop.run_until_complete(loop.shutdown_default_executor()) is None


def test_shutting_down_waits_for_what_runs(loop):
    release = threading.Event()
    done = []

    def body():
        release.wait(support.PATIENCE)
        done.append(True)

    async def main():
        loop.run_in_executor(None, body)
        shutdown = asyncio.ensure_future(loop.shutdown_default_executor())
        await asyncio.sleep(0.005)
        assert not shutdown.done()
        release.set()
        await shutdown
        assert done == [True]

    support.run(loop, main())


def test_nothing_starts_after_the_shutdown(loop):
    loop.run_until_complete(loop.run_in_executor(None, ident))
    stop_default_executor(loop)
    with pytest.raises(RuntimeError, match="^Executor shutdown has been called$"):
        loop.run_in_executor(None, ident)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert loop.run_until_complete(loop.run_in_executor(pool, int, "7")) == 7


def test_shutting_down_twice(loop):
    loop.run_until_complete(loop.run_in_executor(None, ident))
    stop_default_executor(loop)
    stop_default_executor(loop)


@pytest.mark.skipif(
    sys.version_info < (3, 13),
    reason="the timeout of the shutdown came with 3.12 and has worked since 3.13",
)
def test_a_shutdown_that_does_not_wait_for_ever(loop):
    release = threading.Event()

    async def main():
        loop.run_in_executor(None, release.wait, support.PATIENCE)
        with pytest.warns(RuntimeWarning, match="did not finishing joining"):
            await loop.shutdown_default_executor(timeout=0.005)
        release.set()

    support.run(loop, main())
    # the thread that asyncio started for the shutdown ends by itself, later
    support.wait_for_condition(lambda: threading.active_count() == 1)


# --- close --------------------------------------------------------------------


def test_close_does_not_wait_for_threads(loop):
    release = threading.Event()
    thread = []

    def body():
        thread.append(threading.current_thread())
        release.wait(support.PATIENCE)
        return "too late"

    future = loop.run_in_executor(None, body)
    support.wait_for_condition(lambda: thread)
    loop.close()
    assert thread[0].is_alive()
    release.set()
    thread[0].join(support.PATIENCE)
    assert not thread[0].is_alive()
    assert not future.done()


def test_results_that_arrive_during_close(new_loop):
    for _ in range(20):
        loop = new_loop()
        for _ in range(5):
            loop.run_in_executor(None, int)
        support.run_once(loop)
        loop.close()


def test_an_executor_survives_the_loop_it_was_lent_to(new_loop):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            loop = new_loop()
            assert loop.run_until_complete(loop.run_in_executor(pool, int, "3")) == 3
            loop.close()
        assert pool.submit(int, "4").result() == 4


# --- a busy loop and its threads ----------------------------------------------


def test_threads_are_not_starved_by_a_busy_loop(loop):
    """The loop has always something to do; a thread still gets its turn and ends."""
    done = []

    def busy():
        if done:
            loop.stop()
        else:
            loop.call_soon(busy)

    future = loop.run_in_executor(None, lambda: sum(range(200_000)))
    future.add_done_callback(done.append)
    loop.call_soon(busy)
    loop.run_forever()
    assert future.result() == sum(range(200_000))
