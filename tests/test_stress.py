"""Many connections, much data, many small writes: bounded to a few seconds.

What is asserted is that nothing is lost, doubled, reordered or left behind.
"""

import asyncio
import contextlib
import hashlib
import random
import socket

import pytest
from streamkit import (
    BufferedRecorder,
    Recorder,
    connected,
    on_loop,
    pattern,
    read_all,
    settle,
    socket_pair,
    until,
)

CONNECTIONS = 500


class Echo(asyncio.Protocol):
    """Echoes, with flow control: it stops reading while it may not write."""

    alive = 0

    def connection_made(self, transport):
        self.transport = transport
        Echo.alive += 1

    def data_received(self, data):
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()

    def connection_lost(self, exc):
        Echo.alive -= 1
        self.transport.close()  # the TLS transport of Python 3.10 asks for it


@contextlib.asynccontextmanager
async def echo_server(loop, **arguments):
    server = await loop.create_server(Echo, "127.0.0.1", 0, **arguments)
    yield server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    await until(lambda: Echo.alive == 0)
    await settle(loop)


@on_loop
async def test_many_connections_at_once(loop):
    async with echo_server(loop, backlog=CONNECTIONS) as address:
        clients = [
            client
            for _ in range(CONNECTIONS // 50)
            for client in await asyncio.gather(
                *(loop.create_connection(Recorder, *address) for _ in range(50))
            )
        ]
        for round_ in range(3):
            for n, (transport, _) in enumerate(clients):
                transport.write(b"%05d/%d;" % (n, round_))
        for n, (_, client) in enumerate(clients):
            expected = b"".join(b"%05d/%d;" % (n, round_) for round_ in range(3))
            assert await client.received(24) == expected
        assert Echo.alive == CONNECTIONS
        for n, (transport, _) in enumerate(clients):
            (transport.abort if n % 2 else transport.close)()
        for _, client in clients:
            assert await client.lost is None


@on_loop
async def test_connections_come_and_go(loop):
    async with echo_server(loop) as address:

        async def visit(n):
            transport, client = await loop.create_connection(Recorder, *address)
            transport.write(b"visit %d" % n)
            await client.received(len(b"visit %d" % n))
            transport.close()
            await client.lost

        for start in range(0, 400, 20):
            await asyncio.gather(*(visit(n) for n in range(start, start + 20)))


@on_loop
async def test_connections_that_end_in_every_way_at_once(loop):
    chance = random.Random(7)
    async with echo_server(loop) as address:
        clients = [await loop.create_connection(Recorder, *address) for _ in range(100)]
        for transport, _ in clients:
            transport.write(pattern(chance.choice([1, 100, 100_000])))
            end = chance.choice(["close", "abort", "write_eof", "linger"])
            if end == "linger":
                sock = transport.get_extra_info("socket")
                linger = b"\1\0\0\0\0\0\0\0"
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                end = "abort"
            getattr(transport, end)()
        for _, client in clients:
            await client.lost
            assert client.count("connection_lost") == 1


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
@on_loop
async def test_a_large_payload(loop, kind, factory):
    size = 64 << 20
    piece = pattern(1 << 20)
    async with connected(factory, kind=kind) as (_, protocol, peer):
        digest = hashlib.sha256()
        received = [0]

        def absorb(name):
            if name in ("data_received", "buffer_updated"):
                digest.update(protocol.data)
                received[0] += len(protocol.data)
                protocol.data.clear()
                protocol.calls.clear()

        protocol.on = absorb
        peer.setblocking(False)
        for _ in range(size >> 20):
            await loop.sock_sendall(peer, piece)
        await until(lambda: received[0] == size)
        expected = hashlib.sha256()
        for _ in range(size >> 20):
            expected.update(piece)
        assert digest.digest() == expected.digest()


@on_loop
async def test_many_small_writes_in_one_callback(loop):
    async with connected(kind="tcp") as (transport, protocol, peer):
        pieces = [b"%d," % n for n in range(20_000)]

        def burst(name):
            if name == "data_received":
                for piece in pieces:
                    transport.write(piece)

        protocol.on = burst
        peer.send(b"?")
        await protocol.called("data_received")
        whole = b"".join(pieces)
        assert await read_all(loop, peer, len(whole)) == whole


@on_loop
async def test_random_sizes_of_writes_and_reads(loop):
    chance = random.Random(42)
    async with connected(sndbuf=16384) as (transport, _, peer):
        sizes = [
            chance.choice([0, 1, 2, 100, 4095, 4096, 65536, 300_000])
            for _ in range(300)
        ]
        whole = pattern(sum(sizes))
        reader = asyncio.create_task(read_all(loop, peer, len(whole)))
        cut = 0
        for size in sizes:
            piece = whole[cut : cut + size]
            cut += size
            if chance.random() < 0.3:
                transport.writelines([piece[:10], piece[10:]] if piece else [])
            else:
                transport.write(chance.choice([bytes, bytes, memoryview])(piece))
            if chance.random() < 0.2:
                await asyncio.sleep(0)
        assert await reader == whole


@on_loop
async def test_backpressure_through_an_echo(loop):
    """The client does not read: both servers' and clients' buffers stay bounded."""
    async with echo_server(loop) as address:
        transport, client = await loop.create_connection(Recorder, *address)
        transport.pause_reading()
        sent = 0
        while client.names[-1] != "pause_writing":
            transport.write(pattern(1 << 16, sent))
            sent += 1
            await asyncio.sleep(0)
            assert sent < 2000, "nothing ever pushed back"
        await settle(loop, 10)
        assert client.names[-1] == "pause_writing"
        assert transport.get_write_buffer_size() <= 2 << 16
        transport.resume_reading()
        expected = b"".join(pattern(1 << 16, n) for n in range(sent))
        assert await client.received(len(expected)) == expected
        await client.called("resume_writing")
        transport.close()
        await client.lost


@on_loop
async def test_streams_ping_pong_in_many_tasks(loop):
    async def ping(reader, writer):
        for n in range(50):
            writer.write(b"%d\n" % n)
            assert await reader.readline() == b"%d\n" % n
        writer.close()
        await writer.wait_closed()

    async def pong(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def pair():
        near, far = socket_pair("unix")
        await asyncio.gather(
            ping(*await asyncio.open_connection(sock=near)),
            pong(*await asyncio.open_connection(sock=far)),
        )

    await asyncio.gather(*(pair() for _ in range(50)))


@on_loop
async def test_sock_methods_ping_pong_in_many_tasks(loop):
    async def ping(near):
        for n in range(50):
            await loop.sock_sendall(near, b"%03d" % n)
            assert await loop.sock_recv(near, 10) == b"%03d" % n

    async def pong(far):
        while data := await loop.sock_recv(far, 10):
            await loop.sock_sendall(far, data)

    async def pair():
        near, far = socket_pair("unix")
        near.setblocking(False)
        far.setblocking(False)
        answering = asyncio.create_task(pong(far))
        await ping(near)
        near.close()
        await answering
        far.close()

    await asyncio.gather(*(pair() for _ in range(50)))


@on_loop
async def test_tls_in_many_connections(loop, certificates):
    async with echo_server(loop, ssl=certificates.server_context()) as address:

        async def visit(n):
            reader, writer = await asyncio.open_connection(
                *address, ssl=certificates.client_context(), server_hostname="localhost"
            )
            data = pattern(100_000, n)
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(visit(n) for n in range(20)))
        await settle(loop, 10)
