"""Echo servers, one for each of the ways that asyncio offers."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

#: For the sock_* server: what one sock_recv asks for, in bytes.
RECV_SIZE = 256 * 1024
#: For the streams server: the longest line, in bytes.
LINE_LIMIT = 1024 * 1024

#: Called with the port once connections are taken.
Ready = Callable[[int], None]


class EchoProtocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


async def until_cancelled(server: asyncio.AbstractServer, ready: Ready) -> None:
    """Keep *server*, which serves already, until this is cancelled; then close it.

    Not by serve_forever: rloop 0.5.0 stops listening in it.
    """
    ready(server.sockets[0].getsockname()[1])
    try:
        await asyncio.Event().wait()
    finally:
        server.close()


async def serve_protocol(ready: Ready) -> None:
    """Echo with a Protocol; ends when cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(EchoProtocol, "127.0.0.1", 0, backlog=1024)
    await until_cancelled(server, ready)


async def serve_protocol_busy(ready: Ready) -> None:
    """The same, beside a thread that never stops computing in Python."""

    def compute() -> None:
        number = 0
        while True:
            number = (number * 31 + 7) & 0xFFFF

    threading.Thread(target=compute, daemon=True).start()
    await serve_protocol(ready)


async def serve_streams(ready: Ready) -> None:
    """Echo line by line with the stream API; ends when cancelled."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        except ConnectionError:
            pass  # the load leaves in the middle of a message
        finally:
            writer.close()

    server = await asyncio.start_server(
        echo, "127.0.0.1", 0, backlog=1024, limit=LINE_LIMIT
    )
    await until_cancelled(server, ready)


async def serve_datagrams(ready: Ready) -> None:
    """Echo datagrams; ends when cancelled."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        EchoDatagrams, local_addr=("127.0.0.1", 0)
    )
    ready(transport.get_extra_info("socket").getsockname()[1])
    try:
        await asyncio.Event().wait()
    finally:
        transport.close()


async def serve_sock(ready: Ready) -> None:
    """Echo with sock_accept, sock_recv and sock_sendall; ends when cancelled."""
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    async def echo(conn: socket.socket) -> None:
        with conn:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while data := await loop.sock_recv(conn, RECV_SIZE):
                    await loop.sock_sendall(conn, data)
            except ConnectionError:
                pass  # the load leaves in the middle of a message

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        sock.setblocking(False)
        ready(sock.getsockname()[1])
        while True:
            conn, _ = await loop.sock_accept(sock)
            conn.setblocking(False)
            task = loop.create_task(echo(conn))
            running.add(task)
            task.add_done_callback(running.discard)
