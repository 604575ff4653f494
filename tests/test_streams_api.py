"""Programs on asyncio.open_connection(), start_server(), StreamReader and StreamWriter.

Source: asyncio's documentation of streams.
"""

import asyncio
import contextlib
import os
import socket
import tempfile
import unittest.mock

import pytest
from streamkit import (
    PY,
    fill,
    on_loop,
    pattern,
    record_errors,
    reset,
    settle,
    socket_pair,
    until,
)

BUFFER = 1 << 16
"""SO_SNDBUF and SO_RCVBUF of both ends, in bytes.

Linux doubles them, and makes larger those of TCP that nobody sets, also while neither
end is used: what is written then may be taken without a peer that reads.
"""

FILL = bytes(1 << 20)
"""Of one such write more is left than the default high-water mark, whatever follows."""


@contextlib.asynccontextmanager
async def streams(kind="unix", **arguments):
    """A reader and writer on one end of a pair: yields (reader, writer, peer)."""
    near, peer = socket_pair(kind)
    for sock in (near, peer):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    peer.settimeout(10)
    reader, writer = await asyncio.open_connection(sock=near, **arguments)
    try:
        yield reader, writer, peer
    finally:
        peer.close()
        if writer.transport.get_protocol() is not None:
            writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        await asyncio.sleep(0)


async def shut(writer):
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


# -- client and server ---------------------------------------------------------------


async def echo_lines(reader, writer):
    async for line in reader:
        writer.write(line.upper())
        await writer.drain()
    await shut(writer)


@pytest.mark.parametrize("clients", [1, 20])
@on_loop
async def test_echo_server(loop, clients):
    server = await asyncio.start_server(echo_lines, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()

    async def client(name):
        reader, writer = await asyncio.open_connection(host, port)
        for n in range(20):
            writer.write(b"%s %d\n" % (name, n))
            assert await reader.readline() == b"%s %d\n" % (name.upper(), n)
        writer.write_eof()
        assert await reader.read() == b""
        await shut(writer)

    await asyncio.gather(*(client(b"client%d" % n) for n in range(clients)))
    server.close()
    await server.wait_closed()
    await settle(loop)


@on_loop
async def test_unix_streams(loop):
    with tempfile.TemporaryDirectory(prefix="pl") as directory:
        path = os.path.join(directory, "socket")
        server = await asyncio.start_unix_server(echo_lines, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"hello\n")
        assert await reader.readline() == b"HELLO\n"
        await shut(writer)
        server.close()
        await server.wait_closed()
        await settle(loop)


@on_loop
async def test_tls_streams(loop, certificates):
    server = await asyncio.start_server(
        echo_lines, "127.0.0.1", 0, ssl=certificates.server_context()
    )
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(),
        ssl=certificates.client_context(),
        server_hostname="localhost",
    )
    writer.write(b"x" * 60000 + b"\n")
    assert await reader.readline() == b"X" * 60000 + b"\n"
    await shut(writer)
    server.close()
    await settle(loop, 10)


@on_loop
async def test_a_plain_function_as_the_servers_callback(loop):
    got = loop.create_future()
    server = await asyncio.start_server(
        lambda reader, writer: got.set_result((reader, writer)), "127.0.0.1", 0
    )
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        reader, writer = await got
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        client.send(b"hello")
        assert await reader.readexactly(5) == b"hello"
        await shut(writer)
    server.close()
    await settle(loop)


