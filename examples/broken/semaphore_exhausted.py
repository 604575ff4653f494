"""A permit is taken by acquire() and not given back when an exception comes between."""

import asyncio


async def fetch(limit, number):
    await limit.acquire()  # culprit
    if number < 2:
        raise ConnectionError("the peer has gone")
    limit.release()


async def main():
    limit = asyncio.Semaphore(2)
    tasks = [
        asyncio.create_task(fetch(limit, number), name=f"fetch-{number}")
        for number in range(4)
    ]
    await asyncio.gather(*tasks, return_exceptions=True)


asyncio.run(main())
