"""pyloop.install(accelerate=True): what it replaces, and when that steps aside."""

import asyncio
import builtins
import contextlib
import copy
import inspect
import pickle
import sys
import time
import types
import warnings
import weakref
from unittest import mock

import pytest
import support
from acceleratekit import accelerated, told, turn

import pyloop
from pyloop import _accelerate, _core

ORIGINALS = {
    name: vars(home)[attribute]
    for name, home, attribute, _helper in _accelerate._table()
}


def now():
    """What is in the places of the functions that are replaced."""
    return {
        name: vars(home)[attribute]
        for name, home, attribute, _helper in _accelerate._table()
    }


@pytest.fixture
def fast():
    """pyloop's functions in place, for one test."""
    with accelerated():
        yield


# --- installing -------------------------------------------------------------------


@pytest.fixture
def policy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = asyncio.get_event_loop_policy()
        yield
        asyncio.set_event_loop_policy(old)


@pytest.mark.pyloop_only
def test_install_replaces_and_puts_back(loop_kind, policy):
    pyloop.install()
    assert now() == ORIGINALS
    pyloop.install(accelerate=True)
    ours = now()
    assert all(ours[name] is not ORIGINALS[name] for name in ORIGINALS)
    pyloop.install(accelerate=True)
    assert now() == ours
    pyloop.install(accelerate=False)
    assert now() == ORIGINALS


@pytest.mark.pyloop_only
def test_every_module_of_asyncio_has_it(loop_kind, fast):
    assert asyncio.sleep is asyncio.tasks.sleep is not ORIGINALS["sleep"]
    assert asyncio.gather is asyncio.tasks.gather is not ORIGINALS["gather"]


@pytest.mark.pyloop_only
def test_what_others_have_replaced_stays(loop_kind):
    with mock.patch.object(asyncio.Queue, "get", lambda self: "theirs"):
        theirs = asyncio.Queue.get
        with accelerated():
            assert asyncio.Queue.get is theirs
            with mock.patch.object(asyncio, "sleep", "theirs too"):
                _accelerate.restore()
                assert asyncio.sleep == "theirs too"
    asyncio.sleep = asyncio.tasks.sleep
    assert now() == ORIGINALS


@pytest.mark.pyloop_only
def test_what_accelerated_takes(loop_kind):
    with pytest.raises(ValueError, match="name: there is no 'nothing' in C"):
        _core.accelerated("nothing", ORIGINALS["sleep"], None)
    with pytest.raises(TypeError, match="original: a function is needed, not int"):
        _core.accelerated("sleep", 1, None)
    with pytest.raises(TypeError):
        _core.accelerated("sleep")
    with pytest.raises(TypeError):
        type(_core.accelerated("sleep", ORIGINALS["sleep"], None))()


# --- what looks at them sees asyncio's ------------------------------------------------


@pytest.mark.pyloop_only
@pytest.mark.parametrize("name", ORIGINALS)
def test_it_looks_like_asyncios(loop_kind, fast, name):
    ours, original = now()[name], ORIGINALS[name]
    assert inspect.signature(ours) == inspect.signature(original)
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(original)
    assert inspect.unwrap(ours) is original
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(ours, attribute) == getattr(original, attribute)
    assert copy.copy(ours) is ours
    assert pickle.loads(pickle.dumps(ours)) is ours
    assert name in repr(ours)
    assert weakref.ref(ours)() is ours
    with pytest.raises(AttributeError):
        _ = ours.no_such_attribute


@pytest.mark.pyloop_only
def test_attributes_are_the_originals(loop_kind, fast):
    asyncio.sleep.mark = "set"
    assert ORIGINALS["sleep"].mark == "set"
    del asyncio.sleep.mark
    assert not hasattr(ORIGINALS["sleep"], "mark")


@pytest.mark.pyloop_only
def test_methods_are_methods(loop_kind, fast):
    queue = asyncio.Queue()
    assert isinstance(queue.get, types.MethodType)
    assert queue.get.__self__ is queue
    assert queue.get == queue.get

    class Own(asyncio.Queue):
        async def get(self):
            return await super().get()

    async def main():
        own = Own()
        await own.put(1)
        return await own.get(), await asyncio.Queue.get(other)

    other = asyncio.Queue()
    other.put_nowait(2)
    assert pyloop.run(main()) == (1, 2)


@pytest.mark.pyloop_only
def test_coroutines_are_coroutines(loop, fast):
    async def main():
        coros = [asyncio.sleep(0, "slept"), asyncio.Queue().get()]
        for coro in coros:
            assert type(coro) is _core.AccelCoro
            assert asyncio.iscoroutine(coro)
            assert inspect.isawaitable(coro)
            coro.close()
        task = asyncio.create_task(asyncio.sleep(0, "slept"), name="sleeper")
        assert "sleep" in repr(task)
        return await task

    assert support.run(loop, main()) == "slept"


