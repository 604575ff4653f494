"""Writes over TLS that are held to be encrypted together, as one record.

A loop may learn that a transport's callbacks make two writes each, and make one record
of both. Each test here first teaches it that, and then does something else after the
first write; on a loop that holds nothing back the tests hold trivially. For transports
without TLS, see test_stream_holding.
"""

import asyncio
import contextlib
import os
import select
import ssl
import warnings
from asyncio import sslproto

import pytest
import support
from streamkit import (
    PEER_TIMEOUT,
    PY,
    BufferedRecorder,
    Recorder,
    on_loop,
    pattern,
    settle,
    until,
)
from tlskit import connected, sslproto_of, stand_in

pytestmark = pytest.mark.skipif(
    PY < (3, 11), reason="asyncio.sslproto is another program there: C code stays out"
)

LESSONS = 20
"""Callbacks of two writes each, in a row."""

CALLED = ("data_received", "buffer_updated")


def ask(peer):
    peer.send_raw(peer.records(b"?"))


def reads(peer):
    """What the peer has, after waiting until there is anything."""
    assert select.select([peer.sock], [], [], PEER_TIMEOUT)[0], "nothing has been sent"
    return peer.read()


@contextlib.asynccontextmanager
async def taught(loop, certificates, factory=Recorder, writes=2):
    """A transport whose callbacks have made *writes* writes each, many times."""
    async with connected(loop, certificates, factory) as (transport, protocol, peer):

        def lesson(called):
            if called in CALLED:
                for _ in range(writes):
                    transport.write(b"12")

        protocol.on = lesson
        for n in range(1, LESSONS + 1):
            ask(peer)
            await until(lambda n=n: peer.read() == b"12" * writes * n, "the answers")
        protocol.on = lambda called: None
        peer.data.clear()
        yield transport, protocol, peer


async def act(protocol, peer, action):
    """Run *action* inside the next data_received (or buffer_updated)."""
    done = asyncio.get_running_loop().create_future()

    def once(called):
        if called in CALLED:
            protocol.on = lambda called: None
            done.set_result(None)
            action()

    protocol.on = once
    ask(peer)
    await done


# -- what it is for -------------------------------------------------------------------


@pytest.mark.pyloop_only
@pytest.mark.parametrize("writes", [2, 3, 5])
@on_loop
async def test_the_writes_of_a_callback_are_one_record(loop, certificates, writes):
    async with taught(loop, certificates, writes=writes) as (transport, protocol, peer):

        def action():
            for _ in range(writes):
                transport.write(b"34")

        peer.count_records()
        await act(protocol, peer, action)
        await until(lambda: peer.read() == b"34" * writes)
        assert peer.count_records() == 1


@pytest.mark.pyloop_only
@on_loop
async def test_more_than_a_record_takes(loop, certificates):
    async with taught(loop, certificates) as (transport, protocol, peer):

        def action():
            transport.write(pattern(10_000))
            transport.write(pattern(10_000, 1))

        peer.count_records()
        await act(protocol, peer, action)
        await until(lambda: peer.read() == pattern(10_000) + pattern(10_000, 1))
        assert peer.count_records() == 2


# -- seen by the peer inside the callback ---------------------------------------------

FLUSHES = {
    "is_closing": lambda t: t.is_closing(),
    "get_write_buffer_size": lambda t: t.get_write_buffer_size(),
    "set_write_buffer_limits": lambda t: t.set_write_buffer_limits(100, 10),
    "get_extra_info": lambda t: t.get_extra_info("socket"),
    "pause_reading": lambda t: t.pause_reading(),
    "abort": lambda t: t.abort(),
    "close": lambda t: t.close(),
    "writelines": lambda t: t.writelines([b"the second"]),
    "a large write": lambda t: t.write(bytes(100_000)),
    "a second write": lambda t: t.write(b"the second"),
    "a write of other than bytes": lambda t: t.write(bytearray(b"the second")),
    "a write below": lambda t: sslproto_of(t)._transport.write(b""),
}


@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("flush", FLUSHES)
@on_loop
async def test_calls_after_which_the_peer_has_it(loop, certificates, flush, factory):
    async with taught(loop, certificates, factory) as (transport, protocol, peer):
        got = []

        def action():
            transport.write(b"the first")
            FLUSHES[flush](transport)
            if flush != "a write below":
                got.append(reads(peer)[:9])

        await act(protocol, peer, action)
        await until(lambda: peer.read()[:9] == b"the first")
        assert got == [b"the first"] or flush == "a write below"


