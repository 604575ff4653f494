"""BufferedProtocol on stream transports: data read straight into the user's buffer.

Source: asyncio's documentation of BufferedProtocol.
"""

import array
import asyncio
import mmap
import socket

import pytest
from streamkit import (
    KINDS,
    BufferedRecorder,
    connected,
    on_loop,
    pattern,
    record_errors,
    settle,
)


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_order_of_the_callbacks(loop, kind):
    async with connected(BufferedRecorder, kind=kind) as (_, protocol, peer):
        peer.sendall(b"hello")
        await protocol.received(5)
        peer.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
        assert protocol.calls == [
            ("connection_made",),
            ("buffer_updated", 5),
            ("eof_received",),
            ("connection_lost", None),
        ]


@on_loop
async def test_get_buffer_is_given_a_hint_of_minus_one(loop):
    async with connected(BufferedRecorder) as (_, protocol, peer):
        peer.sendall(b"hello")
        await protocol.received(5)
        assert set(protocol.hints) == {-1}


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
@on_loop
async def test_any_size_of_buffer(loop, size):
    async with connected(lambda: BufferedRecorder(size)) as (_, protocol, peer):
        data = pattern(min(200 * size, 1 << 20))
        peer.setblocking(False)
        await loop.sock_sendall(peer, data)
        assert await protocol.received(len(data)) == data
        assert all(call[1] <= size for call in protocol.calls if call[1:])
        peer.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: bytearray(8),
        lambda: memoryview(bytearray(8)),
        lambda: memoryview(bytearray(16))[4:12],
        lambda: array.array("B", bytes(8)),
        lambda: mmap.mmap(-1, 8),
    ],
    ids=["bytearray", "memoryview", "slice", "array", "mmap"],
)
@on_loop
async def test_any_writable_buffer(loop, make):
    buffer = make()
    async with connected(BufferedRecorder) as (transport, protocol, peer):
        protocol.get_buffer = lambda hint: buffer
        protocol.buffer_updated = lambda n: protocol.lost.set_result(n)
        peer.sendall(b"abc")
        assert await protocol.lost == 3
        assert bytes(buffer[:3]) == b"abc"
        transport.abort()
        protocol.connection_lost = lambda exc: None


@on_loop
async def test_each_read_asks_for_a_buffer_anew(loop):
    buffers = [bytearray(4) for _ in range(3)]
    async with connected(BufferedRecorder) as (_, protocol, peer):
        handed = iter([*buffers, bytearray(4)])
        protocol.get_buffer = lambda hint: next(handed)
        for n, piece in enumerate((b"aaaa", b"bb", b"c"), 1):
            peer.sendall(piece)
            await protocol.called("buffer_updated", n)
        assert [bytes(b) for b in buffers] == [b"aaaa", b"bb\0\0", b"c\0\0\0"]


@on_loop
async def test_the_buffer_is_released_between_reads(loop):
    """A bytearray may be resized whenever no read is going on."""
    async with connected(BufferedRecorder) as (_, protocol, peer):

        def grow(name):
            if name == "buffer_updated":
                protocol.buffer.extend(b"more")

        protocol.on = grow
        for n in range(1, 6):
            peer.sendall(b"x")
            await protocol.called("buffer_updated", n)
            protocol.buffer.append(0)
        assert len(protocol.buffer) == 4096 + 5 * 5


@pytest.mark.parametrize(
    "get_buffer, error, message",
    [
        (
            lambda hint: bytearray(),
            RuntimeError("get_buffer() returned an empty buffer"),
            "Fatal error: protocol.get_buffer() call failed.",
        ),
        (
            lambda hint: memoryview(bytearray(4))[4:],
            RuntimeError("get_buffer() returned an empty buffer"),
            "Fatal error: protocol.get_buffer() call failed.",
        ),
        (
            lambda hint: 1 / 0,
            ZeroDivisionError("division by zero"),
            "Fatal error: protocol.get_buffer() call failed.",
        ),
        (
            lambda hint: None,
            TypeError("object of type 'NoneType' has no len()"),
            "Fatal error: protocol.get_buffer() call failed.",
        ),
        (
            lambda hint: 7,
            TypeError("object of type 'int' has no len()"),
            "Fatal error: protocol.get_buffer() call failed.",
        ),
        (
            lambda hint: b"read only",
            TypeError(None),
            "Fatal read error on socket transport",
        ),
        (lambda hint: "text", TypeError(None), "Fatal read error on socket transport"),
    ],
    ids=["empty", "empty-view", "raises", "none", "int", "readonly", "str"],
)
@on_loop
async def test_a_bad_buffer_ends_the_connection(loop, get_buffer, error, message):
    async with connected(BufferedRecorder) as (transport, protocol, peer):
        errors = record_errors(loop)
        protocol.get_buffer = get_buffer
        peer.send(b"data")
        exc = await protocol.lost
        assert type(exc) is type(error)
        if error.args != (None,):
            assert str(exc) == str(error)
        assert errors.only() == {
            "message": message,
            "exception": exc,
            "transport": transport,
            "protocol": protocol,
        }
        assert protocol.names == ["connection_made", "connection_lost"]


