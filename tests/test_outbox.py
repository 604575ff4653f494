"""Writes that wait for the end of the batch of callbacks are late for nobody.

A loop whose batches have many writes holds those of different transports until the
last callback of the batch has run, and sends them then. A thread, the guard, sends what
waits while a callback takes long. Most tests here run on any loop; what may be seen of
the holding is pyloop's only.
"""

import asyncio
import contextlib
import os
import select
import socket
import threading

import pytest
import support
from streamkit import (
    Recorder,
    connected,
    on_loop,
    read_all,
    record_errors,
    recv_exactly,
    until,
)

WISHES = 64
"""Writes that could have waited, in a short time, after which a loop has a guard."""


async def in_one_batch(*callbacks):
    """Run the callbacks one after another, in one iteration of the loop."""
    loop = asyncio.get_running_loop()
    for callback in callbacks:
        loop.call_soon(callback)
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done


def pending_bytes(peer):
    """How many bytes the kernel has for *peer*."""
    if not select.select([peer], [], [], 0)[0]:
        return 0
    return len(peer.recv(1 << 20, socket.MSG_PEEK))


@contextlib.asynccontextmanager
async def guarded(count=2):
    """Connections (transport, protocol, peer) of a loop that has its guard.

    On a loop that has none the same is written, and immediately.
    """
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(connected()) for _ in range(count)]
        transport, _, peer = pairs[0]
        for _ in range(20):  # wishes count only if they come in a short time
            await in_one_batch(*[lambda: transport.write(b"x")] * (WISHES + 1))
            recv_exactly(peer, WISHES + 1)
            if getattr(loop, "_guarded", True):
                break
        assert getattr(loop, "_guarded", True)
        yield pairs


def be_slow():
    """Be a callback that takes longer than anything is held beside short ones."""
    support.busy_wait(0.002)


@pytest.mark.pyloop_only
@on_loop
async def test_writes_of_a_batch_wait_for_its_end(loop):
    async with guarded(3) as pairs:
        seen = []

        def write(transport):
            transport.write(b"one ")
            transport.write(b"two")
            seen.append([pending_bytes(peer) for _, _, peer in pairs])

        for _ in range(100):  # a batch that is interrupted may last too long
            seen.clear()
            await in_one_batch(*[lambda t=t: write(t) for t, _, _ in pairs], be_slow)
            assert [recv_exactly(peer, 7) for _, _, peer in pairs] == [b"one two"] * 3
            if seen == [[0, 0, 0]] * 3:
                break
        assert seen == [[0, 0, 0]] * 3


@pytest.mark.parametrize("who", ["who writes", "who does not"])
@on_loop
async def test_slow_callbacks_keep_nobody_waiting(loop, who):
    """asyncio sends at once. The guard would take 5 ms."""
    async with guarded() as ((first, _, peer), (second, _, end)):
        seen = []

        def look():
            if who == "who writes":
                second.write(b"second")
            seen.append(pending_bytes(peer))

        def slow_look():
            be_slow()
            look()

        late = [be_slow, look] if who == "who does not" else [slow_look]
        await in_one_batch(lambda: first.write(b"first"), *late, lambda: None)
        assert seen == [5]
        assert recv_exactly(peer, 5) == b"first"
        if who == "who writes":
            assert recv_exactly(end, 6) == b"second"


@pytest.mark.pyloop_only
@on_loop
async def test_the_last_callback_of_a_batch_writes_at_once(loop):
    async with guarded() as ((transport, _, peer), _):
        seen = []

        def last():
            transport.write(b"last")
            seen.append(pending_bytes(peer))

        loop.call_soon(lambda: None)
        loop.call_soon(last)
        await asyncio.sleep(0)  # its own callback comes before, and one after them
        await until(lambda: seen, "the last callback")
        assert recv_exactly(peer, 4) == b"last"


