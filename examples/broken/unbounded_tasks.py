"""Tasks are made as fast as requests come, and end ten at a time."""

import asyncio


async def handle(limit):
    async with limit:
        await asyncio.sleep(60)


async def main():
    limit = asyncio.Semaphore(10)
    tasks = set()
    for _ in range(12_000):
        tasks.add(asyncio.create_task(handle(limit)))  # culprit
    await asyncio.sleep(0)


asyncio.run(main())
