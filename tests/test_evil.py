"""Objects that do, at the worst moment, what they should not."""

import asyncio
import contextlib
import functools
import gc
import random
import signal
import sys
import weakref

import pytest
import support
from support import run_once


class AtDeath:
    """Calls a function when it is freed."""

    def __init__(self, function, *args):
        self.function = function
        self.args = args

    def __call__(self, *args):
        """As a callback it does nothing."""

    def __del__(self):
        self.function(*self.args)


# --- finalizers ---------------------------------------------------------------


def test_a_callback_whose_death_schedules(loop):
    order = []
    loop.call_soon(AtDeath(loop.call_soon, order.append, "scheduled"))
    run_once(loop)
    run_once(loop)
    assert order == ["scheduled"]


def test_deaths_that_schedule_deaths(loop):
    count = 0

    def again(left):
        nonlocal count
        count += 1
        if left:
            loop.call_soon(AtDeath(again, left - 1))

    again(500)
    support.run_until(loop, lambda: count == 501)


def test_a_cancel_that_kills_what_cancels_others(loop):
    handles = []
    for i in range(200):
        handles.append(
            loop.call_later(1000 + i, AtDeath(lambda: [h.cancel() for h in handles]))
        )
    handles[100].cancel()
    assert all(handle.cancelled() for handle in handles)
    run_once(loop)
    assert len(loop._scheduled) == 0


def test_a_cancel_that_grows_the_heap(loop):
    """The heap's storage moves while an element of it is being dropped."""
    doomed = [
        loop.call_later(
            1000 + i, AtDeath(lambda: [loop.call_later(2000, int) for _ in range(50)])
        )
        for i in range(50)
    ]
    random.Random(1).shuffle(doomed)
    for handle in doomed:
        handle.cancel()
    support.spin(loop)
    assert sum(not handle.cancelled() for handle in loop._scheduled) == 2500


def test_a_callback_that_grows_the_queue(loop):
    count = [0]

    def burst():
        for _ in range(5000):
            loop.call_soon(tick)

    def tick():
        count[0] += 1

    for _ in range(3):
        loop.call_soon(burst)
    run_once(loop)
    run_once(loop)
    assert count[0] == 15_000


def test_the_collector_in_every_callback(loop):
    order = []

    def callback(i):
        cycle = [i]
        cycle.append(cycle)
        del cycle
        gc.collect()
        order.append(i)

    for i in range(20):
        loop.call_soon(callback, i)
        loop.call_at(i - 100, callback, 100 + i)
        loop.call_soon_threadsafe(callback, 200 + i)
    support.spin(loop, 2)
    assert sorted(order) == [*range(20), *range(100, 120), *range(200, 220)]


def test_the_collector_at_every_allocation(loop):
    """With a threshold of one, collections come in the middle of everything."""
    before = gc.get_threshold()
    order = []

    async def main():
        for i in range(20):
            await asyncio.sleep(0)
            loop.call_soon(order.append, i)
            loop.call_later(0, order.append, i)
            await asyncio.gather(asyncio.sleep(0.0001), asyncio.sleep(0))

    gc.set_threshold(1, 1, 1)
    try:
        support.run(loop, main())
    finally:
        gc.set_threshold(*before)
    assert len(order) == 40


