"""Every diagnostic while loops in several threads work: what it tells is theirs.

Metrics of several loops are in test_metrics.py, blocks of several in test_watchdog.py.
"""

import asyncio
import contextlib
import importlib.util
import os
import sys
import threading

import pytest
import support
from test_free_threading import in_threads

pyloop = pytest.importorskip("pyloop", reason="the extension is not built")

from pyloop import tasks, watchdog  # noqa: E402

pytestmark = pytest.mark.pyloop_only

HERE = os.path.abspath(__file__)
LOOPS = 3
READINGS = 30


async def child(depth):
    if depth:
        await asyncio.gather(child(depth - 1), child(depth - 1))
    await asyncio.sleep(0)


async def stands(event):
    await event.wait()


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def transports_come_and_go(address):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"x" * 1000)
    await reader.readexactly(1000)
    writer.close()
    await writer.wait_closed()
    near, far = os.pipe()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(asyncio.Protocol, os.fdopen(near, "rb"))
    os.close(far)
    transport.close()
    end, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    end.close()
    await asyncio.sleep(0)


class Working:
    """A loop in a thread of its own: it is busy until the end of the block.

    All the time it has a task named "stands N", and a server.
    """

    def __init__(self, kind, number):
        self.kind = kind
        self.number = number
        self.begun = threading.Event()
        self.over = threading.Event()
        self.turns = 0
        self.thread = threading.Thread(target=self.work, name=f"works {number}")

    def work(self):
        self.loop = support.make_loop(self.kind)
        try:
            self.loop.run_until_complete(self.main())
        finally:
            self.begun.set()
            self.loop.close()

    async def main(self):
        event = asyncio.Event()
        name = f"stands {self.number}"
        standing = self.loop.create_task(stands(event), name=name)
        server = await self.loop.create_server(Echo, "127.0.0.1", 0)
        self.address = server.sockets[0].getsockname()
        await asyncio.sleep(0)
        self.begun.set()
        while not self.over.is_set():
            await asyncio.gather(child(3), transports_come_and_go(self.address))
            other = support.make_loop(self.kind)  # which come and go, too
            other.close()
            self.turns += 1
        event.set()
        await standing
        server.close()
        await server.wait_closed()


@contextlib.contextmanager
def working(kind):
    """So many loops that work; each has done something before the block ends."""
    loops = [Working(kind, number) for number in range(LOOPS)]
    for each in loops:
        each.thread.start()
    try:
        for each in loops:
            assert each.begun.wait(support.PATIENCE)
        yield loops
        turns = [each.turns for each in loops]
        support.wait_for_condition(
            lambda: all(
                each.turns > turn or not each.thread.is_alive()
                for each, turn in zip(loops, turns, strict=True)
            ),
            what="a turn of each loop",
        )
        assert all(each.thread.is_alive() for each in loops)
    finally:
        for each in loops:
            each.over.set()
            each.thread.join()


def line_of(function):
    return function.__code__.co_firstlineno + 1


# A thread that looks at what another one runs just now, without a GIL, may find the
# other's frames half changed: that is the interpreter's, and ends the process.
with_gil = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="without a GIL nobody can look at frames that another thread runs",
)


@with_gil
def test_trees(loop_kind):
    with working(loop_kind) as loops:
        for _ in range(READINGS):
            for each in loops:
                tree = tasks.tree(each.loop)
                names = {node.name: node for node in tree.nodes()}
                assert len(names) == tree.count
                standing = names[f"stands {each.number}"]
                assert standing.state == "waiting"
                assert (standing.place.file, standing.place.line) == (
                    HERE,
                    line_of(stands),
                )
                others = set(names) - {f"stands {each.number}"}
                assert not [name for name in others if name.startswith("stands")]
                assert tree.format()


@with_gil
def test_a_dump_of_all(loop_kind, tmp_path):
    with working(loop_kind):
        for number in range(READINGS):
            path = tmp_path / str(number)
            with open(path, "w") as out:
                tasks.dump(out)
            text = path.read_text()
            for number in range(LOOPS):
                assert text.count(f"stands {number}: stands()") == 1