@pytest.mark.skipif(PY < (3, 12), reason="reported from Python 3.12")
@on_loop
async def test_a_callback_that_raises(loop):
    errors = record_errors(loop)

    async def fail(reader, writer):
        raise ZeroDivisionError("in the callback")

    server = await asyncio.start_server(fail, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        client.settimeout(10)
        await until(lambda: errors.messages)
        context = errors.only()
        assert context["message"] == "Unhandled exception in client_connected_cb"
        assert isinstance(context["exception"], ZeroDivisionError)
        context["transport"].abort()
        await settle(loop)
        assert client.recv(1) == b""
    context = None
    errors.contexts.clear()
    server.close()
    await settle(loop)


# -- reading -------------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    "method, arguments, sent, expected, rest",
    [
        ("read", (3,), b"abcdef", b"abc", b"def"),
        ("read", (100,), b"abcdef", b"abcdef", b""),
        ("readline", (), b"one\ntwo\n", b"one\n", b"two\n"),
        ("readexactly", (4,), b"abcdef", b"abcd", b"ef"),
        ("readexactly", (0,), b"abcdef", b"", b"abcdef"),
        ("readuntil", (b"--",), b"a-b--c", b"a-b--", b"c"),
        ("readuntil", (), b"one\ntwo\n", b"one\n", b"two\n"),
    ],
)
@on_loop
async def test_reads(loop, early, method, arguments, sent, expected, rest):
    async with streams() as (reader, _, peer):
        if early:
            peer.send(sent)
            await settle(loop)
        task = asyncio.ensure_future(getattr(reader, method)(*arguments))
        await settle(loop)
        if not early:
            peer.send(sent)
        got = await task
        assert got == expected and type(got) is bytes
        peer.shutdown(socket.SHUT_WR)
        assert await reader.read() == rest
        assert reader.at_eof()


@on_loop
async def test_reads_of_pieces_that_come_slowly(loop):
    async with streams() as (reader, _, peer):
        line = asyncio.ensure_future(reader.readline())
        for piece in (b"a", b"bc", b"d\ne", b"f"):
            peer.send(piece)
            await settle(loop)
        assert await line == b"abcd\n"
        exact = asyncio.ensure_future(reader.readexactly(4))
        peer.send(b"g")
        await settle(loop)
        assert not exact.done()
        peer.send(b"hi")
        assert await exact == b"efgh"
        assert await reader.read(10) == b"i"


@on_loop
async def test_a_separator_across_pieces(loop):
    async with streams() as (reader, _, peer):
        task = asyncio.ensure_future(reader.readuntil(b"ABAC"))
        for piece in (b"xAB", b"ABA", b"Cy"):
            peer.send(piece)
            await settle(loop)
        assert await task == b"xABABAC"
        peer.close()
        assert await reader.read() == b"y"


@pytest.mark.skipif(PY < (3, 13), reason="several separators are new in Python 3.13")
@on_loop
async def test_several_separators(loop):
    async with streams() as (reader, _, peer):
        peer.send(b"one\r\ntwo\nthree")
        assert await reader.readuntil((b"\n", b"\r\n")) == b"one\r\n"
        assert await reader.readuntil((b"\r\n", b"\n")) == b"two\n"


@on_loop
async def test_ends_in_the_middle(loop):
    async with streams() as (reader, _, peer):
        peer.send(b"abc")
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await reader.readexactly(10)
        assert (caught.value.partial, caught.value.expected) == (b"abc", 10)
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await reader.readuntil(b"x")
        assert (caught.value.partial, caught.value.expected) == (b"", None)
        assert await reader.readline() == b""
        assert await reader.read() == b""
        assert await reader.read(10) == b""
    async with streams() as (reader, _, peer):
        peer.send(b"last line")
        peer.shutdown(socket.SHUT_WR)
        assert await reader.readline() == b"last line"


@on_loop
async def test_the_limit(loop):
    async with streams(limit=10) as (reader, _, peer):
        peer.send(b"a" * 30 + b"\nrest\n")
        with pytest.raises(ValueError):
            await reader.readline()
        assert await reader.readline() == b"rest\n"
        peer.send(b"b" * 12 + b"|")
        with pytest.raises(asyncio.LimitOverrunError) as caught:
            await reader.readuntil(b"|")
        assert caught.value.consumed in (12, 13)
        assert await reader.readexactly(13) == b"b" * 12 + b"|"
        task = asyncio.ensure_future(reader.readexactly(1000))
        peer.send(b"c" * 1000)
        assert await task == b"c" * 1000


