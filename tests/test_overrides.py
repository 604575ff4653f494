"""What people replace, in subclasses and by mocks: time(), call_soon, create_task."""

import asyncio
import contextlib
import sys
import threading
import unittest.mock
import warnings
import weakref

import pytest
import support
from support import run_once


@pytest.fixture
def subclass(loop_kind):
    """A factory of loops of an ad hoc subclass; each is closed at the end."""
    made = []

    def factory(**members):
        cls = type("Subclass", (support.loop_class(loop_kind),), members)
        made.append(cls())
        return made[-1]

    yield factory
    for loop in made:
        loop.close()


def target(*args):
    """A callback."""


# --- time() -------------------------------------------------------------------


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self, *loop):
        return self.now


def use_instance(loop, clock):
    loop.time = clock
    return contextlib.nullcontext()


def use_mock(loop, clock):
    return unittest.mock.patch.object(loop, "time", side_effect=clock)


@contextlib.contextmanager
def use_class(loop, clock):
    """Replaced in the class under a loop that exists: noticed when a run starts."""
    with unittest.mock.patch.object(type(loop), "time", lambda self: clock()):
        run_once(loop)
        yield
    run_once(loop)


HOW = {"instance": use_instance, "mock": use_mock, "class": use_class}


@pytest.fixture(params=[*HOW, "subclass"])
def clocked(request, new_loop, subclass):
    """A loop whose time() has been replaced, and the clock it has now."""
    clock = Clock()
    if request.param == "subclass":
        yield subclass(time=lambda self: clock()), clock
    else:
        loop = new_loop()
        with HOW[request.param](loop, clock):
            yield loop, clock
        vars(loop).pop("time", None)


def test_time_is_the_replaced_clock(clocked):
    loop, clock = clocked
    assert loop.time() == 1000.0
    clock.now = 2000.5
    assert loop.time() == 2000.5


def test_timers_are_set_by_the_replaced_clock(clocked):
    loop, clock = clocked
    assert loop.call_later(10, target).when() == 1010.0
    clock.now = 5000.0
    assert loop.call_later(0.5, target).when() == 5000.5
    assert loop.call_at(7000, target).when() == 7000


def test_timers_fire_by_the_replaced_clock(clocked):
    loop, clock = clocked
    fired = []
    loop.call_later(10, fired.append, 10)
    loop.call_later(3600, fired.append, 3600)
    for now, expected in (
        (1000.0, []),
        (1009.0, []),
        (1009.999, []),
        (1010.0, [10]),
        (4599.9, [10]),
        (4600.1, [10, 3600]),
    ):
        clock.now = now
        run_once(loop)
        assert fired == expected


def test_a_clock_that_jumps_over_many_timers(clocked):
    loop, clock = clocked
    fired = []
    for i in range(100):
        loop.call_later(100 - i, fired.append, 100 - i)
    clock.now += 50
    run_once(loop)
    assert fired == list(range(1, 51))
    clock.now += 1e9
    run_once(loop)
    assert fired == list(range(1, 101))


def test_a_clock_that_goes_back(clocked):
    loop, clock = clocked
    fired = []
    loop.call_later(10, fired.append, "set at 1000")
    clock.now = 500.0
    loop.call_later(10, fired.append, "set at 500")
    run_once(loop)
    assert fired == []
    clock.now = 511.0
    run_once(loop)
    assert fired == ["set at 500"]
    clock.now = 1011.0
    run_once(loop)
    assert fired == ["set at 500", "set at 1000"]


def test_a_program_on_a_clock_that_is_moved(clocked):
    """How test tools run an hour's program at once."""
    loop, clock = clocked
    events = []

    async def program():
        await asyncio.sleep(3600)
        events.append(("slept", clock.now))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 1800)
        events.append(("timed out", clock.now))

    async def main():
        task = loop.create_task(program())
        while not task.done():
            for _ in range(10):
                await asyncio.sleep(0)
            clock.now += 600
        await task

    loop.run_until_complete(main())
    assert events == [("slept", 4600.0), ("timed out", 6400.0)]


def test_the_real_clock_comes_back(loop):
    clock = Clock(10.0)
    with unittest.mock.patch.object(loop, "time", clock):
        run_once(loop)
        assert loop.time() == 10.0
    fired = []
    loop.call_later(0.001, fired.append, "fired")
    support.run_until(loop, lambda: fired)


def test_a_clock_put_in_while_the_loop_runs(loop):
    clock = Clock()
    fired = []

    async def main():
        loop.time = clock
        loop.call_later(10, fired.append, "fired")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert fired == []
        clock.now += 11
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert fired == ["fired"]
        del loop.time

    loop.run_until_complete(main())


