"""Names, sockets and streams, with both ends in one loop."""

from __future__ import annotations

import asyncio
import socket

from micro.registry import row

MESSAGE = b"x" * 63 + b"\n"


# Some loops ask a thread even for a literal.
@row("getaddrinfo", "getaddrinfo of a literal", waits=True)
def getaddrinfo(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def main() -> None:
        for _ in range(n):
            await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)

    loop.run_until_complete(main())
    return n


@row("sock_ping_pong", "sock_recv/sock_sendall ping-pong")
def sock_ping_pong(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def echo(sock: socket.socket) -> None:
        while data := await loop.sock_recv(sock, 4096):
            await loop.sock_sendall(sock, data)

    async def main() -> None:
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.setblocking(False)
            server = loop.create_task(echo(far))
            for _ in range(n):
                await loop.sock_sendall(near, MESSAGE)
                await loop.sock_recv(near, 4096)
            near.shutdown(socket.SHUT_WR)
            await server

    loop.run_until_complete(main())
    return n


@row("streams_ping_pong", "streams ping-pong, client and server in one loop")
def streams_ping_pong(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for _ in range(n):
            writer.write(MESSAGE)
            await reader.readline()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())
    return n
