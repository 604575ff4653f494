"""Whole programs of nothing but asyncio, started in each of the ways there are."""

import asyncio
import contextlib
import contextvars
import random
import sys

import pytest
import support
from realkit import factory

since_3_11 = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="new in Python 3.11: Runner, TaskGroup, timeout"
)
since_3_12 = pytest.mark.skipif(
    sys.version_info < (3, 12),
    reason="new in Python 3.12: run's loop_factory, eager tasks",
)


def run_on(kind, coroutine):
    """Run a program to its end, cleaning up as asyncio.run does; on any version."""
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=factory(kind)) as runner:
            return runner.run(coroutine)
    loop = factory(kind)()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        support.spin(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


# --- ways to start -----------------------------------------------------------------


async def module_of_the_loop():
    await asyncio.sleep(0)
    return type(asyncio.get_running_loop()).__module__


@since_3_12
def test_run_with_a_factory(loop_kind):
    module = asyncio.run(module_of_the_loop(), loop_factory=factory(loop_kind))
    assert module == support.loop_class(loop_kind).__module__


@since_3_12
@pytest.mark.parametrize("debug", [False, True])
def test_run_with_debug(loop_kind, debug):
    async def main():
        return asyncio.get_running_loop().get_debug()

    assert asyncio.run(main(), debug=debug, loop_factory=factory(loop_kind)) is debug


@since_3_11
def test_runner_keeps_loop_and_context(loop_kind):
    name = contextvars.ContextVar("name", default="unset")
    loops = []

    async def main(new):
        loops.append(asyncio.get_running_loop())
        old = name.get()
        name.set(new)
        return old

    with asyncio.Runner(loop_factory=factory(loop_kind)) as runner:
        assert [runner.run(main(new)) for new in "abc"] == ["unset", "a", "b"]
        assert runner.get_loop() is loops[0]
        assert loops == [loops[0]] * 3
        assert type(loops[0]) is support.loop_class(loop_kind)
    assert loops[0].is_closed()


@pytest.mark.pyloop_only
def test_pyloop_run(loop_kind):
    import pyloop

    async def main():
        loop = asyncio.get_running_loop()
        return type(loop), loop.get_debug()

    assert pyloop.run(main()) == (pyloop.Loop, False)
    assert pyloop.run(main(), debug=True) == (pyloop.Loop, True)
    with pytest.raises(ZeroDivisionError):
        pyloop.run(divide_by_zero())


async def divide_by_zero():
    return 1 / 0


def test_run_cleans_up(loop_kind):
    """Tasks that are left are cancelled, generators are closed, threads are joined."""
    events = []

    async def left():
        try:
            await asyncio.sleep(3600)
        finally:
            events.append("task")

    async def generate():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            events.append("generator")

    async def main():
        asyncio.ensure_future(left())
        async for number in generate():
            events.append(number)
            break
        await asyncio.to_thread(events.append, "thread")
        return "result"

    assert run_on(loop_kind, main()) == "result"
    assert sorted(map(str, events)) == ["1", "generator", "task", "thread"]


def test_system_exit_ends_the_program(loop_kind):
    async def main():
        asyncio.get_running_loop().call_later(0.001, sys.exit, 3)
        await asyncio.sleep(3600)

    with pytest.raises(SystemExit) as caught:
        run_on(loop_kind, main())
    assert caught.value.code == 3


# --- structured programs -----------------------------------------------------------


@since_3_11
def test_task_group(loop_kind):
    async def main():
        async def work(number):
            await asyncio.sleep(0.001 * (number % 3))
            return number

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(number)) for number in range(200)]
        assert [task.result() for task in tasks] == list(range(200))

    run_on(loop_kind, main())


@since_3_11
def test_task_group_that_fails(loop_kind):
    ended = []

    async def main():
        async def wait(number):
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append(number)

        async def fail(exception):
            await asyncio.sleep(0.001)
            raise exception

        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(wait(number))
            group.create_task(fail(KeyError("one")))
            group.create_task(fail(ValueError("two")))

    with pytest.raises(Exception) as caught:
        run_on(loop_kind, main())
    kinds = {type(exception) for exception in caught.value.exceptions}
    assert kinds <= {KeyError, ValueError} and kinds
    assert sorted(ended) == list(range(10))


@since_3_11
def test_timeouts_inside_each_other(loop_kind):
    async def main():
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60) as outer:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01) as inner:
                    await asyncio.sleep(3600)
            assert inner.expired() and not outer.expired()
            async with asyncio.timeout(None) as late:
                late.reschedule(loop.time() + 60)
                await asyncio.sleep(0.001)
            assert not late.expired()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(loop.time() - 1):
                await asyncio.sleep(0)

    run_on(loop_kind, main())