# --- stepping aside -----------------------------------------------------------------


def types_made():
    """The types of what the functions return in the running loop."""
    made = [asyncio.sleep(0), asyncio.Queue().get(), asyncio.Queue().put(1)]
    for coro in made:
        coro.close()
    return {type(coro) for coro in made}


def test_on_whose_loop(loop, loop_kind, fast):
    async def main():
        return types_made()

    kind = _core.AccelCoro if loop_kind == "pyloop" else types.CoroutineType
    assert support.run(loop, main()) == {kind}
    assert types_made() == {types.CoroutineType}


@pytest.mark.pyloop_only
def test_in_debug_mode_it_is_asyncios(loop, fast):
    async def main():
        loop.set_debug(True)
        return types_made()

    assert support.run(loop, main()) == {types.CoroutineType}


def test_a_coroutine_can_come_from_another_loop(new_loop, fast):
    maker, other = new_loop(), new_loop()

    async def make():
        return asyncio.sleep(0.001, "slept"), asyncio.sleep(0, "yielded")

    async def main(coros):
        return [await coro for coro in coros]

    coros = support.run(maker, make())
    assert support.run(other, main(coros)) == ["slept", "yielded"]


def test_a_queue_belongs_to_one_loop(new_loop, fast):
    queue = asyncio.Queue()

    async def wait():
        task = asyncio.ensure_future(queue.get())
        await turn()
        task.cancel()
        await asyncio.wait([task])

    support.run(new_loop(), wait())

    async def main():
        with pytest.raises(RuntimeError, match="is bound to a different event loop"):
            await queue.get()

    support.run(new_loop(), main())


def test_a_queue_with_its_attributes_in_another_order(loop, fast):
    queue = asyncio.Queue(1)
    attributes = vars(queue).copy()
    vars(queue).clear()
    for name in reversed(attributes):
        setattr(queue, name, attributes[name])

    async def produce():
        for item in range(3):
            await queue.put(item)

    async def main():
        producer = asyncio.ensure_future(produce())
        await turn(2)
        found = [(queue.qsize(), len(queue._putters))]
        found += [await queue.get() for _ in range(3)]
        consumer = asyncio.ensure_future(queue.get())
        await turn()
        found.append(len(queue._getters))
        await queue.put("last")
        return [*found, await consumer, queue._unfinished_tasks, producer.done()]

    expected = [(1, 1), 0, 1, 2, 1, "last", 4, True]
    assert support.run(loop, main()) == expected


@pytest.mark.parametrize("make", [asyncio.Lock, asyncio.Semaphore])
@pytest.mark.parametrize("name", ["acquire", "release"])
def test_async_with_calls_what_a_class_was_given_since(
    loop, fast, monkeypatch, make, name
):
    calls = []
    original = getattr(make, name)

    def ours(self):
        calls.append(name)
        return original(self)

    async def main():
        lock = make()
        async with lock:
            pass
        monkeypatch.setattr(make, name, ours)
        async with lock:
            pass
        return lock.locked()

    assert support.run(loop, main()) is False
    assert calls == [name]


def test_async_with_of_what_cannot_be_released(loop, fast):
    """asyncio's errors, where nobody waits and so C code does it all."""

    async def main():
        lock, bounded = asyncio.Lock(), asyncio.BoundedSemaphore(1)
        with pytest.raises(RuntimeError, match="Lock is not acquired"):
            async with lock:
                lock.release()
        with pytest.raises(ValueError, match="released too many times"):
            async with bounded:
                bounded.release()
        return lock.locked(), bounded._value

    assert support.run(loop, main()) == (False, 1)


def test_what_waits_is_a_future_of_the_loops(loop, fast):
    """It is made by create_future(), wherever that comes from."""
    made = []

    def create_future():
        made.append(asyncio.Future(loop=loop))
        return made[-1]

    async def main():
        queue, lock = asyncio.Queue(), asyncio.Lock()
        await lock.acquire()
        waiting = [asyncio.ensure_future(w) for w in (queue.get(), lock.acquire())]
        await turn()
        waiters = [*queue._getters, *lock._waiters]
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        return waiters

    waiters = support.run(loop, main())
    assert {type(waiter) for waiter in waiters} == {asyncio.Future}
    assert {waiter.get_loop() for waiter in waiters} == {loop}
    loop.create_future = create_future
    assert support.run(loop, main()) == [w for w in made if w.cancelled()]


def test_an_overridden_call_later_makes_the_timers_of_sleep(loop, fast):
    delays = []
    call_later = loop.call_later

    def counted(delay, *args):
        delays.append(delay)
        return call_later(0, *args)

    async def main():
        loop.call_later = counted
        try:
            slept = await asyncio.sleep(1000, "slept")
        finally:
            del loop.call_later
        return slept, await asyncio.sleep(0.001, "again")

    assert support.run(loop, main()) == ("slept", "again")
    assert delays == [1000]


