"""Work that goes to a thread and comes back."""

from __future__ import annotations

import asyncio

from micro.registry import row


@row("run_in_executor", "run_in_executor(noop)", waits=True)
def run_in_executor(loop: asyncio.AbstractEventLoop, n: int) -> int:
    def noop() -> None:
        pass

    async def main() -> None:
        for _ in range(n):
            await loop.run_in_executor(None, noop)

    loop.run_until_complete(main())
    return n
