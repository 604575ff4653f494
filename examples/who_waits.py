"""Two transfers wait for each other, and a third task asks why."""

import asyncio

import pyloop
from pyloop import tasks


async def transfer(first, second):
    async with first:
        await asyncio.sleep(0)
        async with second:
            pass


async def main():
    checking, savings = asyncio.Lock(), asyncio.Lock()
    there = asyncio.create_task(transfer(checking, savings), name="there")
    back = asyncio.create_task(transfer(savings, checking), name="back")
    await asyncio.sleep(0.01)
    print(tasks.tree().format())
    for deadlock in tasks.find_deadlocks():
        print(deadlock.format())
    there.cancel()
    back.cancel()
    await asyncio.wait([there, back])


pyloop.run(main())