@on_loop
async def test_nothing_is_waiting_to_be_sent(loop, certificates):
    async with taught(loop, certificates) as (transport, protocol, peer):
        sizes = []

        def action():
            transport.write(b"the first")
            sizes.append(transport.get_write_buffer_size())

        await act(protocol, peer, action)
        assert sizes == [0]


@on_loop
async def test_limits_that_are_set_after_a_write(loop, certificates):
    """What is held is no reason to pause the protocol."""
    async with taught(loop, certificates) as (transport, protocol, peer):

        def action():
            transport.write(b"the first")
            transport.set_write_buffer_limits(high=5, low=1)

        await act(protocol, peer, action)
        await until(lambda: peer.read() == b"the first")
        assert "pause_writing" not in protocol.names


@on_loop
async def test_a_limit_below_what_would_be_held(loop, certificates):
    """The protocol is told as it writes, as asyncio does."""
    async with taught(loop, certificates) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        seen = []

        def action():
            transport.write(b"the first")
            seen.extend(protocol.names)

        protocol.calls.clear()
        await act(protocol, peer, action)
        assert seen.count("pause_writing") == 0  # since set_write_buffer_limits()
        await until(lambda: peer.read() == b"the first")


# -- seen by the peer as the callback ends --------------------------------------------


@pytest.mark.parametrize("writes", [0, 1, 3, 5])
@on_loop
async def test_another_number_of_writes(loop, certificates, writes):
    async with taught(loop, certificates) as (transport, protocol, peer):

        def action():
            for n in range(writes):
                transport.write(b"%d" % n)

        await act(protocol, peer, action)
        expected = b"".join(b"%d" % n for n in range(writes))
        assert peer.read() == expected


@on_loop
async def test_the_second_write_comes_from_another_callback(loop, certificates):
    async with taught(loop, certificates) as (transport, protocol, peer):
        got = []

        def later():
            got.append(peer.read())
            transport.write(b", the second")

        def action():
            transport.write(b"the first")
            loop.call_soon(later)

        await act(protocol, peer, action)
        await until(lambda: got)
        assert got == [b"the first"]
        await until(lambda: peer.read() == b"the first, the second")


@on_loop
async def test_it_waits_for_no_other_callback_of_its_batch(loop, certificates):
    """Only what is encrypted may wait for the end of a batch."""
    async with taught(loop, certificates) as (transport, protocol, peer):
        for _ in range(20):  # so that the loop has a thread that looks after such data
            for _ in range(65):
                loop.call_soon(transport.write, b"x")
            await asyncio.sleep(0)
            peer.read()
        for _ in range(LESSONS):
            loop.call_soon(lambda: [transport.write(b"x"), transport.write(b"y")])
            await asyncio.sleep(0)
        await settle(loop)
        peer.read()
        peer.data.clear()
        got = []
        loop.call_soon(transport.write, b"the first")
        loop.call_soon(lambda: got.append(peer.read()))
        await settle(loop)
        assert got == [b"the first"]


@on_loop
async def test_an_exception(loop, certificates):
    async with taught(loop, certificates) as (transport, protocol, peer):

        def action():
            transport.write(b"the first")
            raise ZeroDivisionError("after a write")

        with support.ErrorRecorder(loop) as errors:
            await act(protocol, peer, action)
            await protocol.lost
            assert [str(exc) for exc in errors.exceptions] == ["after a write"]
        assert peer.read() == b"the first"


@on_loop
async def test_pausing_and_closing(loop, certificates):
    """asyncio's close() sends nothing more of its own while reading is paused."""
    async with taught(loop, certificates) as (transport, protocol, peer):

        def action():
            transport.write(b"the first")
            transport.pause_reading()
            transport.close()

        await act(protocol, peer, action)
        await until(lambda: peer.read() == b"the first")


@on_loop
async def test_a_write_while_reading_is_paused(loop, certificates):
    async with taught(loop, certificates) as (transport, protocol, peer):

        def action():
            transport.pause_reading()
            transport.write(b"the first")
            transport.close()

        await act(protocol, peer, action)
        await until(lambda: peer.read() == b"the first")


