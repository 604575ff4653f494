"""A client that asks a server many times, and keeps each connection open.

    python -m pyloop --debug --report examples/broken/fd_leak.py

says at the end what is open, and in which line it was made.
"""

import asyncio

QUESTIONS = 5

connections = []


async def answer(reader, writer):
    """The server: a line for a line, until the client hangs up."""
    while line := await reader.readline():
        writer.write(line.upper())
    writer.close()


async def ask(port, question):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)  # culprit
    connections.append((reader, writer))
    writer.write(question + b"\n")
    return await reader.readline()  # the writer should be closed after this


async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for _ in range(QUESTIONS):
        print(await ask(port, b"anybody there?"))


if __name__ == "__main__":
    asyncio.run(main())
