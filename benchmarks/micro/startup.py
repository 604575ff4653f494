"""What a program pays once: a loop made and closed."""

from __future__ import annotations

import asyncio

from micro.registry import row


@row("new_loop", "a loop made and closed")
def new_loop(loop: asyncio.AbstractEventLoop, n: int) -> int:
    kind = type(loop)
    for _ in range(n):
        kind().close()
    return n
