"""Writing to a stream transport: at once, in order, copied where it must be, bounded.

Source: asyncio's documentation of WriteTransport, and its selector transport.
"""

import array
import asyncio
import socket

import pytest
from streamkit import (
    KINDS,
    PY,
    connected,
    fill,
    on_loop,
    oracle_bug,
    pattern,
    pending,
    read_all,
    record_errors,
    recv_exactly,
    settle,
)

EOF_ERROR = r"Cannot call write\(\) after write_eof\(\)"
# asyncio before 3.12 names write() here too.
EOF_ERROR_LINES = r"Cannot call write(lines)?\(\) after write_eof\(\)"


# -- at once -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_write_reaches_the_peer_before_write_returns(loop, kind):
    async with connected(kind=kind) as (transport, _, peer):
        transport.write(b"now")
        assert peer.recv(100) == b"now"


@on_loop
async def test_write_in_connection_made_is_immediate(loop):
    seen = []

    class Greeter(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(b"hello")
            seen.append(peer.recv(100))

    near, peer = socket.socketpair()
    with peer:
        peer.settimeout(5)
        transport, _ = await loop.create_connection(Greeter, sock=near)
        transport.close()
        await settle(loop)
    assert seen == [b"hello"]


@pytest.mark.parametrize("writes", [1, 2, 3])
@on_loop
async def test_a_callback_may_block_on_the_answer_to_its_writes(loop, writes):
    """Always the same number of writes, then a blocking read of the peer's end."""
    got = []
    async with connected() as (transport, protocol, peer):

        def answer(name):
            if name == "data_received":
                for n in range(writes):
                    transport.write(b"%d" % n)
                got.append(recv_exactly(peer, writes))

        protocol.on = answer
        for n in range(1, 60):
            peer.send(b"?")
            await protocol.called("data_received", n)
        assert got == [b"0123"[:writes]] * 59
        assert pending(peer) == b""


@pytest.mark.parametrize("start", ["call_soon", "task", "reader"])
@on_loop
async def test_write_is_immediate_outside_protocol_callbacks(loop, start):
    done = loop.create_future()
    async with connected() as (transport, _, peer):

        def body():
            transport.write(b"one")
            first = peer.recv(100)
            transport.write(b"two")
            done.set_result((first, peer.recv(100)))

        if start == "call_soon":
            loop.call_soon(body)
        elif start == "task":

            async def task():
                body()

            await loop.create_task(task())
        else:
            near, far = socket.socketpair()
            far.send(b"x")
            loop.add_reader(near, lambda: (loop.remove_reader(near), body()))
            await done
            near.close()
            far.close()
        assert await done == (b"one", b"two")


@on_loop
async def test_every_write_of_a_callback_arrives_in_order_whatever_their_number(loop):
    """The number of writes per callback changes all the time: none may stay behind."""
    counts = [2, 2, 2, 2, 2, 1, 2, 2, 2, 5, 0, 3, 3, 3, 3, 1, 1, 1, 4, 4, 4, 0, 2, 2, 1]
    async with connected() as (transport, protocol, peer):
        sent = bytearray()

        def answer(name):
            if name == "data_received":
                for i in range(counts[protocol.count("data_received") - 1]):
                    piece = b"<%d:%d>" % (len(sent), i)
                    sent.extend(piece)
                    transport.write(piece)

        protocol.on = answer
        for n in range(1, len(counts) + 1):
            before = len(sent)
            peer.send(b"?")
            await protocol.called("data_received", n)
            if len(sent) > before:
                # No further activity of the transport is needed for it to arrive.
                assert recv_exactly(peer, len(sent) - before) == sent[before:]


@on_loop
async def test_two_transports_written_in_turn_keep_their_order(loop):
    """When B's peer has what was written after A's data, A's peer has its own."""
    async with connected() as (a, protocol_a, peer_a), connected() as (b, _, peer_b):
        peer_a.setblocking(False)

        def answer(name):
            if name == "data_received":
                a.write(b"first")
                b.write(b"second")
                assert peer_b.recv(100) == b"second"
                assert peer_a.recv(100) == b"first"
                a.write(b"third")
                assert peer_a.recv(100) == b"third"

        protocol_a.on = answer
        errors = record_errors(loop)
        for n in range(1, 30):
            peer_a.send(b"?")
            await protocol_a.called("data_received", n)
            assert not errors.messages


@on_loop
async def test_write_then_close_in_one_callback_sends_everything(loop):
    async with connected() as (transport, protocol, peer):

        def answer(name):
            if name == "data_received":
                transport.write(b"a")
                transport.write(b"b")
                transport.close()

        protocol.on = answer
        peer.send(b"?")
        await protocol.lost
        assert peer.recv(10) == b"ab"
        assert peer.recv(10) == b""


@on_loop
async def test_exception_after_writes_still_sends_them(loop):
    async with connected() as (transport, protocol, peer):
        errors = record_errors(loop)

        def answer(name):
            if name == "data_received":
                transport.write(b"a")
                transport.write(b"b")
                raise ZeroDivisionError

        protocol.on = answer
        peer.send(b"?")
        assert isinstance(await protocol.lost, ZeroDivisionError)
        assert errors.messages == ["Fatal error: protocol.data_received() call failed."]
        assert await read_all(loop, peer) == b"ab"


# -- what may be written -------------------------------------------------------------


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"bytes", b"bytes"),
        (bytearray(b"bytearray"), b"bytearray"),
        (memoryview(b"memoryview"), b"memoryview"),
        (memoryview(b"a slice")[2:], b"slice"),
        (memoryview(bytearray(b"abcdef"))[1:5:1], b"bcde"),
        (
            memoryview(array.array("H", [1, 2, 3])),
            array.array("H", [1, 2, 3]).tobytes(),
        ),
        (type("Sub", (bytes,), {})(b"subclass"), b"subclass"),
        (type("SubArray", (bytearray,), {})(b"subclass"), b"subclass"),
    ],
    ids=lambda value: type(value).__name__,
)
@on_loop
async def test_bytes_like_objects(loop, data, expected):
    async with connected() as (transport, _, peer):
        transport.write(data)
        assert peer.recv(100) == expected
        assert transport.get_write_buffer_size() == 0