@on_loop
async def test_the_end_comes_with_the_question(loop, certificates):
    """What was answered goes out before the answer to a close_notify."""
    async with taught(loop, certificates) as (transport, protocol, peer):
        question = peer.records(b"?")

        def once(called):
            if called == "data_received":
                transport.write(b"the first")

        protocol.on = once
        peer.send_raw(question + peer.goodbye())
        await protocol.lost
        with contextlib.suppress(ssl.SSLZeroReturnError):
            peer.read()
        assert bytes(peer.data) == b"the first"


# -- what becomes impossible meanwhile ------------------------------------------------


@on_loop
async def test_a_function_that_is_replaced_after_a_write(
    loop, certificates, monkeypatch
):
    async with taught(loop, certificates) as (transport, protocol, peer):
        original = sslproto.SSLProtocol._do_write
        calls = []

        def do_write(self):
            calls.append(self)
            original(self)

        def action():
            transport.write(b"the first")
            monkeypatch.setattr(sslproto.SSLProtocol, "_do_write", do_write)
            transport.write(b", the second")

        await act(protocol, peer, action)
        await until(lambda: peer.read() == b"the first, the second")
        assert calls


@on_loop
async def test_a_function_that_is_replaced_while_it_waits(
    loop, certificates, monkeypatch
):
    async with taught(loop, certificates) as (transport, protocol, peer):
        original = sslproto.SSLProtocol._process_outgoing

        def process_outgoing(self):
            original(self)

        def action():
            transport.write(b"the first")
            monkeypatch.setattr(
                sslproto.SSLProtocol, "_process_outgoing", process_outgoing
            )

        await act(protocol, peer, action)
        await until(lambda: peer.read() == b"the first")


@pytest.mark.parametrize("error", [ssl.SSLWantReadError, ssl.SSLSyscallError])
@on_loop
async def test_both_have_to_wait(loop, certificates, error):
    async with taught(loop, certificates) as (transport, protocol, peer):
        stand = stand_in(transport)

        def action():
            stand.failures.extend([error(), error()])
            transport.write(b"the first")
            transport.write(b", the second")
            stand.failures.clear()

        await act(protocol, peer, action)
        ask(peer)
        await until(lambda: peer.read() == b"the first, the second")
        assert transport.get_write_buffer_size() == 0


@on_loop
async def test_an_error_of_the_ssl_object_as_the_callback_ends(loop, certificates):
    async with taught(loop, certificates) as (transport, protocol, peer):
        stand = stand_in(transport)

        def action():
            stand.failures.append(ZeroDivisionError("from OpenSSL"))
            transport.write(b"the first")

        with support.ErrorRecorder(loop) as errors:
            await act(protocol, peer, action)
            await protocol.lost
            assert [str(exc) for exc in errors.exceptions] == ["from OpenSSL"]
            assert errors.messages == ["Fatal error on SSL protocol"]


@pytest.mark.parametrize(
    "name, value",
    [("_write_backlog", None), ("_write_backlog", [1]), ("_sslobj", None)],
)
@on_loop
async def test_attributes_that_become_nonsense(loop, certificates, name, value):
    """Whatever is raised or reported: nothing crashes, and the connection ends."""
    async with taught(loop, certificates) as (transport, protocol, peer):
        loop.set_exception_handler(lambda loop, context: None)
        own = sslproto_of(transport)
        before = getattr(own, name)

        def action():
            transport.write(b"the first")
            setattr(own, name, value)

        await act(protocol, peer, action)
        await settle(loop)
        setattr(own, name, before)
        transport.abort()
        await until(lambda: not peer.take(), "the end of the connection")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
@on_loop
async def test_a_fork_after_a_write(loop, certificates):
    """The child, whose callback ends as well, sends nothing of it."""
    async with taught(loop, certificates) as (transport, protocol, peer):
        children = []

        def once(called):
            if called == "data_received":
                protocol.on = lambda called: None
                transport.write(b"the first")
                with warnings.catch_warnings():  # of threads that earlier tests left
                    warnings.simplefilter("ignore", DeprecationWarning)
                    children.append(os.fork())
                if children == [0]:
                    loop.call_soon(os._exit, 0)

        protocol.on = once
        ask(peer)
        await until(lambda: children)
        os.waitpid(children[0], 0)
        await settle(loop)
        assert peer.read() == b"the first"
        peer.count_records()
