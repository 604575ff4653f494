"""A server's handler sleeps as threads do, and every connection waits for it."""

import asyncio
import time


def look_up(question):
    time.sleep(0.4)  # culprit
    return question.upper()


async def answer(reader, writer):
    question = await reader.readline()
    writer.write(look_up(question))
    writer.close()


async def ask(address, question):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(question)
    print(await reader.read())
    writer.close()


async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await asyncio.gather(ask(address, b"one\n"), ask(address, b"two\n"))
    server.close()


asyncio.run(main())
