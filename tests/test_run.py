"""run_forever, run_until_complete, stop: batches, order, states and their errors."""

import asyncio
import signal
import sys
import threading
import warnings
import weakref

import pytest
import support
from support import run_once


class Token:
    """Something a weak reference can point at."""


# --- batches ------------------------------------------------------------------


def test_callbacks_run_in_the_order_they_were_scheduled(loop):
    order = []
    for i in range(1000):
        loop.call_soon(order.append, i)
    run_once(loop)
    assert order == list(range(1000))


def test_what_a_batch_schedules_runs_in_the_next_one(loop):
    order = []

    def outer(i):
        order.append(("outer", i))
        loop.call_soon(order.append, ("inner", i))

    loop.call_soon(outer, 0)
    loop.call_soon(outer, 1)
    run_once(loop)
    assert order == [("outer", 0), ("outer", 1)]
    run_once(loop)
    assert order[2:] == [("inner", 0), ("inner", 1)]


def test_two_chains_of_callbacks_take_turns(loop):
    order = []

    def step(name, left):
        order.append(name)
        if left:
            loop.call_soon(step, name, left - 1)
        elif name == "b":
            loop.stop()

    loop.call_soon(step, "a", 9)
    loop.call_soon(step, "b", 9)
    loop.run_forever()
    assert "".join(order) == "ab" * 10


def test_a_large_batch_that_schedules_as_much_again(loop):
    order = []

    def again(i):
        order.append(i)
        loop.call_soon(order.append, -i)

    for i in range(50_000):
        loop.call_soon(again, i)
    run_once(loop)
    run_once(loop)
    assert order == [*range(50_000), *(-i for i in range(50_000))]


def test_the_queue_grows_while_its_head_is_not_at_the_start(loop):
    order = []
    expected = []

    def burst(count, base):
        for i in range(count):
            loop.call_soon(order.append, base + i)
            expected.append(base + i)

    for round_number in range(40):
        loop.call_soon(burst, round_number * 7, round_number * 1000)
        run_once(loop)
    run_once(loop)
    assert order == expected


def test_arguments_die_as_soon_as_their_callback_has_run(loop):
    token = Token()
    watch = weakref.ref(token)
    seen = []
    loop.call_soon(lambda argument: None, token)
    loop.call_soon(lambda: seen.append(watch()))
    del token
    run_once(loop)
    assert seen == [None]


def test_arguments_of_a_timer_die_as_soon_as_it_has_run(loop):
    token = Token()
    watch = weakref.ref(token)
    seen = []
    loop.call_at(loop.time() - 2, lambda argument: None, token)
    loop.call_at(loop.time() - 1, lambda: seen.append(watch()))
    del token
    run_once(loop)
    assert seen == [None]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 17, 300])
def test_any_number_of_arguments(loop, count):
    seen = []
    arguments = tuple(object() for _ in range(count))
    loop.call_soon(lambda *args: seen.append(args), *arguments)
    loop.call_later(0, lambda *args: seen.append(args), *arguments)
    loop.call_soon_threadsafe(lambda *args: seen.append(args), *arguments)
    support.spin(loop, 2)
    assert seen == [arguments] * 3


def test_any_kind_of_callable(loop):
    seen = []

    class Callable:
        def __call__(self, *args):
            seen.append(args)

        def method(self, *args):
            seen.append(args)

        @staticmethod
        def static(*args):
            seen.append(args)

        @classmethod
        def of_class(cls, *args):
            seen.append(args)

    class Made:
        def __init__(self, *args):
            seen.append(args)

    instance = Callable()
    callables = [instance, instance.method, Callable.static, Callable.of_class, Made]
    for function in callables:
        loop.call_soon(function, 1, 2)
    run_once(loop)
    assert seen == [(1, 2)] * len(callables)


# --- timers, threads and descriptors within one iteration ---------------------


def test_run_once_runs_due_timers_and_threadsafe_calls(loop):
    seen = []
    loop.call_at(loop.time() - 1, seen.append, "timer")
    loop.call_soon_threadsafe(seen.append, "thread")
    loop.call_soon(seen.append, "soon")
    run_once(loop)
    assert sorted(seen) == ["soon", "thread", "timer"]


def test_run_once_dispatches_a_ready_descriptor_after_what_was_scheduled(loop):
    with support.socket_pair() as (left, right):
        order = []
        right.send(b"x")
        loop.add_reader(left, order.append, "reader")
        loop.call_soon(order.append, "soon")
        run_once(loop)
        loop.remove_reader(left)
    assert order == ["soon", "reader"]