def test_a_clock_that_fails(loop):
    def clock():
        raise LookupError("no time")

    loop.time = clock
    with pytest.raises(LookupError, match="no time"):
        loop.call_later(1, target)
    del loop.time
    loop.call_later(1000, target).cancel()


@pytest.mark.parametrize("now", [0, 5, -3.5, 1e12])
def test_clocks_of_any_size(loop, now):
    clock = Clock(now)
    loop.time = clock
    fired = []
    handle = loop.call_later(2, fired.append, "fired")
    assert handle.when() == now + 2
    run_once(loop)
    assert fired == []
    clock.now = now + 3
    run_once(loop)
    assert fired == ["fired"]
    del loop.time


def test_a_subclass_s_clock_that_asks_the_real_one(subclass):
    loop = subclass(time=lambda self: super(type(self), self).time() + 1_000_000)
    start = loop.time()
    assert start > 1_000_000
    support.run(loop, asyncio.sleep(0.002))
    assert loop.time() >= start + 0.002


# --- call_soon and the other ways to schedule ---------------------------------


def recording(name, calls):
    """A method that notes each call and passes it on."""

    def method(self, *args, **kwargs):
        calls.append(args[0] if args else None)
        return getattr(super(type(self), self), name)(*args, **kwargs)

    return method


async def noop():
    return "result"


def test_a_subclass_s_call_soon_sees_every_step(subclass):
    calls = []
    loop = subclass(call_soon=recording("call_soon", calls))

    async def main():
        future = loop.create_future()
        loop.call_soon(future.set_result, "set")
        assert await future == "set"
        assert await asyncio.create_task(noop()) == "result"
        await asyncio.sleep(0)

    support.run(loop, main())
    # steps of tasks, wake-ups of waiters, and the direct call: nothing goes past it
    assert len(calls) >= 7


def test_an_instance_s_call_soon_sees_every_step(loop):
    async def main():
        return await asyncio.create_task(noop())

    with unittest.mock.patch.object(
        loop, "call_soon", wraps=loop.call_soon
    ) as call_soon:
        assert loop.run_until_complete(main()) == "result"
    assert call_soon.call_count >= 4
    before = call_soon.call_count
    assert loop.run_until_complete(main()) == "result"
    assert call_soon.call_count == before


def test_call_soon_keeps_its_context_argument_when_overridden(subclass):
    contexts = []

    def call_soon(self, callback, *args, context=None):
        contexts.append(context)
        return super(type(self), self).call_soon(callback, *args, context=context)

    loop = subclass(call_soon=call_soon)
    support.run(loop, noop())
    assert contexts and all(context is not None for context in contexts[:1])


def test_a_subclass_s_call_later_and_call_at(subclass):
    later, at = [], []
    loop = subclass(
        call_later=recording("call_later", later), call_at=recording("call_at", at)
    )

    async def main():
        await asyncio.sleep(0.001)
        await asyncio.wait_for(asyncio.sleep(0), 1000)

    loop.run_until_complete(main())
    assert later[0] == 0.001
    assert 1000 in later or any(isinstance(when, float) for when in at)


