"""asyncio's functions in C do what asyncio's do, step by step and wherever cancelled.

Each program's traces are asyncio's own on asyncio's loop, and then those with
`pyloop.install(accelerate=True)` in force, on a loop of each kind: on asyncio's, the
functions in C have to step aside.
"""

import asyncio
import functools
import logging
import sys

import pytest
import support
from acceleratekit import assert_same, turn

PROGRAMS = {}


def program(steps, workers):
    """Register a program by its name."""

    def register(function):
        PROGRAMS[function.__name__] = (function, steps, workers)
        return function

    return register


def nothing():
    return ()


class Broken(Exception):
    pass


# --- sleep ------------------------------------------------------------------------


@program(5, 2)
def sleeping(log):
    async def turns(name):
        log(name, await asyncio.sleep(0), await asyncio.sleep(-1, "result"))
        log(name, await asyncio.sleep(False, result=name))

    return [turns("one"), turns("other")], nothing


@program(4, 1)
def sleeping_long(log):
    return [log.watch("sleeper", lambda: asyncio.sleep(1000, "never"))], nothing


# --- wait_for ---------------------------------------------------------------------


async def answer(log, turns, error=None):
    try:
        await turn(turns)
        if error is not None:
            raise error
        return "answer"
    finally:
        log("inner", "over", asyncio.current_task().cancelling() if CANCELLING else 0)


CANCELLING = sys.version_info >= (3, 11)


@program(8, 3)
def waiting(log):
    return [
        log.watch("value", lambda: asyncio.wait_for(answer(log, 3), 1000)),
        log.watch(
            "error", lambda: asyncio.wait_for(answer(log, 2, Broken("no")), 1000)
        ),
        log.watch("forever", lambda: asyncio.wait_for(answer(log, 4), None)),
    ], nothing


@program(8, 3)
def waiting_for_futures(log):
    loop = asyncio.get_running_loop()
    future, other, cancelled = (loop.create_future() for _ in range(3))

    async def resolve():
        await turn(3)
        for each in (future, other):
            if not each.done():
                each.set_result("here")
        await turn()
        cancelled.cancel("by its owner")

    return [
        log.watch("a future", lambda: asyncio.wait_for(future, 1000)),
        log.watch(
            "in another", lambda: asyncio.wait_for(asyncio.wait_for(other, 999), 1000)
        ),
        log.watch("cancelled", lambda: asyncio.wait_for(cancelled, 1000)),
        resolve(),
    ], lambda: (future.done(), other.done(), cancelled.cancelled())


@program(8, 2)
def waiting_for_the_stubborn(log):
    async def stubborn():
        for _ in range(2):
            try:
                await turn(2)
            except asyncio.CancelledError as exc:
                log("stubborn", exc.args)
        return "after all"

    async def raising():
        try:
            await turn(3)
        except asyncio.CancelledError:
            raise Broken("instead") from None

    return [
        log.watch("swallowed", lambda: asyncio.wait_for(stubborn(), 1000)),
        log.watch("replaced", lambda: asyncio.wait_for(raising(), 1000)),
    ], nothing


# --- gather -----------------------------------------------------------------------


def children(log):
    return [answer(log, 1), answer(log, 3, Broken("two")), answer(log, 4)]


@program(9, 1)
def gathering(log):
    return [log.watch("gather", lambda: asyncio.gather(*children(log)))], nothing


@program(9, 1)
def gathering_all(log):
    async def all_of_them():
        return await asyncio.gather(
            *children(log), asyncio.sleep(0, 4), return_exceptions=True
        )

    return [log.watch("gather", all_of_them)], nothing


@program(9, 2)
def gathering_in_tasks(log):
    async def once():
        await log.watch(
            "first", lambda: asyncio.gather(answer(log, 2), asyncio.sleep(0, 1))
        )
        await log.watch("then", lambda: asyncio.gather(*children(log)))

    async def nested():
        return await asyncio.gather(
            asyncio.gather(answer(log, 1), answer(log, 2)), answer(log, 3)
        )

    return [once(), log.watch("nested", nested)], nothing


