"""A task fails, and nobody looks at its result."""

import asyncio


async def notify(address):
    raise LookupError(f"no such address: {address}")


async def main():
    task = asyncio.create_task(notify("nobody"))  # culprit
    await asyncio.sleep(0.01)
    del task


asyncio.run(main())