def test_a_waiter_that_somebody_has_is_not_used_again(loop, fast):
    kept, seen = [], []

    def look(queue):
        waiter = queue._getters[0]
        if len(seen) % 3:
            kept.append(waiter)
        elif len(seen) % 2:
            waiter.add_done_callback(kept.append)
        seen.append(weakref.ref(waiter))
        queue.put_nowait("item")

    async def main():
        queue = asyncio.Queue()
        for _ in range(12):
            loop.call_soon(look, queue)
            await queue.get()

    support.run(loop, main())
    assert [waiter.result() for waiter in kept] == [None] * len(kept)
    assert len({id(waiter) for waiter in kept}) == len(kept) == 10
    assert {waiter() for waiter in seen} - {*kept} == {None}


@pytest.mark.pyloop_only
def test_waiters_that_are_used_again_go_with_the_loop(new_loop, fast):
    loop = new_loop()
    waiters = []

    def look(event):
        waiters.append(event._waiters[0])
        event.set()

    async def main():
        for _ in range(3):
            event = asyncio.Event()
            loop.call_soon(look, event)
            await event.wait()

    support.run(loop, main())
    waiters = [weakref.ref(waiters.pop()) for _ in range(3)]
    loop.close()
    assert [waiter() for waiter in waiters] == [None] * 3


NAN = [(float("nan"),)] if sys.version_info >= (3, 13) else []  # before, it sleeps on


@pytest.mark.parametrize(
    "arguments", [(), ("a",), (1, 2, 3), (None,), (1j,), ([],), *NAN]
)
def test_sleeps_arguments(loop, fast, arguments):
    async def outcome(sleep):
        try:
            return await sleep(*arguments)
        except Exception as exc:
            return told(exc)

    async def main():
        return await outcome(asyncio.sleep), await outcome(ORIGINALS["sleep"])

    ours, asyncios = support.run(loop, main())
    assert ours == asyncios


@pytest.mark.parametrize("delay", [1, 0.001, True, 10**400, 1e-12, -1e9])
def test_sleeps_of_all_kinds_of_numbers(loop, fast, delay):
    async def outcome():
        task = asyncio.ensure_future(asyncio.sleep(delay, "slept"))
        await turn(2)
        if delay is True or delay == 1:
            task.cancel()
        try:
            return await task
        except (asyncio.CancelledError, OverflowError) as exc:
            return type(exc)

    expected = {1: asyncio.CancelledError, 10**400: OverflowError}
    assert support.run(loop, outcome()) == expected.get(delay, "slept")


def test_sleep_in_a_queue_of_ready_timers(loop, fast):
    """The timer is ready in the iteration in which the sleep is cancelled."""

    async def main():
        task = asyncio.ensure_future(asyncio.sleep(0.001, "slept"))
        await turn()
        loop.call_at(loop.time() - 1, task.cancel)
        time.sleep(0.002)
        with pytest.raises(asyncio.CancelledError):
            await task

    support.run(loop, main())


# --- wait_for's expiry ------------------------------------------------------------


async def expiries(wait_for):
    """What comes of it when the time is over, for several things to wait for."""
    loop = asyncio.get_running_loop()

    async def raising():
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            raise ValueError("instead")  # noqa: B904  # the context is looked at

    async def swallowing():
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            return "swallowed"

    async def grouped():
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            raise builtins.ExceptionGroup("group", [ValueError()])  # noqa: B904

    async def cancelled_as_well():
        task = asyncio.current_task()
        try:
            await loop.create_future()
        finally:
            task.cancel("as well")

    makers = [loop.create_future, raising, swallowing]
    if sys.version_info >= (3, 11):
        makers += [grouped, cancelled_as_well]
    found = []
    for make in makers:
        for timeout in (0.001, 1e-9, 0, -1):
            found.append(
                (make.__name__, timeout, await expiry(wait_for, make, timeout))
            )
    return found


async def expiry(wait_for, make, timeout):
    async def body():
        try:
            return await wait_for(make(), timeout)
        except BaseException as exc:
            return chain(exc)

    task = asyncio.ensure_future(body())
    try:
        outcome = await task
    except asyncio.CancelledError as exc:
        outcome = told(exc)
    counted = task.cancelling() if sys.version_info >= (3, 11) else 0
    return outcome, counted


def chain(exc):
    """What an exception and its contexts are."""
    found = []
    while exc is not None and len(found) < 9:
        found.append(told(exc))
        exc = exc.__context__
    return found


def test_an_expired_wait_for(new_loop, fast):
    original = ORIGINALS.get("wait_for", asyncio.wait_for)
    with contextlib.closing(support.make_loop("asyncio")) as oracle:
        expected = support.run(oracle, expiries(original))
    found = support.run(new_loop(), expiries(asyncio.wait_for))
    assert found == expected
