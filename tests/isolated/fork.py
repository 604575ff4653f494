"""Fork with a live loop: what the child does with it never reaches the parent's loop.

Arguments: the kind of loop, what the child does.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading

import support

KIND = sys.argv[1]


def close(loop, left):
    if not loop.is_running():
        loop.close()
        return
    try:  # forked in one of its callbacks: refused, as asyncio refuses it
        loop.close()
    except RuntimeError:
        return
    raise AssertionError("a running loop was closed")


def close_and_make_another(loop, left):
    close(loop, left)
    mine = support.make_loop(KIND)
    assert mine.run_until_complete(asyncio.sleep(0.001, "mine")) == "mine"
    mine.close()


def make_another(loop, left):
    mine = support.make_loop(KIND)
    assert mine.run_until_complete(asyncio.sleep(0.001, "mine")) == "mine"
    mine.close()


def watch_and_unwatch(loop, left):
    """Whether the child's copy refuses or pretends, the parent's watch stays."""
    with contextlib.suppress(Exception):
        loop.remove_reader(left)
    with contextlib.suppress(Exception):
        loop.add_writer(left, print)
    with contextlib.suppress(Exception):
        loop.remove_writer(left)


def drop(loop, left):
    import gc

    del loop, left
    PARENT.clear()
    gc.collect()


def use_everything(loop, left):
    """No call may crash; what each answers is open."""
    for call in (
        lambda: loop.call_soon(print),
        lambda: loop.call_later(1000, print),
        lambda: loop.call_soon_threadsafe(int),
        lambda: loop.time(),
        lambda: loop.add_reader(left, int),
        lambda: loop.remove_reader(left),
        lambda: loop.remove_signal_handler(signal.SIGUSR1),
        lambda: repr(loop),
        lambda: loop.stop(),
        lambda: loop.close(),
        lambda: loop.close(),
    ):
        with contextlib.suppress(Exception):
            call()


PARENT = []


def in_child(action, loop, left):
    """Fork; act in the child; return when it has ended well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action(loop, left)
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status


def check(loop, left, right):
    """The parent's loop does everything it did before."""
    seen = []
    right.send(b"x")
    support.run_until(loop, lambda: READ, timeout=10)
    READ.clear()
    loop.call_soon_threadsafe(seen.append, "threadsafe")
    loop.run_until_complete(asyncio.sleep(0.001))
    assert seen == ["threadsafe"]
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.stop,))
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    signal.raise_signal(signal.SIGUSR1)
    support.run_until(loop, lambda: SIGNALS, timeout=10)
    SIGNALS.clear()


READ, SIGNALS = [], []


def main():
    action = globals()[sys.argv[2]]
    loop = support.make_loop(KIND)
    left, right = socket.socketpair()
    left.setblocking(False)
    loop.add_reader(left, lambda: READ.append(left.recv(100)))
    loop.add_signal_handler(signal.SIGUSR1, SIGNALS.append, True)
    PARENT.extend([loop, left])
    check(loop, left, right)
    for _ in range(2):
        in_child(action, loop, left)
        check(loop, left, right)
    loop.call_soon(in_child, action, loop, left)  # while it runs
    support.run_once(loop)
    check(loop, left, right)
    assert loop.remove_reader(left) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    loop.close()
    left.close()
    right.close()


if __name__ == "__main__":
    main()
