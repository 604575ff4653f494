"""Two tasks take two locks in different orders, and each waits for the other."""

import asyncio


async def transfer(first, second):
    async with first:
        await asyncio.sleep(0.01)
        async with second:  # culprit
            pass


async def main():
    checking, savings = asyncio.Lock(), asyncio.Lock()
    there = asyncio.create_task(transfer(checking, savings), name="there")
    back = asyncio.create_task(transfer(savings, checking), name="back")
    await asyncio.gather(there, back)


asyncio.run(main())