@pytest.mark.pyloop_only
@pytest.mark.parametrize("way", ["switch", "debug mode", "few writes"])
@on_loop
async def test_there_is_no_guard_when_nothing_waits(loop, way):
    async with connected() as (transport, _, peer):
        loop._hold_writes = way != "switch"
        loop.set_debug(way == "debug mode")
        many = WISHES // 2 if way == "few writes" else 4 * WISHES
        await in_one_batch(*[lambda: transport.write(b"x")] * many)
        recv_exactly(peer, many)
        loop.set_debug(False)
        assert not loop._guarded


@on_loop
async def test_a_callback_that_waits_for_its_peer_gets_an_answer(loop):
    async with guarded() as pairs:
        got = []

        def ask(transport, peer):
            transport.write(b"question")
            got.append(recv_exactly(peer, 8))

        for _ in range(3):
            await in_one_batch(*[lambda t=t, p=p: ask(t, p) for t, _, p in pairs])
        assert got == [b"question"] * 6


@on_loop
async def test_a_callback_that_waits_more_than_once(loop):
    async with guarded() as ((transport, _, peer), _):
        got = []

        def talk():
            for n in range(4):
                transport.write(b"question %d" % n)
                got.append(recv_exactly(peer, 10))

        await in_one_batch(talk)
        assert got == [b"question %d" % n for n in range(4)]
        await in_one_batch(lambda: transport.write(b"more"))
        assert recv_exactly(peer, 4) == b"more"


@on_loop
async def test_a_callback_that_waits_for_what_another_wrote(loop):
    async with guarded() as ((first, _, peer), (second, _, end)):
        got = []

        def wait():
            second.write(b"second")
            got.append(recv_exactly(peer, 5))
            got.append(recv_exactly(end, 6))

        await in_one_batch(lambda: first.write(b"first"), wait)
        assert got == [b"first", b"second"]
        await in_one_batch(lambda: first.write(b"more"))
        assert recv_exactly(peer, 4) == b"more"


@on_loop
async def test_a_callback_that_goes_on_writing_keeps_nobody_waiting(loop):
    async with guarded() as ((first, _, peer), (second, _, end)):
        written = 0

        def arrived():
            nonlocal written
            second.write(b".")
            written += 1
            return pending_bytes(peer) and pending_bytes(end)

        await in_one_batch(
            lambda: first.write(b"first"),
            lambda: support.wait_for_condition(arrived, what="what was written"),
        )
        assert recv_exactly(peer, 5) == b"first"
        assert recv_exactly(end, written) == b"." * written


@pytest.mark.pyloop_only
@on_loop
async def test_who_waited_too_long_waits_no_more(loop):
    async with guarded() as ((transport, _, peer), _):
        seen = []

        def wait():
            transport.write(b"waits")
            recv_exactly(peer, 5)

        def look():
            transport.write(b"x")
            seen.append(recv_exactly(peer, 1))

        await in_one_batch(wait)
        for _ in range(100):
            await in_one_batch(look)
        assert seen == [b"x"] * 100


@on_loop
async def test_what_the_guard_sent_in_part_goes_on(loop):
    """More than the kernel takes, held piece by piece while a callback takes long."""
    async with guarded() as ((transport, _, peer), _):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        pieces = [bytes([n]) * 1000 for n in range(60)]

        def write():
            for piece in pieces:
                transport.write(piece)
            assert recv_exactly(peer, 1000) == pieces[0]

        await in_one_batch(write)
        assert await read_all(loop, peer, 59_000) == b"".join(pieces[1:])
        assert transport.get_write_buffer_size() == 0


@on_loop
async def test_order_between_transports(loop):
    """Two transports of one file: the peer sees in which order they wrote."""
    async with guarded() as ((first, _, peer), _):
        copy = socket.socket(fileno=os.dup(first.get_extra_info("socket").fileno()))
        second, _ = await loop.connect_accepted_socket(Recorder, copy)
        second.pause_reading()
        try:
            await in_one_batch(
                lambda: first.write(b"1"),
                lambda: second.write(b"2"),
                lambda: first.write(b"3"),
                lambda: (first.write(b"4"), first.writelines([b"5", b"6"])),
                lambda: second.write(b"7"),
                lambda: second.write(bytes(100_000)),
                lambda: first.write(b"8"),
            )
            assert recv_exactly(peer, 7) == b"1234567"
            await read_all(loop, peer, 100_001)
        finally:
            second.abort()