@on_loop
async def test_bad_arguments(loop):
    async with streams() as (reader, _, peer):
        with pytest.raises(ValueError, match="less than zero"):
            await reader.readexactly(-1)
        with pytest.raises(ValueError, match="at least one-byte string"):
            await reader.readuntil(b"")
        assert await reader.read(0) == b""
        peer.close()
        assert await reader.read(-1) == b""


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@on_loop
async def test_reading_pauses_at_twice_the_limit(loop, kind):
    """A reader nobody reads takes a bounded amount; the rest stays with the peer."""
    async with streams(kind, limit=1000) as (reader, writer, peer):
        data = pattern(8 << 20)
        peer.setblocking(False)
        sender = asyncio.ensure_future(loop.sock_sendall(peer, data))
        await settle(loop, 20)
        assert not sender.done()
        assert not writer.transport.is_reading()
        assert await reader.readexactly(len(data)) == data
        await sender
        assert writer.transport.is_reading()


@on_loop
async def test_iteration(loop):
    async with streams() as (reader, _, peer):
        peer.sendall(b"".join(b"line %d\n" % n for n in range(100)) + b"no newline")
        peer.shutdown(socket.SHUT_WR)
        lines = [line async for line in reader]
        assert lines == [b"line %d\n" % n for n in range(100)] + [b"no newline"]


@on_loop
async def test_two_readers_at_once_are_refused(loop):
    async with streams() as (reader, _, peer):
        task = asyncio.ensure_future(reader.read(10))
        await settle(loop)
        for method, arguments in (("read", (10,)), ("readexactly", (5,))):
            with pytest.raises(RuntimeError) as caught:
                await getattr(reader, method)(*arguments)
            assert str(caught.value) == (
                f"{method}() called while another coroutine is already waiting "
                f"for incoming data"
            )
        peer.send(b"data")
        assert await task == b"data"


@on_loop
async def test_a_cancelled_read_loses_nothing(loop):
    async with streams() as (reader, _, peer):
        for method, arguments in (
            ("read", (10,)),
            ("readline", ()),
            ("readexactly", (100,)),
            ("readuntil", (b"x",)),
        ):
            task = asyncio.ensure_future(getattr(reader, method)(*arguments))
            await settle(loop)
            if method != "read":
                peer.send(b"12345")
                await settle(loop)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        peer.send(b"end")
        assert await reader.readexactly(18) == b"12345" * 3 + b"end"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.01)
        peer.send(b"more\n")
        assert await reader.readline() == b"more\n"


@on_loop
async def test_a_reset_connection(loop):
    async with streams("tcp") as (reader, _, peer):
        task = asyncio.ensure_future(reader.read(10))
        await settle(loop)
        reset(peer)
        with pytest.raises(ConnectionResetError):
            await task
        with pytest.raises(ConnectionResetError):
            await reader.readline()
        assert isinstance(reader.exception(), ConnectionResetError)


@on_loop
async def test_feeding_by_hand(loop):
    """Programs and tests feed readers that have no transport, or besides it."""
    reader = asyncio.StreamReader()
    reader.feed_data(b"one\ntwo")
    assert await reader.readline() == b"one\n"
    reader.feed_eof()
    assert await reader.read() == b"two"
    async with streams() as (reader, _, peer):
        reader.feed_data(b"by hand ")
        peer.send(b"by wire\n")
        assert await reader.readline() == b"by hand by wire\n"
        reader.set_exception(ZeroDivisionError("set by hand"))
        with pytest.raises(ZeroDivisionError):
            await reader.read(1)


@on_loop
async def test_overridden_methods_are_called(loop):
    """A subclass, and an attribute set on one reader."""

    class Loud(asyncio.StreamReader):
        def feed_data(self, data):
            super().feed_data(data.upper())

        async def readline(self):
            return b"> " + await super().readline()

    near, peer = socket.socketpair()
    reader = Loud()
    transport, _ = await loop.create_connection(
        lambda: asyncio.StreamReaderProtocol(reader), sock=near
    )
    peer.send(b"hello\n")
    assert await reader.readline() == b"> HELLO\n"
    transport.abort()
    peer.close()
    async with streams() as (reader, _, peer):
        original = reader.feed_data
        reader.feed_data = unittest.mock.Mock(side_effect=original)
        peer.send(b"hello\n")
        assert await reader.readline() == b"hello\n"
        reader.feed_data.assert_called_once_with(b"hello\n")


