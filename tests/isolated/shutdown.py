"""The interpreter ends while a loop is alive, at one of many odd points.

Arguments: the kind of loop, the name of the point.  The exit status has to be 0, or
what the point asks for, and nothing may be written to stderr.
"""

import asyncio
import atexit
import builtins
import gc
import os
import signal
import socket
import sys
import threading

import support

KIND = sys.argv[1]


def target(*args):
    pass


def busy_loop():
    """A loop with something of everything half done."""
    loop = support.make_loop(KIND)
    left, right = socket.socketpair()
    loop.add_reader(left, target, left, right)
    loop.add_writer(right, target)
    loop.call_later(1000, target)
    loop.add_signal_handler(signal.SIGUSR1, target)
    loop.set_exception_handler(target)
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    endpoint = loop._make_datagram_transport(datagrams, asyncio.DatagramProtocol())
    endpoint.sendto(b"to itself", datagrams.getsockname())
    read, write = os.pipe()
    loop._make_read_pipe_transport(open(read, "rb", 0), asyncio.Protocol())
    writer = loop._make_write_pipe_transport(open(write, "wb", 0), asyncio.Protocol())
    writer.write(b"x" * 1_000_000)
    loop.create_task(asyncio.sleep(1000))
    support.run_once(loop)
    loop.call_soon(target)
    loop.call_soon_threadsafe(target)
    return loop


def run_to_its_end(loop):
    coroutine = asyncio.sleep(0)
    try:
        loop.run_until_complete(coroutine)
    finally:
        coroutine.close()


class AtDeath:
    """Calls a function when it is freed, however late that is."""

    def __init__(self, function):
        self.function = function

    def __del__(self):
        try:
            self.function()
        except Exception:
            pass


def global_and_open():
    global loop
    loop = busy_loop()


def global_and_closed():
    global loop
    loop = busy_loop()
    loop.close()


def in_builtins():
    builtins.loop = busy_loop()
    builtins.handles = [builtins.loop.call_later(1000, target) for _ in range(3)]


def handles_outlive_everything():
    loop = busy_loop()
    builtins.handles = [loop.call_soon(target), loop.call_later(1000, target)]


def in_a_cycle_without_collection():
    gc.disable()
    loop = busy_loop()
    loop.myself = loop
    sys.modules["__main__"].cycle = [loop, loop._ready]


def in_sys():
    sys.some_attribute = busy_loop()


def exit_in_a_callback():
    loop = busy_loop()
    loop.call_soon(sys.exit, 0)
    loop.run_forever()


def exit_in_a_task():
    loop = busy_loop()

    async def main():
        await asyncio.sleep(0.001)
        sys.exit(7)

    loop.run_until_complete(main())


def closed_at_exit():
    loop = busy_loop()
    atexit.register(loop.close)


def run_at_exit():
    loop = busy_loop()

    def late():
        assert loop.run_until_complete(asyncio.sleep(0.001, "late")) == "late"
        loop.close()

    atexit.register(late)


def made_at_exit():
    def late():
        builtins.late_loop = busy_loop()

    atexit.register(late)


def used_by_finalizers():
    loop = busy_loop()
    actions = [
        lambda: loop.call_soon(target),
        lambda: loop.call_later(1, target),
        lambda: loop.call_soon_threadsafe(target),
        lambda: run_to_its_end(loop),
        lambda: support.run_once(loop),
        lambda: loop.close(),
        lambda: loop.call_soon(target),
    ]
    builtins.finalizers = [AtDeath(action) for action in actions]


def made_by_finalizers():
    kind = support.loop_class(KIND)
    builtins.finalizers = [AtDeath(kind), AtDeath(lambda: kind().close())]


def running_in_a_daemon_thread():
    loop = support.make_loop(KIND)
    running = threading.Event()

    def body():
        loop.call_soon(running.set)
        loop.run_forever()

    threading.Thread(target=body, daemon=True).start()
    assert running.wait(30)
    builtins.loop = loop


def busy_in_a_daemon_thread():
    loop = support.make_loop(KIND)
    running = threading.Event()

    def again():
        running.set()
        loop.call_soon(again)
        loop.call_later(0, target)

    def body():
        loop.call_soon(again)
        loop.run_forever()

    threading.Thread(target=body, daemon=True).start()
    assert running.wait(30)
    builtins.loop = loop


def called_from_daemon_threads():
    loop = busy_loop()

    def body():
        while True:
            loop.call_soon_threadsafe(target)

    for _ in range(2):
        threading.Thread(target=body, daemon=True).start()
    support.run_once(loop)
    builtins.loop = loop


def with_a_running_executor_call():
    loop = busy_loop()
    release = threading.Event()
    loop.run_in_executor(None, release.wait, 30)
    atexit.register(release.set)  # before the executors' own joining of their threads
    threading._register_atexit(release.set)
    builtins.loop = loop


def with_open_transports():
    loop = support.make_loop(KIND)
    left, right = socket.socketpair()

    async def main():
        builtins.server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        builtins.first = await loop.create_connection(asyncio.Protocol, sock=left)
        builtins.second = await loop.create_connection(asyncio.Protocol, sock=right)
        builtins.first[0].write(b"x" * 1_000_000)

    loop.run_until_complete(main())


def after_a_fork():
    import os

    loop = busy_loop()
    child = os.fork()
    if child == 0:
        sys.exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
    loop.close()


POINTS = [
    global_and_open,
    global_and_closed,
    in_builtins,
    handles_outlive_everything,
    in_a_cycle_without_collection,
    in_sys,
    exit_in_a_callback,
    exit_in_a_task,
    closed_at_exit,
    run_at_exit,
    made_at_exit,
    used_by_finalizers,
    made_by_finalizers,
    running_in_a_daemon_thread,
    busy_in_a_daemon_thread,
    called_from_daemon_threads,
    with_a_running_executor_call,
    with_open_transports,
    after_a_fork,
]

if __name__ == "__main__":
    globals()[sys.argv[2]]()
