"""Watched descriptors of every kind: closed, reused, duplicated, hung up, very many."""

import asyncio
import errno
import fcntl
import os
import pty
import resource
import select
import socket
import subprocess
import sys
import threading
import time

import pytest
import support
from support import run_once

ADD = {"reader": "add_reader", "writer": "add_writer"}
REMOVE = {"reader": "remove_reader", "writer": "remove_writer"}
BOTH = pytest.mark.parametrize("side", ["reader", "writer"])


def add(loop, side, *args):
    return getattr(loop, ADD[side])(*args)


def remove(loop, side, *args):
    return getattr(loop, REMOVE[side])(*args)


@pytest.fixture
def pair():
    with support.socket_pair() as sockets:
        yield sockets


# --- closed, reused and duplicated descriptors --------------------------------


@BOTH
def test_closed_while_watched(loop, side):
    """The kernel forgets a closed descriptor; the loop must survive that."""
    left, right = socket.socketpair()
    with right:
        add(loop, side, left, int)
        support.spin(loop, 2)
        number = left.fileno()
        left.close()
        support.spin(loop)
        assert remove(loop, side, number) is True
        assert remove(loop, side, number) is False
        support.spin(loop)


@BOTH
def test_closed_before_the_first_poll(loop, side):
    left, right = socket.socketpair()
    with right:
        add(loop, side, left, pytest.fail)
        number = left.fileno()
        left.close()
        support.spin(loop)
        assert remove(loop, side, number) is True


def test_closed_before_the_first_poll_and_never_removed(loop):
    left, right = socket.socketpair()
    with right:
        loop.add_reader(left, pytest.fail)
        left.close()
        support.run(loop, asyncio.sleep(0.001))


def test_closed_then_changed(loop):
    """A writer joins a reader whose descriptor has gone: that is an OSError."""
    left, right = socket.socketpair()
    with right:
        loop.add_reader(left, pytest.fail)
        run_once(loop)
        number = left.fileno()
        left.close()
        with pytest.raises(OSError):
            loop.add_writer(number, pytest.fail)
        support.spin(loop)
        loop.remove_reader(number)
        loop.remove_writer(number)
        support.spin(loop)


@pytest.mark.parametrize("polled", [False, True])
def test_number_reused_after_a_proper_removal(loop, polled):
    calls = []
    for i in range(20):
        left, right = socket.socketpair()
        with left, right:
            right.send(b"x")
            loop.add_reader(left, calls.append, i)
            if polled:
                run_once(loop)
            loop.remove_reader(left)
    assert calls == (list(range(20)) if polled else [])


@pytest.mark.pyloop_only
@pytest.mark.parametrize("polled", [False, True])
@BOTH
def test_number_reused_after_a_close_without_removal(loop, polled, side):
    """In asyncio the new registration fails, or the old one hides it."""
    with support.socket_pair() as old, support.socket_pair() as new:
        number = old[0].fileno()
        old[1].send(b"x")
        add(loop, side, number, int)
        if polled:
            run_once(loop)
        os.dup2(new[0].fileno(), number)  # closes the old one
        calls = []
        new[1].send(b"x")
        add(loop, side, number, calls.append, "new")
        support.spin(loop, 2)
        assert set(calls) == {"new"}
        assert remove(loop, side, number) is True


@pytest.mark.pyloop_only
@pytest.mark.parametrize("polled", [False, True])
def test_a_number_reused_does_not_revive_the_other_direction(loop, polled):
    """Who waited to write to the old descriptor does not wait to write to the new."""
    with support.socket_pair() as old, support.socket_pair() as new:
        number = old[0].fileno()
        support.fill(old[0])
        calls = []
        loop.add_writer(number, calls.append, "of the old descriptor")
        if polled:
            run_once(loop)
        os.dup2(new[0].fileno(), number)
        loop.add_reader(number, calls.append, "new")
        new[1].send(b"x")
        support.spin(loop, 2)
        assert set(calls) == {"new"}
        loop.remove_writer(number)
        assert loop.remove_reader(number) is True


def test_the_original_closed_while_a_duplicate_is_open(loop, pair):
    """epoll still reports the open file under the closed number: nobody's call."""
    left, right = pair
    duplicate = left.dup()
    with duplicate:
        number = left.fileno()
        loop.add_reader(left, int)
        run_once(loop)
        loop.remove_reader(left)
        left.close()
        right.send(b"x")
        calls = []
        loop.add_reader(duplicate, calls.append, "duplicate")
        run_once(loop)
        assert calls == ["duplicate"]
        loop.remove_reader(duplicate)
        assert loop.remove_reader(number) is False