def test_wait_for_shield_and_cancel(loop_kind):
    async def main():
        finished = asyncio.Event()

        async def important():
            await asyncio.sleep(0.02)
            finished.set()

        task = asyncio.ensure_future(important())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 0.001)
        assert not task.cancelled()
        await finished.wait()
        await task
        sleeper = asyncio.ensure_future(asyncio.sleep(3600))
        await asyncio.sleep(0)
        sleeper.cancel("no more")
        with pytest.raises(asyncio.CancelledError):
            await sleeper

    run_on(loop_kind, main())


@since_3_12
def test_eager_tasks(loop_kind):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        order = []

        async def at_once():
            order.append("body")
            return 1

        async def later():
            order.append("first")
            await asyncio.sleep(0)
            order.append("second")

        done = loop.create_task(at_once())
        order.append("after")
        assert done.done() and await done == 1
        await loop.create_task(later())
        assert order == ["body", "after", "first", "second"]

    run_on(loop_kind, main())


# --- programs that do some work ----------------------------------------------------


def test_crawl(loop_kind):
    """Workers on a queue, a semaphore, failures and time-outs, on a made-up site."""
    pages = 200
    links = {n: [(n * 7 + k) % pages for k in range(1, 6)] for n in range(pages)}

    hanging = {37, 74, 111, 148, 185}

    async def fetch(page, connections):
        async with connections:
            await asyncio.sleep(0.0005)
            if page % 31 == 0:
                raise ConnectionError(page)
            if page in hanging:
                await asyncio.sleep(3600)
            return links[page]

    async def main():
        queue = asyncio.Queue()
        connections = asyncio.Semaphore(10)
        seen, failed, timed_out = {1}, set(), set()
        queue.put_nowait(1)

        async def worker():
            while True:
                page = await queue.get()
                # Only those that hang have a limit that a slow machine could reach.
                limit = 0.05 if page in hanging else support.PATIENCE
                try:
                    found = await asyncio.wait_for(fetch(page, connections), limit)
                except ConnectionError:
                    failed.add(page)
                except asyncio.TimeoutError:
                    timed_out.add(page)
                else:
                    for link in found:
                        if link not in seen:
                            seen.add(link)
                            queue.put_nowait(link)
                finally:
                    queue.task_done()

        workers = [asyncio.ensure_future(worker()) for _ in range(20)]
        await queue.join()
        for task in workers:
            task.cancel()
        results = await asyncio.gather(*workers, return_exceptions=True)
        assert all(isinstance(r, asyncio.CancelledError) for r in results)
        return seen, failed, timed_out

    seen, failed, timed_out = run_on(loop_kind, main())
    assert failed == {page for page in seen if page % 31 == 0}
    assert timed_out == seen & hanging
    assert timed_out
    assert len(seen) > pages / 2


def test_chat_server(loop_kind):
    """The streams example of every tutorial, with many at once and one that crashes."""
    people = 30

    async def main():
        writers = set()

        async def handle(reader, writer):
            writers.add(writer)
            with contextlib.suppress(ConnectionError):
                while line := await reader.readline():
                    if line == b"quit\n":
                        break
                    for other in list(writers):
                        other.write(line)
                    await asyncio.gather(*[other.drain() for other in list(writers)])
            writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        async def person(number):
            reader, writer = await asyncio.open_connection(*address)
            while len(writers) < people:
                await asyncio.sleep(0.001)
            for turn in range(5):
                writer.write(f"{number} {turn}\n".encode())
                await writer.drain()
            heard = [await reader.readline() for _ in range(people * 5)]
            writer.write(b"quit\n")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            return heard

        async with server:
            heard = await asyncio.gather(*[person(number) for number in range(people)])
        assert all(sorted(lines) == sorted(heard[0]) for lines in heard)
        assert len(set(heard[0])) == people * 5

    run_on(loop_kind, main())


def test_sorting_with_timers(loop_kind):
    """Sleep sort: timers ring in the order of their deadlines, 2 ms apart."""
    numbers = random.Random(1).sample(range(150), 80)

    async def main():
        loop = asyncio.get_running_loop()
        start = loop.time()
        done = []

        for number in numbers:
            loop.call_at(start + number / 500, done.append, number)
        while len(done) < len(numbers):
            await asyncio.sleep(0.001)
        return done

    assert run_on(loop_kind, main()) == sorted(numbers)


def test_pipeline_through_threads(loop_kind):
    """Stages on queues; one of them computes in threads, which call back."""

    async def main():
        loop = asyncio.get_running_loop()
        numbers, squares = asyncio.Queue(5), asyncio.Queue(5)
        progress = []

        def square(number):
            loop.call_soon_threadsafe(progress.append, number)
            return number * number

        async def produce():
            for number in range(100):
                await numbers.put(number)
            await numbers.put(None)

        async def compute():
            while (number := await numbers.get()) is not None:
                await squares.put(await asyncio.to_thread(square, number))
            await squares.put(None)

        async def consume():
            total = 0
            while (number := await squares.get()) is not None:
                total += number
            return total

        *_, total = await asyncio.gather(produce(), compute(), consume())
        assert total == sum(number * number for number in range(100))
        assert progress == list(range(100))

    run_on(loop_kind, main())
