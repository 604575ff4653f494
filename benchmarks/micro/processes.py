"""Child processes, and files sent by the kernel."""

from __future__ import annotations

import asyncio
import tempfile
from subprocess import PIPE

from micro.registry import row

DATA = b"x" * 65536

FILE_SIZE = 1 << 20


@row("spawn", "spawn /bin/true and wait", waits=True)
def spawn(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def main() -> None:
        for _ in range(n):
            process = await asyncio.create_subprocess_exec("/bin/true")
            await process.wait()

    loop.run_until_complete(main())
    return n


@row("communicate", "cat 64 KiB through communicate()", waits=True)
def communicate(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def main() -> None:
        for _ in range(n):
            process = await asyncio.create_subprocess_exec(
                "/bin/cat", stdin=PIPE, stdout=PIPE
            )
            out, _ = await process.communicate(DATA)
            assert len(out) == len(DATA)

    loop.run_until_complete(main())
    return n


class Sink(asyncio.BufferedProtocol):
    """Reads and forgets; `lost` is done when the peer has closed."""

    def __init__(self, lost: asyncio.Future[None]) -> None:
        self.buffer = bytearray(256 * 1024)
        self.lost = lost

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        pass

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(None)


@row("sendfile", "sendfile of 1 MiB over TCP, both ends in one loop")
def sendfile(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def main() -> None:
        lost = loop.create_future()
        server = await loop.create_server(lambda: Sink(lost), "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(asyncio.Protocol, *address)
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * FILE_SIZE)
            file.flush()
            for _ in range(n):
                assert await loop.sendfile(transport, file) == FILE_SIZE
        transport.close()
        await lost
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())
    return n