@pytest.mark.pyloop_only
@pytest.mark.skipif(
    os.environ.get("PYLOOP_POLLER") == "uv_poll",
    reason="libuv cannot get rid of a descriptor that was closed before its removal",
)
def test_the_original_closed_unremoved_while_a_duplicate_is_open(loop, pair):
    """The stale registration reports for ever: it must not make the loop spin."""
    left, right = pair
    with left.dup():
        number = left.fileno()
        calls, iterations = [], []

        def clock():
            """Asked for the time at least once in each iteration that may sleep."""
            iterations.append(None)
            return time.monotonic()

        loop.add_reader(left, calls.append, "stale")
        run_once(loop)
        left.close()
        loop.remove_reader(number)
        right.send(b"x")
        loop.time = clock
        loop.run_until_complete(asyncio.sleep(0.1))
        del loop.time
    assert calls == []
    assert len(iterations) < 50


@pytest.mark.skipif(
    os.environ.get("PYLOOP_POLLER") == "uv_poll",
    reason="libuv cannot get rid of a descriptor that was closed before its removal",
)
def test_the_original_closed_unremoved_and_no_descriptor_left(loop, pair):
    """The loop goes on, although it cannot have another epoll descriptor."""
    left, right = pair
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with left.dup():
        number = left.fileno()
        loop.add_reader(left, pytest.fail)
        run_once(loop)
        left.close()
        loop.remove_reader(number)
        right.send(b"x")
        lowest_free = os.dup(right.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            support.spin(loop)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        support.run(loop, asyncio.sleep(0.01))


@pytest.mark.skipif(
    os.environ.get("PYLOOP_POLLER") == "uv_poll",
    reason="libuv cannot get rid of a descriptor that was closed before its removal",
)
def test_a_number_taken_over_before_the_next_event(loop, pair):
    """What still waits for the number goes on: the old file's events are not its."""
    left, right = pair
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    other, far = socket.socketpair()

    async def receive_and_begin_to_send():
        receiving = asyncio.ensure_future(loop.sock_recv(left, 1))
        await asyncio.sleep(0)
        right.send(b"x")
        await receiving  # pyloop goes on to watch for reading
        sending = asyncio.ensure_future(loop.sock_sendall(left, bytes(50_000)))
        await asyncio.sleep(0)
        return sending

    with left.dup(), other, far:
        sending = loop.run_until_complete(receive_and_begin_to_send())
        sent = len(right.recv(100_000))
        right.send(b"x")  # both directions of the old file are ready
        os.dup2(other.fileno(), left.fileno())
        support.run(loop, sending)
        assert sent + len(far.recv(100_000)) == 50_000


@pytest.mark.limit(30)
def test_a_file_that_another_thread_asks_for_while_the_loop_waits(
    new_loop, monkeypatch, tmp_path
):
    """What cannot be watched is refused at once, or told to the exception handler."""
    monkeypatch.setenv("PYLOOP_POLLER", "uv_poll")  # which can only open it later
    loop = new_loop()
    main_thread = threading.get_native_id()
    errors, contexts = [], []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))

    def ask():
        support.wait_until_asleep(main_thread)
        try:
            loop.add_reader(file, int)
        except OSError as exc:
            errors.append(exc)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=ask)
    with open(tmp_path / "file", "w+") as file:
        thread.start()
        loop.run_forever()
        thread.join()
        run_once(loop)
        errors += [context["exception"] for context in contexts]
        assert [type(exc) for exc in errors] == [PermissionError]
        assert all(context["handle"]._callback is int for context in contexts)
        loop.remove_reader(file)


def test_two_numbers_of_one_open_file(loop, pair):
    left, right = pair
    with left.dup() as duplicate:
        calls = []
        loop.add_reader(left, calls.append, "original")
        loop.add_reader(duplicate, calls.append, "duplicate")
        right.send(b"x")
        run_once(loop)
        assert sorted(calls) == ["duplicate", "original"]
        loop.remove_reader(left)
        del calls[:]
        run_once(loop)
        assert calls == ["duplicate"]
        loop.remove_reader(duplicate)


# --- kinds of descriptor ------------------------------------------------------


def test_pipes(loop):
    with support.pipe_pair() as (read_end, write_end):
        calls = []
        loop.add_reader(read_end, calls.append, "readable")
        loop.add_writer(write_end, calls.append, "writable")
        run_once(loop)
        assert calls == ["writable"]
        loop.remove_writer(write_end)
        os.write(write_end, b"x")
        run_once(loop)
        assert calls == ["writable", "readable"]
        loop.remove_reader(read_end)


