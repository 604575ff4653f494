"""A shop: a server that packs orders, and three customers."""

import asyncio


async def pack(order):
    await asyncio.sleep(0.1)  # somebody fetches it
    return f"{order} is packed"


async def serve(reader, writer):
    while line := await reader.readline():
        answer = await pack(line.decode().strip())
        writer.write(answer.encode() + b"\n")
        await writer.drain()
    writer.close()


async def buy(port, order):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(order.encode() + b"\n")
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer.decode().strip()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        orders = ("tea", "salt", "ink")
        for answer in await asyncio.gather(*(buy(port, order) for order in orders)):
            print(answer)


asyncio.run(main())
