"""Tasks: how the loop makes them, factories, contexts; and programs made of many."""

import asyncio
import contextvars
import sys

import pytest
import support
from support import run_once

from_311 = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="came with Python 3.11"
)
from_312 = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="came with Python 3.12"
)


async def noop(result=None):
    return result


async def sleeping(result, delay=0.001):
    await asyncio.sleep(delay)
    return result


# --- create_task and create_future --------------------------------------------


def test_create_task(loop):
    task = loop.create_task(noop("result"))
    assert isinstance(task, asyncio.Task)
    assert task.get_loop() is loop
    assert not task.done()
    assert loop.run_until_complete(task) == "result"


def test_names(loop):
    tasks = [loop.create_task(noop(), name=name) for name in ("a name", None, 7)]
    assert tasks[0].get_name() == "a name"
    assert tasks[1].get_name().startswith("Task-")
    assert tasks[2].get_name() == "7"
    loop.run_until_complete(asyncio.gather(*tasks))


@from_311
def test_a_context_for_a_task(loop):
    variable = contextvars.ContextVar("variable", default="unset")
    context = contextvars.Context()
    context.run(variable.set, "given")

    async def main():
        seen = variable.get()
        await asyncio.sleep(0)
        variable.set("changed")
        return seen

    task = loop.create_task(main(), context=context)
    assert loop.run_until_complete(task) == "given"
    assert context[variable] == "changed"
    assert variable.get() == "unset"
    if sys.version_info >= (3, 12):
        assert task.get_context() is context


def test_not_a_coroutine(loop):
    for thing in (None, 1, noop, loop.create_future()):
        with pytest.raises(TypeError, match="a coroutine was expected"):
            loop.create_task(thing)


def test_wrong_arguments_of_create_task(loop):
    with pytest.raises(TypeError):
        loop.create_task()
    coroutine = noop()
    with pytest.raises(TypeError):
        loop.create_task(coroutine, unknown=1)
    with pytest.raises(TypeError):
        loop.create_task(coroutine, "name by position")
    coroutine.close()


def test_a_closed_loop_makes_no_task(loop):
    loop.close()
    coroutine = noop()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.create_task(coroutine)
    coroutine.close()


def test_create_future(loop):
    future = loop.create_future()
    assert type(future) is asyncio.Future
    assert future.get_loop() is loop
    loop.call_soon(future.set_result, "result")
    assert loop.run_until_complete(future) == "result"


def test_a_task_made_outside_the_run_starts_in_it(loop):
    started = []

    async def main():
        started.append(True)

    task = loop.create_task(main())
    assert started == []
    run_once(loop)
    assert started == [True]
    assert task.done()


def test_generators_based_awaitables(loop):
    class Awaitable:
        def __await__(self):
            for _ in range(3):
                yield
            return "result"

    async def main():
        return await Awaitable()

    assert support.run(loop, main()) == "result"


def test_asyncio_s_python_task_and_future(loop):
    """Those that are used where C ones are missing, and by tools that patch them."""

    async def main():
        future = asyncio.futures._PyFuture(loop=loop)
        loop.call_soon(future.set_result, "future")
        results = [await future]
        task = asyncio.tasks._PyTask(sleeping("task"), loop=loop)
        results.append(await task)
        return results

    assert support.run(loop, main()) == ["future", "task"]


# --- task factories -----------------------------------------------------------


def test_no_factory_by_default(loop):
    assert loop.get_task_factory() is None


@pytest.mark.parametrize("factory", [1, "x", []], ids=repr)
def test_a_factory_must_be_callable(loop, factory):
    with pytest.raises(TypeError, match="task factory must be a callable or None"):
        loop.set_task_factory(factory)


