"""Writes that are held back to be sent together are never late, lost or out of order.

A loop may learn that a transport's callbacks make two writes each, and send both with
one system call.  Each test here first teaches it that, and then does something else
after the first write; on a loop that holds nothing back the tests hold trivially.
"""

import asyncio
import contextlib
import gc
import socket

import pytest
from streamkit import (
    BufferedRecorder,
    Recorder,
    connected,
    on_loop,
    pending,
    read_all,
    record_errors,
    recv_exactly,
    settle,
    until,
)

LESSONS = 20
"""Callbacks of two writes each, in a row."""


@contextlib.asynccontextmanager
async def taught(factory=Recorder, writes=2, **arguments):
    """A transport whose callbacks have made *writes* writes each, many times."""
    async with connected(factory, **arguments) as (transport, protocol, peer):
        name = "buffer_updated" if factory is BufferedRecorder else "data_received"

        def lesson(called):
            if called == name:
                for _ in range(writes):
                    transport.write(b"12")

        protocol.on = lesson
        for n in range(1, LESSONS + 1):
            peer.send(b"?")
            await protocol.called(name, n)
            assert recv_exactly(peer, 2 * writes) == b"12" * writes
        protocol.on = lambda called: None
        yield transport, protocol, peer


async def act(protocol, peer, action):
    """Run *action* inside the next data_received (or buffer_updated)."""
    done = asyncio.get_running_loop().create_future()

    def once(called):
        if called in ("data_received", "buffer_updated"):
            protocol.on = lambda called: None
            done.set_result(None)
            action()

    protocol.on = once
    peer.send(b"?")
    await done


# -- seen by the peer inside the callback ---------------------------------------------

FLUSHES = {
    "get_write_buffer_size": lambda t: t.get_write_buffer_size(),
    "get_extra_info": lambda t: t.get_extra_info("socket"),
    "set_protocol": lambda t: t.set_protocol(t.get_protocol()),
    "pause_reading": lambda t: t.pause_reading(),
    "write_eof": lambda t: t.write_eof(),
    "close": lambda t: t.close(),
    "abort": lambda t: t.abort(),
    "large write": lambda t: t.write(bytes(100_000)),
    "second write": lambda t: t.write(b"the second"),
}


@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("flush", FLUSHES)
@on_loop
async def test_calls_after_which_the_peer_has_it(loop, flush, factory):
    async with taught(factory) as (transport, protocol, peer):
        got = []

        def action():
            transport.write(b"the first")
            FLUSHES[flush](transport)
            got.append(recv_exactly(peer, 9))

        await act(protocol, peer, action)
        assert got == [b"the first"]


@on_loop
async def test_another_transports_write(loop):
    async with taught() as (transport, protocol, peer), connected() as (other, _, end):
        got = []

        def action():
            transport.write(b"the first")
            other.write(b"of another")
            got.append(recv_exactly(end, 10))
            got.append(recv_exactly(peer, 9))

        await act(protocol, peer, action)
        assert got == [b"of another", b"the first"]


@on_loop
async def test_two_taught_transports_in_one_batch(loop):
    """Each may hold; what the first holds goes out before the second's callback."""
    async with taught() as (one, first, peer_one), taught() as (two, second, peer_two):
        order = []
        for name, transport, protocol, other_peer in (
            ("one", one, first, peer_two),
            ("two", two, second, peer_one),
        ):

            def answer(called, name=name, transport=transport, other_peer=other_peer):
                if called == "data_received":
                    if order:
                        order.append(recv_exactly(other_peer, 4))
                    order.append(name)
                    transport.write(b"only")

            protocol.on = answer
        one.pause_reading()
        two.pause_reading()
        peer_one.send(b"?")
        peer_two.send(b"?")
        await settle(loop)
        one.resume_reading()
        two.resume_reading()
        await until(lambda: len(order) == 3)
        assert sorted(map(str, order)) == sorted(map(str, ["one", "two", b"only"]))


# -- seen by the peer as the callback ends --------------------------------------------


@pytest.mark.parametrize("writes", [0, 1, 3, 5])
@on_loop
async def test_another_number_of_writes(loop, writes):
    async with taught() as (transport, protocol, peer):

        def action():
            for n in range(writes):
                transport.write(b"<%d>" % n)

        await act(protocol, peer, action)
        expected = b"".join(b"<%d>" % n for n in range(writes))
        assert recv_exactly(peer, len(expected)) == expected
        assert pending(peer) == b""


@on_loop
async def test_an_exception(loop):
    async with taught() as (transport, protocol, peer):
        errors = record_errors(loop)

        def action():
            transport.write(b"the first")
            raise ZeroDivisionError

        await act(protocol, peer, action)
        assert isinstance(await protocol.lost, ZeroDivisionError)
        assert await read_all(loop, peer) == b"the first"
        assert len(errors.messages) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exception_that_leaves_the_loop(loop, error):
    async def teach():
        stack = contextlib.AsyncExitStack()
        return stack, await stack.enter_async_context(taught())

    stack, (transport, protocol, peer) = loop.run_until_complete(teach())

    def leave(called):
        protocol.on = lambda called: None
        transport.write(b"the first")
        raise error

    protocol.on = leave
    peer.send(b"?")
    with pytest.raises(error):
        loop.run_forever()
    assert recv_exactly(peer, 9) == b"the first"
    loop.run_until_complete(stack.aclose())


