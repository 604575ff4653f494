"""Servers that send a large file to whoever connects, by the kernel and by hand."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from typing import IO

from servers.echo import Ready, until_cancelled

#: Bytes of the file.
SIZE = 100 << 20

#: Bytes that are read and written at a time.
CHUNK = 256 * 1024

Send = Callable[[asyncio.StreamWriter, IO[bytes]], Awaitable[None]]


async def serve_file(ready: Ready, send: Send) -> None:
    """Give each connection the file with *send*, then close; ends when cancelled."""
    with tempfile.TemporaryFile() as file:
        for _ in range(SIZE // CHUNK):
            file.write(b"x" * CHUNK)
        file.flush()

        async def answer(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            file.seek(0)
            await send(writer, file)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        await until_cancelled(server, ready)


async def serve_sendfile(ready: Ready) -> None:
    """By loop.sendfile."""
    loop = asyncio.get_running_loop()

    async def send(writer: asyncio.StreamWriter, file: IO[bytes]) -> None:
        await loop.sendfile(writer.transport, file)

    await serve_file(ready, send)


async def serve_read_write(ready: Ready) -> None:
    """By reading pieces of the file and writing them."""

    async def send(writer: asyncio.StreamWriter, file: IO[bytes]) -> None:
        while piece := file.read(CHUNK):
            writer.write(piece)
            await writer.drain()

    await serve_file(ready, send)