def test_call_later_replaced_by_a_mock(loop):
    async def main():
        with unittest.mock.patch.object(loop, "call_later") as call_later:
            task = asyncio.ensure_future(asyncio.sleep(12.5, "result"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            (args, kwargs) = call_later.call_args
            assert args[0] == 12.5
            args[1](*args[2:])
            assert await task == "result"

    support.run(loop, main())


def test_a_subclass_s_call_soon_threadsafe(subclass):
    calls = []
    loop = subclass(call_soon_threadsafe=recording("call_soon_threadsafe", calls))

    async def main():
        # From 3.14 on, what is done before it is looked at needs no call.
        looked_at = threading.Event()
        waiting = loop.run_in_executor(None, looked_at.wait, support.PATIENCE)
        looked_at.set()
        return await waiting

    assert support.run(loop, main()) is True
    assert calls
    loop.run_until_complete(loop.shutdown_default_executor())


def test_call_soon_that_drops_everything(loop):
    """A mock returns no handle; tasks must not mind."""
    with unittest.mock.patch.object(loop, "call_soon") as call_soon:
        future = loop.create_future()
        future.add_done_callback(target)
        future.set_result(1)
    assert call_soon.call_args.args == (target, future)


# --- create_task and create_future --------------------------------------------


def test_a_subclass_s_create_task(subclass):
    calls = []
    loop = subclass(create_task=recording("create_task", calls))

    async def main():
        await asyncio.create_task(noop())
        await asyncio.gather(noop(), noop())
        await asyncio.ensure_future(noop())
        if sys.version_info >= (3, 11):
            async with asyncio.TaskGroup() as group:
                group.create_task(noop())
        else:
            await asyncio.ensure_future(noop())

    loop.run_until_complete(main())
    assert len(calls) == 6


def test_a_subclass_s_create_future(subclass):
    calls = []
    loop = subclass(create_future=recording("create_future", calls))

    async def main():
        event = asyncio.Event()
        loop.call_soon(event.set)
        await event.wait()
        await asyncio.sleep(0.001)
        queue = asyncio.Queue()
        loop.call_soon(queue.put_nowait, 1)
        await queue.get()
        await loop.run_in_executor(None, int)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    assert len(calls) >= 4


def test_futures_of_another_class(subclass):
    class Future(asyncio.Future):
        pass

    loop = subclass(create_future=lambda self: Future(loop=self))

    async def main():
        future = loop.create_future()
        loop.call_soon(future.set_result, "result")
        assert await future == "result"
        return await asyncio.sleep(0.001, type(future))

    assert support.run(loop, main()) is Future


def test_create_task_replaced_by_a_mock(loop):
    with unittest.mock.patch.object(loop, "create_task") as create_task:

        async def main():
            asyncio.ensure_future(coroutine)
            assert create_task.call_args.args == (coroutine,)

        coroutine = noop()
        main_coroutine = main()
        create_task.side_effect = lambda coro, **kwargs: asyncio.Task(coro, loop=loop)
        loop.run_until_complete(main_coroutine)
        support.spin(loop)


# --- the run ------------------------------------------------------------------


def test_a_subclass_s_run_forever_is_what_run_until_complete_calls(subclass):
    calls = []
    loop = subclass(run_forever=recording("run_forever", calls))
    assert loop.run_until_complete(noop()) == "result"
    assert len(calls) == 1


def test_a_subclass_s_stop_and_close(subclass):
    stops, closes = [], []
    loop = subclass(stop=recording("stop", stops), close=recording("close", closes))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert (len(stops), len(closes)) == (1, 1)
    assert loop.is_closed()


def test_one_iteration_by_hand(loop):
    """_run_once is asyncio's own name; tools that drive a loop themselves call it."""
    order = []
    loop.call_soon(order.append, 1)
    loop.call_soon(lambda: loop.call_soon(order.append, 3))
    loop.call_at(0, order.append, 2)
    loop._run_once()
    assert sorted(order) == [1, 2]
    loop._run_once()
    assert sorted(order) == [1, 2, 3]


def test_one_iteration_by_hand_waits_for_a_timer(loop):
    order = []
    when = loop.time() + 0.01
    loop.call_at(when, order.append, "fired")
    while not order:
        loop._run_once()
    assert loop.time() + loop._clock_resolution >= when


def test_one_iteration_by_hand_dispatches_descriptors(loop):
    with support.socket_pair() as (left, right):
        order = []
        loop.add_reader(left, order.append, "readable")
        right.send(b"x")
        loop._run_once()
        loop.remove_reader(left)
    assert order == ["readable"]


def test_a_run_inside_a_callback(loop):
    """What nested runs are made of: iterations until something has happened."""
    order = []

    def outer():
        order.append("outer starts")
        future = loop.create_future()
        loop.call_later(0.001, future.set_result, "inner result")
        while not future.done():
            loop._run_once()
        order.append(future.result())

    loop.call_soon(loop.call_soon, order.append, "run by the inner run")
    loop.call_soon(outer)
    loop._run_once()
    assert order == ["outer starts", "run by the inner run", "inner result"]


@pytest.mark.pyloop_only
def test_a_run_inside_a_batch_takes_the_rest_of_the_batch(loop):
    """asyncio counts the batch beforehand and fails when somebody else has run it."""
    order = []

    def outer():
        order.append("outer starts")
        loop._run_once()
        order.append("outer ends")

    loop.call_soon(outer)
    for i in range(5):
        loop.call_soon(order.append, i)
    run_once(loop)
    assert order == ["outer starts", 0, 1, 2, 3, 4, "outer ends"]


def test_a_run_inside_a_task(loop):
    async def inner():
        await asyncio.sleep(0.001)
        return "inner result"

    async def outer():
        me = asyncio.current_task()
        task = loop.create_task(inner())
        asyncio.tasks._leave_task(loop, me)
        try:
            while not task.done():
                loop._run_once()
        finally:
            asyncio.tasks._enter_task(loop, me)
        await asyncio.sleep(0)
        return task.result()

    assert support.run(loop, outer()) == "inner result"


def test_a_subclass_s_run_once_is_what_the_run_calls(subclass):
    calls = []
    loop = subclass(_run_once=recording("_run_once", calls))
    assert loop.run_until_complete(asyncio.sleep(0, "result")) == "result"
    assert len(calls) >= 2


# --- loops as objects ---------------------------------------------------------


def test_attributes_and_weak_references(loop):
    loop.some_attribute = "value"
    assert loop.some_attribute == "value"
    assert vars(loop)["some_attribute"] == "value"
    del loop.some_attribute
    assert weakref.ref(loop)() is loop
    assert {loop: 1}[loop] == 1


@pytest.mark.parametrize(
    "name",
    [
        "add_reader",
        "call_at",
        "call_exception_handler",
        "call_later",
        "call_soon",
        "call_soon_threadsafe",
        "close",
        "create_connection",
        "create_future",
        "create_server",
        "create_task",
        "get_debug",
        "getaddrinfo",
        "is_closed",
        "is_running",
        "remove_writer",
        "run_forever",
        "run_in_executor",
        "run_until_complete",
        "sock_recv",
        "stop",
        "time",
    ],
)
def test_every_method_takes_a_mock_and_gives_it_back(loop, name):
    original = getattr(loop, name)
    with unittest.mock.patch.object(loop, name) as mock:
        assert getattr(loop, name) is mock
    assert getattr(loop, name) == original
    assert name not in vars(loop)


def test_a_mocked_exception_handler_is_called(loop):
    with unittest.mock.patch.object(loop, "call_exception_handler") as handler:
        handle = loop.call_soon(lambda: 1 / 0)
        run_once(loop)
    (context,) = handler.call_args.args
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["handle"] is handle


def test_mocks_made_after_the_class(loop_kind):
    cls = support.loop_class(loop_kind)
    mock = unittest.mock.create_autospec(cls, instance=True)
    mock.call_later(1, target)
    mock.call_later.assert_called_once_with(1, target)
    assert isinstance(mock, asyncio.AbstractEventLoop)


def test_a_subclass_with_its_own_constructor(loop_kind):
    class Subclass(support.loop_class(loop_kind)):
        def __init__(self, name, *, extra):
            super().__init__()
            self.name = name
            self.extra = extra

    loop = Subclass("a name", extra=3)
    assert (loop.name, loop.extra) == ("a name", 3)
    assert loop.run_until_complete(noop()) == "result"
    loop.close()


def test_a_subclass_with_a_mixin(loop_kind):
    class Mixin:
        def call_soon(self, callback, *args, context=None):
            self.count = getattr(self, "count", 0) + 1
            return super().call_soon(callback, *args, context=context)

    class Subclass(Mixin, support.loop_class(loop_kind)):
        pass

    loop = Subclass()
    assert loop.run_until_complete(noop()) == "result"
    assert loop.count >= 2
    loop.close()


def test_a_subclass_of_a_subclass(subclass):
    loop = subclass(marker=1)
    cls = type("Deeper", (type(loop),), {"time": lambda self: 5.0})
    deeper = cls()
    assert deeper.time() == 5.0
    assert deeper.call_later(1, target).when() == 6.0
    deeper.close()


def test_a_subclass_that_is_never_initialised(loop_kind):
    """Python allows it; nothing may crash."""
    cls = support.loop_class(loop_kind)
    loop = cls.__new__(cls)
    for name in ("close", "is_closed", "is_running", "stop", "time", "run_forever"):
        with contextlib.suppress(Exception):
            getattr(loop, name)()
    for name in ("call_soon", "call_soon_threadsafe", "add_reader"):
        with contextlib.suppress(Exception):
            getattr(loop, name)(target)
    with contextlib.suppress(Exception):
        repr(loop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda details: None)
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        del loop
        support.collect()


def test_initialising_twice(loop_kind):
    """The first descriptors are dropped, with warnings; whatever happens, no crash."""
    loop = support.make_loop(loop_kind)
    with warnings.catch_warnings(), contextlib.suppress(RuntimeError):
        warnings.simplefilter("ignore", ResourceWarning)
        loop.__init__()
        support.collect()
    assert loop.run_until_complete(noop()) == "result"
    loop.close()


# --- asyncio's classes ----------------------------------------------------------


def test_a_replaced_task_class_is_used(loop, monkeypatch):
    """As tools do that want tasks written in Python, with the loop running already."""

    class Task(asyncio.tasks._PyTask):
        pass

    async def main():
        monkeypatch.setattr(asyncio.tasks, "Task", Task)
        tasks = [
            loop.create_task(asyncio.sleep(0, 1)),
            loop.create_task(main2(), name="x"),
        ]
        assert [type(task) for task in tasks] == [Task, Task]
        return await tasks[0], await tasks[1]

    async def main2():
        return 2

    assert support.run(loop, main()) == (1, 2)


def test_a_replaced_future_class_is_used(loop, monkeypatch):
    class Future(asyncio.futures._PyFuture):
        pass

    monkeypatch.setattr(asyncio.futures, "Future", Future)
    assert type(loop.create_future()) is Future
