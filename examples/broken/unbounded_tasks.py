"""Tasks are made as fast as requests come, and the peer is slow."""

import asyncio


async def handle(request):
    await asyncio.sleep(60)
    return request


async def main():
    tasks = set()
    for request in range(10_500):
        tasks.add(asyncio.create_task(handle(request)))  # culprit
    await asyncio.sleep(0)


asyncio.run(main())