@on_loop
async def test_writelines_of_bytes_like_objects(loop):
    async with connected() as (transport, _, peer):
        transport.writelines([b"bytes", bytearray(b"array"), memoryview(b"a view")[2:]])
        assert recv_exactly(peer, 14) == b"bytesarrayview"


@on_loop
async def test_bytes_like_objects_queued(loop):
    pieces = [b"bytes", bytearray(b"array"), memoryview(b"memory view")[3:]]
    async with connected(sndbuf=4096) as (transport, _, peer):
        filled = fill(transport)
        for piece in pieces:
            transport.write(piece)
        transport.writelines(pieces)
        whole = b"".join(pieces) * 2
        got = await read_all(loop, peer, filled + len(whole))
        assert got[filled:] == whole


@pytest.mark.parametrize(
    "data, name",
    [
        ("text", "str"),
        (None, "NoneType"),
        (7, "int"),
        ([b"x"], "list"),
        (array.array("b"), "array"),
    ],
)
@on_loop
async def test_wrong_type_is_refused_with_asyncios_message(loop, data, name):
    async with connected() as (transport, _, peer):
        with pytest.raises(TypeError) as info:
            transport.write(data)
        kinds = "bytes-like object"
        if PY >= (3, 14):
            kinds = "bytes, bytearray, or memoryview object"
        expected = f"data argument must be a {kinds}, not {name!r}"
        if name == "array":
            expected = expected.replace("'array'", repr(type(data).__name__))
        assert str(info.value) == expected
        transport.write(b"still open")
        assert peer.recv(100) == b"still open"


@on_loop
async def test_non_contiguous_memoryview_is_a_fatal_write_error(loop):
    """The kernel cannot take it: asyncio reports and drops the connection."""
    async with connected() as (transport, protocol, _):
        errors = record_errors(loop)
        transport.write(memoryview(b"abcdef")[::2])
        assert isinstance(await protocol.lost, BufferError)
        assert errors.messages == ["Fatal write error on socket transport"]
        assert errors.only()["transport"] is transport
        assert errors.only()["protocol"] is protocol


@on_loop
async def test_empty_writes_do_nothing(loop):
    async with connected() as (transport, _, peer):
        for empty in (b"", bytearray(), memoryview(b"")):
            transport.write(empty)
        transport.writelines([])
        assert transport.get_write_buffer_size() == 0
        assert pending(peer) == b""


@on_loop
async def test_a_mutable_buffer_sent_at_once_is_free_afterwards(loop):
    async with connected() as (transport, _, peer):
        data = bytearray(b"mutable")
        transport.write(data)
        data[:] = b"changed, and longer than it was"
        assert peer.recv(100) == b"mutable"


