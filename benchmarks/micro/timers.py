"""Timers that are cancelled, as time-outs are, and timers that fire."""

from __future__ import annotations

import asyncio

from micro.callbacks import BATCH, in_batches, noop
from micro.registry import row


@row("call_later_cancel", "call_later(10) then cancel, 1000 per tick")
def call_later_cancel(loop: asyncio.AbstractEventLoop, n: int) -> int:
    def batch() -> None:
        call_later = loop.call_later
        for _ in range(BATCH):
            call_later(10, noop).cancel()

    return in_batches(loop, n, batch)


def add_outstanding_row(count: int) -> None:
    """A timer that is armed and cancelled while *count* others wait."""

    def prepare(loop: asyncio.AbstractEventLoop) -> None:
        # Spread, and in an order that is no order, as time-outs of real programs are.
        for number in range(count):
            loop.call_later(3600 + number * 7919 % count / 100, noop)

    @row(
        f"timers_{count}",
        f"call_later then cancel, {count:,} timers outstanding",
        prepare=prepare,
    )
    def outstanding(loop: asyncio.AbstractEventLoop, n: int) -> int:
        def batch() -> None:
            call_later = loop.call_later
            for number in range(BATCH):
                call_later(3600 + number * 7, noop).cancel()

        return in_batches(loop, n, batch)


for _count in (1000, 10_000, 100_000, 1_000_000):
    add_outstanding_row(_count)


@row("gather_sleep", "gather of 1000 sleep(0.001)", waits=True, accelerates=True)
def gather_sleep(loop: asyncio.AbstractEventLoop, n: int) -> int:
    rounds = -(-n // BATCH)

    async def main() -> None:
        for _ in range(rounds):
            await asyncio.gather(*[asyncio.sleep(0.001) for _ in range(BATCH)])

    loop.run_until_complete(main())
    return rounds * BATCH