def test_what_a_due_timer_schedules_runs_in_the_next_iteration(loop):
    seen = []
    loop.call_at(loop.time() - 1, loop.call_soon, seen.append, "next")
    run_once(loop)
    assert seen == []
    run_once(loop)
    assert seen == ["next"]


def test_a_timer_that_is_due_joins_the_next_batch(loop):
    order = []

    def first():
        loop.call_at(loop.time() - 1, order.append, "timer")
        loop.call_soon(order.append, "soon")

    loop.call_soon(first)
    run_once(loop)
    run_once(loop)
    assert order == ["soon", "timer"]


def test_a_loop_that_is_never_idle_still_runs_timers(loop):
    def busy():
        if not fired:
            loop.call_soon(busy)

    def fire():
        fired.append(True)
        loop.stop()

    fired = []
    loop.call_soon(busy)
    loop.call_later(0.01, fire)
    loop.run_forever()
    assert fired == [True]


# --- stop ---------------------------------------------------------------------


def test_stop_before_run_runs_one_iteration(loop):
    seen = []
    loop.call_soon(seen.append, "soon")
    loop.call_at(loop.time() - 1, seen.append, "due")
    loop.call_soon(loop.call_soon, seen.append, "too late")
    loop.stop()
    loop.run_forever()
    assert sorted(seen) == ["due", "soon"]
    loop.stop()
    loop.run_forever()
    assert seen[2:] == ["too late"]


def test_stop_before_run_with_nothing_to_do_returns(loop):
    loop.stop()
    loop.run_forever()
    assert not loop.is_running()


def test_stop_lets_the_batch_end(loop):
    order = []
    loop.call_soon(order.append, 1)
    loop.call_soon(loop.stop)
    loop.call_soon(order.append, 2)
    loop.run_forever()
    assert order == [1, 2]


def test_stop_twice_stops_once(loop):
    order = []
    loop.call_soon(loop.stop)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.call_soon(loop.call_soon, order.append, "second iteration")
    loop.call_soon(loop.call_soon, loop.call_soon, loop.stop)
    loop.run_forever()
    assert order == ["second iteration"]


def test_stop_from_a_timer(loop):
    loop.call_later(0.001, loop.stop)
    loop.run_forever()


def test_stop_from_a_descriptor(loop):
    with support.socket_pair() as (left, right):
        loop.add_reader(left, loop.stop)
        right.send(b"x")
        loop.run_forever()
        loop.remove_reader(left)


def test_stop_flag_is_visible_and_reset(loop):
    seen = []
    assert loop._stopping is False
    loop.stop()
    assert loop._stopping is True
    loop.call_soon(lambda: seen.append(loop._stopping))
    loop.run_forever()
    assert seen == [True]
    assert loop._stopping is False


def test_stopping_returns_none(loop):
    assert loop.stop() is None
    assert loop.run_forever() is None


def test_run_again_and_again(loop):
    for i in range(50):
        assert loop.run_until_complete(asyncio.sleep(0, i)) == i


def test_stop_is_forgotten_when_a_run_ends_by_an_exception(loop):
    def stop_and_raise():
        loop.stop()
        raise KeyboardInterrupt

    loop.call_soon(stop_and_raise)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert loop.run_until_complete(asyncio.sleep(0.001, "ran on")) == "ran on"


# --- run_until_complete -------------------------------------------------------


def test_result_and_exception(loop):
    async def fails():
        raise LookupError("from the coroutine")

    assert loop.run_until_complete(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(LookupError, match="from the coroutine"):
        loop.run_until_complete(fails())


def test_a_future_that_is_done_already(loop):
    future = loop.create_future()
    future.set_result("done")
    order = []
    loop.call_soon(order.append, "ran")
    assert loop.run_until_complete(future) == "done"
    assert order == ["ran"]


def test_any_awaitable(loop):
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "awaited"

    assert loop.run_until_complete(Awaitable()) == "awaited"


def test_not_an_awaitable(loop):
    with pytest.raises(TypeError, match="awaitable is required"):
        loop.run_until_complete(42)


def test_cancelled_task(loop):
    task = loop.create_task(asyncio.sleep(60))
    loop.call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_future_of_another_loop(loop, new_loop):
    future = new_loop().create_future()
    with pytest.raises(ValueError, match="future belongs to a different loop"):
        loop.run_until_complete(future)


def test_stopped_before_the_future_is_done(loop):
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(
        RuntimeError, match=r"^Event loop stopped before Future completed\.$"
    ):
        loop.run_until_complete(future)


def test_the_future_of_a_stopped_run_does_not_stop_a_later_one(loop):
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError):
        loop.run_until_complete(future)
    future.set_result(None)
    support.spin(loop)
    order = []
    loop.call_soon(loop.call_soon, order.append, "second")
    loop.call_soon(loop.call_soon, loop.call_soon, loop.stop)
    loop.run_forever()
    assert order == ["second"]