CALLS = {
    "call_soon": lambda loop, sock: loop.call_soon(int, 1, 2, 3),
    "call_later": lambda loop, sock: loop.call_later(1000, int, 1),
    "call_soon_threadsafe": lambda loop, sock: loop.call_soon_threadsafe(int),
    "add_reader": lambda loop, sock: loop.add_reader(sock, int),
    "create_future": lambda loop, sock: loop.create_future(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_collection_that_closes_the_loop_in_the_middle_of_a_call(new_loop, call):
    """Until 3.11 an allocation may collect, so run code: here it closes the loop."""

    class Closer:
        def __init__(self, loop):
            self.loop = loop
            self.cycle = self

        def __del__(self):
            self.loop.close()

    before = gc.get_threshold()
    with support.socket_pair() as (left, _):
        for count in range(10):
            loop = new_loop()
            gc.collect()
            gc.disable()
            gc.set_threshold(1, 1000, 1000)
            Closer(loop)
            try:
                # the collection comes at one allocation of these calls or another
                gc.enable()
                for _ in range(count):
                    call(loop, left)
                call(loop, left)
            except RuntimeError as exc:
                assert str(exc) == "Event loop is closed"
            finally:
                gc.set_threshold(*before)
            gc.collect()
            assert loop.is_closed()


class ClosingFileno:
    """Asked for its number, it closes the loop first."""

    def __init__(self, loop, sock):
        self.loop, self.sock = loop, sock

    def fileno(self):
        self.loop.close()
        return self.sock.fileno()


class ClosingDelay:
    """Made a number of, or added to the time, it closes the loop first."""

    def __init__(self, loop):
        self.loop = loop

    def __radd__(self, other):
        return other + float(self)

    def __float__(self):
        self.loop.close()
        return 1.0


def replace_a_reader(loop, sock):
    loop.add_reader(sock, AtDeath(loop.close))
    loop.add_reader(sock, int)


def remove_a_reader(loop, sock):
    loop.add_reader(sock, AtDeath(loop.close))
    loop.add_writer(sock, int)
    loop.remove_reader(sock)
    loop.remove_writer(sock)


def cancel_a_timer(loop, sock):
    handles = [loop.call_later(1000 + i, int) for i in range(10)]
    handles.append(loop.call_later(500, AtDeath(loop.close)))
    handles[-1].cancel()
    handles[3].cancel()


def replace_a_signal_handler(loop, sock):
    loop.add_signal_handler(signal.SIGUSR1, AtDeath(loop.close))
    loop.add_signal_handler(signal.SIGUSR1, int)


def with_a_clock(loop, sock):
    now = loop.time()
    loop.time = lambda: loop.close() or now
    loop.call_later(1, int)


IN_THE_MIDDLE = {
    "add_reader": lambda loop, sock: loop.add_reader(ClosingFileno(loop, sock), int),
    "add_writer": lambda loop, sock: loop.add_writer(ClosingFileno(loop, sock), int),
    "remove_reader": lambda loop, sock: loop.remove_reader(ClosingFileno(loop, sock)),
    "call_later": lambda loop, sock: loop.call_later(ClosingDelay(loop), int),
    "replace a reader": replace_a_reader,
    "remove a reader": remove_a_reader,
    "cancel a timer": cancel_a_timer,
    "replace a signal handler": replace_a_signal_handler,
    "clock": with_a_clock,
}


@pytest.mark.parametrize("act", IN_THE_MIDDLE.values(), ids=IN_THE_MIDDLE.keys())
def test_a_close_in_the_middle_of_a_call(new_loop, act):
    """What the call answers is open; it does not crash, and leaves nothing behind."""
    with support.socket_pair() as (left, _):
        loop = new_loop()
        with contextlib.suppress(RuntimeError, ValueError, KeyError, AttributeError):
            act(loop, left)
        assert loop.is_closed()
        vars(loop).pop("time", None)
        assert len(loop._ready) == 0
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)


def test_the_collector_sees_every_reference(loop):
    """Nothing is visited twice or too little: get_referents is consistent."""
    token = AtDeath(int)
    handle = loop.call_soon(token, 1, token, "x")
    timer = loop.call_later(1000, token)
    assert gc.is_tracked(handle)
    assert gc.is_tracked(timer)
    assert gc.is_tracked(loop)
    assert any(referent is token for referent in gc.get_referents(timer))
    support.spin(loop)
    timer.cancel()
    assert not any(referent is token for referent in gc.get_referents(timer))


def test_a_loop_in_a_cycle_with_its_callbacks(loop_kind):
    def make():
        loop = support.make_loop(loop_kind)
        loop.myself = loop
        loop.call_later(1000, lambda: loop)
        loop.call_soon(functools.partial(print, loop))
        loop.set_exception_handler(lambda the_loop, context: loop)
        loop.close()
        return weakref.ref(loop)

    watch = make()
    support.collect()
    assert watch() is None


def test_a_finalizer_that_raises(loop):
    with pytest.MonkeyPatch.context() as patch:
        unraisable = []
        patch.setattr(sys, "unraisablehook", lambda d: unraisable.append(d.exc_type))
        order = []
        loop.call_soon(AtDeath(lambda: 1 / 0))
        loop.call_soon(order.append, "next")
        run_once(loop)
        loop.call_later(1000, AtDeath(lambda: 1 / 0)).cancel()
    assert order == ["next"]
    assert unraisable == [ZeroDivisionError] * 2


# --- callbacks ----------------------------------------------------------------


def test_a_callback_that_cancels_the_whole_batch(loop):
    handles = []
    loop.call_soon(lambda: [handle.cancel() for handle in handles])
    handles += [loop.call_soon(pytest.fail) for _ in range(100)]
    handles += [loop.call_at(0, pytest.fail) for _ in range(100)]
    handles += [loop.call_soon_threadsafe(pytest.fail) for _ in range(100)]
    support.spin(loop, 3)


def test_a_callback_that_drops_the_whole_batch_s_handles(loop):
    order, handles = [], []
    loop.call_soon(handles.clear)
    handles += [loop.call_soon(order.append, i) for i in range(100)]
    run_once(loop)
    assert order == list(range(100))


def test_random_scheduling_and_cancelling(loop):
    """A long random program, checked against a model: what runs, runs once."""
    rng = random.Random(12)
    scheduled, cancelled, ran = set(), set(), []
    handles = {}
    base = loop.time()

    def act(number):
        ran.append(number)
        handles.pop(number, None)
        for _ in range(rng.choice((0, 1, 1, 2))):
            if len(scheduled) < 5000:
                schedule()
        if handles and rng.random() < 0.3:
            victim = rng.choice(list(handles))
            handles.pop(victim).cancel()
            cancelled.add(victim)

    def schedule():
        number = len(scheduled)
        scheduled.add(number)
        kind = rng.randrange(5)
        if kind == 0:
            handles[number] = loop.call_soon(act, number)
        elif kind == 1:
            handles[number] = loop.call_soon_threadsafe(act, number)
        elif kind == 2:
            handles[number] = loop.call_later(rng.random() / 1000, act, number)
        elif kind == 3:
            handles[number] = loop.call_at(base - rng.random(), act, number)
        else:
            handles[number] = loop.call_soon(loop.call_soon, act, number)
            # its cancel comes too late for the inner call, so leave it alone
            del handles[number]

    for _ in range(50):
        schedule()
    support.run_until(loop, lambda: len(ran) + len(cancelled) == len(scheduled))
    assert len(ran) == len(set(ran))
    assert set(ran) | cancelled == scheduled
    assert not set(ran) & cancelled


def test_random_descriptors(loop):
    """Readers and writers come and go at random; only live ones are called."""
    rng = random.Random(5)
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(support.socket_pair()) for _ in range(10)]
        registered = {"reader": set(), "writer": set()}
        calls = [0]

        def called(side, i):
            assert i in registered[side]
            calls[0] += 1
            act()

        def act():
            for _ in range(3):
                i = rng.randrange(10)
                left, right = pairs[i]
                side = rng.choice(("reader", "writer"))
                choice = rng.randrange(4)
                if choice == 0:
                    getattr(loop, f"add_{side}")(left, called, side, i)
                    registered[side].add(i)
                elif choice == 1:
                    removed = getattr(loop, f"remove_{side}")(left)
                    assert removed == (i in registered[side])
                    registered[side].discard(i)
                elif choice == 2:
                    with contextlib.suppress(BlockingIOError):
                        right.send(b"x")
                else:
                    support.drain(left)

        def pump():
            act()
            if calls[0] < 2000:
                loop.call_soon(pump)
            else:
                loop.stop()

        loop.call_soon(pump)
        loop.run_forever()
        for i in range(10):
            assert loop.remove_reader(pairs[i][0]) == (i in registered["reader"])
            assert loop.remove_writer(pairs[i][0]) == (i in registered["writer"])


