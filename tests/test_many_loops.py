"""Many loops at once in many threads, and loops that go from one thread to another.

Each loop is used by one thread at a time, as asyncio asks for, so all of it has to work
with a GIL and without one. What many threads do to *one* loop is in
test_free_threading.py.
"""

import asyncio
import functools
import os
import queue
import socket
import sys
import threading

import pytest
import support
from support import run_once
from test_free_threading import in_threads

THREADS = 8
LOOPS = 50
EVERY = 10  # one of so many loops starts a child

# As it starts a child, asyncio of these versions changes the filters of warnings, which
# are the process's: from two threads, the one has them as the other wants them.
ASYNCIO_STARTS_ONE_CHILD_AT_A_TIME = (3, 12) <= sys.version_info < (3, 14)


# --- what each loop does ------------------------------------------------------


class Echo(asyncio.Protocol):
    """Writes back what it gets, to transports and datagram transports."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


class Answer(Echo):
    """Resolves a future with the first thing that it gets."""

    def __init__(self):
        self.future = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.future.set_result(data)

    def datagram_received(self, data, address):
        self.future.set_result(data)


async def streams(loop):
    async def serve(reader, writer):
        writer.write(await reader.readexactly(4))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for _ in range(2):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"echo")
        assert await reader.read() == b"echo"
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def transports(loop):
    near, far = socket.socketpair()
    echo, _ = await loop.create_connection(Echo, sock=near)
    asking, answer = await loop.create_connection(Answer, sock=far)
    asking.write(b"x" * 1000)
    assert len(await answer.future) == 1000
    echo.abort()
    asking.close()


async def datagrams(loop):
    echo, _ = await loop.create_datagram_endpoint(Echo, ("127.0.0.1", 0))
    asking, answer = await loop.create_datagram_endpoint(
        Answer, remote_addr=echo.get_extra_info("sockname")
    )
    asking.sendto(b"datagram")
    assert await answer.future == b"datagram"
    echo.close()
    asking.abort()


async def pipes(loop):
    read, write = os.pipe()
    reader, answer = await loop.connect_read_pipe(Answer, open(read, "rb", 0))
    writer, _ = await loop.connect_write_pipe(
        asyncio.BaseProtocol, open(write, "wb", 0)
    )
    writer.write(b"pipe")
    assert await answer.future == b"pipe"
    writer.close()
    reader.close()


async def sockets(loop):
    with support.socket_pair() as (near, far):
        receive = loop.create_task(loop.sock_recv(near, 100))
        await asyncio.sleep(0)
        await loop.sock_sendall(far, b"data")
        assert await receive == b"data"


async def executors(loop):
    numbers = [loop.run_in_executor(None, int, str(i)) for i in range(3)]
    assert await asyncio.gather(*numbers) == [0, 1, 2]


async def timers(loop):
    later = [loop.call_later(1000, pytest.fail) for _ in range(10)]
    await asyncio.sleep(0.0001)
    for handle in later:
        handle.cancel()


async def children(loop):
    process = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert await process.communicate(b"child") == (b"child", None)
    assert process.returncode == 0


WORK = [streams, transports, datagrams, pipes, sockets, executors, timers]


async def work(loop, parts):
    await asyncio.gather(*(part(loop) for part in parts))
    await asyncio.sleep(0)  # closed transports call connection_lost
    await loop.shutdown_default_executor()


# --- loops made and closed in numbers -----------------------------------------


def test_loops_made_and_closed_in_many_threads(loop_kind):
    """THREADS times LOOPS; the suite's teardown says that nothing of them is left."""

    childless = loop_kind == "asyncio" and ASYNCIO_STARTS_ONE_CHILD_AT_A_TIME

    def body(number):
        for i in range(LOOPS):
            loop = support.make_loop(loop_kind)
            try:
                # Each loop another two, so that unlike things meet.
                parts = [WORK[(number + i) % len(WORK)], WORK[i % len(WORK)]]
                if i % EVERY == number % EVERY and not childless:
                    parts.append(children)
                loop.run_until_complete(work(loop, parts))
            finally:
                loop.close()

    in_threads(*(functools.partial(body, number) for number in range(THREADS)))


def test_loops_that_one_thread_makes_and_another_closes(loop_kind):
    """Two threads make and use loops, of which two others are told."""
    used = queue.SimpleQueue()
    left_open = []

    def make():
        for i in range(LOOPS):
            loop = support.make_loop(loop_kind)
            loop.run_until_complete(work(loop, [WORK[i % len(WORK)]]))
            loop.call_soon(left_open.append, "ready")
            loop.call_later(1000, left_open.append, "timer")
            used.put(loop)
        used.put(None)

    def close():
        while (loop := used.get()) is not None:
            loop.close()
            with pytest.raises(RuntimeError, match="^Event loop is closed$"):
                loop.call_soon_threadsafe(int)

    in_threads(make, make, close, close)
    assert left_open == []


