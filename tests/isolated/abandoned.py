"""Loops that are dropped without close(), in every state, and collected.

Argument: the kind of loop.
"""

import asyncio
import gc
import os
import socket
import sys
import threading
import warnings
import weakref

import support

KIND = sys.argv[1]


def target(*args):
    pass


def fresh():
    return support.make_loop(KIND)


def used():
    loop = fresh()
    loop.run_until_complete(asyncio.sleep(0.001))
    return loop


def scheduled():
    loop = fresh()
    loop.call_soon(target, loop)
    loop.call_later(1000, target, loop)
    loop.call_soon_threadsafe(target, loop)
    return loop


def with_pending_tasks():
    loop = fresh()
    for _ in range(3):
        loop.create_task(asyncio.sleep(1000))
    support.run_once(loop)
    return loop


def with_watched_descriptors():
    loop = fresh()
    left, right = socket.socketpair()
    loop.add_reader(left, target, left, right, loop)
    loop.add_writer(right, target, loop)
    support.run_once(loop)
    return loop


def with_transports():
    loop = fresh()
    left, right = socket.socketpair()

    async def main():
        await loop.create_connection(asyncio.Protocol, sock=left)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=right)
        transport.write(b"x" * 1_000_000)

    loop.run_until_complete(main())
    return loop


def with_pipes():
    loop = fresh()

    async def main():
        read, write = os.pipe()
        await loop.connect_read_pipe(asyncio.Protocol, open(read, "rb", 0))
        transport, _ = await loop.connect_write_pipe(
            asyncio.Protocol, open(write, "wb", 0)
        )
        transport.write(b"x" * 1_000_000)

    loop.run_until_complete(main())
    return loop


def with_a_server():
    loop = fresh()
    loop.run_until_complete(loop.create_server(asyncio.Protocol, "127.0.0.1", 0))
    return loop


def with_signal_handlers():
    import signal

    loop = fresh()
    loop.add_signal_handler(signal.SIGUSR1, target, loop)
    return loop


def interrupted():
    loop = fresh()

    def leave():
        raise KeyboardInterrupt

    loop.call_soon(leave)
    loop.call_soon(target, loop)
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        pass
    return loop


def of_another_thread():
    loops = []
    thread = threading.Thread(target=lambda: loops.append(used()))
    thread.start()
    thread.join()
    return loops.pop()


def self_referential():
    loop = used()
    loop.myself = [loop]
    loop.handle = loop.call_later(1000, target, loop)
    loop.set_exception_handler(lambda *args: loop)
    return loop


def main():
    warnings.simplefilter("ignore", ResourceWarning)
    fresh().close()  # what the library opens once per process is open from here on
    before = support.open_descriptors()
    for make in (
        fresh,
        used,
        scheduled,
        with_pending_tasks,
        with_watched_descriptors,
        with_transports,
        with_pipes,
        with_a_server,
        with_signal_handlers,
        interrupted,
        of_another_thread,
        self_referential,
    ):
        for _ in range(3):
            loop = make()
            loop.set_exception_handler(target)  # pending tasks that are destroyed
            watch = weakref.ref(loop)
            del loop
            for _ in range(4):
                gc.collect()
            assert watch() is None, make.__name__
        left = support.open_descriptors()
        assert left == before, (make.__name__, left)
    counts = support.core_stats()
    assert not any(counts.values()), counts


if __name__ == "__main__":
    main()
