"""call_later, call_at and time: order, odd numbers, cancellation, many timers."""

import asyncio
import fractions
import gc
import math
import random
import sys
import time
import weakref

import pytest
import support
from support import run_once


def target(*args):
    """A callback."""


class Token:
    """Something a weak reference can point at."""


# --- the clock ----------------------------------------------------------------


def test_time_is_the_monotonic_clock(loop):
    before = time.monotonic()
    now = loop.time()
    assert before <= now <= time.monotonic()
    assert isinstance(now, float)


def test_time_goes_on_inside_a_callback(loop):
    seen = []

    def block():
        seen.append(loop.time())
        start = time.monotonic()
        while time.monotonic() == start:
            pass
        before = time.monotonic()
        seen.append(loop.time())
        assert before <= seen[1] <= time.monotonic()

    loop.call_soon(block)
    run_once(loop)
    assert seen[0] < seen[1]


def test_time_of_a_loop_that_never_ran_or_is_closed(loop):
    before = loop.time()
    loop.close()
    assert loop.time() >= before


def test_time_takes_no_arguments(loop):
    with pytest.raises(TypeError):
        loop.time(1)


def test_clock_resolution(loop):
    assert loop._clock_resolution == time.get_clock_info("monotonic").resolution


# --- never early --------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, 1e-9, 1e-6, 0.0001, 0.0003, 0.001, 0.0025, 0.01])
def test_a_timer_is_never_early(loop, delay):
    late = []

    def fire(when):
        late.append(loop.time() + loop._clock_resolution - when)
        loop.stop()

    for _ in range(20):
        when = loop.time() + delay
        loop.call_at(when, fire, when)
        loop.run_forever()
    assert min(late) >= 0


@pytest.mark.parametrize("delay", [0.0003, 0.0017])
def test_sleep_is_never_short(loop, delay):
    async def main():
        for _ in range(20):
            start = loop.time()
            await asyncio.sleep(delay)
            assert loop.time() + loop._clock_resolution >= start + delay

    loop.run_until_complete(main())


def test_a_blocked_loop_does_not_make_timers_early(loop):
    """A loop that keeps the time of its last poll would count the delay from there."""
    late = []

    def fire(when):
        late.append(loop.time() + loop._clock_resolution - when)
        loop.stop()

    def block_then_schedule():
        support.busy_wait(0.02)
        when = loop.time() + 0.005
        loop.call_later(0.005, fire, when)

    loop.call_soon(block_then_schedule)
    loop.run_forever()
    assert late[0] >= 0


# --- order --------------------------------------------------------------------


def test_earlier_deadlines_first(loop):
    base = loop.time() - 10
    order = []
    for offset in (5, 1, 4, 2, 3):
        loop.call_at(base + offset, order.append, offset)
    run_once(loop)
    assert order == [1, 2, 3, 4, 5]


def test_earlier_deadlines_first_when_waited_for(loop):
    base = loop.time()
    order = []
    offsets = [i / 2000 for i in range(30)]
    shuffled = offsets[:]
    random.Random(7).shuffle(shuffled)
    for offset in shuffled:
        loop.call_at(base + offset, order.append, offset)
    support.run_until(loop, lambda: len(order) == 30)
    assert order == offsets


@pytest.mark.pyloop_only
def test_equal_deadlines_in_the_order_they_were_made(loop):
    when = loop.time() - 1
    order = []
    for i in range(1000):
        loop.call_at(when, order.append, i)
    run_once(loop)
    assert order == list(range(1000))


@pytest.mark.pyloop_only
def test_equal_deadlines_keep_their_order_beside_cancelled_ones(loop):
    when = loop.time() - 1
    order = []
    handles = [loop.call_at(when, order.append, i) for i in range(1000)]
    for i in range(0, 1000, 3):
        handles[i].cancel()
    run_once(loop)
    assert order == [i for i in range(1000) if i % 3]


def test_equal_deadlines_all_run_in_one_iteration(loop):
    when = loop.time() - 1
    order = []
    for i in range(100):
        loop.call_at(when, order.append, i)
    run_once(loop)
    assert sorted(order) == list(range(100))


# --- numbers ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["call_later", "call_at"])
def test_none_is_refused(loop, method):
    if sys.version_info >= (3, 11):
        name = {"call_later": "delay must not", "call_at": "when cannot"}[method]
        with pytest.raises(TypeError, match=f"^{name} be None$"):
            getattr(loop, method)(None, target)
    else:
        with pytest.raises((TypeError, AssertionError)):
            getattr(loop, method)(None, target)


