"""Measure one row on one loop in this process, and print the figure as JSON.

    python benchmarks/micro LOOP ROW --seconds S    operations per second
    python benchmarks/micro LOOP ROW --count N      just do N, print nothing

``--count`` is for tools that count instructions from outside.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

# Run as a directory, so sys.path[0] is this package: its parent is wanted instead.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import loops  # noqa: E402

from micro import registry  # noqa: E402
from micro.registry import Row, load_rows  # noqa: E402

#: A measurement is cut into this many slices and the best one counts: whatever
#: disturbs a slice (another process, the frequency of the core) only slows it.
SLICES = 3

#: Operations of the first try. Few, because one of a slow row takes milliseconds.
FIRST = 64


@contextlib.contextmanager
def new_loop(name: str) -> Iterator[asyncio.AbstractEventLoop]:
    """The loop called *name*, closed at the end."""
    loop = loops.new_event_loop(name)
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def clocked(loop: asyncio.AbstractEventLoop, row: Row, n: int) -> tuple[int, float]:
    """Run *row* for *n* operations on *loop*; (operations, seconds)."""
    clock = time.perf_counter if row.waits else time.process_time
    start = clock()
    done = row.workload(loop, n)
    return done, clock() - start


def timed(loop_name: str, row: Row, n: int) -> tuple[int, float]:
    """The same on a loop of its own."""
    with new_loop(loop_name) as loop:
        return clocked(loop, row, n)


def operations_per_second(loop_name: str, row: Row, seconds: float) -> float:
    """The best rate of SLICES slices that share *seconds* between them."""
    if row.prepare is None:
        return best_rate(row, partial(timed, loop_name, row), seconds)
    with new_loop(loop_name) as loop:
        row.prepare(loop)
        return best_rate(row, partial(clocked, loop, row), seconds)


def best_rate(
    row: Row, run: Callable[[int], tuple[int, float]], seconds: float
) -> float:
    """As operations_per_second; *run* is given how many operations to do."""
    slice_seconds = seconds / SLICES
    n = FIRST
    while True:
        # Finding n warms up as well: caches, free lists, the specialising interpreter.
        done, elapsed = run(n)
        if elapsed >= slice_seconds / 4:
            break
        n *= 4
    n = max(1, int(done * slice_seconds / elapsed))
    slices = [run(n) for _ in range(SLICES)]
    if row.steady:
        return sum(done for done, _ in slices) / sum(elapsed for _, elapsed in slices)
    return max(done / elapsed for done, elapsed in slices)


def own_figure(loop_name: str, row: Row, seconds: float) -> float:
    """The figure that *row* returns by itself, in its own unit."""
    with new_loop(loop_name) as loop:
        return row.workload(loop, max(20, int(seconds * 100)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("loop", choices=[*loops.LOOPS, *loops.TOOLS])
    parser.add_argument("row", choices=list(load_rows()))
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--count", type=int)
    parser.add_argument("--service", type=int, metavar="PORT", default=0)
    args = parser.parse_args()
    registry.service_port = args.service
    row = load_rows()[args.row]
    if args.count is not None:
        timed(args.loop, row, args.count)
        return
    measure = operations_per_second if row.unit == "ops/s" else own_figure
    print(json.dumps({"figure": measure(args.loop, row, args.seconds)}))


if __name__ == "__main__":
    main()
