"""A coroutine is made and not awaited: nothing of it runs."""

import asyncio


async def save(record):
    await asyncio.sleep(0)
    print("saved", record)


async def main():
    record = {"id": 1}
    saving = save(record)  # culprit
    await asyncio.sleep(0)
    del saving


asyncio.run(main())
