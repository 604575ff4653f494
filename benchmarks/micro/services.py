"""Clients of a service in another process: what a round trip costs the client's CPU.

The service is on another core (see outside.py).
"""

from __future__ import annotations

import asyncio

from micro import registry
from micro.registry import row

#: Fetches that are under way at once.
WORKERS = 20


@row(
    "fetch",
    "aiohttp client, 20 fetches at once from a server in C",
    service="answer",
    needs=("aiohttp",),
)
def fetch(loop: asyncio.AbstractEventLoop, n: int) -> int:
    import aiohttp

    each = -(-n // WORKERS)
    url = f"http://127.0.0.1:{registry.service_port}/"

    async def work(session: aiohttp.ClientSession) -> None:
        for _ in range(each):
            async with session.get(url) as response:
                await response.read()

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*[work(session) for _ in range(WORKERS)])

    loop.run_until_complete(main())
    return each * WORKERS


@row(
    "redis", "redis, GET of 100 bytes, one at a time", service="redis", needs=("redis",)
)
def redis(loop: asyncio.AbstractEventLoop, n: int) -> int:
    from redis.asyncio import Redis

    async def main() -> None:
        async with Redis(host="127.0.0.1", port=registry.service_port) as client:
            await client.set("key", b"x" * 100)
            for _ in range(n):
                await client.get("key")

    loop.run_until_complete(main())
    return n


@row(
    "asyncpg",
    "asyncpg, select of one number, one at a time",
    service="postgres",
    needs=("asyncpg",),
)
def postgres(loop: asyncio.AbstractEventLoop, n: int) -> int:
    import asyncpg

    async def main() -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=registry.service_port,
            user="bench",
            database="postgres",
        )
        for _ in range(n):
            await connection.fetchval("select 1")
        await connection.close()

    loop.run_until_complete(main())
    return n