@on_loop
async def test_buffer_updated_raises(loop):
    async with connected(BufferedRecorder) as (transport, protocol, peer):
        errors = record_errors(loop)
        error = ZeroDivisionError("in buffer_updated")

        def fail(name):
            if name == "buffer_updated":
                raise error

        protocol.on = fail
        peer.send(b"data")
        assert await protocol.lost is error
        assert errors.only() == {
            "message": "Fatal error: protocol.buffer_updated() call failed.",
            "exception": error,
            "transport": transport,
            "protocol": protocol,
        }


@pytest.mark.parametrize("end", ["close", "abort", "pause_reading"])
@on_loop
async def test_get_buffer_may_end_reading(loop, end):
    """Whatever get_buffer does to the transport, the loop survives."""
    async with connected(BufferedRecorder) as (transport, protocol, peer):
        original = protocol.get_buffer
        seen = []

        def get_buffer(hint):
            seen.append(hint)
            getattr(transport, end)()
            return original(hint)

        protocol.get_buffer = get_buffer
        peer.send(b"data")
        if end == "pause_reading":
            await protocol.received(4)
            assert not transport.is_reading()
        else:
            assert await protocol.lost is None
            assert protocol.count("connection_lost") == 1
        assert len(seen) == 1


@on_loop
async def test_get_buffer_may_change_the_protocol(loop):
    """asyncio asks the transport for its protocol again after get_buffer."""
    async with connected(BufferedRecorder) as (transport, first, peer):
        second = BufferedRecorder()
        second.buffer = first.buffer
        original = first.get_buffer

        def get_buffer(hint):
            transport.set_protocol(second)
            return original(hint)

        first.get_buffer = get_buffer
        peer.send(b"data")
        await second.called("buffer_updated")
        assert bytes(second.data) == b"data"
        assert first.names == ["connection_made"]


@on_loop
async def test_eof_does_not_touch_the_buffer(loop):
    async with connected(BufferedRecorder) as (_, protocol, peer):
        protocol.buffer[:] = b"as it was"
        peer.shutdown(socket.SHUT_WR)
        await protocol.lost
        assert protocol.buffer == b"as it was"
        assert protocol.count("buffer_updated") == 0


@on_loop
async def test_eof_received_true(loop):
    async with connected(BufferedRecorder) as (transport, protocol, peer):
        protocol.keep_open = True
        peer.shutdown(socket.SHUT_WR)
        await protocol.called("eof_received")
        await settle(loop)
        transport.write(b"answer")
        assert peer.recv(100) == b"answer"
        assert protocol.count("eof_received") == 1


@on_loop
async def test_pause_in_buffer_updated(loop):
    async with connected(lambda: BufferedRecorder(2)) as (transport, protocol, peer):
        protocol.on = lambda name: (
            transport.pause_reading() if name == "buffer_updated" else None
        )
        peer.send(b"abcdef")
        for n in (1, 2, 3):
            await protocol.called("buffer_updated", n)
            await settle(loop)
            assert protocol.count("buffer_updated") == n
            transport.resume_reading()
        assert bytes(protocol.data) == b"abcdef"


@on_loop
async def test_only_a_true_buffered_protocol_is_asked_for_buffers(loop):
    """A Protocol that happens to have get_buffer gets data_received."""

    class Both(asyncio.Protocol):
        def __init__(self):
            self.got = loop.create_future()

        def get_buffer(self, hint):
            raise AssertionError

        def data_received(self, data):
            self.got.set_result(data)

    async with connected(Both) as (_, protocol, peer):
        peer.send(b"data")
        assert await protocol.got == b"data"