@pytest.mark.parametrize("delay", ["1", b"1", [], {}, 1j], ids=repr)
def test_not_a_number_is_refused(loop, delay):
    with pytest.raises(TypeError):
        loop.call_later(delay, target)
        run_once(loop)  # asyncio notices a complex number only when it compares it
    loop.close()


class FloatLike:
    """What numpy's scalars are like: a number by its operators only."""

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return f"FloatLike({self.value})"

    def __radd__(self, other):
        return other + self.value

    def __float__(self):
        return self.value


class FloatSubclass(float):
    pass


@pytest.mark.parametrize(
    "delay",
    [
        0,
        0.0,
        -0.0,
        False,
        -1,
        -1.5,
        -1e300,
        -math.inf,
        -(10**30),
        fractions.Fraction(0),
        fractions.Fraction(-1, 3),
        FloatLike(0.0),
        FloatSubclass(-1.0),
        5e-324,
        1e-12,
    ],
    ids=repr,
)
def test_delays_that_are_over_at_once(loop, delay):
    order = []
    loop.call_later(delay, order.append, "fired")
    support.run_until(loop, lambda: order)
    assert order == ["fired"]


@pytest.mark.parametrize(
    "delay",
    [1000, 1e9, 1e18, 1e300, 10**30, math.inf, fractions.Fraction(10**6, 3)],
    ids=repr,
)
def test_delays_that_are_never_over(loop, delay):
    handle = loop.call_later(delay, pytest.fail)
    assert loop.time() < handle.when() <= loop.time() + delay
    order = []
    loop.call_later(0.001, order.append, "the one after it")
    support.run_until(loop, lambda: order)
    support.spin(loop)
    handle.cancel()


def test_an_infinite_delay_does_not_block_a_wake_up(loop):
    """The wait for it has to be cut to what the kernel can take."""
    handle = loop.call_later(math.inf, pytest.fail)
    loop.call_soon(
        lambda: loop.run_in_executor(None, loop.call_soon_threadsafe, loop.stop)
    )
    loop.run_forever()
    handle.cancel()


def test_an_integer_too_large_for_a_float(loop):
    with pytest.raises(OverflowError):
        loop.call_later(10**400, target)


@pytest.mark.parametrize("method", ["call_later", "call_at"])
def test_not_a_number(loop, loop_kind, method):
    """NaN has no place in an order: asyncio runs such timers at some time or other."""
    if loop_kind == "pyloop":
        with pytest.raises(ValueError, match="NaN"):
            getattr(loop, method)(math.nan, target)
    else:
        getattr(loop, method)(math.nan, target).cancel()


@pytest.mark.parametrize(
    "when", [0, -1, -1e300, -math.inf, 1e-300, fractions.Fraction(1, 3)], ids=repr
)
def test_a_deadline_in_the_past(loop, when):
    order = []
    handle = loop.call_at(when, order.append, "fired")
    assert float(handle.when()) == float(when)
    run_once(loop)
    assert order == ["fired"]


@pytest.mark.parametrize("when", [math.inf, 1e300, 10**25], ids=repr)
def test_a_deadline_that_never_comes(loop, when):
    handle = loop.call_at(when, pytest.fail)
    assert handle.when() == when
    support.spin(loop)
    loop.run_until_complete(asyncio.sleep(0.001))
    handle.cancel()


def test_sleep_of_zero_or_less(loop):
    async def main():
        assert await asyncio.sleep(0, "zero") == "zero"
        assert await asyncio.sleep(-1, "negative") == "negative"
        assert await asyncio.sleep(-math.inf, "negative") == "negative"

    loop.run_until_complete(main())


# --- what callbacks do --------------------------------------------------------


def test_timers_made_in_timers(loop):
    order = []

    def step(left):
        order.append(left)
        if left:
            loop.call_later(0.0001, step, left - 1)
        else:
            loop.stop()

    loop.call_soon(step, 100)
    loop.run_forever()
    assert order == list(range(100, -1, -1))


def test_a_zero_delay_that_renews_itself_starves_nothing(loop):
    counts = {"timer": 0, "soon": 0}

    def timer():
        counts["timer"] += 1
        loop.call_later(0, timer)

    def soon():
        counts["soon"] += 1
        if counts["soon"] == 50 or counts["timer"] > 1000:
            loop.stop()
        else:
            loop.call_soon(soon)

    loop.call_later(0, timer)
    loop.call_soon(soon)
    loop.run_forever()
    assert counts["soon"] == 50
    assert counts["timer"] >= 40


