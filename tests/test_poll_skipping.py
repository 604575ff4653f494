"""How soon a loop that is never idle looks at descriptors, threads and signals.

asyncio polls in every iteration.  pyloop polls after a number of callbacks
(POLL_CALLBACKS in csrc/loop/run.c, 32) or a span of time (about 50 us), so a ready
descriptor may wait that long; these tests hold it to that.
"""

import asyncio
import functools
import signal
import sys
import threading
import time

import pytest
import streamkit
import support
from support import busy_wait, run_once

#: POLL_CALLBACKS, and what may run between the poll and the descriptor's turn.
CALLBACKS = 32
BOUND = CALLBACKS + 8


class Chain:
    """A callback that renews itself: the loop is never idle while it runs."""

    def __init__(self, loop, work=None):
        self.loop = loop
        self.count = 0
        self.work = work
        self.stopped = False

    def __call__(self):
        self.count += 1
        if self.work is not None:
            self.work()
        if not self.stopped:
            self.loop.call_soon(self)


@pytest.mark.pyloop_only
@pytest.mark.parametrize("chains", [1, 2, 10, 100])
def test_callbacks_between_ready_and_dispatched_are_bounded(loop, chains):
    """Readiness at every phase of the cycle; each time within the bound."""
    with support.socket_pair() as (left, right):
        waits = []
        others = [Chain(loop) for _ in range(chains)]

        def count():
            return sum(chain.count for chain in others)

        def readable():
            left.recv(100)
            waits.append(count() - sent_at[0])
            if len(waits) == 200:
                for chain in others:
                    chain.stopped = True
                loop.stop()
            else:
                again(len(waits) % 37)

        def again(left_to_wait):
            if left_to_wait:
                loop.call_soon(again, left_to_wait - 1)
            else:
                sent_at[0] = count()
                right.send(b"x")

        sent_at = [0]
        loop.add_reader(left, readable)
        for chain in others:
            loop.call_soon(chain)
        again(0)
        loop.run_forever()
        loop.remove_reader(left)
    # whole batches are run between polls, so one more batch may come first
    assert max(waits) <= BOUND + 2 * chains


@pytest.mark.pyloop_only
def test_time_between_ready_and_dispatched_is_bounded(loop):
    """Callbacks that take longer than the span: the next iteration polls."""
    with support.socket_pair() as (left, right):
        waits = []
        chain = Chain(loop, functools.partial(busy_wait, 0.0005))

        def readable():
            left.recv(100)
            waits.append(chain.count - sent_at[0])
            if len(waits) == 20:
                chain.stopped = True
                loop.stop()
            else:
                loop.call_soon(send)

        def send():
            sent_at[0] = chain.count
            right.send(b"x")

        sent_at = [0]
        loop.add_reader(left, readable)
        loop.call_soon(chain)
        loop.call_soon(send)
        loop.run_forever()
        loop.remove_reader(left)
    assert max(waits) <= 2


def order_of_a_descriptor_in_a_chain(loop):
    """What runs after a descriptor has become ready, until it is dispatched."""
    with support.socket_pair() as (left, right):
        order = []

        def link(number):
            order.append(number)
            if number == 5:
                right.send(b"x")
            if number < 200 and "readable" not in order:
                loop.call_soon(link, number + 1)
            else:
                loop.stop()

        loop.add_reader(left, order.append, "readable")
        loop.call_soon(link, 0)
        loop.run_forever()
        loop.remove_reader(left)
    return order[order.index(5) + 1 : order.index("readable")]


def test_debug_mode_polls_in_every_iteration(loop):
    """As asyncio does: one callback, the one already scheduled, comes before."""
    loop.set_debug(True)
    loop.slow_callback_duration = 1000
    assert order_of_a_descriptor_in_a_chain(loop) == [6]
    loop.set_debug(False)


@pytest.mark.pyloop_only
def test_the_switch_polls_in_every_iteration(new_loop, monkeypatch):
    monkeypatch.setenv("PYLOOP_POLL_EVERY_TICK", "1")
    assert order_of_a_descriptor_in_a_chain(new_loop()) == [6]


def test_the_first_iteration_of_a_run_polls(loop):
    with support.socket_pair() as (left, right):
        for _ in range(50):
            seen = []
            right.send(b"x")
            loop.add_reader(left, seen.append, "readable")
            run_once(loop)
            assert seen == ["readable"]
            loop.remove_reader(left)
            left.recv(10)


def test_an_iteration_that_stop_asked_for_polls(loop):
    """stop(), then run_forever(): asyncio's idiom to handle what is ready."""
    with support.socket_pair() as (left, right):
        for _ in range(50):
            seen = []
            right.send(b"x")
            loop.add_reader(left, seen.append, "readable")
            loop.call_soon(int)
            loop.stop()
            loop.run_forever()
            assert seen == ["readable"]
            loop.remove_reader(left)
            left.recv(10)


def test_an_idle_loop_polls(loop):
    with support.socket_pair() as (left, right):
        loop.add_reader(left, loop.stop)
        loop.call_soon(right.send, b"x")
        loop.run_forever()
        loop.remove_reader(left)


