"""What `chat.py --demo` serves: 500 clients who talk, and one who does not listen.

Every client of a room has to get what every member of it says, once, in the same order
as all the others.
"""

import asyncio
import contextlib
import resource
import socket

import chat
from websockets.asyncio.client import connect

CLIENTS = 500
ROOMS = 25
MESSAGES = 10  # that each client says
OUTBOX = 4  # so few that those who speak have to wait
PATIENCE = 3.0  # seconds that the server has for a client that does not read


class LineClient:
    """Comes by TCP."""

    async def connect(self, ports):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", ports[0])

    async def say(self, text):
        self.writer.write(f"{text}\n".encode())
        await self.writer.drain()

    async def hear(self):
        return (await self.reader.readline()).decode().rstrip("\n")

    async def close(self):
        self.writer.close()
        await self.writer.wait_closed()


class WebSocketClient:
    """Comes by WebSocket."""

    async def connect(self, ports):
        self.websocket = await connect(f"ws://127.0.0.1:{ports[1]}")

    async def say(self, text):
        await self.websocket.send(text)

    async def hear(self):
        return await self.websocket.recv()

    async def close(self):
        await self.websocket.close()


class Gate:
    """Where a number of tasks wait until all of them are there."""

    def __init__(self, count):
        self.missing = count
        self.open = asyncio.Event()

    async def wait(self):
        self.missing -= 1
        if not self.missing:
            self.open.set()
        await self.open.wait()


async def take_part(number, ports, slots, everybody):
    """One client; returns what it heard people say, in order."""
    client = (LineClient, WebSocketClient)[number % 2]()
    name = f"client-{number}"
    async with slots:  # not all at the same moment
        await client.connect(ports)
    try:
        await client.say(f"{name} room-{number // 2 % ROOMS}")
        await hear(client, f"* {name} joined")
        await everybody.wait()
        said = asyncio.create_task(speak(client))
        heard = []
        while len(heard) < MESSAGES * CLIENTS // ROOMS:
            text = await client.hear()
            if not text.startswith("* "):
                heard.append(text)
        await said
    finally:
        await client.close()
    return heard


async def speak(client):
    """Say what there is to say."""
    for turn in range(MESSAGES):
        await client.say(f"message {turn}")


async def hear(client, wanted):
    """Wait until the client hears that."""
    while await client.hear() != wanted:
        pass


async def sloth(ports):
    """One client reads nothing, and another talks to it until it is thrown out."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    with sock:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", ports[0]))
        await loop.sock_sendall(sock, b"sloth cave\n")
        speaker = LineClient()
        await speaker.connect(ports)
        await speaker.say("speaker cave")
        listening = asyncio.create_task(hear(speaker, "* sloth left (too slow)"))
        while not listening.done():
            await speaker.say("x" * 900)
        await listening
        await speaker.close()


def orders(heard):
    """Raise unless what each room's members heard is right, and the same."""
    for room in range(ROOMS):
        members = [n for n in range(CLIENTS) if n // 2 % ROOMS == room]
        first = heard[members[0]]
        wanted = [f"client-{m}: message {t}" for m in members for t in range(MESSAGES)]
        if sorted(first) != sorted(wanted):
            raise AssertionError(f"room {room}: not what was said")
        for member in members:
            mine = [text for text in first if text.startswith(f"client-{member}: ")]
            if mine != [f"client-{member}: message {t}" for t in range(MESSAGES)]:
                raise AssertionError(f"room {room}: client {member} out of order")
            if heard[member] != first:
                raise AssertionError(f"room {room}: client {member} heard otherwise")


@contextlib.contextmanager
def enough_descriptors(count):
    """Raise the soft limit of descriptors for the block, if it is lower."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[0] < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def talk(ports):
    """Let all clients talk, then the sloth; return what was heard."""
    slots, everybody = asyncio.Semaphore(100), Gate(CLIENTS)
    heard = await asyncio.gather(
        *(take_part(number, ports, slots, everybody) for number in range(CLIENTS))
    )
    await sloth(ports)
    return heard


async def run():
    """Serve and talk; return the exit status."""
    server = chat.Chat(PATIENCE, OUTBOX)
    stopped = asyncio.Event()
    with enough_descriptors(2 * CLIENTS + 100), chat.signals_set(stopped):
        async with chat.serving(server, "127.0.0.1", 0, 0) as ports:
            talking = asyncio.create_task(talk(ports), name="clients")
            stopping = asyncio.create_task(stopped.wait(), name="signals")
            tasks = [talking, stopping]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if stopping in done:
                print("stopped before the end")
                return 0
            heard = talking.result()
    orders(heard)
    print(f"{CLIENTS} clients in {ROOMS} rooms, half of them by WebSocket")
    print(f"said: {CLIENTS * MESSAGES}, heard: {sum(map(len, heard))}")
    print("every member of a room heard all, in the same order")
    print(f"too slow: {server.counts['too slow']}; still there: {len(server.members)}")
    return 0
