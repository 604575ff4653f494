"""The two workers take the ladder first, and the scales second."""

import asyncio


async def fetch(ladder, scales):
    async with ladder:
        await asyncio.sleep(0.01)  # climbs
        async with scales:
            print("fetched and weighed")


async def check(ladder, scales):
    async with ladder:
        await asyncio.sleep(0.01)  # reads
        async with scales:
            print("checked")


async def main():
    ladder, scales = asyncio.Lock(), asyncio.Lock()
    fetching = asyncio.create_task(fetch(ladder, scales), name="fetching")
    checking = asyncio.create_task(check(ladder, scales), name="checking")
    await fetching
    await checking


asyncio.run(main())