# --- odd objects in odd places ------------------------------------------------


class EvilEquality:
    """Compares by changing the loop."""

    def __init__(self, loop):
        self.loop = loop

    def __eq__(self, other):
        self.loop.call_later(1000, int).cancel()
        return NotImplemented

    __hash__ = None

    def __call__(self):
        pass


def test_comparisons_that_change_the_loop(loop):
    timers = [loop.call_at(1e9, EvilEquality(loop)) for _ in range(20)]
    assert timers[0] != timers[1]
    assert sorted(timers) == timers
    for timer in timers:
        timer.cancel()


class EvilFloat(float):
    """Its arithmetic runs code."""

    def __radd__(self, other):
        self.loop.call_later(5, int).cancel()
        gc.collect()
        return other + float(self)


def test_delays_that_run_code(loop):
    delay = EvilFloat(0.0)
    delay.loop = loop
    order = []
    loop.call_later(delay, order.append, "fired")
    support.run_until(loop, lambda: order)


def test_a_time_that_schedules(loop):
    """An overridden clock that uses the loop each time it is asked."""

    class Loop(type(loop)):
        asked = 0

        def time(self):
            self.asked += 1
            if self.asked < 1000:
                self.call_soon(int)
            return super().time()

    evil = Loop()
    order = []
    evil.call_later(0.001, order.append, "fired")
    support.run_until(evil, lambda: order)
    evil.close()


