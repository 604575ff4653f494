"""Fork in a callback of a running loop, and both processes go on.

Arguments: the kind of loop, which of the programs.
"""

import asyncio
import ctypes
import os
import signal
import socket
import sys

import support

KIND = sys.argv[1]


def wait_for(child):
    status = os.waitpid(child, 0)[1]
    assert status == 0, status


class Forker:
    """Forks in a callback, by *fork*: `child` is 0 in the child."""

    def __init__(self, loop, fork=os.fork):
        self.loop = loop
        self.child = None
        self.fork = fork

    def __call__(self):
        self.child = self.fork()

    def run(self):
        """Run the loop; the child ends here, and well."""
        status = 1
        try:
            self.loop.run_forever()
            status = 0
        finally:
            if self.child == 0:
                self.loop.close()
                os._exit(status)


def both_run_on():
    """Each has its timers, its wake-ups from threads and its descriptors."""
    loop = support.make_loop(KIND)
    fork = Forker(loop)
    left, right = socket.socketpair()
    seen = []

    def after():
        mine = fork.child == 0
        if mine:
            # Those of the parent's that are armed before or after must not be moved.
            for i in range(20):
                loop.call_later(0.01 * i, seen.append, "child's")
            if KIND == "pyloop":  # asyncio's child has the parent's epoll descriptor
                loop.remove_reader(left)
            loop.call_later(0.2, loop.stop)
        else:
            loop.call_later(0.05, right.send, b"x")
            loop.call_later(0.1, seen.append, "parent's")
            loop.run_in_executor(None, support.wait_for_condition, seen.copy)

    def readable():
        seen.append(left.recv(100))
        if fork.child:
            stop_when_complete()

    def stop_when_complete():
        if {"parent's", "before", b"x"} <= {*seen}:
            loop.stop()
        else:
            loop.call_later(0.001, stop_when_complete)

    loop.add_reader(left, readable)
    loop.call_later(0.02, seen.append, "before")
    loop.call_soon(fork)
    loop.call_soon(after)
    fork.run()
    wait_for(fork.child)
    assert sorted(map(str, seen)) == sorted(["before", "b'x'", "parent's"]), seen
    loop.close()
    left.close()
    right.close()


def a_signal_to_the_child():
    """The parent's handler is not called."""
    loop = support.make_loop(KIND)
    fork = Forker(loop)
    seen = []

    def after():
        if fork.child == 0:
            signal.raise_signal(signal.SIGUSR1)
            os._exit(0)
        wait_for(fork.child)
        signal.raise_signal(signal.SIGUSR2)

    def handle(number):
        seen.append(number)
        if number == signal.SIGUSR2:
            loop.stop()

    for number in (signal.SIGUSR1, signal.SIGUSR2):
        loop.add_signal_handler(number, handle, number)
    loop.call_soon(fork)
    loop.call_soon(after)
    fork.run()
    assert seen == [signal.SIGUSR2], seen
    loop.close()


def a_signal_handled_by_the_child():
    """In a child that runs on, a new run hears signals."""
    loop = support.make_loop(KIND)
    fork = Forker(loop)
    loop.call_soon(fork)
    loop.call_soon(loop.stop)
    loop.run_forever()
    if fork.child == 0:
        loop.add_signal_handler(signal.SIGUSR1, loop.stop)
        loop.call_soon(signal.raise_signal, signal.SIGUSR1)
        fork.run()
    wait_for(fork.child)
    loop.close()


class Pairs(asyncio.Protocol):
    """Answers with two writes, and forks between them in the fourth answer."""

    def __init__(self, fork):
        self.fork = fork
        self.answers = 0

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.answers += 1
        self.transport.write(b"<")
        if self.answers == 4:
            self.fork()
            if self.fork.child == 0:
                sys.exit(0)
        self.transport.write(b">")


def between_two_writes():
    """What was written before the fork is sent once."""
    loop = support.make_loop(KIND)
    fork = Forker(loop)
    left, right = socket.socketpair()
    right.settimeout(30)
    transport, _ = loop.run_until_complete(
        loop.create_connection(lambda: Pairs(fork), sock=left)
    )
    for _ in range(4):
        right.send(b"?")
        try:
            support.run_once(loop)
        except SystemExit:
            os._exit(0)
        if not fork.child:
            assert right.recv(100) == b"<>"
    wait_for(fork.child)
    assert right.recv(100) == b"<>"
    transport.close()
    support.spin(loop)
    assert right.recv(100) == b""
    loop.close()
    right.close()


def between_writes_of_a_batch(fork=os.fork):
    """What waits for the end of the batch is sent once; both go on writing."""
    loop = support.make_loop(KIND)
    fork = Forker(loop, fork)
    left, right = socket.socketpair()
    right.settimeout(30)
    transport, _ = loop.run_until_complete(
        loop.create_connection(asyncio.Protocol, sock=left)
    )
    for _ in range(20):  # until the loop has a thread that allows writes to wait
        for _ in range(65):
            loop.call_soon(transport.write, b"x")
        support.spin(loop)
        assert len(right.recv(65, socket.MSG_WAITALL)) == 65
        if getattr(loop, "_guarded", True):
            break
    assert getattr(loop, "_guarded", True)
    loop.call_soon(transport.write, b"once")
    loop.call_soon(fork)
    loop.call_soon(lambda: None)
    support.run_once(loop)
    if fork.child == 0:
        transport.write(b"child")
        for _ in range(65):
            loop.call_soon(transport.write, b"x")
        support.run_once(loop)
        loop.close()
        os._exit(0)
    wait_for(fork.child)
    said = right.recv(74, socket.MSG_WAITALL)  # nobody says who comes first
    assert sorted(said) == sorted(b"oncechild" + b"x" * 65), said
    transport.write(b"parent")
    assert right.recv(6, socket.MSG_WAITALL) == b"parent"
    transport.close()
    support.spin(loop)
    assert right.recv(100) == b""
    loop.close()
    right.close()


def between_writes_of_a_batch_by_c():
    """The same where Python does not know of the fork."""
    between_writes_of_a_batch(ctypes.CDLL(None).fork)


if __name__ == "__main__":
    globals()[sys.argv[2]]()