def test_deadlocks_of_several_threads_at_once(loop_kind):
    found = {}

    async def takes(first, second):
        async with first:
            await asyncio.sleep(0)
            async with second:
                pass

    async def main(number, loop):
        locks = [asyncio.Lock() for _ in range(2)]
        for name, pair in (("a", locks), ("b", locks[::-1])):
            coro = takes(*pair)
            kept.append(loop.create_task(coro, name=f"{name}{number}"))
        for one in range(120):  # more than a few: see _referrers.py
            coro = asyncio.Event().wait()
            kept.append(loop.create_task(coro, name=f"c{number}.{one}"))
        del coro, locks, pair
        for _ in range(4):
            await asyncio.sleep(0)
        for turn in range(5):
            found[number, turn] = tasks.find_deadlocks()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.wait(others)

    def body(number):
        loop = support.make_loop(loop_kind)
        try:
            loop.run_until_complete(main(number, loop))
        finally:
            loop.close()

    kept = []
    in_threads(*[lambda number=number: body(number) for number in range(LOOPS)])
    assert len(found) == 5 * LOOPS
    for (number, _), deadlocks in found.items():
        cycle, *orphans = deadlocks
        names = [node.name for node in cycle.tasks]
        assert cycle.kind == "cycle" and sorted(names) == [f"a{number}", f"b{number}"]
        assert [each.kind for each in orphans] == ["orphan"] * 120
        assert {each.tasks[0].name.partition(".")[0] for each in orphans} == {
            f"c{number}"
        }


def test_open_transports(loop_kind):
    with working(loop_kind) as loops:
        for _ in range(READINGS):
            for each in loops:
                kinds = [one.kind for one in pyloop.open_transports(each.loop)]
                assert kinds.count("server") == 1
                assert set(kinds) <= {"server", "TCP", "UDP", "read pipe"}
            texts = [str(one) for one in pyloop.open_transports()]
            for each in loops:
                host, port = each.address
                listening = f" {host}:{port} age="
                assert any(
                    text.startswith("server ") and listening in text for text in texts
                )


@pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry") is None
    or importlib.util.find_spec("opentelemetry.sdk") is None,
    reason="opentelemetry-sdk is not installed",
)
def test_telemetry(loop_kind):
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from pyloop import telemetry

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    names = [f"loop {number}" for number in range(LOOPS)]

    def collect():
        """{metric: {loop: value}}, of the instruments that have one value."""
        found = {}
        for resource in reader.get_metrics_data().resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    values = found.setdefault(metric.name, {})
                    for point in metric.data.data_points:
                        name = point.attributes["pyloop.loop"]
                        values.setdefault(name, []).append(point.value)
        return found

    with working(loop_kind) as loops:
        handles = [
            telemetry.instrument(each.loop, provider, name=name)
            for each, name in zip(loops, names, strict=True)
        ]
        before = [0] * LOOPS
        for _ in range(READINGS):
            found = collect()
            callbacks = found["pyloop.callbacks"]
            now = [value for name in names for value in callbacks[name]]
            assert len(now) == LOOPS and all(map(int.__le__, before, now))
            assert all(len(found["pyloop.lag"][name]) == 5 for name in names)
            before = now
        handles[0].uninstrument()
        assert set(collect()["pyloop.callbacks"]) == set(names[1:])
        for handle in handles:
            handle.uninstrument()
    provider.shutdown()


def test_a_block_beside_loops_that_work(loop_kind):
    """It is told of the loop that blocks, by where it does."""
    told = threading.Event()
    blocks = []

    def report(block):
        blocks.append(block)
        if block.thread == "blocks" and not block.ended:
            told.set()

    def waits():
        assert told.wait(support.PATIENCE)

    def body():
        loop = support.make_loop(loop_kind)
        loop.call_soon(waits)
        support.run_once(loop)
        loop.close()

    with working(loop_kind), watchdog.start(0.05, callback=report, rate=1e6):
        thread = threading.Thread(target=body, name="blocks")
        thread.start()
        thread.join()
        support.wait_for_condition(
            lambda: any(each.ended and each.thread == "blocks" for each in blocks),
            what="its end",
        )
    begun = [each for each in blocks if each.thread == "blocks" and not each.ended]
    assert len(begun) == 1 and begun[0].task is None
    assert (begun[0].culprit.filename, begun[0].culprit.lineno) == (
        HERE,
        line_of(waits),
    )
