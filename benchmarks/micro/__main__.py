"""Measure one row on one loop in this process, and print the figure as JSON.

    python benchmarks/micro LOOP ROW --seconds S    operations per second
    python benchmarks/micro LOOP ROW --count N      just do N, print nothing

``--count`` is for tools that count instructions from outside.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

# Run as a directory, so sys.path[0] is this package: its parent is wanted instead.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import loops  # noqa: E402

from micro.registry import Row, load_rows  # noqa: E402

#: A measurement is cut into this many slices and the best one counts: whatever
#: disturbs a slice (another process, the frequency of the core) only slows it.
SLICES = 3


def timed(loop_name: str, row: Row, n: int) -> tuple[int, float]:
    """Run *row* for *n* operations on a new loop; (operations, seconds)."""
    clock = time.perf_counter if row.waits else time.process_time
    loop = loops.new_event_loop(loop_name)
    try:
        start = clock()
        done = row.workload(loop, n)
        return done, clock() - start
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def operations_per_second(loop_name: str, row: Row, seconds: float) -> float:
    """The best rate of SLICES slices that share *seconds* between them."""
    slice_seconds = seconds / SLICES
    n = 1000
    while True:
        # Finding n warms up as well: caches, free lists, the specialising interpreter.
        done, elapsed = timed(loop_name, row, n)
        if elapsed >= slice_seconds / 4:
            break
        n *= 4
    n = max(1, int(n * slice_seconds / elapsed))
    rates = []
    for _ in range(SLICES):
        done, elapsed = timed(loop_name, row, n)
        rates.append(done / elapsed)
    return max(rates)


def lateness(loop_name: str, row: Row, seconds: float) -> float:
    """The figure that *row* returns by itself, in its own unit."""
    loop = loops.new_event_loop(loop_name)
    try:
        return row.workload(loop, max(20, int(seconds * 100)))
    finally:
        loop.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("loop", choices=list(loops.LOOPS))
    parser.add_argument("row", choices=list(load_rows()))
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--count", type=int)
    args = parser.parse_args()
    row = load_rows()[args.row]
    if args.count is not None:
        timed(args.loop, row, args.count)
        return
    measure = operations_per_second if row.unit == "ops/s" else lateness
    print(json.dumps({"figure": measure(args.loop, row, args.seconds)}))


if __name__ == "__main__":
    main()
