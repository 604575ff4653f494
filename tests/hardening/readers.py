"""The scenarios of asyncio's StreamReader and of TLS records; see scenarios.py.

A reader, or a transport over TLS, gets its class with its first data, before anything
fails: CPython 3.13.0 loses an instance's attributes when it is out of memory in the
middle of an assignment to `__class__` (see python/cpython#124547).
"""

import asyncio

from scenarios import scenario
from world import World


async def opened(w: World, sock, **options):
    """A reader and writer over a connected socket; the world ends their transport."""
    reader, writer = await asyncio.open_connection(sock=sock, **options)
    w.transports.append(writer.transport)
    return reader, writer


async def part_by_part(reading, sock, *parts):
    """The result of a reader's coroutine that waits for each part in turn."""
    task = asyncio.ensure_future(reading)
    try:
        for part in parts:
            await asyncio.sleep(0)
            sock.send(part)
        return await task
    finally:
        task.cancel()


@scenario
def stream_reader(w: World):
    """What is there, what comes later, and more than the limit, which pauses."""
    left, right = w.pair()
    reader, _ = w.run(opened(w, left, limit=64))
    right.send(b"0")
    assert w.run(reader.readexactly(1)) == b"0"

    async def main():
        right.send(b"one\ntwo;three")
        read = [
            await reader.readline(),
            await reader.readuntil(b";"),
            await reader.readexactly(5),
        ]
        read.append(await part_by_part(reader.read(10), right, b"4"))
        read.append(await part_by_part(reader.readexactly(6), right, b"abc", b"def"))
        right.send(b"x" * 300)
        read.append(len(await reader.readexactly(300)))
        right.send(b"y" * 100 + b"\nend\nof")
        try:
            read.append(await reader.readline())
        except ValueError:
            read.append("limit")
        reading = asyncio.ensure_future(reader.readline())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        right.close()
        read.append([line async for line in reader])
        read.append(await reader.read())
        return read

    with w.armed():
        read = w.run(main())
    assert read[:6] == [b"one\n", b"two;", b"three", b"4", b"abcdef", 300]


@scenario
def tls_records(w: World):
    """Both ways, small and large, and the end."""
    server_context = w.certificates.server_context()
    client_context = w.certificates.client_context()
    near, far = w.pair()

    async def both():
        return await asyncio.gather(
            opened(w, near, ssl=client_context, server_hostname="localhost"),
            accepted(),
        )

    async def accepted():
        reader = asyncio.StreamReader(loop=w.loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=w.loop)
        transport, _ = await w.loop.connect_accepted_socket(
            lambda: protocol, far, ssl=server_context
        )
        w.transports.append(transport)
        return reader, asyncio.StreamWriter(transport, protocol, reader, w.loop)

    (reader, writer), (far_reader, far_writer) = w.run(both())

    async def talk(sizes):
        read = []
        for size in sizes:
            writer.write(b"a" * size)
            read.append(len(await far_reader.readexactly(size)))
            far_writer.write(b"b" * (size - 1) + b"\n")
            read.append(len(await reader.readline()))
        return read

    async def main():
        try:
            read = await talk((3, 20_000))
            writer.close()
            return [*read, await far_reader.read()]
        except asyncio.IncompleteReadError:
            for failed in (reader, far_reader):
                if failed.exception() is not None:
                    raise failed.exception() from None
            raise

    assert w.run(talk((1,))) == [1, 1]
    with w.armed():
        read = w.run(main())
    assert read == [3, 3, 20_000, 20_000, b""]