def test_stop(loop):
    async def teach():
        stack = contextlib.AsyncExitStack()
        return stack, await stack.enter_async_context(taught())

    stack, (transport, protocol, peer) = loop.run_until_complete(teach())

    def stop(called):
        protocol.on = lambda called: None
        transport.write(b"the first")
        loop.stop()

    protocol.on = stop
    peer.send(b"?")
    loop.run_forever()
    assert recv_exactly(peer, 9) == b"the first"
    loop.run_until_complete(stack.aclose())


@on_loop
async def test_the_second_write_comes_from_another_callback(loop):
    """What a callback leaves is sent as it returns, not with the next write."""
    async with taught() as (transport, protocol, peer):
        got = []

        def later():
            got.append(recv_exactly(peer, 9))
            transport.write(b"the second")

        def action():
            transport.write(b"the first")
            loop.call_soon(later)

        await act(protocol, peer, action)
        await until(lambda: got)
        assert got == [b"the first"]
        assert recv_exactly(peer, 10) == b"the second"


@on_loop
async def test_one_write_of_a_task_or_a_callback(loop):
    """It is with the peer when the next callback of the loop runs."""
    async with taught() as (transport, _, peer):
        transport.write(b"of a task")
        await asyncio.sleep(0)
        assert recv_exactly(peer, 9) == b"of a task"
        got = loop.create_future()
        loop.call_soon(transport.write, b"of a callback")
        loop.call_soon(lambda: got.set_result(recv_exactly(peer, 13)))
        assert await got == b"of a callback"


# -- what may not change between holding and sending ----------------------------------


@on_loop
async def test_a_mutable_buffer_changed_after_the_first_write(loop):
    async with taught() as (transport, protocol, peer):

        def action():
            data = bytearray(b"as it was")
            transport.write(data)
            data[:] = b"changed, and of another length"
            transport.write(b"!")

        await act(protocol, peer, action)
        assert recv_exactly(peer, 10) == b"as it was!"


@on_loop
async def test_a_buffer_that_is_collected_after_the_first_write(loop):
    async with taught() as (transport, protocol, peer):

        def action():
            transport.write(bytes(bytearray(b"a" * 1000)))
            gc.collect()
            [bytes(bytearray(b"b" * 1000)) for _ in range(100)]
            transport.write(b"c")

        await act(protocol, peer, action)
        assert recv_exactly(peer, 1001) == b"a" * 1000 + b"c"


@on_loop
async def test_a_peer_that_is_gone_when_both_are_sent(loop):
    async with taught() as (transport, protocol, peer):

        def action():
            transport.write(b"the first")
            peer.close()
            transport.write(b"the second")

        await act(protocol, peer, action)
        assert isinstance(await protocol.lost, (BrokenPipeError, ConnectionResetError))
        assert protocol.count("connection_lost") == 1


@on_loop
async def test_wrong_types_are_refused_while_one_is_held(loop):
    async with taught() as (transport, protocol, peer):

        def action():
            transport.write(b"the first")
            with pytest.raises(TypeError):
                transport.write("text")
            with pytest.raises(TypeError):
                transport.writelines(["text"])
            transport.write(b"the second")

        await act(protocol, peer, action)
        assert recv_exactly(peer, 19) == b"the firstthe second"


@on_loop
async def test_flow_control_with_held_writes(loop):
    """A held write that the kernel then does not take is queued and counted."""
    async with taught(sndbuf=4096) as (transport, protocol, peer):

        def action():
            transport.write(bytes(60_000))
            transport.write(bytes(600_000))

        await act(protocol, peer, action)
        assert protocol.count("pause_writing") == 1
        assert transport.get_write_buffer_size() > 0
        assert len(await read_all(loop, peer, 660_000)) == 660_000
        await protocol.called("resume_writing")


@on_loop
async def test_the_transport_is_dropped_by_its_callback(loop):
    async with taught() as (transport, protocol, peer):

        def action():
            transport.write(b"the first")
            protocol.transport = None
            gc.collect()

        await act(protocol, peer, action)
        assert recv_exactly(peer, 9) == b"the first"
        protocol.transport = transport


@on_loop
async def test_a_half_closed_peer_gets_both(loop):
    async with taught() as (transport, protocol, peer):
        protocol.keep_open = True
        peer.shutdown(socket.SHUT_WR)
        await protocol.called("eof_received")
        transport.write(b"1")
        transport.write(b"2")
        assert recv_exactly(peer, 2) == b"12"
