"""How late asyncio.sleep returns.  A negative figure is a timer that fired early."""

from __future__ import annotations

import asyncio
import statistics
import time

from micro.registry import row


def median_lateness(loop: asyncio.AbstractEventLoop, delay: float, n: int) -> float:
    """The median lateness in microseconds of *n* times ``sleep(delay)``, in seconds."""

    async def main() -> list[float]:
        late = []
        for _ in range(n):
            start = time.perf_counter()
            await asyncio.sleep(delay)
            late.append(time.perf_counter() - start - delay)
        return late

    return statistics.median(loop.run_until_complete(main())) * 1e6


def add_row(milliseconds: float) -> None:
    @row(
        f"sleep_{milliseconds}ms",
        f"sleep({milliseconds} ms), median lateness",
        "us late",
    )
    def sleep(loop: asyncio.AbstractEventLoop, n: int) -> float:
        return median_lateness(loop, milliseconds / 1000, n)


for _milliseconds in (0.1, 0.3, 1, 2.5, 10):
    add_row(_milliseconds)
