"""add_reader, add_writer and their removal: calls, changes inside calls, refusals."""

import asyncio
import errno
import os
import select
import socket
import tempfile
import weakref

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


# --- the plain behaviour ------------------------------------------------------


def test_a_reader_is_called_while_there_is_something_to_read(loop, pair):
    left, right = pair
    calls = []
    assert loop.add_reader(left, calls.append, "called") is None
    support.spin(loop)
    assert calls == []
    right.send(b"x")
    run_once(loop)
    run_once(loop)
    assert len(calls) == 2  # level-triggered: nobody has read
    left.recv(1)
    del calls[:]
    support.spin(loop)
    assert calls == []
    assert loop.remove_reader(left) is True


def test_a_writer_is_called_while_there_is_room(loop, pair):
    left, right = pair
    calls = []
    assert loop.add_writer(left, calls.append, "called") is None
    run_once(loop)
    run_once(loop)
    assert len(calls) == 2
    support.fill(left)
    del calls[:]
    support.spin(loop)
    assert calls == []
    support.drain(right)
    support.run_until(loop, lambda: calls)
    assert loop.remove_writer(left) is True


def test_a_descriptor_wakes_a_loop_that_waits(loop, pair):
    left, right = pair
    loop.add_reader(left, loop.stop)
    loop.call_soon(lambda: loop.run_in_executor(None, right.send, b"x"))
    loop.run_forever()
    loop.remove_reader(left)


@BOTH
def test_numbers_and_objects_are_the_same_descriptor(loop, pair, side):
    left, _ = pair

    class WithFileno:
        def fileno(self):
            return left.fileno()

    for first in (left, left.fileno(), WithFileno()):
        for second in (left, left.fileno(), WithFileno()):
            add(loop, side, first, int)
            assert remove(loop, side, second) is True
            assert remove(loop, side, first) is False


def test_arguments_are_passed_on(loop, pair):
    left, right = pair
    right.send(b"x")
    for arguments in ((), (1,), (1, 2), (1, 2, 3), tuple(range(20))):
        seen = []
        loop.add_reader(left, lambda *args, seen=seen: seen.append(args), *arguments)
        run_once(loop)
        assert seen == [arguments]
    loop.remove_reader(left)


def test_reader_and_writer_of_one_descriptor(loop, pair):
    left, right = pair
    calls = []
    loop.add_reader(left, calls.append, "read")
    loop.add_writer(left, calls.append, "write")
    run_once(loop)
    assert calls == ["write"]
    right.send(b"x")
    del calls[:]
    run_once(loop)
    assert sorted(calls) == ["read", "write"]
    assert loop.remove_writer(left) is True
    del calls[:]
    run_once(loop)
    assert calls == ["read"]
    loop.add_writer(left, calls.append, "write")
    assert loop.remove_reader(left) is True
    del calls[:]
    run_once(loop)
    assert calls == ["write"]
    assert loop.remove_writer(left) is True
    del calls[:]
    support.spin(loop)
    assert calls == []


@BOTH
def test_a_second_callback_replaces_the_first(loop, pair, side):
    left, right = pair
    right.send(b"x")
    calls = []
    add(loop, side, left, calls.append, "first")
    add(loop, side, left, calls.append, "second")
    run_once(loop)
    assert calls == ["second"]
    assert remove(loop, side, left) is True
    assert remove(loop, side, left) is False


@BOTH
def test_a_callback_replaced_in_a_callback(loop, pair, side):
    left, right = pair
    right.send(b"x")
    calls = []

    def first():
        calls.append("first")
        add(loop, side, left, calls.append, "second")

    add(loop, side, left, first)
    run_once(loop)
    run_once(loop)
    assert calls == ["first", "second"]
    remove(loop, side, left)


@BOTH
def test_what_is_replaced_or_removed_is_freed(loop, pair, side):
    class Token:
        pass

    left, _ = pair
    tokens = [Token(), Token()]
    watches = [weakref.ref(token) for token in tokens]
    add(loop, side, left, int, tokens.pop(0))
    add(loop, side, left, int, tokens.pop(0))
    support.collect()
    assert watches[0]() is None
    assert watches[1]() is not None
    remove(loop, side, left)
    support.collect()
    assert watches[1]() is None


@BOTH
def test_return_values_of_removal(loop, pair, side):
    left, _ = pair
    other = {"reader": "writer", "writer": "reader"}[side]
    assert remove(loop, side, left) is False
    add(loop, other, left, int)
    assert remove(loop, side, left) is False
    assert remove(loop, other, left) is True
    assert remove(loop, other, left) is False
    assert remove(loop, side, 999_999) is False


