"""A worker takes its own cancellation for an error of one job, and goes on."""

import asyncio
import contextlib


async def work(jobs):
    for _attempt in range(2):
        with contextlib.suppress(asyncio.CancelledError):
            await jobs.get()  # culprit


async def main():
    worker = asyncio.create_task(work(asyncio.Queue()), name="worker")
    await asyncio.sleep(0.01)
    worker.cancel()
    await asyncio.wait([worker])


asyncio.run(main())