# --- a loop that goes from thread to thread -----------------------------------


def test_a_loop_filled_in_one_thread_and_run_in_another(loop):
    """Whatever was begun goes on in the thread that runs the loop."""
    seen = {}
    near, far = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    made = {}

    def note(name, *args):
        seen.setdefault(name, threading.get_ident())

    def once_readable():
        note("reader")
        loop.remove_reader(near)

    async def in_task():
        note("task")
        assert await loop.run_in_executor(None, int, "7") == 7

    async def serve(reader, writer):
        note("server")
        writer.write(await reader.readexactly(4))
        writer.close()

    async def begin():
        made["child"] = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        made["server"] = await asyncio.start_server(serve, sock=listener)
        left, right = socket.socketpair()
        made["ends"] = [
            (await loop.create_connection(protocol, sock=sock))
            for protocol, sock in ((Echo, left), (Answer, right))
        ]

    def fill():
        loop.run_until_complete(begin())
        loop.call_soon(note, "call_soon")
        loop.call_soon_threadsafe(note, "call_soon_threadsafe")
        loop.call_later(0.0001, note, "call_later")
        loop.call_at(loop.time(), note, "call_at")
        loop.add_reader(near, once_readable)
        far.send(b"x")
        future = loop.create_future()
        future.add_done_callback(functools.partial(note, "future"))
        loop.call_soon(future.set_result, None)
        made["task"] = loop.create_task(in_task())

    async def go_on():
        await made["task"]
        (echo, _), (asking, answer) = made["ends"]
        asking.write(b"data")
        assert await answer.future == b"data"
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"echo")
        assert await reader.read() == b"echo"
        for transport in (echo, asking, writer):
            transport.close()
        assert await made["child"].communicate(b"child") == (b"child", None)
        made["server"].close()
        await made["server"].wait_closed()
        while len(seen) < 8:
            await asyncio.sleep(0.001)

    def run():
        loop.run_until_complete(go_on())
        loop.run_until_complete(loop.shutdown_default_executor())
        return threading.get_ident()

    with near, far:
        support.run_in_thread(fill)
        assert not seen
        ident = support.run_in_thread(run)
    names = (
        "call_at call_later call_soon call_soon_threadsafe future reader server task"
    )
    assert seen == dict.fromkeys(names.split(), ident)
    support.run_in_thread(loop.close)


def test_every_step_in_a_thread_of_its_own(loop):
    """Connections and a child whose every read and write another thread waits for."""
    kept = []

    async def begin():
        async def serve(reader, writer):
            while line := await reader.readline():
                writer.write(line)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        kept.append(server)
        kept.append(await asyncio.open_connection(*server.sockets[0].getsockname()))
        child = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        kept.append((child.stdout, child.stdin))
        kept.append(child)

    async def write(writer, data):
        writer.write(data)
        await writer.drain()

    async def end():
        server, (_, writer), _, child = kept
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        child.stdin.close()
        assert await child.wait() == 0

    def step(coroutine):
        return support.run_in_thread(loop.run_until_complete, coroutine)

    step(begin())
    for reader, writer in kept[1:3]:
        for size in (1, 50_000):
            line = b"x" * (size - 1) + b"\n"
            writing = loop.create_task(write(writer, line))
            reading = loop.create_task(reader.readexactly(size))
            step(asyncio.wait([writing]))
            assert step(asyncio.wait_for(reading, support.PATIENCE)) == line
    step(end())


def test_a_byte_goes_round(loop_kind):
    """Each thread has the next one's loop write to that one's transport."""
    rounds = 100
    barrier = threading.Barrier(THREADS)
    loops, writers, hops = {}, {}, []

    class Forward(asyncio.Protocol):
        def __init__(self, onward):
            self.onward = onward

        def data_received(self, data):
            hops.append(self.onward)
            if len(hops) == rounds * THREADS:
                for loop in loops.values():
                    loop.call_soon_threadsafe(loop.stop)
            else:
                onward = loops[self.onward]
                onward.call_soon_threadsafe(writers[self.onward].write, data)

    async def connect(number):
        near, far = socket.socketpair()
        make = functools.partial(Forward, (number + 1) % THREADS)
        reader, _ = await loops[number].create_connection(make, sock=near)
        writers[number], _ = await loops[number].create_connection(Echo, sock=far)
        return reader, writers[number]

    def body(number):
        loop = loops[number] = support.make_loop(loop_kind)
        ends = loop.run_until_complete(connect(number))
        barrier.wait(support.PATIENCE)
        if number == 0:
            loop.call_soon(writers[0].write, b"x")
        loop.run_forever()
        for end in ends:
            end.close()
        run_once(loop)
        barrier.wait(support.PATIENCE)
        loop.close()

    in_threads(*(functools.partial(body, number) for number in range(THREADS)))
    assert hops == [*range(1, THREADS), 0] * rounds