@on_loop
async def test_a_protocol_subclass_sees_its_callbacks(loop):
    seen = []

    class Spy(asyncio.StreamReaderProtocol):
        def data_received(self, data):
            seen.append(data)
            super().data_received(data)

        def eof_received(self):
            seen.append("eof")
            return super().eof_received()

    near, peer = socket.socketpair()
    reader = asyncio.StreamReader()
    transport, _ = await loop.create_connection(lambda: Spy(reader), sock=near)
    peer.send(b"hello")
    peer.close()
    assert await reader.read() == b"hello"
    assert seen == [b"hello", "eof"]
    transport.abort()
    await settle(loop)


# -- writing -------------------------------------------------------------------------


@on_loop
async def test_writer_attributes(loop):
    async with streams("tcp") as (_, writer, peer):
        assert writer.get_extra_info("peername") == peer.getsockname()
        assert writer.get_extra_info("nothing", 7) == 7
        assert writer.can_write_eof()
        assert not writer.is_closing()
        writer.writelines([b"a", b"b"])
        assert peer.recv(1) == b"a"
        writer.close()
        assert writer.is_closing()
        await writer.wait_closed()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@on_loop
async def test_drain_waits_for_the_peer(loop, kind):
    async with streams(kind) as (_, writer, peer):
        total = fill(writer.transport, FILL)
        drained = [asyncio.ensure_future(writer.drain())]
        if PY >= (3, 11):
            drained.append(asyncio.ensure_future(writer.drain()))
        await settle(loop)
        assert not any(task.done() for task in drained)
        peer.setblocking(False)
        while total:
            total -= len(await loop.sock_recv(peer, 1 << 20))
        await asyncio.gather(*drained)
        await writer.drain()


@on_loop
async def test_drain_after_the_connection_is_lost(loop):
    async with streams("tcp") as (reader, writer, peer):
        fill(writer.transport, FILL)
        task = asyncio.ensure_future(writer.drain())
        await settle(loop)
        reset(peer)
        with pytest.raises(ConnectionError):
            await task
        with pytest.raises(ConnectionError):
            await writer.drain()
        with pytest.raises(ConnectionError):
            await reader.read(1)


@on_loop
async def test_wait_closed_after_a_reset(loop):
    async with streams("tcp") as (reader, writer, peer):
        reset(peer)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()


@on_loop
async def test_close_flushes(loop):
    async with streams() as (_, writer, peer):
        writer.write(pattern(4 << 20))
        writer.close()
        peer.setblocking(False)
        got = b""
        while data := await loop.sock_recv(peer, 1 << 20):
            got += data
        assert got == pattern(4 << 20)
        await writer.wait_closed()


@on_loop
async def test_write_eof_and_go_on_reading(loop):
    async with streams() as (reader, writer, peer):
        writer.write(b"question")
        writer.write_eof()
        assert peer.recv(100) == b"question"
        assert peer.recv(100) == b""
        peer.send(b"answer")
        peer.close()
        assert await reader.read() == b"answer"


@on_loop
async def test_a_proxy_between_two_connections(loop):
    """Backpressure and ends pass through two pairs of streams."""
    server_done = []

    async def serve(reader, writer):
        data = await reader.read()
        writer.write(data[::-1])
        await writer.drain()
        await shut(writer)
        server_done.append(len(data))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)

    async def pump(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def proxy(reader, writer):
        upstream = await asyncio.open_connection(*server.sockets[0].getsockname())
        await asyncio.gather(pump(reader, upstream[1]), pump(upstream[0], writer))
        await shut(upstream[1])
        await shut(writer)

    middle = await asyncio.start_server(proxy, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*middle.sockets[0].getsockname())
    data = pattern(3 << 20)
    writer.write(data)
    writer.write_eof()
    assert await reader.read() == data[::-1]
    assert server_done == [len(data)]
    await shut(writer)
    for each in (middle, server):
        each.close()
        await each.wait_closed()
    await settle(loop)


@pytest.mark.skipif(PY < (3, 12), reason="StreamWriter.__del__ came after 3.11.0")
@on_loop
async def test_an_abandoned_writer_warns(loop):
    near, peer = socket.socketpair()
    peer.settimeout(10)
    reader, writer = await asyncio.open_connection(sock=near)
    with pytest.warns(ResourceWarning, match="unclosed <StreamWriter"):
        del writer
    await settle(loop)
    assert peer.recv(1) == b""
    assert await reader.read() == b""
    peer.close()
