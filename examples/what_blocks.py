import asyncio
import time


async def charge(order):
    time.sleep(0.5)  # meant: await asyncio.sleep(0.5)


async def handle(order):
    await charge(order)


async def main():
    await asyncio.create_task(handle(42), name="order 42")
    await asyncio.sleep(0.5)  # the rest of the program


asyncio.run(main())
