"""Work that goes to a thread and comes back."""

from __future__ import annotations

import asyncio
import threading

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


def start_busy_thread(loop: asyncio.AbstractEventLoop) -> None:
    """A thread that computes in Python until the process ends."""

    def compute() -> None:
        number = 0
        while True:
            number = (number * 31 + 7) & 0xFFFF

    threading.Thread(target=compute, daemon=True).start()


row(
    "run_in_executor_busy",
    "run_in_executor(noop) beside a busy Python thread",
    waits=True,
    steady=True,
    prepare=start_busy_thread,
)(run_in_executor)
