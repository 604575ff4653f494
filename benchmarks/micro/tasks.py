"""Tasks, futures and what asyncio builds of them."""

from __future__ import annotations

import asyncio

from micro.registry import row

TASKS = 100


@row("sleep0_one", "sleep(0) in one task", accelerates=True)
def sleep0_one(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def main() -> None:
        for _ in range(n):
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    return n


@row("sleep0_100", "sleep(0) in 100 tasks", accelerates=True)
def sleep0_100(loop: asyncio.AbstractEventLoop, n: int) -> int:
    each = -(-n // TASKS)

    async def worker() -> None:
        for _ in range(each):
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*[worker() for _ in range(TASKS)])

    loop.run_until_complete(main())
    return each * TASKS


@row("create_task", "await create_task(noop)")
def create_task(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def noop() -> None:
        pass

    async def main() -> None:
        for _ in range(n):
            await loop.create_task(noop())

    loop.run_until_complete(main())
    return n


@row("wait_for", "wait_for(sleep(0), 10)", accelerates=True)
def wait_for(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def main() -> None:
        for _ in range(n):
            await asyncio.wait_for(asyncio.sleep(0), 10)

    loop.run_until_complete(main())
    return n


@row(
    "timeout",
    "async with timeout(10): sleep(0)",
    accelerates=True,
    needs=("asyncio.timeouts",),
)
def timeout(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def main() -> None:
        for _ in range(n):
            async with asyncio.timeout(10):
                await asyncio.sleep(0)

    loop.run_until_complete(main())
    return n


@row("queue", "Queue(1), producer and consumer", accelerates=True)
def queue(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def main() -> None:
        channel: asyncio.Queue[int] = asyncio.Queue(1)

        async def produce() -> None:
            for item in range(n):
                await channel.put(item)

        producer = loop.create_task(produce())
        for _ in range(n):
            await channel.get()
        await producer

    loop.run_until_complete(main())
    return n


@row("future", "future resolved by call_soon, awaited")
def future(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def main() -> None:
        for _ in range(n):
            waiter = loop.create_future()
            loop.call_soon(waiter.set_result, None)
            await waiter

    loop.run_until_complete(main())
    return n
