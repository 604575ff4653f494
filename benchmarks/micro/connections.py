"""Connections that are made, upgraded and lost, with both ends in one loop."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

from servers import certificate, programs

from micro.registry import row

#: What the certificate is for.
NAME = "127.0.0.1"

#: Ends that came, in the order in which they came.
Accepted = asyncio.Queue


class Arriving(asyncio.Protocol):
    """Puts its transport into a queue as soon as there is one."""

    def __init__(self, accepted: Accepted) -> None:
        self.accepted = accepted

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.accepted.put_nowait(transport)


@contextlib.asynccontextmanager
async def serving(
    loop: asyncio.AbstractEventLoop,
) -> AsyncIterator[tuple[Accepted, Any]]:
    """While a server is there: the ends that come to it, and its address."""
    accepted: Accepted = asyncio.Queue()
    server = await loop.create_server(
        lambda: Arriving(accepted), "127.0.0.1", 0, backlog=1024
    )
    yield accepted, server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()


@row("connect", "connect, accept and abort")
def connect(loop: asyncio.AbstractEventLoop, n: int) -> int:
    async def main() -> None:
        async with serving(loop) as (accepted, address):
            for _ in range(n):
                transport, _ = await loop.create_connection(asyncio.Protocol, *address)
                far = await accepted.get()
                transport.abort()
                far.abort()

    loop.run_until_complete(main())
    return n


@row("start_tls", "start_tls on both ends of a connection, then abort")
def start_tls(loop: asyncio.AbstractEventLoop, n: int) -> int:
    chain, key = certificate.make(programs.cache_folder())
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(chain, key)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.load_verify_locations(chain)

    async def main() -> None:
        async with serving(loop) as (accepted, address):
            for _ in range(n):
                near, _ = await loop.create_connection(asyncio.Protocol, *address)
                far = await accepted.get()
                protocol = asyncio.Protocol()
                upgraded = await asyncio.gather(
                    loop.start_tls(
                        near, protocol, client_context, server_hostname=NAME
                    ),
                    loop.start_tls(far, protocol, server_context, server_side=True),
                )
                for transport in upgraded:
                    transport.abort()

    loop.run_until_complete(main())
    return n