@pytest.mark.parametrize("method", ["write", "writelines"])
@pytest.mark.parametrize(
    "make", [lambda data: data, memoryview], ids=["bytearray", "memoryview"]
)
def test_a_queued_mutable_buffer_is_copied(loop, loop_kind, method, make):
    oracle_bug(loop_kind, PY >= (3, 12), "queues mutable buffers by reference")

    @on_loop
    async def body(loop):
        async with connected(sndbuf=4096) as (transport, _, peer):
            filled = fill(transport)
            data = bytearray(b"as it was")
            transport.write(make(data)) if method == "write" else transport.writelines(
                [make(data)]
            )
            data[:] = b"as it is now, and longer"
            got = await read_all(loop, peer, filled + 9)
            assert got[filled:] == b"as it was"

    body(loop=loop)


def test_the_unsent_rest_of_a_mutable_buffer_is_copied(loop, loop_kind):
    oracle_bug(loop_kind, PY >= (3, 12), "queues mutable buffers by reference")

    @on_loop
    async def body(loop):
        async with connected(sndbuf=4096) as (transport, _, peer):
            expected = pattern(1 << 20)
            data = bytearray(expected)
            transport.write(data)
            assert 0 < transport.get_write_buffer_size() < len(data)
            data.clear()
            assert await read_all(loop, peer, len(expected)) == expected

    body(loop=loop)


@pytest.mark.pyloop_only
@on_loop
async def test_the_rest_of_a_view_of_words_is_sent_by_bytes(loop):
    """asyncio counts a partly sent view in items, and loses data."""
    words = array.array("I", range(1 << 18))
    async with connected(sndbuf=4096) as (transport, _, peer):
        transport.write(memoryview(words))
        assert await read_all(loop, peer, 4 << 18) == words.tobytes()


# -- writelines ----------------------------------------------------------------------


@pytest.mark.parametrize("make", [list, tuple, iter, lambda parts: (p for p in parts)])
@on_loop
async def test_writelines_takes_iterables(loop, make):
    async with connected() as (transport, _, peer):
        transport.writelines(
            make([b"a", b"bc", b"", bytearray(b"d"), memoryview(b"ef")])
        )
        assert recv_exactly(peer, 6) == b"abcdef"
        assert transport.get_write_buffer_size() == 0


def test_writelines_with_a_wrong_item_sends_nothing(loop, loop_kind):
    oracle_bug(loop_kind, PY >= (3, 15), "keeps, unsent, what precedes the wrong item")

    @on_loop
    async def body(loop):
        async with connected() as (transport, _, peer):
            with pytest.raises(TypeError):
                transport.writelines([b"good", "bad", b"good"])
            assert transport.get_write_buffer_size() == 0
            transport.write(b"only this")
            assert peer.recv(100) == b"only this"

    body(loop=loop)


@pytest.mark.parametrize("bad", [None, 7])
def test_writelines_of_no_iterable(loop, loop_kind, bad):
    oracle_bug(loop_kind, PY >= (3, 12) and bad is None, "takes None for an empty list")

    @on_loop
    async def body(loop):
        async with connected() as (transport, _, _):
            with pytest.raises(TypeError):
                transport.writelines(bad)

    body(loop=loop)


@on_loop
async def test_writelines_of_more_parts_than_one_system_call_takes(loop):
    parts = [b"%06d" % n for n in range(5000)]
    async with connected() as (transport, _, peer):
        transport.writelines(parts)
        assert await read_all(loop, peer, 30000) == b"".join(parts)


@on_loop
async def test_writelines_behind_queued_data_keeps_the_order(loop):
    async with connected(sndbuf=4096) as (transport, _, peer):
        filled = fill(transport)
        transport.writelines([b"1", b"22"])
        transport.write(b"333")
        transport.writelines([b"4444"])
        got = await read_all(loop, peer, filled + 10)
        assert got[filled:] == b"1223334444"


@pytest.mark.pyloop_only
@on_loop
async def test_writelines_of_nothing_but_empty_parts(loop):
    """asyncio 3.12 and 3.13.0 then try for ever to send nothing."""
    async with connected() as (transport, protocol, _):
        transport.writelines([b"", b""])
        assert transport.get_write_buffer_size() == 0
        transport.close()
        assert await protocol.lost is None


# -- the queue -----------------------------------------------------------------------


@on_loop
async def test_buffer_size_counts_what_the_kernel_did_not_take(loop):
    async with connected(sndbuf=4096) as (transport, _, peer):
        assert transport.get_write_buffer_size() == 0
        transport.write(pattern(1 << 20))
        queued = transport.get_write_buffer_size()
        assert 0 < queued < 1 << 20
        transport.write(b"x" * 1000)
        assert transport.get_write_buffer_size() == queued + 1000
        transport.writelines([b"y" * 10, b"z" * 5])
        assert queued < transport.get_write_buffer_size() <= queued + 1015
        await read_all(loop, peer, (1 << 20) + 1015)
        assert transport.get_write_buffer_size() == 0