def test_a_timer_made_due_by_a_timer_runs_in_a_later_iteration(loop):
    order = []

    def first():
        order.append("first")
        loop.call_at(loop.time() - 5, order.append, "second")

    loop.call_at(loop.time() - 1, first)
    run_once(loop)
    assert order == ["first"]
    run_once(loop)
    assert order == ["first", "second"]


def test_a_timer_cancelled_by_one_that_is_due_with_it(loop):
    order = []
    base = loop.time() - 1
    loop.call_at(base, lambda: second.cancel())
    second = loop.call_at(base + 0.1, order.append, "cancelled")
    loop.call_at(base + 0.2, order.append, "third")
    run_once(loop)
    assert order == ["third"]


def test_a_callback_that_raises_does_not_stop_the_others(loop):
    order = []
    base = loop.time() - 1

    def fail():
        raise LookupError("in a timer")

    loop.call_at(base, order.append, 1)
    handle = loop.call_at(base + 0.1, fail)
    loop.call_at(base + 0.2, order.append, 2)
    with support.ErrorRecorder(loop) as errors:
        run_once(loop)
        context = errors.only()
        assert context["handle"] is handle
        assert isinstance(context["exception"], LookupError)
    assert order == [1, 2]


def test_timers_run_between_other_callbacks_only_once(loop):
    counts = []
    for _ in range(10):
        loop.call_later(0, counts.append, 1)
    support.spin(loop, 20)
    assert len(counts) == 10


# --- cancellation and many timers ---------------------------------------------


def test_ten_thousand_timers_and_random_cancels(loop):
    rng = random.Random(20)
    base = loop.time()
    fired = []
    handles = {}
    for i in range(10_000):
        when = base + rng.random() * 0.1 - 0.02
        handles[i] = loop.call_at(when, lambda i=i: fired.append(i))
    cancelled = set(rng.sample(range(10_000), 4_000))
    early, late = set(), set()
    for i in cancelled:
        (early if i % 2 else late).add(i)
    for i in early:
        handles[i].cancel()

    def cancel_late():
        for i in late:
            handles[i].cancel()

    fired_before = []
    loop.call_at(base + 0.03, cancel_late)
    loop.call_at(base + 0.03, lambda: fired_before.extend(fired))
    support.run_until(loop, lambda: loop.time() > base + 0.09)
    assert len(set(fired)) == len(fired)
    whens = [handles[i].when() for i in fired]
    assert whens == sorted(whens)
    assert not early & set(fired)
    assert late & set(fired) <= set(fired_before)
    assert set(range(10_000)) - cancelled <= set(fired)


def test_cancelled_timers_do_not_accumulate(loop):
    for _ in range(20):
        for _ in range(1000):
            loop.call_later(1000, target).cancel()
        run_once(loop)
        assert len(loop._scheduled) <= 1000
    run_once(loop)
    assert len(loop._scheduled) == 0


def test_cancelled_timers_among_live_ones_do_not_accumulate(loop):
    live = [loop.call_later(2000 + i, target) for i in range(200)]
    for _ in range(20):
        for i in range(1000):
            loop.call_later(1000 + i, target).cancel()
        run_once(loop)
    run_once(loop)
    assert len(loop._scheduled) <= 500
    assert {id(handle) for handle in live} <= {id(h) for h in loop._scheduled}
    for handle in live:
        handle.cancel()


def test_cancelled_handles_are_freed_by_compaction(loop):
    keep = loop.call_later(1000, target)
    handles = [loop.call_later(2000 + i, target) for i in range(1000)]
    watches = [weakref.ref(handle) for handle in handles]
    for handle in handles:
        handle.cancel()
    del handles, handle
    support.spin(loop, 2)
    gc.collect()
    assert sum(watch() is not None for watch in watches) == 0
    keep.cancel()


def test_a_timer_survives_compaction(loop):
    order = []
    base = loop.time()
    for i in range(50):
        loop.call_at(base + 0.005 + i / 10_000, order.append, i)
    doomed = [loop.call_at(base + 5 + i, target) for i in range(2000)]
    for handle in doomed:
        handle.cancel()
    support.run_until(loop, lambda: len(order) == 50)
    assert order == list(range(50))


