"""Forks while other threads are inside a loop: the child is not left with their locks.

Arguments: the kind of loop, what the child does with its copy of the loop.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import warnings

import support

KIND = sys.argv[1]
FORKS = 10


def make_another(loop, sock):
    """A new loop, and threads of its own, which may be where the parent's were."""
    mine = support.make_loop(KIND)
    seen = []

    def call():
        for _ in range(10):
            mine.call_soon_threadsafe(seen.append, None)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    support.run_until(mine, lambda: len(seen) == 30)
    for thread in threads:
        thread.join()
    mine.close()


def use(loop, sock):
    """Each works, or is refused; from the thread that forked and from a new one."""

    def calls():
        for call in (
            lambda: loop.call_soon(int),
            lambda: loop.call_later(1000, int).cancel(),
            lambda: loop.call_soon_threadsafe(int).cancel(),
            lambda: loop.add_reader(sock, int),
            lambda: loop.remove_reader(sock),
            lambda: repr(loop),
            lambda: support.run_once(loop),
            lambda: loop.close(),
        ):
            with contextlib.suppress(RuntimeError, OSError):
                call()

    calls()
    thread = threading.Thread(target=calls)
    thread.start()
    thread.join()


def drop(loop, sock):
    LOOPS.clear()
    del loop
    gc.collect()


def in_child(action, loop, sock):
    """Fork; act in the child; return when it has ended well, and in time."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(int(support.PATIENCE))
            action(loop, sock)
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status


class Finalizer:
    """Waits where it is dropped, and with it the method that drops it."""

    def __init__(self, reached, left):
        self.reached, self.left = reached, left

    def __call__(self):
        raise AssertionError("cancelled")

    def __del__(self):
        self.reached.set()
        assert self.left.wait(support.PATIENCE)


def fork_beside_a_method(action, sock):
    """The other thread is inside cancel(), and on free-threaded builds has the lock."""
    reached, left = threading.Event(), threading.Event()

    def cancel():
        # Made here: without a GIL, who made it drops it.
        LOOPS[0].call_later(1000, Finalizer(reached, left)).cancel()

    LOOPS.append(support.make_loop(KIND))
    thread = threading.Thread(target=cancel)
    thread.start()
    assert reached.wait(support.PATIENCE)
    try:
        in_child(action, LOOPS[0], sock)
    finally:
        left.set()
        thread.join()
    LOOPS.pop().close()


def fork_beside_many(action, sock):
    """One thread runs the loop, and others call it, while this one forks."""
    LOOPS.append(support.make_loop(KIND))
    loop = LOOPS[0]
    done = threading.Event()

    def run():
        loop.run_forever()
        loop.close()

    def call():
        while not done.is_set():
            ran = threading.Event()
            loop.call_soon_threadsafe(ran.set)
            repr(loop), loop.is_running(), loop.time()
            ran.wait(support.PATIENCE)  # or what is queued grows without end

    runner = threading.Thread(target=run)
    callers = [threading.Thread(target=call) for _ in range(2)]
    for thread in (runner, *callers):
        thread.start()
    try:
        for _ in range(FORKS):
            in_child(action, loop, sock)
    finally:
        done.set()
        for thread in callers:
            thread.join()
        loop.call_soon_threadsafe(loop.stop)
        runner.join()
    LOOPS.clear()


LOOPS = []


def main():
    # That it may deadlock is what is tested here.
    warnings.filterwarnings("ignore", message=".* multi-threaded, use of fork")
    action = globals()[sys.argv[2]]
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        fork_beside_a_method(action, near)
        fork_beside_many(action, near)


if __name__ == "__main__":
    main()