def test_a_factory_makes_every_task(loop):
    class Task(asyncio.Task):
        pass

    calls = []

    def factory(loop, coroutine, **kwargs):
        calls.append((loop, coroutine))
        return Task(coroutine, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory

    async def main():
        assert isinstance(asyncio.current_task(), Task)
        await asyncio.gather(noop(), noop())
        task = asyncio.create_task(noop(), name="a name")
        assert isinstance(task, Task)
        assert task.get_name() == "a name"
        await task

    loop.run_until_complete(main())
    assert len(calls) == 4
    assert all(call[0] is loop for call in calls)
    loop.set_task_factory(None)
    assert loop.get_task_factory() is None
    assert type(loop.create_task(noop())) is asyncio.Task
    run_once(loop)


def test_a_factory_that_fails(loop):
    def factory(loop, coroutine, **kwargs):
        coroutine.close()
        raise LookupError("no tasks today")

    loop.set_task_factory(factory)
    with pytest.raises(LookupError, match="no tasks today"):
        loop.create_task(noop())
    loop.set_task_factory(None)


@from_311
def test_a_factory_gets_the_context(loop):
    contexts = []

    def factory(loop, coroutine, **kwargs):
        contexts.append(kwargs.get("context"))
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    context = contextvars.copy_context()
    loop.run_until_complete(loop.create_task(noop(), context=context))
    loop.run_until_complete(loop.create_task(noop()))
    assert contexts == [context, None]


@from_312
def test_eager_tasks(loop):
    loop.set_task_factory(asyncio.eager_task_factory)
    order = []

    async def quick():
        order.append("quick ran")
        return "quick"

    async def slow():
        order.append("slow started")
        await asyncio.sleep(0.001)
        order.append("slow ended")
        return "slow"

    async def main():
        task = asyncio.create_task(quick())
        assert task.done()
        assert task.result() == "quick"
        other = asyncio.create_task(slow())
        assert order == ["quick ran", "slow started"]
        assert not other.done()
        assert await other == "slow"
        assert asyncio.current_task() is not None
        assert await asyncio.gather(quick(), slow()) == ["quick", "slow"]

    support.run(loop, main())
    assert order[2] == "slow ended"


@from_312
def test_eager_tasks_fail_and_are_cancelled(loop):
    loop.set_task_factory(asyncio.eager_task_factory)

    async def fail():
        raise LookupError("eagerly")

    async def main():
        task = asyncio.create_task(fail())
        assert task.done()
        with pytest.raises(LookupError, match="eagerly"):
            await task
        waiting = asyncio.create_task(asyncio.sleep(1000))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    support.run(loop, main())


@from_312
def test_one_eager_task(loop):
    order = []

    async def append(item):
        order.append(item)

    async def main():
        task = asyncio.Task(append("eager"), loop=loop, eager_start=True)
        order.append("after")
        await task

    support.run(loop, main())
    assert order == ["eager", "after"]


# --- contexts -----------------------------------------------------------------


def test_a_task_has_a_copy_of_its_creator_s_context(loop):
    variable = contextvars.ContextVar("variable")

    async def child(value):
        before = variable.get()
        variable.set(value)
        await asyncio.sleep(0)
        return before, variable.get()

    async def main():
        variable.set("of the parent")
        results = await asyncio.gather(*(child(i) for i in range(5)))
        assert results == [("of the parent", i) for i in range(5)]
        assert variable.get() == "of the parent"

    support.run(loop, main())
    assert variable not in contextvars.copy_context()


def test_callbacks_of_a_future_have_the_context_of_their_registration(loop):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []
    future = loop.create_future()
    for value in ("one", "two"):
        reset = variable.set(value)
        future.add_done_callback(lambda future: seen.append(variable.get()))
        variable.reset(reset)
    future.set_result(None)
    run_once(loop)
    assert seen == ["one", "two"]


# --- current_task and all_tasks -----------------------------------------------


def test_current_task_and_all_tasks(loop):
    async def main():
        me = asyncio.current_task()
        assert me in asyncio.all_tasks()
        other = asyncio.create_task(asyncio.sleep(0.001))
        assert asyncio.all_tasks() == {me, other}
        seen = []
        loop.call_soon(lambda: seen.append(asyncio.current_task()))
        await other
        assert seen == [None]
        assert asyncio.all_tasks() == {me}

    loop.run_until_complete(main())
    assert asyncio.all_tasks(loop) == set()


# --- asynchronous generators --------------------------------------------------


async def generator(log, name="generator"):
    try:
        for i in range(1000):
            yield i
            await asyncio.sleep(0)
    finally:
        await asyncio.sleep(0)
        log.append(f"{name} closed")


def test_a_generator_left_half_way_is_closed_by_the_loop(loop):
    log = []

    async def main():
        async for i in generator(log):
            if i == 2:
                break
        support.collect()
        for _ in range(5):
            await asyncio.sleep(0)

    support.run(loop, main())
    assert log == ["generator closed"]


def test_shutdown_closes_what_is_open(loop):
    log = []
    agens = [generator(log, f"generator {i}") for i in range(3)]

    async def main():
        for agen in agens:
            await agen.__anext__()

    support.run(loop, main())
    assert log == []
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert sorted(log) == [f"generator {i} closed" for i in range(3)]


def test_a_generator_started_after_the_shutdown_warns(loop):
    log = []

    async def main():
        await loop.shutdown_asyncgens()
        agen = generator(log)
        with pytest.warns(ResourceWarning, match="was scheduled after"):
            await agen.__anext__()
        await agen.aclose()

    support.run(loop, main())


def test_a_generator_that_fails_to_close(loop):
    async def stubborn():
        try:
            yield 1
        finally:
            raise LookupError("while closing")

    agen = stubborn()

    async def main():
        await agen.__anext__()

    support.run(loop, main())
    with support.ErrorRecorder(loop) as errors:
        loop.run_until_complete(loop.shutdown_asyncgens())
        context = errors.only()
        assert context["asyncgen"] is agen
        assert type(context["exception"]) is LookupError


def test_a_generator_collected_in_another_thread(loop):
    log = []

    async def main():
        agens = [generator(log)]
        await agens[0].__anext__()
        await loop.run_in_executor(None, agens.clear)
        while not log:
            await asyncio.sleep(0.001)

    support.run(loop, main())
    assert log == ["generator closed"]


# --- programs -----------------------------------------------------------------


def test_gather(loop):
    async def fail():
        await asyncio.sleep(0)
        raise LookupError("failed")

    async def main():
        assert await asyncio.gather() == []
        assert await asyncio.gather(*(sleeping(i) for i in range(50))) == list(
            range(50)
        )
        results = await asyncio.gather(noop(1), fail(), return_exceptions=True)
        assert results[0] == 1
        assert type(results[1]) is LookupError
        slow = asyncio.create_task(asyncio.sleep(1000))
        with pytest.raises(LookupError):
            await asyncio.gather(fail(), slow)
        assert not slow.done()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        outer = asyncio.gather(asyncio.sleep(1000), asyncio.sleep(1000))
        await asyncio.sleep(0)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        await asyncio.sleep(0)

    support.run(loop, main())


def test_wait_and_as_completed(loop):
    async def main():
        tasks = [asyncio.create_task(sleeping(i, i / 500)) for i in range(5)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert tasks[0] in done
        done, pending = await asyncio.wait(tasks)
        assert (len(done), len(pending)) == (5, 0)
        completed = []
        for awaitable in asyncio.as_completed([sleeping(i, i / 500) for i in (2, 1)]):
            completed.append(await awaitable)
        assert sorted(completed) == [1, 2]

    support.run(loop, main())


def test_shield(loop):
    async def main():
        inner = asyncio.create_task(sleeping("result", 0.01))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(inner), 0.001)
        assert await inner == "result"

    support.run(loop, main())


def test_cancellation(loop):
    log = []

    async def worker():
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            log.append("cleaning up")
            await asyncio.sleep(0.001)
            log.append("cleaned up")
            raise

    async def main():
        task = asyncio.create_task(worker())
        await asyncio.sleep(0)
        task.cancel("with a message")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        never_started = asyncio.create_task(worker())
        never_started.cancel()
        with pytest.raises(asyncio.CancelledError):
            await never_started

    support.run(loop, main())
    assert log == ["cleaning up", "cleaned up"]


def test_cancelling_a_thousand_tasks(loop):
    async def main():
        tasks = [asyncio.create_task(asyncio.sleep(1000)) for _ in range(1000)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)

    support.run(loop, main())
    run_once(loop)
    assert len(loop._scheduled) <= 1000


@from_311
def test_task_groups_and_timeouts(loop):
    async def fail():
        await asyncio.sleep(0.001)
        raise LookupError("failed")

    async def main():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(sleeping(i)) for i in range(10)]
        assert [task.result() for task in tasks] == list(range(10))
        with pytest.raises(BaseExceptionGroup) as caught:  # noqa: F821
            async with asyncio.TaskGroup() as group:
                slow = group.create_task(asyncio.sleep(1000))
                group.create_task(fail())
        assert [type(exc) for exc in caught.value.exceptions] == [LookupError]
        assert slow.cancelled()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(1000)
        async with asyncio.timeout(1000) as limit:
            limit.reschedule(loop.time() + 2000)
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(loop.time() - 1):
                await asyncio.sleep(1000)

    support.run(loop, main())


