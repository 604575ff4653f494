"""A chat server, for who comes by TCP and for who comes by WebSocket.

    python chat.py --port 7000 --websocket-port 7001
    python chat.py --demo

The first line, or message, of a client is "NAME ROOM"; each further one is said to the
room, whose members get it as "NAME: TEXT", all in the same order. What the server says
itself begins with "* ". Try it with `nc 127.0.0.1 7000`. SIGINT or SIGTERM tells
everybody, sends what is still to be sent, and ends the server.
"""

import argparse
import asyncio
import contextlib
import re
import signal
import sys

from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed

LONGEST = 1000  # bytes of a message
OUTBOX = 64  # messages that wait for one member, until those who speak wait for it
LOGIN = re.compile(r"([\w-]{1,20}) ([\w-]{1,20})")
LOGIN_SECONDS = 10
STOP_SECONDS = 5  # that members get to take what is still to be sent


class Refused(Exception):
    """What the client did is not possible; the message is for it."""


class LineConnection:
    """A client over TCP: a message is a line of UTF-8."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    async def receive(self):
        """The next message, None at the end."""
        try:
            line = await self.reader.readline()
        except ValueError:
            raise Refused(f"a line has at most {LONGEST} bytes") from None
        except ConnectionError:
            return None
        return line.decode(errors="replace").rstrip("\r\n") if line else None

    async def send(self, texts):
        """Send messages; returns when the kernel has about all of them."""
        self.writer.write("".join(f"{text}\n" for text in texts).encode())
        await self.writer.drain()

    async def close(self):
        """End the connection."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def abort(self):
        """End it without sending what waits: for a client that does not read."""
        self.writer.transport.abort()


class WebSocketConnection:
    """A client over WebSocket: a message is a message."""

    def __init__(self, websocket):
        self.websocket = websocket

    async def receive(self):
        """The next message, None at the end."""
        try:
            message = await self.websocket.recv()
        except ConnectionClosed:
            return None
        if isinstance(message, bytes):
            raise Refused("messages are text")
        return message

    async def send(self, texts):
        """Send messages; returns when the kernel has about all of them."""
        for text in texts:
            await self.websocket.send(text)

    async def close(self):
        """End the connection."""
        await self.websocket.close()

    def abort(self):
        """End it without sending what waits: for a client that does not read."""
        self.websocket.transport.abort()


class Member:
    """A client that has a name and is in a room."""

    def __init__(self, name, connection, outbox):
        self.name = name
        self.connection = connection
        self.outbox = asyncio.Queue(outbox)  # texts; None is the end
        self.too_slow = asyncio.Event()

    async def deliver(self):
        """Send what is in the outbox, until its end."""
        ended = False
        while not ended:
            texts = [await self.outbox.get()]
            while not self.outbox.empty():
                texts.append(self.outbox.get_nowait())
            if None in texts:
                del texts[texts.index(None) :]
                ended = True
            await self.connection.send(texts)

    def forget_outbox(self):
        """Nobody delivers any more: who waits to put something goes on."""
        while not self.outbox.empty():
            self.outbox.get_nowait()


class Room:
    """The members of a room, all of whom get everything in the same order."""

    def __init__(self):
        self.members = {}
        self.lock = asyncio.Lock()

    async def tell(self, text, patience):
        """Put a text in each member's outbox.

        Waits for members whose outbox is full, and with that for the slowest of them;
        one that takes nothing for `patience` seconds is marked as too slow.
        """
        async with self.lock:
            waiting = {}
            for member in self.members.values():
                try:
                    member.outbox.put_nowait(text)
                except asyncio.QueueFull:
                    put = asyncio.ensure_future(member.outbox.put(text))
                    waiting[put] = member
            if not waiting:
                return
            try:
                await asyncio.wait(waiting, timeout=patience)
            finally:
                for put, member in waiting.items():
                    if not put.done():
                        member.too_slow.set()
                        put.cancel()