def test_a_fileno_that_changes_the_loop(loop):
    with support.socket_pair() as (left, right):

        class Fileno:
            def fileno(self):
                loop.remove_reader(left.fileno())
                loop.add_writer(left.fileno(), int)
                gc.collect()
                return left.fileno()

        calls = []
        right.send(b"x")
        loop.add_reader(Fileno(), calls.append, "reader")
        run_once(loop)
        assert calls == ["reader"]
        assert loop.remove_reader(left) is True
        loop.remove_writer(left)  # asyncio asks fileno() again after the removal


def test_an_exception_whose_repr_fails(loop, asyncio_log):
    class Broken(Exception):
        def __repr__(self):
            raise ValueError("no repr")

        __str__ = __repr__

    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(context["exception"]))

    def fail():
        raise Broken

    loop.call_soon(fail)
    run_once(loop)
    assert type(seen[0]) is Broken
    del seen[:]


def test_a_callable_that_replaces_its_own_code(loop):
    def callback():
        handle_holder.clear()
        callback.__code__ = (lambda: order.append("second")).__code__

    order, handle_holder = [], []

    def outer():
        order.append("first")
        handle_holder.clear()

    handle_holder.append(loop.call_soon(outer))
    run_once(loop)
    assert order == ["first"]


def test_deep_recursion_into_the_loop(loop):
    """A callback at the bottom of the stack: RecursionError, and nothing worse."""

    def dive():
        try:
            dive()
        except RecursionError:
            with contextlib.suppress(RecursionError):
                loop.call_soon(order.append, "from the bottom")
            raise

    order = []
    with support.ErrorRecorder(loop) as errors:
        loop.call_soon(dive)
        support.spin(loop, 2)
        assert isinstance(errors.only()["exception"], RecursionError)
    loop.call_soon(order.append, "fine")
    run_once(loop)
    assert order[-1] == "fine"
