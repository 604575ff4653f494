"""The scenarios of what tells of a loop: watchdog, metrics, traces, open transports.

See scenarios.py.
"""

import asyncio
import functools
import socket
import sys
import threading
import time

from corners import raises
from scenarios import scenario
from streams import connect
from world import World, until

import pyloop
from pyloop import _core, tasks, watchdog

#: More than a callback may take before it is kept as a slow one.
SLOW = 0.0003

#: A watchdog's threshold.
SOON = 0.004


def busy(*args):
    """Take long, without waiting."""
    end = time.perf_counter() + SLOW
    while time.perf_counter() < end:
        pass


# --- the watchdog ---------------------------------------------------------------


@scenario
def watcher(w: World):
    """A callback that blocks asks about itself; another sees that it has ended."""
    seen = []
    ident = threading.get_ident()
    watcher = _core.Watcher(SOON, 0, 0)

    def blocks():
        ended, number, run, thread, seconds, _ = watcher.next(False)
        seen.append((ended, thread == ident, run == w.loop._run_number))
        seen.append((watcher.goes_on(number), watcher.goes_on(number + 1)))
        assert seconds >= SOON

    def looks():
        seen.append(watcher.next(False)[0])

    w.loop.call_soon(blocks)
    w.loop.call_soon(looks)
    with w.armed():
        w.run_once()
    if seen[0:1] == [(False, True, True)]:
        assert seen[1:] == [(True, False), True]
    else:
        w.check_gave_up()
        assert not seen


@scenario
def watcher_made(w: World):
    called = []
    with w.armed():
        raises(ValueError, _core.Watcher, 0, 0, 0)
        raises(ValueError, _core.Watcher, 1, float("nan"), 0)
        raises(TypeError, _core.Watcher, 1)
        watcher = _core.Watcher(1, 1000, _core.Watcher.free_signal())
        watcher.wake()
        assert watcher.next(True) is None
        assert not watcher.goes_on(0) and not watcher.goes_on(1)
        raises(TypeError, watcher.goes_on, "x")
        raises(TypeError, _core.Watcher.frame, "x")
        assert _core.Watcher.frame(1) is None
        frame = _core.Watcher.frame(threading.get_ident())  # None for want of memory
        assert frame is None or frame is sys._getframe()
        del frame
        _core.Watcher.deferred(functools.partial(called.append, 1))()
        for _ in range(1000):  # where it is called
            if called:
                break
    assert called == [1]


@scenario
def watchdog_started(w: World):
    """Its own thread is not this one: only what starts and ends it fails."""
    told = threading.Event()

    def report(block):
        told.set()

    def blocks():
        assert told.wait(w.hooks.patience)

    before = threading.active_count()
    with w.armed():
        with watchdog.start(SOON, callback=report, rate=1000, gil_threshold=None):
            w.loop.call_soon(blocks)
            w.run_once()
            with watchdog.start(1000) as second:
                repr(second)
            second.stop()
    assert told.is_set() and threading.active_count() == before


# --- metrics --------------------------------------------------------------------


class Called:
    def __call__(self):
        busy()

    def method(self):
        busy()


@scenario
def metrics_of_callbacks(w: World):
    """One slow callback of each kind that is named in its own way."""
    loop = w.loop

    async def step():
        busy()

    async def steps():
        yield busy()

    async def main():
        async for _ in steps():
            break
        await loop.create_task(step())

    for callback in (
        busy,
        Called(),
        Called().method,
        functools.partial(functools.partial(busy, 1), 2),
        functools.partial(time.sleep, SLOW),
    ):
        with w.armed():
            loop.call_soon(callback)
            w.run_once()
            metrics = loop.metrics()
        assert metrics.callbacks > 0 and metrics.busy_seconds > 0
        assert metrics.slowest and metrics.lag.max > SLOW
    with w.armed():
        w.run(main())
        loop.metrics()
    assert len(loop.metrics().slowest) > 1


@scenario
def metrics_of_transports(w: World):
    left, right = w.pair()
    protocol = connect(w, left)
    loop = w.loop

    def data_received(data):
        busy()
        protocol.data += data

    protocol.data_received = data_received

    async def main():
        right.send(b"abc")
        await until(lambda: len(protocol.data) == 3 or protocol.lost)
        assert await loop.run_in_executor(None, int) == 0
        return loop.metrics()

    with w.armed():
        metrics = w.run(main())
    assert metrics.bytes_in == 3 and metrics.executor_jobs == 1 and metrics.slowest


# --- traces, and what is open ------------------------------------------------------


@scenario
def traced(w: World):
    loop = w.loop
    asked = []

    def about_to_block():
        asked.append(loop)
        loop.call_soon(loop.stop)

    async def child():
        await asyncio.sleep(0)

    loop._about_to_block = about_to_block
    for dog in w.dogs:
        dog.cancel()  # a timer is a reason not to be asked
    depth = sys.get_coroutine_origin_tracking_depth()
    tasks.trace_deadlocks()
    try:
        with w.armed():
            task = loop.create_task(child())
            loop.run_until_complete(task)
            loop.run_forever()
            _core.trace(False, False)
            raises(TypeError, _core.trace, True)
    finally:
        tasks.trace_deadlocks(False)
        sys.set_coroutine_origin_tracking_depth(depth)
        del loop._about_to_block
    assert asked == [loop]


@scenario
def opened(w: World):
    left, _ = w.pair()
    datagrams = w.close_later(socket.socket(type=socket.SOCK_DGRAM))
    datagrams.setblocking(False)
    datagrams.bind(("127.0.0.1", 0))
    loop = w.loop
    loop.set_debug(True)

    connect(w, left)

    async def main():
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, sock=datagrams
        )
        w.transports.append(transport)
        server = w.close_later(
            await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        )
        texts = list(map(str, pyloop.open_transports(loop)))
        server.close()
        return texts

    with w.armed():
        texts = w.run(main())
    assert len(texts) == 3 and all(" created at " in text for text in texts)


@scenario
def referrers(w: World):
    objects = [[number] for number in range(100)]
    holders = [(item, number) for number, item in enumerate(objects)]
    with w.armed():
        found = _core.referrers(objects)
        raises(TypeError, _core.referrers, holders[0])
    ids = set(map(id, found))
    assert all(id(holder) in ids for holder in [objects, *holders])