def test_compaction_inside_a_callback(loop):
    """Timers cancelled by the thousand, by a timer, while others become due."""
    order = []
    base = loop.time() - 1
    doomed = [loop.call_at(base + 1000 + i, pytest.fail) for i in range(3000)]
    doomed += [loop.call_at(base + 0.5 + i / 10_000, pytest.fail) for i in range(3000)]

    def cancel_all():
        for handle in doomed:
            handle.cancel()
        order.append("cancelled")

    loop.call_at(base, cancel_all)
    loop.call_at(base + 0.9, order.append, "last")
    support.spin(loop, 3)
    assert order == ["cancelled", "last"]
    assert len(loop._scheduled) == 0


def test_cancel_while_the_argument_is_freed(loop):
    """Dropping a timer's argument runs code that cancels and makes more timers."""

    class Chain:
        def __init__(self, left):
            self.left = left

        def __del__(self):
            freed.append(self.left)
            if self.left:
                loop.call_later(1000, target, Chain(self.left - 1)).cancel()

    freed = []
    loop.call_later(1000, target, Chain(50)).cancel()
    run_once(loop)
    assert freed == list(range(50, -1, -1))


def test_close_drops_timers(loop):
    tokens = [Token() for _ in range(10)]
    watches = [weakref.ref(token) for token in tokens]
    for i, token in enumerate(tokens):
        loop.call_later(i * 100, target, token)
    del tokens, token
    loop.close()
    gc.collect()
    assert [watch() for watch in watches] == [None] * 10


@pytest.mark.parametrize("method", ["call_later", "call_at", "call_soon"])
def test_nothing_is_scheduled_on_a_closed_loop(loop, method):
    args = () if method == "call_soon" else (1,)
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        getattr(loop, method)(*args, target)


# --- snapshots ----------------------------------------------------------------


def test_scheduled_shows_the_timers(loop):
    assert len(loop._scheduled) == 0
    handles = [loop.call_later(delay, target) for delay in (300, 100, 200)]
    assert len(loop._scheduled) == 3
    assert sorted(loop._scheduled) == sorted(handles)
    assert min(loop._scheduled) is handles[1]
    assert loop._scheduled[0] is handles[1]  # a heap's first is its least
    assert handles[2] in list(loop._scheduled)
    for handle in handles:
        handle.cancel()
    run_once(loop)
    assert not loop._scheduled


def test_ready_shows_the_callbacks(loop):
    assert len(loop._ready) == 0
    handles = [loop.call_soon(target, i) for i in range(3)]
    assert list(loop._ready) == handles
    assert loop._ready[0] is handles[0]
    assert handles[2] in loop._ready
    run_once(loop)
    assert not loop._ready


# --- what programs build on timers --------------------------------------------


def test_timeouts_that_expire_and_that_do_not(loop):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(60), 0.002)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(60), 0)
        assert await asyncio.wait_for(asyncio.sleep(0.001, "in time"), 60) == "in time"
        event = asyncio.Event()
        done, pending = await asyncio.wait(
            [loop.create_task(event.wait())], timeout=0.001
        )
        assert not done and len(pending) == 1
        event.set()
        await asyncio.wait(pending)

    loop.run_until_complete(main())


def test_many_sleepers_wake_in_order(loop):
    woken = []

    async def sleeper(delay):
        await asyncio.sleep(delay)
        woken.append(delay)

    async def main():
        delays = [i / 10_000 for i in range(200)]
        random.Random(3).shuffle(delays)
        start = loop.time()
        await asyncio.gather(*(sleeper(delay) for delay in delays))
        assert loop.time() - start >= 0.0199

    loop.run_until_complete(main())
    assert len(woken) == 200


def test_a_timer_wakes_an_otherwise_idle_loop(loop):
    """Later timers first: each earlier one has to shorten the wait."""
    base = loop.time()
    order = []
    loop.call_at(base + 1000, pytest.fail)
    loop.call_at(base + 0.03, order.append, 3)
    loop.call_at(base + 0.02, order.append, 2)
    loop.call_at(base + 0.04, loop.stop)
    loop.call_at(base + 0.01, order.append, 1)
    loop.run_forever()
    assert order == [1, 2, 3]


def test_the_first_timer_cancelled_does_not_lose_the_second(loop):
    base = loop.time()
    first = loop.call_at(base + 0.005, pytest.fail)
    loop.call_at(base + 0.01, loop.stop)
    loop.call_soon(first.cancel)
    loop.run_forever()
    assert loop.time() + loop._clock_resolution >= base + 0.01
