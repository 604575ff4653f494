"""A program written for uvloop, of which one line has changed."""

import asyncio

import pyloop as uvloop  # was: import uvloop


async def echo(reader, writer):
    writer.write(await reader.readline())
    writer.close()


async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"hello\n")
        print("answer:", (await reader.readline()).decode().strip())
        writer.close()
        await writer.wait_closed()
    loop = asyncio.get_running_loop()
    print("a loop of uvloop's name:", isinstance(loop, uvloop.Loop))
    print("and an asyncio loop:", isinstance(loop, asyncio.BaseEventLoop))


uvloop.run(main())
