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


@row("gather_sleep", "gather of 1000 sleep(0.001)", waits=True)
def gather_sleep(loop: asyncio.AbstractEventLoop, n: int) -> int:
    rounds = -(-n // BATCH)

    async def main() -> None:
        for _ in range(rounds):
            await asyncio.gather(*[asyncio.sleep(0.001) for _ in range(BATCH)])

    loop.run_until_complete(main())
    return rounds * BATCH
