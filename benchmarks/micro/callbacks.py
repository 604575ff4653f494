"""call_soon in its two extremes: a tick per callback, and many per tick."""

from __future__ import annotations

import asyncio

from micro.registry import row

BATCH = 1000


def noop(*args: object) -> None:
    pass


def in_batches(loop: asyncio.AbstractEventLoop, n: int, batch) -> int:
    """Call *batch* (which accounts for BATCH operations) in ticks of its own."""
    ticks = -(-n // BATCH)
    left = ticks

    def tick() -> None:
        nonlocal left
        left -= 1
        if left:
            batch()
            loop.call_soon(tick)
        else:
            batch()
            loop.call_soon(loop.stop)

    loop.call_soon(tick)
    loop.run_forever()
    return ticks * BATCH


@row("call_soon_one", "call_soon, one per tick")
def call_soon_one(loop: asyncio.AbstractEventLoop, n: int) -> int:
    left = n

    def tick() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(tick)
        else:
            loop.stop()

    loop.call_soon(tick)
    loop.run_forever()
    return n


@row("call_soon_batch", "call_soon, 1000 per tick")
def call_soon_batch(loop: asyncio.AbstractEventLoop, n: int) -> int:
    def batch() -> None:
        call_soon = loop.call_soon
        for _ in range(BATCH):
            call_soon(noop)

    return in_batches(loop, n, batch)


@row("call_soon_args", "call_soon with 2 arguments, 1000 per tick")
def call_soon_args(loop: asyncio.AbstractEventLoop, n: int) -> int:
    def batch() -> None:
        call_soon = loop.call_soon
        for _ in range(BATCH):
            call_soon(noop, 1, 2)

    return in_batches(loop, n, batch)


@row("call_soon_threadsafe", "call_soon_threadsafe, 1000 per tick")
def call_soon_threadsafe(loop: asyncio.AbstractEventLoop, n: int) -> int:
    def batch() -> None:
        call_soon_threadsafe = loop.call_soon_threadsafe
        for _ in range(BATCH):
            call_soon_threadsafe(noop)

    return in_batches(loop, n, batch)
