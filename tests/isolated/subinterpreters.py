"""Loops in interpreters with a GIL of their own.

Arguments: the kind of loop, the scenario, and for one_after_another how many (16).
Needs Python 3.13.  Nothing of what the interpreters did may be left in the process: no
descriptor, no thread, no memory.
"""

import asyncio
import contextlib
import os
import sys
import textwrap
import threading

import _interpreters
import support

KIND = sys.argv[1]
COUNT = int(sys.argv[3]) if len(sys.argv) > 3 else 16

#: What every interpreter begins with.
PROLOGUE = """
import sys
sys.path[:0] = {path!r}
import asyncio, builtins, os, socket, threading
import support

def target(*args):
    pass
"""

#: A bit of everything, on a loop that is closed at the end.
WORK = """
async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(line)
    writer.close()

async def talk(address):
    reader, writer = await asyncio.open_connection(*address)
    for size in (1, 1000, 30_000):
        line = b"x" * size + b"\\n"
        writer.write(line)
        assert await reader.readline() == line
    writer.close()
    await writer.wait_closed()

async def main():
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await asyncio.gather(*(talk(address) for _ in range(3)))
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.001)
    loop.call_later(1000, target).cancel()
    loop.call_soon_threadsafe(int)
    assert await asyncio.to_thread(int, "7") == 7
    with support.socket_pair() as (left, right):
        future = loop.create_future()
        loop.add_reader(left, future.set_result, "readable")
        right.send(b"x")
        assert await future == "readable"
        loop.remove_reader(left)
    if {child}:
        child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        assert await child.communicate(b"child") == (b"child", None)
        assert child.returncode == 0
    await loop.shutdown_default_executor()

loop = support.make_loop({kind!r})
loop.run_until_complete(main())
loop.close()
"""

#: A loop with something of everything half done.
BUSY = """
loop = support.make_loop({kind!r})
loop.set_exception_handler(target)

async def begin():
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    left, right = socket.socketpair()
    writer, _ = await loop.create_connection(asyncio.Protocol, sock=left)
    await loop.create_connection(asyncio.Protocol, sock=right)
    writer.write(b"x" * 1_000_000)
    endpoint, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, ("127.0.0.1", 0)
    )
    read, write = os.pipe()
    await loop.connect_read_pipe(asyncio.Protocol, open(read, "rb", 0))
    pipe, _ = await loop.connect_write_pipe(asyncio.Protocol, open(write, "wb", 0))
    pipe.write(b"x" * 1_000_000)
    near, far = socket.socketpair()
    near.setblocking(False)
    loop.add_reader(near, target, near, far)
    loop.add_writer(far, target)
    loop.create_task(asyncio.sleep(1000))
    loop.create_task(loop.sock_recv(near, 1))
    return writer, pipe, server, endpoint

transports = loop.run_until_complete(begin())
loop.call_soon(target)
loop.call_later(1000, target)
loop.call_soon_threadsafe(target)
"""

#: How a loop is left in an interpreter that is destroyed then.
LEFT = {
    "open": "",
    "closed": """
        handles = [loop.call_soon(target), loop.call_later(1000, target)]
        loop.close()
    """,
    "in_builtins": """
        builtins.kept = [loop, loop.call_soon(target), loop.call_later(1000, target)]
    """,
    "interrupted": """
        def leave():
            raise KeyboardInterrupt

        loop.call_soon(leave)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            pass
    """,
    "half_closed": """
        class Executor(__import__("concurrent.futures").futures.ThreadPoolExecutor):
            def shutdown(self, wait=True, **kwargs):
                super().shutdown(wait, **kwargs)
                raise ZeroDivisionError

        loop.set_default_executor(Executor())
        for transport in transports:
            transport.close()
        try:
            loop.close()
        except ZeroDivisionError:
            pass
    """,
    "running_in_a_thread": """
        # Called as the interpreter ends, before it waits for the thread.
        threading._register_atexit(loop.call_soon_threadsafe, loop.stop)
        running = threading.Event()
        loop.call_soon(running.set)
        threading.Thread(target=loop.run_forever).start()
        running.wait()
    """,
}


#: Bytes that an interpreter may leave: a small part of what one takes, megabytes.
LEFT_OF_ONE = 200_000


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_one(code, kind=KIND, child=True):
    """Run code, a template, in an interpreter of its own, and destroy that."""
    path = sys.path[:3]
    interpreter = _interpreters.create("isolated")
    try:
        text = (PROLOGUE + code).format(path=path, kind=kind, child=child)
        error = _interpreters.exec(interpreter, text)
        assert error is None, error.formatted
    finally:
        _interpreters.destroy(interpreter)


def in_threads(count, *args):
    """Run count interpreters at once, each in a thread."""
    errors = []

    def body():
        try:
            run_one(*args)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=body) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def nothing_left():
    """Compare descriptors, threads and the main interpreter's counts."""
    support.make_loop(KIND).close()  # what libuv opens once per process is open now
    support.run_in_thread(int)  # and what a sanitizer starts beside a thread runs
    threads = support.native_threads()
    before = support.open_descriptors(), support.core_stats()
    yield
    support.wait_for_condition(
        lambda: support.native_threads() <= threads, what="threads of the kernel"
    )
    support.collect()
    after = support.open_descriptors(), support.core_stats()
    assert after == before, (before, after)


# --- scenarios ------------------------------------------------------------------------


def one_after_another():
    """From the eighth on they take no more memory. Until 3.13 CPython itself leaves an
    interpreter's memory behind."""
    for i in range(COUNT):
        if i == 8:
            before = resident_bytes()
        run_one(WORK)
    if sys.version_info >= (3, 14):
        grown = (resident_bytes() - before) / (COUNT - 8)
        assert grown < LEFT_OF_ONE, f"{grown} bytes of each interpreter"


def side_by_side():
    """Six at once, while the main interpreter's own loop is busy with connections."""

    async def serve(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        others = asyncio.ensure_future(asyncio.to_thread(in_threads, 6, WORK))
        while not others.done():
            writer.write(b"main")
            assert await reader.readexactly(4) == b"main"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await others
        await asyncio.get_running_loop().shutdown_default_executor()

    loop = support.make_loop(KIND)
    loop.run_until_complete(main())
    loop.close()


def destroyed():
    """With a live loop in it, in every state."""
    for left in LEFT.values():
        run_one(BUSY + textwrap.dedent(left))


def main():
    with nothing_left():
        globals()[sys.argv[2]]()


if __name__ == "__main__":
    main()