class Chat:
    """The rooms, and who is in them."""

    def __init__(self, patience=5.0, outbox=OUTBOX):
        self.patience = patience
        self.outbox = outbox
        self.rooms = {}  # name: Room
        self.members = {}  # name: Member
        self.talks = set()  # the tasks of all connections
        self.stopping = False
        self.counts = dict.fromkeys(("joined", "said", "too slow"), 0)

    async def handle_stream(self, reader, writer):
        """A TCP client, from its first line to its end."""
        await self.talk(LineConnection(reader, writer))

    async def handle_websocket(self, websocket):
        """A WebSocket client, from its first message to its end."""
        await self.talk(WebSocketConnection(websocket))

    async def talk(self, connection):
        """A client, from its first message to its end."""
        task = asyncio.current_task()
        self.talks.add(task)
        try:
            with contextlib.suppress(ConnectionError, ConnectionClosed):
                try:
                    name, room_name = await self._login(connection)
                    await self._be_member(name, room_name, connection)
                except Refused as refusal:
                    await connection.send([f"* {refusal}"])
        finally:
            self.talks.discard(task)
            await connection.close()

    async def _login(self, connection):
        try:
            text = await asyncio.wait_for(connection.receive(), LOGIN_SECONDS)
        except asyncio.TimeoutError:
            raise Refused("that took too long") from None
        match = LOGIN.fullmatch(text or "")
        if match is None:
            raise Refused("the first message is NAME ROOM")
        if match[1] in self.members:
            raise Refused(f"{match[1]} is here already")
        if self.stopping:
            raise Refused("the server stops")
        return match.groups()

    async def _be_member(self, name, room_name, connection):
        member = self.members[name] = Member(name, connection, self.outbox)
        room = self.rooms.setdefault(room_name, Room())
        room.members[name] = member
        self.counts["joined"] += 1
        tasks = [
            asyncio.create_task(self._listen(member, room), name=f"listen {name}"),
            asyncio.create_task(member.deliver(), name=f"deliver {name}"),
            asyncio.create_task(member.too_slow.wait(), name=f"too slow {name}"),
        ]
        reason = ""
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if member.too_slow.is_set():
                self.counts["too slow"] += 1
                reason = " (too slow)"
                connection.abort()
        finally:
            for task in tasks:
                task.cancel()
            del self.members[name], room.members[name]
            member.forget_outbox()
            if not room.members and self.rooms.get(room_name) is room:
                del self.rooms[room_name]
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        if not self.stopping:
            await room.tell(f"* {name} left{reason}", self.patience)
        for end in ends:
            if isinstance(end, Refused):
                raise end

    async def _listen(self, member, room):
        """Say to the room what the member says, until it has ended."""
        await room.tell(f"* {member.name} joined", self.patience)
        while (text := await member.connection.receive()) is not None:
            self.counts["said"] += 1
            text = " ".join(text.splitlines())
            await room.tell(f"{member.name}: {text}", self.patience)

    async def stop(self):
        """Tell everybody, send what is still to be sent, end all connections."""
        self.stopping = True
        talks = list(self.talks)
        ends = [
            asyncio.ensure_future(self._say_goodbye(member))
            for member in self.members.values()
        ]
        if talks:
            _, late = await asyncio.wait(talks, timeout=STOP_SECONDS)
            for task in [*late, *ends]:
                task.cancel()
            await asyncio.wait([*talks, *ends])

    async def _say_goodbye(self, member):
        await member.outbox.put("* the server stops")
        await member.outbox.put(None)


@contextlib.asynccontextmanager
async def serving(chat, host, port, websocket_port):
    """Serve inside the block; gives the two ports (0 takes a free one)."""
    lines = await asyncio.start_server(
        chat.handle_stream, host, port, limit=LONGEST, backlog=1000
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(lines.close)
        messages = await stack.enter_async_context(
            serve_websockets(
                chat.handle_websocket, host, websocket_port, max_size=LONGEST
            )
        )
        try:
            yield (
                lines.sockets[0].getsockname()[1],
                next(iter(messages.sockets)).getsockname()[1],
            )
        finally:
            lines.close()
            messages.close(close_connections=False)  # no new ones
            await chat.stop()
            await lines.wait_closed()


@contextlib.contextmanager
def signals_set(event):
    """SIGINT and SIGTERM set the event, inside the block."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, event.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def run(options):
    """Serve until a signal comes; return the exit status."""
    stopped = asyncio.Event()
    chat = Chat(options.patience)
    with signals_set(stopped):
        async with serving(
            chat, options.host, options.port, options.websocket_port
        ) as (port, websocket_port):
            print(f"lines on port {port}, WebSocket on port {websocket_port}")
            sys.stdout.flush()
            await stopped.wait()
    counts = ", ".join(f"{name} {number}" for name, number in chat.counts.items())
    print(f"stopped; {counts}")
    return 0


def port_number(text):
    """A type of argument: a port, 0 for a free one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, which is 0 to 65535")
    return int(text)


def seconds(text):
    """A type of argument: a number of seconds above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def main():
    """Read the arguments, serve, return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=port_number, default=7000)
    add("--websocket-port", type=port_number, default=7001)
    add("--patience", type=seconds, default=5.0, help="seconds for who does not read")
    add("--demo", action="store_true", help="serve 500 clients of its own")
    options = parser.parse_args()
    if options.demo:
        import demo

        return asyncio.run(demo.run())
    try:
        return asyncio.run(run(options))
    except OSError as error:
        print(f"chat: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