def test_stop_in_the_iteration_that_completes_the_future(loop):
    async def main():
        loop.stop()
        return "result"

    task = loop.create_task(main())
    with pytest.raises(RuntimeError, match="stopped before"):
        loop.run_until_complete(asyncio.sleep(60))
    assert loop.run_until_complete(task) == "result"
    for task in asyncio.all_tasks(loop):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)


@pytest.mark.parametrize("exception_type", [SystemExit, KeyboardInterrupt])
def test_exit_out_of_a_coroutine(loop, asyncio_log, exception_type):
    async def main():
        raise exception_type("out")

    with pytest.raises(exception_type, match="out"):
        loop.run_until_complete(main())
    support.collect()
    assert asyncio_log.take() == []  # the task's exception counts as seen


@pytest.mark.parametrize("exception_type", [SystemExit, KeyboardInterrupt])
def test_exit_out_of_a_callback_leaves_the_rest_of_the_batch(loop, exception_type):
    order = []

    def leave():
        raise exception_type("out")

    loop.call_soon(order.append, 1)
    loop.call_soon(leave)
    loop.call_soon(order.append, 2)
    with pytest.raises(exception_type, match="out"):
        loop.run_forever()
    assert order == [1]
    assert not loop.is_running()
    run_once(loop)
    assert order == [1, 2]


@pytest.mark.parametrize("exception_type", [SystemExit, KeyboardInterrupt])
def test_exit_out_of_a_timer_and_a_reader(loop, exception_type):
    def leave(where):
        raise exception_type(where)

    loop.call_later(0, leave, "timer")
    with pytest.raises(exception_type, match="timer"):
        loop.run_forever()
    with support.socket_pair() as (left, right):
        loop.add_reader(left, leave, "reader")
        right.send(b"x")
        with pytest.raises(exception_type, match="reader"):
            loop.run_forever()
        loop.remove_reader(left)


# --- states -------------------------------------------------------------------


def test_is_running_and_the_running_loop(loop):
    seen = []

    def look():
        seen.append(loop.is_running())
        seen.append(asyncio.get_running_loop() is loop)
        seen.append(loop._thread_id == threading.get_ident())

    assert not loop.is_running()
    assert loop._thread_id is None
    loop.call_soon(look)
    run_once(loop)
    assert seen == [True, True, True]
    assert not loop.is_running()
    assert loop._thread_id is None
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_repr_tells_the_state(loop):
    seen = []
    name = type(loop).__name__
    assert repr(loop).startswith(f"<{name} running=False closed=False debug=False")
    loop.call_soon(lambda: seen.append(repr(loop)))
    run_once(loop)
    assert seen[0].startswith(f"<{name} running=True closed=False debug=False")
    loop.set_debug(True)
    assert "debug=True" in repr(loop)
    loop.set_debug(False)
    loop.close()
    assert repr(loop).startswith(f"<{name} running=False closed=True debug=False")


def call_inside(loop, function):
    """Call function() inside a callback; return the exception it raised, or None."""
    seen = []

    def body():
        try:
            function()
        except Exception as exc:
            seen.append(exc)
        else:
            seen.append(None)

    loop.call_soon(body)
    run_once(loop)
    return seen.pop()


@pytest.mark.parametrize("method", ["run_forever", "run_until_complete"])
def test_nested_run_of_the_same_loop(loop, method):
    args = () if method == "run_forever" else (loop.create_future(),)
    error = call_inside(loop, lambda: getattr(loop, method)(*args))
    assert type(error) is RuntimeError
    assert str(error) == "This event loop is already running"


@pytest.mark.parametrize("method", ["run_forever", "run_until_complete"])
def test_nested_run_of_another_loop(loop, new_loop, method):
    other = new_loop()
    args = () if method == "run_forever" else (other.create_future(),)
    error = call_inside(loop, lambda: getattr(other, method)(*args))
    assert type(error) is RuntimeError
    assert str(error) == "Cannot run the event loop while another loop is running"
    assert not other.is_running()
    assert other.run_until_complete(asyncio.sleep(0, 7)) == 7


#: gh-130145, fixed in 3.13.3: a refused run takes the running loop's state away.
REFUSED_RUN_RESETS = (3, 13, 0) <= sys.version_info < (3, 13, 3)