# --- changes inside callbacks -------------------------------------------------


@BOTH
def test_a_callback_that_removes_itself(loop, pair, side):
    left, right = pair
    right.send(b"x")
    results = []
    add(loop, side, left, lambda: results.append(remove(loop, side, left)))
    support.spin(loop)
    assert results == [True]


def test_a_callback_that_removes_another_that_is_ready_too(loop):
    """Which of the two is first is open; that the second is not called is not."""
    with support.socket_pair() as first, support.socket_pair() as second:
        calls = []

        def callback(name, other):
            calls.append(name)
            loop.remove_reader(other)

        for name, mine, other in (("a", first, second), ("b", second, first)):
            mine[1].send(b"x")
            loop.add_reader(mine[0], callback, name, other[0])
        run_once(loop)
        assert len(calls) == 1
        loop.remove_reader(first[0])
        loop.remove_reader(second[0])


def test_a_reader_that_removes_the_writer_of_its_descriptor(loop, pair):
    left, right = pair
    right.send(b"x")
    calls = []

    def reader():
        calls.append("read")
        loop.remove_writer(left)
        loop.remove_reader(left)

    def writer():
        calls.append("write")
        loop.remove_writer(left)
        loop.remove_reader(left)

    loop.add_reader(left, reader)
    loop.add_writer(left, writer)
    support.spin(loop)
    assert len(calls) == 1


def test_a_callback_that_closes_another_descriptor_that_is_ready_too(loop):
    with support.socket_pair() as first, support.socket_pair() as second:
        calls = []

        def callback(name, other):
            calls.append(name)
            loop.remove_reader(other)
            other.close()

        for name, mine, other in (("a", first, second), ("b", second, first)):
            mine[1].send(b"x")
            loop.add_reader(mine[0], callback, name, other[0])
        run_once(loop)
        assert len(calls) == 1
        loop.remove_reader((first if calls == ["a"] else second)[0])


def test_a_number_reused_within_the_batch_gets_no_old_event(loop):
    """The event was for what had the number when the kernel was asked."""
    with support.socket_pair() as first, support.socket_pair() as second:
        spare = socket.socketpair()
        calls = []

        def callback(name, other):
            calls.append(name)
            loop.remove_reader(other)
            os.dup2(spare[0].fileno(), other.fileno())
            loop.add_reader(other, calls.append, "event of a dead descriptor")

        for name, mine, other in (("a", first, second), ("b", second, first)):
            mine[1].send(b"x")
            loop.add_reader(mine[0], callback, name, other[0])
        run_once(loop)
        loop.remove_reader((first if calls == ["a"] else second)[0])
        support.spin(loop)
        assert len(calls) == 1
        loop.remove_reader(first[0])
        loop.remove_reader(second[0])
        for sock in spare:
            sock.close()


def test_a_reader_added_in_a_callback(loop, pair):
    left, right = pair
    calls = []
    right.send(b"x")
    loop.call_soon(loop.add_reader, left, calls.append, "called")
    support.spin(loop, 2)
    assert calls
    loop.remove_reader(left)


def test_on_off_on_before_any_poll(loop, pair):
    left, right = pair
    calls = []
    right.send(b"x")
    for _ in range(100):
        loop.add_reader(left, calls.append, "old")
        loop.remove_reader(left)
        loop.add_writer(left, calls.append, "old")
        loop.remove_writer(left)
    loop.add_reader(left, calls.append, "new")
    run_once(loop)
    assert calls == ["new"]
    loop.remove_reader(left)


def test_the_callback_that_raises_is_reported_and_stays(loop, pair):
    left, right = pair
    right.send(b"x")
    with support.ErrorRecorder(loop) as errors:
        loop.add_reader(left, lambda: 1 / 0)
        run_once(loop)
        run_once(loop)
        assert [type(exc) for exc in errors.exceptions] == [ZeroDivisionError] * 2
        assert errors.messages[0].startswith("Exception in callback ")
        assert isinstance(errors.contexts[0]["handle"], asyncio.Handle)
    assert loop.remove_reader(left) is True


# --- what is refused ----------------------------------------------------------


class BrokenFileno:
    def __init__(self, value):
        self.value = value

    def fileno(self):
        if isinstance(self.value, type):
            raise self.value("from fileno")
        return self.value


