"""A consumer waits for one more item than its producer makes."""

import asyncio


async def consume(queue, count):
    for _ in range(count):
        await queue.get()  # culprit


async def main():
    queue = asyncio.Queue()
    consumer = asyncio.create_task(consume(queue, 3), name="consumer")
    for item in range(2):
        await queue.put(item)
    await consumer


asyncio.run(main())
