"""How long clients wait whose requests reach a server all at once.

Each request takes some time of Python, and is answered when that is over. A loop can't
make the last answer come sooner, but it may keep the first ones until the last.
"""

from __future__ import annotations

import asyncio
import select
import socket
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from micro.registry import row

CLIENTS = 64

#: Requests of each client, answered at once, that come before each measured one: what a
#: loop learns from a busy server, or starts for one, it has by then.
QUICK = 30

#: A request, by its first byte, and an answer.
QUICKLY, SLOWLY, ANSWER = b"q", b"s", b"x" * 100


class Answers(asyncio.Protocol):
    """Answers each request; `connected` counts those that are not lost."""

    connected = 0

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        Answers.connected += 1

    def data_received(self, data: bytes) -> None:
        if data == SLOWLY:
            end = time.perf_counter() + self.seconds
            while time.perf_counter() < end:
                pass
        self.transport.write(ANSWER)

    def connection_lost(self, exc: Exception | None) -> None:
        Answers.connected -= 1
        if Answers.connected == 0:
            asyncio.get_running_loop().stop()


def ask(clients: list[socket.socket], request: bytes) -> float:
    """Send *request* from each; the seconds after which half of them had the answer."""
    start = time.perf_counter()
    for client in clients:
        client.send(request)
    waiting = {client.fileno(): client for client in clients}
    half = 0.0
    with select.epoll() as poll:
        for number in waiting:
            poll.register(number, select.EPOLLIN)
        while waiting:
            for number, _ in poll.poll():
                poll.unregister(number)
                waiting.pop(number).recv(len(ANSWER), socket.MSG_WAITALL)
            if not half and len(waiting) <= len(clients) // 2:
                half = time.perf_counter() - start
    return half


def client(port: int, rounds: int) -> None:
    """Print the median of *rounds* measurements, in milliseconds."""
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CLIENTS)]
    halves = []
    for _ in range(rounds):
        for _ in range(QUICK):
            ask(clients, QUICKLY)
        halves.append(ask(clients, SLOWLY))
    print(statistics.median(halves) * 1000)


def add_row(microseconds: int) -> None:
    @row(
        f"answers_{microseconds}us",
        f"{CLIENTS} requests at once, {microseconds} us of Python each",
        "ms",
    )
    def answers(loop: asyncio.AbstractEventLoop, n: int) -> float:
        factory = partial(Answers, microseconds / 1e6)
        serve = loop.create_server(factory, "127.0.0.1", 0, backlog=CLIENTS)
        server = loop.run_until_complete(serve)
        port = server.sockets[0].getsockname()[1]
        argv = [sys.executable, "-m", "micro.answers", str(port), str(max(5, n // 4))]
        folder = Path(__file__).resolve().parent.parent
        with subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE) as asking:
            loop.run_forever()  # until the last client has gone
            assert asking.stdout is not None
            figure = float(asking.stdout.read())
        server.close()
        loop.run_until_complete(server.wait_closed())
        return figure


for _microseconds in (100, 300, 1000, 3000):
    add_row(_microseconds)

if __name__ == "__main__":
    client(int(sys.argv[1]), int(sys.argv[2]))