def test_a_failed_nested_run_leaves_the_outer_one_alone(loop, loop_kind):
    support.oracle_bug(loop_kind, REFUSED_RUN_RESETS, "gh-130145")
    order = []

    def nest():
        with pytest.raises(RuntimeError):
            loop.run_forever()
        order.append(loop.is_running())
        order.append(asyncio.get_running_loop() is loop)
        order.append(loop._thread_id == threading.get_ident())
        loop.call_soon(loop.stop)

    loop.call_soon(nest)
    loop.run_forever()
    assert order == [True, True, True]


def test_run_from_another_thread_while_running(loop, loop_kind):
    support.oracle_bug(loop_kind, REFUSED_RUN_RESETS, "gh-130145")
    seen = []

    def in_thread():
        with pytest.raises(RuntimeError, match="^This event loop is already running$"):
            loop.run_forever()
        seen.append(loop.is_running())
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=in_thread)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert seen == [True]


def test_close_while_running(loop):
    error = call_inside(loop, loop.close)
    assert type(error) is RuntimeError
    assert str(error) == "Cannot close a running event loop"
    assert not loop.is_closed()


def test_run_a_closed_loop(loop):
    future = loop.create_future()
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.run_forever()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.run_until_complete(future)
    assert not loop.is_running()


def test_a_loop_may_move_between_threads(loop):
    seen = []

    async def main():
        seen.append(threading.get_ident())
        await asyncio.sleep(0.001)
        loop.call_soon_threadsafe(seen.append, "called")
        await asyncio.sleep(0.001)

    threads = []
    for _ in range(3):
        threads.append(
            support.run_in_thread(
                lambda: (loop.run_until_complete(main()), threading.get_ident())[1]
            )
        )
    loop.run_until_complete(main())
    threads.append(threading.get_ident())
    assert seen == [item for ident in threads for item in (ident, "called")]


def test_loops_in_several_threads_at_once(new_loop):
    barrier = threading.Barrier(4)

    async def main(number):
        barrier.wait()
        total = 0
        for _ in range(100):
            await asyncio.sleep(0)
            total += await asyncio.sleep(0, number)
            await asyncio.sleep(0.0001)
        return total

    def body(number, loop):
        results[number] = loop.run_until_complete(main(number))

    results = {}
    threads = [threading.Thread(target=body, args=(i, new_loop())) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: i * 100 for i in range(4)}


# --- what a run sets and restores ---------------------------------------------


def test_async_generator_hooks_are_set_for_the_run_only(loop):
    def firstiter(agen):
        pass

    def finalizer(agen):
        pass

    seen = []
    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter, finalizer)
    try:
        loop.call_soon(lambda: seen.append(sys.get_asyncgen_hooks()))
        run_once(loop)
        assert sys.get_asyncgen_hooks() == (firstiter, finalizer)
        with pytest.raises(KeyboardInterrupt):
            loop.call_soon(signal.default_int_handler, 2, None)
            loop.run_forever()
        assert sys.get_asyncgen_hooks() == (firstiter, finalizer)
    finally:
        sys.set_asyncgen_hooks(*before)
    assert seen[0].firstiter == loop._asyncgen_firstiter_hook
    assert seen[0].finalizer == loop._asyncgen_finalizer_hook


def test_coroutine_origins_are_tracked_in_debug_mode_only(loop):
    seen = []

    def look():
        seen.append(sys.get_coroutine_origin_tracking_depth() > 0)

    loop.call_soon(look)
    run_once(loop)
    loop.set_debug(True)
    loop.call_soon(look)
    run_once(loop)
    assert seen == [False, True]
    assert sys.get_coroutine_origin_tracking_depth() == 0


def test_debug_mode_switched_while_running(loop):
    async def main():
        loop.set_debug(True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        seen.append(sys.get_coroutine_origin_tracking_depth() > 0)
        loop.set_debug(False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        seen.append(sys.get_coroutine_origin_tracking_depth() > 0)

    seen = []
    loop.run_until_complete(main())
    assert seen == [True, False]


def test_wakeup_descriptor_is_restored(loop):
    with support.socket_pair() as (left, right):
        before = signal.set_wakeup_fd(left.fileno())
        try:
            loop.run_until_complete(asyncio.sleep(0.001))
            after = signal.set_wakeup_fd(before)
        finally:
            signal.set_wakeup_fd(before)
        assert after == left.fileno()


def test_no_warning_from_an_ordinary_life(loop_kind):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = support.make_loop(loop_kind)
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        del loop
        support.collect()
    assert caught == []


def test_a_loop_that_is_not_closed_warns(loop_kind):
    loop = support.make_loop(loop_kind)
    loop.run_until_complete(asyncio.sleep(0))
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        with pytest.MonkeyPatch.context() as patch:
            # asyncio's __del__ closes its sockets itself, but after the loop's own
            patch.setattr(sys, "unraisablehook", lambda details: None)
            support.collect()