NO_DESCRIPTOR = {
    "a string": "x",
    "bytes": b"x",
    "None": None,
    "a float": 1.5,
    "an object": BrokenFileno,
    "fileno() of a string": BrokenFileno("x"),
    "fileno() of None": BrokenFileno(None),
    "fileno() that raises ValueError": BrokenFileno(ValueError),
    "fileno() that raises AttributeError": BrokenFileno(AttributeError),
}


@pytest.mark.parametrize("fd", NO_DESCRIPTOR.values(), ids=NO_DESCRIPTOR.keys())
@pytest.mark.parametrize("method", [*ADD.values(), *REMOVE.values()])
def test_no_descriptor_at_all(loop, method, fd):
    args = (fd, int) if method.startswith("add") else (fd,)
    with pytest.raises(ValueError) as caught:
        getattr(loop, method)(*args)
    assert str(caught.value) == f"Invalid file object: {fd!r}"


@BOTH
def test_negative_numbers(loop, side):
    for fd in (-1, -100):
        with pytest.raises(ValueError, match="^Invalid file descriptor: -"):
            add(loop, side, fd, int)


@BOTH
def test_a_closed_socket(loop, side):
    sock = socket.socket()
    sock.close()
    with pytest.raises(ValueError, match="^Invalid file descriptor: -1$"):
        add(loop, side, sock, int)


@BOTH
def test_an_exception_of_fileno_that_is_no_value_error(loop, side):
    with pytest.raises(LookupError, match="from fileno"):
        add(loop, side, BrokenFileno(LookupError), int)


@BOTH
def test_a_number_that_is_not_open(loop, side):
    with pytest.raises(OSError) as caught:
        add(loop, side, 9999, int)
    assert caught.value.errno == errno.EBADF
    assert remove(loop, side, 9999) is False


@BOTH
def test_a_number_too_large(loop, side):
    for number in (2**31, 2**40, 2**80):
        with pytest.raises(OverflowError):
            add(loop, side, number, int)
        assert remove(loop, side, number) is False


@BOTH
def test_a_regular_file(loop, side):
    """epoll takes none, and asyncio passes its error on."""
    with tempfile.TemporaryFile() as file:
        for _ in range(2):
            with pytest.raises(PermissionError):
                add(loop, side, file, int)
            assert remove(loop, side, file) is False


@BOTH
def test_a_directory(loop, side):
    fd = os.open(".", os.O_RDONLY)
    try:
        with pytest.raises(PermissionError):
            add(loop, side, fd, int)
    finally:
        os.close(fd)


@BOTH
@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_devices_are_taken_or_refused_as_epoll_does(loop, side, path):
    fd = os.open(path, os.O_RDWR)
    try:
        with select.epoll() as epoll:
            try:
                epoll.register(fd, select.EPOLLIN)
            except OSError as exc:
                expected = type(exc)
            else:
                expected = None
        if expected is None:
            add(loop, side, fd, int)
            run_once(loop)
            assert remove(loop, side, fd) is True
        else:
            with pytest.raises(expected):
                add(loop, side, fd, int)
    finally:
        os.close(fd)


@BOTH
def test_a_closed_loop(loop, pair, side):
    left, _ = pair
    add(loop, side, left, int)
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        add(loop, side, left, int)
    assert remove(loop, side, left) is False


def test_a_failed_registration_leaves_nothing_behind(loop, pair):
    left, right = pair
    number = os.open(__file__, os.O_RDONLY)
    try:
        with pytest.raises(PermissionError):
            loop.add_reader(number, pytest.fail)
        os.dup2(left.fileno(), number)
        calls = []
        right.send(b"x")
        loop.add_reader(number, calls.append, "called")
        run_once(loop)
        assert calls == ["called"]
        assert loop.remove_reader(number) is True
    finally:
        os.close(number)


def test_a_transport_s_descriptor_is_its_own(loop, pair):
    left, _ = pair

    async def main():
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
        number = left.fileno()
        text = r"File descriptor .* is used by transport "
        for fd in (left, number):
            for call in (
                lambda fd=fd: loop.add_reader(fd, int),
                lambda fd=fd: loop.add_writer(fd, int),
                lambda fd=fd: loop.remove_reader(fd),
                lambda fd=fd: loop.remove_writer(fd),
            ):
                with pytest.raises(RuntimeError, match=text):
                    call()
        transport.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert loop.remove_reader(number) is False

    support.run(loop, main())
