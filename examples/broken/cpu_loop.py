"""A task computes for long, and a clock that should tick meanwhile does not."""

import asyncio
import time


async def tick():
    while True:
        print("tick")
        await asyncio.sleep(0.05)


async def compute():
    end = time.monotonic() + 0.5
    return sum(1 for _ in iter(lambda: time.monotonic() < end, False))  # culprit


async def main():
    clock = asyncio.create_task(tick(), name="clock")
    await asyncio.create_task(compute(), name="compute")
    clock.cancel()


asyncio.run(main())