def test_the_reader_of_a_pipe_whose_writer_has_gone(loop):
    with support.pipe_pair() as (read_end, write_end):
        seen = []
        loop.add_reader(read_end, lambda: seen.append(os.read(read_end, 1)))
        loop.call_soon(os.close, write_end)
        support.run_until(loop, lambda: seen)
        assert seen[0] == b""
        loop.remove_reader(read_end)


def test_the_writer_of_a_pipe_whose_reader_has_gone(loop):
    """An error with neither event bit: the writer has to be called all the same."""
    with support.pipe_pair() as (read_end, write_end):
        os.set_blocking(write_end, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(write_end, b"x" * 65536)
        seen = []

        def writable():
            try:
                os.write(write_end, b"x")
            except OSError as exc:
                seen.append(exc.errno)
                loop.remove_writer(write_end)

        loop.add_writer(write_end, writable)
        support.spin(loop)
        assert seen == []
        os.close(read_end)
        support.run_until(loop, lambda: seen)
        assert seen == [errno.EPIPE]


def test_a_reader_on_the_write_end_learns_that_the_other_end_has_gone(loop):
    """How asyncio's own write pipe transports notice it."""
    with support.pipe_pair() as (read_end, write_end):
        calls = []
        loop.add_reader(write_end, calls.append, "hung up")
        support.spin(loop)
        assert calls == []
        os.close(read_end)
        support.run_until(loop, lambda: calls)
        loop.remove_reader(write_end)


def test_a_hang_up_wakes_both_directions(loop, pair):
    left, right = pair
    support.fill(left)
    calls = set()
    loop.add_reader(left, calls.add, "read")
    loop.add_writer(left, calls.add, "write")
    support.spin(loop)
    assert calls == set()
    right.close()
    support.run_until(loop, lambda: len(calls) == 2)
    loop.remove_reader(left)
    loop.remove_writer(left)


@BOTH
def test_a_hang_up_wakes_the_one_direction_there_is(loop, pair, side):
    left, right = pair
    support.fill(left)
    calls = []
    add(loop, side, left, calls.append, "called")
    right.close()
    support.run_until(loop, lambda: calls)
    support.run_until(loop, lambda: len(calls) > 3)  # and goes on being reported
    remove(loop, side, left)


@BOTH
def test_an_error_wakes_either_direction(loop, side):
    """A refused connection, as those see it who write sock_connect by hand."""
    port = support.free_port()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        calls = []
        add(loop, side, sock, calls.append, "called")
        support.run_until(loop, lambda: calls)
        assert remove(loop, side, sock) is True
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (
            errno.ECONNREFUSED,
            0,  # the loop may have fetched it
        )


def test_a_reset_connection_wakes_both_directions(loop):
    with support.tcp_pair() as (left, right):
        support.fill(left)
        calls = set()
        loop.add_reader(left, calls.add, "read")
        loop.add_writer(left, calls.add, "write")
        linger = b"\1\0\0\0\0\0\0\0"
        right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        right.close()
        support.run_until(loop, lambda: len(calls) == 2)
        loop.remove_reader(left)
        loop.remove_writer(left)


def test_a_listening_socket(loop):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        accepted = []
        loop.add_reader(listener, lambda: accepted.append(listener.accept()))
        with socket.create_connection(listener.getsockname()):
            support.run_until(loop, lambda: accepted)
        loop.remove_reader(listener)
        accepted[0][0].close()


def test_datagrams(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            seen = []
            loop.add_reader(receiver, lambda: seen.append(receiver.recv(100)))
            for text in (b"one", b"", b"three"):
                sender.sendto(text, receiver.getsockname())
            support.run_until(loop, lambda: len(seen) == 3)
            loop.remove_reader(receiver)
    assert seen == [b"one", b"", b"three"]


def test_other_descriptors_that_epoll_takes(loop):
    """An epoll inside the loop, and an eventfd where Python has it."""
    with select.epoll() as epoll, support.socket_pair() as (left, right):
        epoll.register(left, select.EPOLLIN)
        calls = []
        loop.add_reader(epoll, calls.append, "epoll")
        support.spin(loop)
        assert calls == []
        right.send(b"x")
        support.run_until(loop, lambda: calls)
        loop.remove_reader(epoll)
    fd = os.eventfd(0)
    try:
        calls = []
        loop.add_reader(fd, calls.append, "eventfd")
        support.spin(loop)
        assert calls == []
        os.eventfd_write(fd, 1)
        support.run_until(loop, lambda: calls)
        loop.remove_reader(fd)
    finally:
        os.close(fd)


def test_a_terminal_keeps_its_flags(loop):
    """add_reader(sys.stdin) must not make the user's shell non-blocking."""
    master, slave = pty.openpty()
    try:
        for fd in (master, slave):
            before = fcntl.fcntl(fd, fcntl.F_GETFL)
            calls = []
            loop.add_reader(fd, calls.append, "readable")
            loop.add_writer(fd, int)
            assert fcntl.fcntl(fd, fcntl.F_GETFL) == before
            run_once(loop)
            os.write(slave if fd == master else master, b"line\n")
            support.run_until(loop, lambda calls=calls: calls)
            assert fcntl.fcntl(fd, fcntl.F_GETFL) == before
            loop.remove_reader(fd)
            loop.remove_writer(fd)
            run_once(loop)
            assert fcntl.fcntl(fd, fcntl.F_GETFL) == before
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_o_nonblock_is_not_touched(loop, kind, blocking):
    with support.pipe_pair() as pipe, support.socket_pair() as sockets:
        fd = pipe[0] if kind == "pipe" else sockets[0].fileno()
        os.set_blocking(fd, blocking)
        before = fcntl.fcntl(fd, fcntl.F_GETFL)
        loop.add_reader(fd, int)
        assert fcntl.fcntl(fd, fcntl.F_GETFL) == before
        run_once(loop)
        loop.remove_reader(fd)
        run_once(loop)
        assert fcntl.fcntl(fd, fcntl.F_GETFL) == before


STDIN_SCRIPT = """
import fcntl, os, sys, support
before = fcntl.fcntl(0, fcntl.F_GETFL)
loop = support.make_loop(sys.argv[1])
loop.add_reader(sys.stdin, lambda: (print(sys.stdin.readline(), end=""), loop.stop()))
assert fcntl.fcntl(0, fcntl.F_GETFL) == before
print("waiting", flush=True)
loop.run_forever()
loop.remove_reader(sys.stdin)
loop.close()
assert fcntl.fcntl(0, fcntl.F_GETFL) == before
"""


def test_standard_input_that_is_a_terminal(loop_kind):
    master, slave = pty.openpty()
    before = fcntl.fcntl(slave, fcntl.F_GETFL)
    process = subprocess.Popen(
        [sys.executable, "-c", STDIN_SCRIPT, loop_kind],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=support.script_environment(),
    )
    with process:
        assert process.stdout.readline() == "waiting\n"
        os.write(master, b"typed\n")
        out, err = process.communicate(timeout=support.PATIENCE)
    assert (out, err) == ("typed\n", "")
    assert fcntl.fcntl(slave, fcntl.F_GETFL) == before
    os.close(master)
    os.close(slave)


# --- many ---------------------------------------------------------------------


def test_a_thousand_descriptors(loop):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    pairs = [socket.socketpair() for _ in range(1000)]
    try:
        seen = []
        for i, (left, right) in enumerate(pairs):
            loop.add_reader(left, lambda i=i, left=left: seen.append((i, left.recv(9))))
            right.send(b"%d" % i)
        support.run_until(loop, lambda: len(seen) >= 1000)
        assert sorted(seen) == [(i, b"%d" % i) for i in range(1000)]
        for i in range(0, 1000, 2):
            assert loop.remove_reader(pairs[i][0]) is True
        del seen[:]
        for _, right in pairs:
            right.send(b"again")
        support.run_until(loop, lambda: len(seen) >= 500)
        assert sorted(seen) == [(i, b"again") for i in range(1, 1000, 2)]
        for i in range(1, 1000, 2):
            assert loop.remove_reader(pairs[i][0]) is True
    finally:
        for left, right in pairs:
            left.close()
            right.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_is_starved_by_the_others(loop):
    """All of 200 that stay ready are called about as often."""
    pairs = [socket.socketpair() for _ in range(200)]
    counts = [0] * 200
    try:
        for i, (left, right) in enumerate(pairs):
            right.send(b"x")
            loop.add_reader(left, lambda i=i: counts.__setitem__(i, counts[i] + 1))
        support.spin(loop, 100)
        assert min(counts) > 0
        for left, _ in pairs:
            loop.remove_reader(left)
    finally:
        for left, right in pairs:
            left.close()
            right.close()


def test_close_with_descriptors_watched(loop, pair):
    left, right = pair
    loop.add_reader(left, int)
    loop.add_writer(left, int)
    loop.add_reader(right, int)
    run_once(loop)
    loop.close()
    left.send(b"the loop does not own its descriptors")
    assert right.recv(100)