@on_loop
async def test_buffer_size_falls_as_the_peer_reads(loop):
    async with connected(sndbuf=4096) as (transport, _, peer):
        total = 1 << 20
        transport.write(pattern(total))
        read = 0
        sizes = [transport.get_write_buffer_size()]
        while read < total:
            read += len(await read_all(loop, peer, min(1 << 16, total - read)))
            await settle(loop, 1)
            sizes.append(transport.get_write_buffer_size())
            assert sizes[-1] <= total - read
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] == 0


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_large_and_small_writes_arrive_whole_and_in_order(loop, kind):
    async with connected(kind=kind) as (transport, _, peer):
        whole = pattern(3 << 20)
        cut = 0
        for n in range(2000):
            step = (n * 7919) % 3000
            transport.write(whole[cut : cut + step])
            cut += step
        transport.write(whole[cut:])
        assert await read_all(loop, peer, len(whole)) == whole


@on_loop
async def test_many_small_queued_writes(loop):
    async with connected(sndbuf=4096) as (transport, _, peer):
        filled = fill(transport)
        for n in range(5000):
            transport.write(b"%05d" % n)
        got = await read_all(loop, peer, filled + 25000)
        assert got[filled:] == b"".join(b"%05d" % n for n in range(5000))


def test_a_queued_view_may_be_released(loop, loop_kind):
    oracle_bug(loop_kind, PY >= (3, 12), "queues memory views by reference")

    @on_loop
    async def body(loop):
        async with connected(sndbuf=4096) as (transport, _, peer):
            filled = fill(transport)
            with memoryview(b"released") as view:
                transport.write(view)
                transport.writelines([view])
            got = await read_all(loop, peer, filled + 16)
            assert got[filled:] == b"released" * 2

    body(loop=loop)


# -- after the end -------------------------------------------------------------------


def lost_warnings(asyncio_log):
    return asyncio_log.take_texts().count("socket.send() raised exception.")


@pytest.mark.parametrize("end", ["close", "abort"])
@on_loop
async def test_writes_after_the_end_are_dropped_and_warned_of_from_the_fifth(
    loop, asyncio_log, end
):
    async with connected() as (transport, protocol, peer):
        getattr(transport, end)()
        for n in range(1, 9):
            transport.write(b"late")
            assert lost_warnings(asyncio_log) == (1 if n >= 5 else 0)
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost is None
        assert peer.recv(100) == b""
        transport.write(b"later")
        assert lost_warnings(asyncio_log) == 1


@on_loop
async def test_empty_and_refused_writes_do_not_count_towards_the_warning(
    loop, asyncio_log
):
    async with connected() as (transport, _, _):
        transport.abort()
        for _ in range(20):
            transport.write(b"")
            with pytest.raises(TypeError):
                transport.write("text")
        for _ in range(4):
            transport.write(b"x")
        assert lost_warnings(asyncio_log) == 0
        transport.write(b"x")
        assert lost_warnings(asyncio_log) == 1


@on_loop
async def test_write_after_close_with_queued_data_goes_behind_it(loop):
    """As in asyncio: the connection is not lost until the queue is empty."""
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        filled = fill(transport)
        transport.close()
        transport.write(b"tail")
        got = await read_all(loop, peer)
        assert got[filled:] == b"tail"
        assert await protocol.lost is None


def test_writelines_after_close_is_dropped(loop, loop_kind):
    oracle_bug(loop_kind, PY >= (3, 12), "writelines after close is a TypeError")

    @on_loop
    async def body(loop):
        async with connected() as (transport, protocol, peer):
            transport.close()
            transport.writelines([b"a", b"b"])
            assert await protocol.lost is None
            assert peer.recv(10) == b""

    body(loop=loop)


@on_loop
async def test_write_after_write_eof(loop):
    async with connected() as (transport, _, peer):
        transport.write(b"last")
        transport.write_eof()
        for data in (b"more", b""):
            with pytest.raises(RuntimeError, match=EOF_ERROR):
                transport.write(data)
        with pytest.raises(RuntimeError, match=EOF_ERROR_LINES):
            transport.writelines([b"more"])
        with pytest.raises(TypeError):
            transport.write("the type is looked at first")
        assert peer.recv(100) == b"last"
        assert peer.recv(100) == b""