def test_two_steps_of_sleep_zero_do_not_keep_a_descriptor_away(loop):
    """A task that spins on sleep(0) for what a reader brings: it comes."""
    with support.socket_pair() as (left, right):
        seen = []
        loop.add_reader(left, seen.append, "readable")

        async def main():
            right.send(b"x")
            spins = 0
            while not seen:
                await asyncio.sleep(0)
                spins += 1
            return spins

        assert loop.run_until_complete(main()) <= BOUND
        loop.remove_reader(left)


async def count_until_the_end(loop, kind, end, phase):
    """How many callbacks run from a transport's end to the eof_received() of its peer.

    Both are on a loop that is never idle; phase: when, in its cycle of polls.
    """
    order = []

    class Noted(asyncio.Protocol):
        def __init__(self, name):
            self.name = name

        def connection_lost(self, exc):
            order.append("closed")
            if self.name == "right":
                ended.set_result(None)

        def eof_received(self):
            order.append("eof")

    def link(number):
        order.append(number)
        if number == phase:
            getattr(left, end)()
            if end == "write_eof":
                order.append("closed")
        if "eof" not in order:
            loop.call_soon(link, number + 1)

    ended = loop.create_future()
    socks = streamkit.socket_pair(kind)
    left, right = [
        (await loop.create_connection(functools.partial(Noted, name), sock=sock))[0]
        for name, sock in zip(("left", "right"), socks, strict=True)
    ]
    loop.call_soon(link, 0)
    await ended
    left.close()
    await streamkit.settle(loop)
    return order.index("eof") - order.index("closed") - 1


@pytest.mark.parametrize(
    "end, callbacks", [("close", 2), ("abort", 2), ("write_eof", 1)]
)
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_the_end_of_a_transport_is_seen_at_once(loop, kind, end, callbacks):
    """In the next iteration, as on asyncio: what was ready before it comes first."""

    async def main():
        for phase in range(40):
            assert await count_until_the_end(loop, kind, end, phase) == callbacks

    support.run(loop, main())


def test_timers_and_threads_are_looked_at_in_every_iteration(loop):
    order = []

    def link(number):
        order.append(number)
        if number % 10 == 5:
            loop.call_at(loop.time() - 1, order.append, "timer")
            support.run_in_thread(loop.call_soon_threadsafe, order.append, "thread")
        if number < 50:
            loop.call_soon(link, number + 1)
        else:
            loop.stop()

    loop.call_soon(link, 0)
    loop.run_forever()
    for number in range(5, 50, 10):
        place = order.index(number)
        after = order[place + 1 : place + 5]
        # asyncio: the link already scheduled, then these; one iteration later at most
        assert {"timer", "thread"} <= set(after), order[place:]


def self_renewing(loop):
    """A callback in C that schedules itself: no Python code runs in the loop at all."""
    renew = functools.partial(loop.call_soon)
    renew.__setstate__((loop.call_soon, (renew,), {}, {}))
    return renew


@pytest.mark.parametrize("interval", [0.001, 0.005, 0.02])
def test_a_loop_busy_in_c_lets_other_threads_run(loop, interval):
    """Nothing gives up the GIL for it, so the loop itself has to."""
    progress = []
    usual = sys.getswitchinterval()
    sys.setswitchinterval(interval)

    def body():
        for i in range(20):
            progress.append(i)
            time.sleep(0)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=body)
    renew = self_renewing(loop)
    loop.call_soon(thread.start)
    loop.call_soon(renew)
    try:
        loop.run_forever()
        thread.join()
    finally:
        sys.setswitchinterval(usual)
    assert progress == list(range(20))
    renew.__setstate__((int, (), {}, {}))


def test_a_loop_busy_in_c_can_be_interrupted(loop):
    busy = threading.Lock()  # one call: Thread.start() can't be interrupted anywhere
    busy.acquire()

    def interrupt(ident):
        busy.acquire()
        signal.pthread_kill(ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt, args=(threading.get_ident(),))
    thread.start()
    renew = self_renewing(loop)
    loop.call_soon(busy.release)
    loop.call_soon(renew)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    thread.join()
    renew.__setstate__((int, (), {}, {}))


def test_a_loop_busy_in_c_handles_signals(loop):
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    thread = threading.Thread(
        target=signal.pthread_kill, args=(threading.get_ident(), signal.SIGUSR1)
    )
    renew = self_renewing(loop)
    loop.call_soon(thread.start)
    loop.call_soon(renew)
    loop.run_forever()
    thread.join()
    loop.remove_signal_handler(signal.SIGUSR1)
    renew.__setstate__((int, (), {}, {}))


def test_a_loop_busy_in_c_dispatches_timers_and_descriptors(loop):
    with support.socket_pair() as (left, right):
        seen = []

        def note(what):
            seen.append(what)
            if what == "reader":
                loop.remove_reader(left)
            if len(seen) == 2:
                loop.stop()

        right.send(b"x")
        loop.add_reader(left, note, "reader")
        loop.call_later(0.01, note, "timer")
        renew = self_renewing(loop)
        loop.call_soon(renew)
        loop.run_forever()
        renew.__setstate__((int, (), {}, {}))
    assert sorted(seen) == ["reader", "timer"]