@program(8, 3)
def gathering_futures(log):
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(4)]

    async def resolve():
        for number, future in enumerate(futures):
            await turn()
            if future.done():
                log("done already", number)
            elif number == 2:
                future.cancel("number 2")
            else:
                future.set_result(number)

    async def both():
        done = loop.create_future()
        done.set_result("done")
        twice = [futures[0], futures[0], futures[1], done]
        return await asyncio.gather(*twice)

    return [
        log.watch("all", lambda: asyncio.gather(*futures[1:], return_exceptions=True)),
        log.watch("twice", both),
        resolve(),
    ], lambda: [future.done() for future in futures]


@program(6, 1)
def gathering_nothing(log):
    async def empty():
        return await asyncio.gather()

    return [log.watch("empty", empty)], nothing


# --- Queue ------------------------------------------------------------------------


def about(queue):
    return (
        queue.qsize(),
        len(queue._getters),
        len(queue._putters),
        queue._unfinished_tasks,
        queue._finished.is_set(),
    )


def exchange(log, queue, items=4):
    async def producer():
        for item in range(items):
            await log.watch("put", functools.partial(queue.put, item))

    async def consumer(name):
        for _ in range(items // 2):
            await log.watch(name, queue.get)
            queue.task_done()

    async def joiner():
        await turn(2)
        await log.watch("join", queue.join)

    workers = [producer(), consumer("one"), consumer("other"), joiner()]
    return workers, lambda: about(queue)


@program(12, 4)
def queue_of_one(log):
    return exchange(log, asyncio.Queue(1))


@program(10, 4)
def queue_unbounded(log):
    return exchange(log, asyncio.Queue())


@program(10, 4)
def queue_by_priority(log):
    return exchange(log, asyncio.PriorityQueue(2))


@program(10, 4)
def queue_last_first(log):
    return exchange(log, asyncio.LifoQueue(2))


@program(10, 4)
def queue_subclass(log):
    class Doubling(asyncio.Queue):
        def _put(self, item):
            log("_put", item)
            super()._put(item * 2)

        def full(self):
            log("full")
            return super().full()

    return exchange(log, Doubling(2))


@program(10, 4)
def queue_with_own_methods(log):
    queue = asyncio.Queue(2)
    inner = queue.get_nowait

    def get_nowait():
        log("get_nowait")
        return inner()

    queue.get_nowait = get_nowait
    return exchange(log, queue)


@program(9, 4)
def queue_of_waiting_ones(log):
    """Several wait for the same, and what is there is taken by a faster one."""
    queue = asyncio.Queue(1)

    async def fast():
        await turn(3)
        queue.put_nowait("a")
        log("at once", queue.get_nowait())
        await turn()
        queue.put_nowait("b")
        await turn(2)
        await queue.put("c")

    return [
        log.watch("first", queue.get),
        log.watch("second", queue.get),
        fast(),
        log.watch("third", lambda: asyncio.wait_for(queue.get(), 1000)),
    ], lambda: about(queue)


@program(9, 4)
def queue_with_waiting_putters(log):
    queue = asyncio.Queue(1)
    queue.put_nowait(0)

    async def taker():
        await turn(3)
        log("took", queue.get_nowait())
        queue.put_nowait("back")
        await turn(2)
        for _ in range(2):
            log("took", await queue.get())

    return [
        log.watch("first", lambda: queue.put(1)),
        log.watch("second", lambda: queue.put(2)),
        taker(),
        log.watch("third", lambda: queue.put(3)),
    ], lambda: about(queue)


if sys.version_info >= (3, 13):

    @program(8, 4)
    def queue_shut_down(log):
        queue = asyncio.Queue(1)
        full = asyncio.Queue(1)
        full.put_nowait("left")

        async def close():
            await turn(2)
            queue.shutdown()
            full.shutdown()
            await log.watch("put late", lambda: full.put(2))
            await log.watch("get late", full.get)
            await log.watch("nothing left", full.get)

        return [
            log.watch("get", queue.get),
            log.watch("put", lambda: full.put(1)),
            close(),
            log.watch("another", queue.get),
        ], lambda: about(queue) + about(full)

    @program(8, 2)
    def queue_shut_down_at_once(log):
        queue = asyncio.Queue(2)
        queue.put_nowait("lost")

        async def close():
            await turn(2)
            queue.shutdown(immediate=True)
            await log.watch("get", queue.get)

        return [close(), log.watch("join", queue.join)], lambda: about(queue)


# --- Lock, Event, Semaphore -------------------------------------------------------


def about_lock(lock):
    waiters = lock._waiters
    return lock.locked(), None if waiters is None else len(waiters)


def taking_turns(log, lock, workers=3):
    async def worker(name):
        await turn(name)
        log(name, "acquired", await lock.acquire())
        await turn(2)
        lock.release()
        async with lock as entered:
            log(name, "inside", entered)
            await turn()
        log(name, "out")

    return [worker(n) for n in range(workers)], lambda: about_lock(lock)


@program(14, 3)
def lock_taken_in_turns(log):
    return taking_turns(log, asyncio.Lock())


@program(12, 4)
def semaphore_taken_in_turns(log):
    return taking_turns(log, asyncio.Semaphore(2), 4)


@program(12, 4)
def bounded_semaphore_taken_in_turns(log):
    semaphore = asyncio.BoundedSemaphore(1)
    workers, state = taking_turns(log, semaphore, 3)

    async def too_many():
        await turn(11)
        try:
            semaphore.release()
        except ValueError as exc:
            log("released", exc.args)

    return [*workers, too_many()], lambda: (*state(), semaphore._value)


@program(8, 4)
def semaphore_released_for_many(log):
    semaphore = asyncio.Semaphore(0)

    async def release():
        await turn(2)
        semaphore.release()
        semaphore.release()
        log("locked", semaphore.locked())
        await turn()
        semaphore.release()

    async def late():
        await turn(3)
        log("late", await semaphore.acquire())

    return [
        log.watch("one", semaphore.acquire),
        log.watch("other", semaphore.acquire),
        release(),
        late(),
    ], lambda: (*about_lock(semaphore), semaphore._value)


@program(8, 3)
def lock_by_a_subclass(log):
    class Told(asyncio.Lock):
        async def acquire(self):
            log("acquire")
            return await super().acquire()

        def release(self):
            log("release")
            super().release()

    return taking_turns(log, Told(), 3)


@program(8, 3)
def lock_with_own_methods(log):
    lock = asyncio.Lock()
    inner = lock.release

    def release():
        log("release")
        inner()

    lock.release = release
    return taking_turns(log, lock, 3)


@program(8, 3)
def event_waited_for(log):
    event = asyncio.Event()

    async def setter():
        await turn(3)
        event.set()
        event.clear()
        await turn(2)
        event.set()
        log("set already", await event.wait())

    async def again():
        await log.watch("again", event.wait)
        await log.watch("again", event.wait)

    return [
        log.watch("one", event.wait),
        again(),
        setter(),
    ], lambda: (event.is_set(), len(event._waiters))


@program(10, 4)
def condition_over_a_lock(log):
    condition = asyncio.Condition()

    async def waiter(name):
        async with condition:
            log(name, await condition.wait())

    async def notifier():
        await turn(3)
        async with condition:
            condition.notify(1)
        async with condition:
            condition.notify_all()

    async def holder():
        await turn(4)
        async with condition:
            await turn()

    return [waiter("one"), waiter("other"), notifier(), holder()], lambda: (
        condition.locked(),
        len(condition._waiters),
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_does_what_asyncio_does(loop_kind, name, asyncio_log):
    function, steps, workers = PROGRAMS[name]
    assert_same(loop_kind, function, steps, workers)
    if sys.version_info < (3, 12) and name == "waiting_for_the_stubborn":
        # What the task that wait_for() makes then raises, nobody looks at.
        support.collect()
        assert asyncio_log.take(logging.ERROR)