@on_loop
async def test_many_transports(loop):
    async with guarded(100) as pairs:
        for turn in range(3):
            text = f"{turn}" * 50
            await in_one_batch(
                *[lambda t=t, s=text: t.write(s.encode()) for t, _, _ in pairs]
            )
            for _, _, peer in pairs:
                assert recv_exactly(peer, 50) == text.encode()


ENDS = {
    "close": lambda t: t.close(),
    "abort": lambda t: t.abort(),
    "write_eof": lambda t: t.write_eof(),
}


@pytest.mark.parametrize("end", ENDS)
@on_loop
async def test_what_waits_is_sent_before_the_end(loop, end):
    async with guarded() as ((transport, protocol, peer), (other, _, other_peer)):
        await in_one_batch(
            lambda: other.write(b"before"),
            lambda: transport.write(b"the last words"),
            lambda: ENDS[end](transport),
            lambda: other.write(b" after"),
        )
        assert recv_exactly(peer, 14) == b"the last words"
        assert peer.recv(1) == b""
        assert recv_exactly(other_peer, 12) == b"before after"
        if end != "write_eof":
            await protocol.lost


@on_loop
async def test_a_peer_that_is_gone(loop):
    async with guarded(3) as (
        (first, _, end),
        (transport, protocol, peer),
        (last, _, tail),
    ):
        transport.pause_reading()
        peer.close()
        for _ in range(3):
            await in_one_batch(
                lambda: first.write(b"a"),
                lambda: transport.write(b"nobody reads this"),
                lambda: last.write(b"b"),
            )
        assert isinstance(await protocol.lost, OSError)
        assert recv_exactly(end, 3) == b"aaa" and recv_exactly(tail, 3) == b"bbb"


@on_loop
async def test_an_error_in_a_callback(loop):
    async with guarded() as ((transport, _, peer), _):
        errors = record_errors(loop)

        def fail():
            transport.write(b"said")
            raise ValueError("after a write")

        await in_one_batch(fail, lambda: transport.write(b" more"))
        assert recv_exactly(peer, 9) == b"said more"
        assert [type(exc) for exc in errors.exceptions] == [ValueError]


def test_an_exception_that_leaves_run(loop):
    """KeyboardInterrupt in the middle of a batch: what was written before is sent."""
    box = {}

    async def setup():
        box["stack"] = contextlib.AsyncExitStack()
        return await box["stack"].enter_async_context(guarded())

    (transport, _, peer), _ = support.run(loop, setup())

    def interrupt():
        transport.write(b"written")
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    loop.call_soon(lambda: None)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert recv_exactly(peer, 7) == b"written"
    support.run(loop, box["stack"].aclose())


@on_loop
async def test_pausing_protocols_are_told(loop):
    async with guarded() as ((transport, protocol, peer), _):
        transport.set_write_buffer_limits(high=1000)
        big = bytes(60_000)

        def fill():
            for _ in range(100):
                transport.write(big)

        await in_one_batch(fill)
        assert protocol.names.count("pause_writing") == 1
        await read_all(loop, peer, 6_000_000)
        await protocol.called("resume_writing")


@pytest.mark.pyloop_only
def test_the_guard_ends_with_the_loop(loop):
    before = support.native_threads()

    async def main():
        async with guarded():
            assert len(support.native_threads() - before) == 1
            assert threading.active_count() == 1

    support.run(loop, main())
    loop.close()
    support.wait_for_condition(lambda: support.native_threads() <= before)


@pytest.mark.pyloop_only
@on_loop
async def test_a_nested_run_begins_with_nothing_held(loop):
    async with guarded() as ((transport, _, peer), _):
        seen = []

        def nested():
            transport.write(b"outside")
            loop._run_once()
            seen.append(pending_bytes(peer))

        await in_one_batch(nested)
        assert seen == [7]
        assert recv_exactly(peer, 7) == b"outside"