def test_synchronisation(loop):
    async def main():
        lock, order = asyncio.Lock(), []

        async def locked(name):
            async with lock:
                order.append(name)
                await asyncio.sleep(0)
                order.append(name)

        await asyncio.gather(*(locked(i) for i in range(5)))
        assert order == [i for i in range(5) for _ in range(2)]

        semaphore, active, peak = asyncio.Semaphore(3), 0, 0

        async def limited():
            nonlocal active, peak
            async with semaphore:
                active += 1
                peak = max(peak, active)
                await asyncio.sleep(0.0005)
                active -= 1

        await asyncio.gather(*(limited() for _ in range(20)))
        assert (active, peak) == (0, 3)

        condition, woken = asyncio.Condition(), []

        async def waiter(i):
            async with condition:
                await condition.wait()
                woken.append(i)

        tasks = [asyncio.create_task(waiter(i)) for i in range(3)]
        await asyncio.sleep(0)
        async with condition:
            condition.notify_all()
        await asyncio.gather(*tasks)
        assert sorted(woken) == [0, 1, 2]

    support.run(loop, main())


def test_queues(loop):
    async def main():
        queue, results = asyncio.Queue(maxsize=2), []

        async def producer(base):
            for i in range(50):
                await queue.put(base + i)

        async def consumer():
            while True:
                results.append(await queue.get())
                queue.task_done()

        consumers = [asyncio.create_task(consumer()) for _ in range(3)]
        await asyncio.gather(producer(0), producer(100))
        await queue.join()
        for task in consumers:
            task.cancel()
        await asyncio.gather(*consumers, return_exceptions=True)
        assert sorted(results) == [*range(50), *range(100, 150)]

    support.run(loop, main())


def test_ten_thousand_tasks(loop):
    async def worker(i):
        await asyncio.sleep(0)
        await asyncio.sleep(i % 7 / 10_000)
        return i

    async def main():
        return sum(await asyncio.gather(*(worker(i) for i in range(10_000))))

    assert support.run(loop, main()) == sum(range(10_000))


def test_a_deep_chain_of_coroutines_and_of_tasks(loop):
    async def deep(left):
        if left:
            return 1 + await deep(left - 1)
        await asyncio.sleep(0)
        return 0

    async def chain(left):
        if left:
            return 1 + await asyncio.create_task(chain(left - 1))
        return 0

    assert support.run(loop, deep(300)) == 300
    assert support.run(loop, chain(3000)) == 3000


def test_futures_resolved_in_every_order(loop):
    async def main():
        futures = [loop.create_future() for _ in range(100)]
        waiters = [asyncio.ensure_future(asyncio.gather(f, f)) for f in futures]
        for i in (*range(0, 100, 2), *range(99, 0, -2)):
            loop.call_soon(futures[i].set_result, i)
        return await asyncio.gather(*waiters)

    assert support.run(loop, main()) == [[i, i] for i in range(100)]
