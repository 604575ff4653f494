"""How a sendfile ends early, and what it asks of a transport meanwhile."""

import asyncio
import os
import tempfile

import pytest
import streamkit
import support
from streamkit import Recorder, connected, on_loop, pattern, read_all, until

SIZE = 3_000_000
DATA = pattern(SIZE)


@pytest.fixture
def file():
    with tempfile.TemporaryFile() as file:
        file.write(DATA)
        file.flush()
        file.seek(0)
        yield file


def position(file):
    return os.lseek(file.fileno(), 0, os.SEEK_CUR)


def begin(loop, transport, file):
    """Start a sendfile that nobody reads, and let it fill the kernel's buffers."""
    return loop.create_task(loop.sendfile(transport, file, fallback=False))


# --- sockets ------------------------------------------------------------------------


@on_loop
async def test_cancelled(loop, loop_kind, file):
    """The file's position tells how much was sent; the socket stays usable."""
    streamkit.oracle_bug(loop_kind, True, "leaves the position where it was")
    with support.socket_pair() as (left, right):
        sending = loop.create_task(loop.sock_sendfile(left, file, fallback=False))
        await asyncio.sleep(0)
        await streamkit.settle(loop)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        sent = position(file)
        assert 0 < sent < SIZE
        assert streamkit.pending(right) == DATA[:sent]
        await loop.sock_sendall(left, b"and on")
        assert right.recv(100) == b"and on"
        assert not loop.remove_writer(left)


@on_loop
async def test_never_awaited_or_closed(loop, file):
    with support.socket_pair() as (left, right):
        coroutine = loop.sock_sendfile(left, file)
        coroutine.close()
        assert streamkit.pending(right) == b""
        assert position(file) == 0


@on_loop
async def test_the_peer_closes_on_the_way(loop, file):
    with support.socket_pair() as (left, right):
        sending = loop.create_task(loop.sock_sendfile(left, file, fallback=False))
        await asyncio.sleep(0)
        await streamkit.settle(loop)
        right.recv(1000)
        right.close()
        with pytest.raises(ConnectionError):
            await sending
        assert 0 < position(file) < SIZE


@on_loop
async def test_the_peer_is_gone_before(loop, file):
    with support.socket_pair() as (left, right):
        right.close()
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sock_sendfile(left, file, fallback=False)
        with pytest.raises(ConnectionError):
            await loop.sock_sendfile(left, file)


def test_the_loop_is_closed_on_the_way(new_loop, file):
    loop = new_loop()
    with support.socket_pair() as (left, _):
        coroutine = loop.sock_sendfile(left, file, fallback=False)
        task = loop.create_task(coroutine)
        support.spin(loop)
        task.cancel()
        support.spin(loop)
        loop.close()
    assert task.cancelled()


# --- transports ---------------------------------------------------------------------


@on_loop
async def test_what_was_written_before_goes_first(loop, file):
    async with connected() as (transport, _, peer):
        before = streamkit.fill(transport, b"b" * 65536)
        transport.write(b"!")
        sending = begin(loop, transport, file)
        await asyncio.sleep(0)
        data = await read_all(loop, peer, before + 1 + SIZE)
        assert await sending == SIZE
        assert data == b"b" * before + b"!" + DATA
        transport.write(b"after")
        assert await read_all(loop, peer, 5) == b"after"


@on_loop
async def test_writing_is_refused_meanwhile(loop, file):
    async with connected() as (transport, _, peer):
        sending = begin(loop, transport, file)
        await asyncio.sleep(0)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="sendfile is in progress"):
                transport.write(b"data")
            with pytest.raises(RuntimeError):
                transport.writelines([b"da", b"ta"])
            await streamkit.settle(loop)
        assert await read_all(loop, peer, SIZE) == DATA
        assert await sending == SIZE
        transport.writelines([b"da", b"ta"])
        assert await read_all(loop, peer, 4) == b"data"


@on_loop
async def test_reading_pauses_meanwhile(loop, file):
    async with connected() as (transport, protocol, peer):
        sending = begin(loop, transport, file)
        await asyncio.sleep(0)
        assert not transport.is_reading()
        peer.send(b"question")
        await streamkit.settle(loop)
        assert protocol.data == b""
        await read_all(loop, peer, SIZE)
        await sending
        assert transport.is_reading()
        assert await protocol.received(8) == b"question"


@on_loop
async def test_reading_stays_paused(loop, file):
    async with connected() as (transport, protocol, peer):
        transport.pause_reading()
        sending = begin(loop, transport, file)
        await asyncio.sleep(0)
        await read_all(loop, peer, SIZE)
        await sending
        assert not transport.is_reading()
        peer.send(b"question")
        await streamkit.settle(loop)
        assert protocol.data == b""


@on_loop
async def test_cancelled_on_a_transport(loop, file):
    async with connected() as (transport, protocol, peer):
        sending = begin(loop, transport, file)
        await asyncio.sleep(0)
        await streamkit.settle(loop)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert transport.is_reading()
        sent = len(streamkit.pending(peer))
        transport.write(b"and on")
        assert peer.recv(100) == b"and on"
        peer.send(b"question")
        assert await protocol.received(8) == b"question"
        assert 0 < sent < SIZE


@on_loop
async def test_cancelled_while_what_was_written_before_is_sent(loop, loop_kind, file):
    streamkit.oracle_bug(loop_kind, True, "does not give the transport back")
    async with connected() as (transport, _, peer):
        before = streamkit.fill(transport)
        sending = begin(loop, transport, file)
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert transport.is_reading()
        transport.write(b"!")
        data = await read_all(loop, peer, before + 1)
        assert data == b"f" * before + b"!"
        assert position(file) == 0


@pytest.mark.parametrize("end", ["close", "abort"])
@on_loop
async def test_the_transport_ends_on_the_way(loop, loop_kind, file, end):
    streamkit.oracle_bug(loop_kind, True, "waits for ever")
    async with connected() as (transport, protocol, peer):
        sending = begin(loop, transport, file)
        await asyncio.sleep(0)
        await streamkit.settle(loop)
        getattr(transport, end)()
        with pytest.raises(ConnectionError, match="closed"):
            await sending
        assert await protocol.lost is None
        assert protocol.count("connection_lost") == 1
        assert position(file) == len(streamkit.pending(peer)) > 0


@pytest.mark.parametrize("end", ["close", "abort"])
@on_loop
async def test_the_transport_ends_while_what_was_written_before_is_sent(
    loop, loop_kind, file, end
):
    streamkit.oracle_bug(loop_kind, True, "AttributeError, and a callback that fails")
    async with connected() as (transport, protocol, peer):
        before = streamkit.fill(transport)
        sending = begin(loop, transport, file)
        await asyncio.sleep(0)
        getattr(transport, end)()
        if end == "close":
            assert len(await read_all(loop, peer)) == before
        with pytest.raises(ConnectionError, match="closed"):
            await sending
        assert await protocol.lost is None
        assert position(file) == 0


@on_loop
async def test_the_connection_breaks_while_what_was_written_before_is_sent(
    loop, loop_kind, file
):
    streamkit.oracle_bug(loop_kind, True, "reports an InvalidStateError as well")
    async with connected() as (transport, protocol, peer):
        streamkit.fill(transport)
        sending = begin(loop, transport, file)
        await asyncio.sleep(0)
        peer.close()
        with pytest.raises(ConnectionError):
            await sending
        assert isinstance(await protocol.lost, ConnectionError)


@on_loop
async def test_the_peer_of_a_transport_closes_on_the_way(loop, file):
    async with connected() as (transport, protocol, peer):
        sending = begin(loop, transport, file)
        await asyncio.sleep(0)
        await streamkit.settle(loop)
        peer.recv(1000)
        peer.close()
        with pytest.raises(ConnectionError):
            await sending
        await protocol.lost
        assert 0 < position(file) < SIZE


@on_loop
async def test_two_at_once_on_one_transport(loop, loop_kind, file):
    streamkit.oracle_bug(loop_kind, True, "KeyError")
    async with connected() as (transport, _, peer):
        sending = begin(loop, transport, file)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already"):
            await loop.sendfile(transport, file)
        assert await read_all(loop, peer, SIZE) == DATA
        assert await sending == SIZE


@on_loop
async def test_a_closing_transport_is_refused(loop, file):
    async with connected() as (transport, _, _):
        transport.close()
        with pytest.raises(RuntimeError, match="closing"):
            await loop.sendfile(transport, file)


@on_loop
async def test_the_write_end_is_closed_before(loop, file):
    async with connected() as (transport, _, _):
        transport.write_eof()
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sendfile(transport, file, fallback=False)
        assert transport.is_reading()


@on_loop
async def test_on_an_accepted_connection(loop, file):
    accepted = loop.create_future()

    class Server(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.set_result(transport)

    server = await loop.create_server(Server, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(
        Recorder, *server.sockets[0].getsockname()
    )
    far = await accepted
    assert await loop.sendfile(far, file, 10, 100_000, fallback=False) == 100_000
    assert await protocol.received(100_000) == DATA[10:100_010]
    transport.write(b"thanks")
    assert await far.get_protocol().received(6) == b"thanks"
    transport.close()
    server.close()
    await far.get_protocol().lost


@on_loop
async def test_over_tls_by_reading_and_writing(loop, certificates, file):
    accepted = loop.create_future()

    def serve():
        protocol = streamkit.TlsRecorder()
        accepted.set_result(protocol)
        return protocol

    server = await loop.create_server(
        serve, "127.0.0.1", 0, ssl=certificates.server_context()
    )
    transport, protocol = await loop.create_connection(
        streamkit.TlsRecorder,
        *server.sockets[0].getsockname(),
        ssl=certificates.client_context(),
        server_hostname="localhost",
    )
    far = await accepted
    with pytest.raises(RuntimeError, match="fallback is disabled"):
        await loop.sendfile(transport, file, fallback=False)
    assert await loop.sendfile(transport, file, 5, 400_000) == 400_000
    assert await far.received(400_000) == DATA[5:400_005]
    assert file.tell() == 400_005
    transport.close()
    await protocol.lost
    await until(lambda: far.transport.is_closing())
    server.close()


@on_loop
async def test_through_a_stream_writer(loop, file):
    """drain() after a sendfile, and what StreamWriter.write() says meanwhile."""
    near, peer = streamkit.socket_pair("unix")
    _, writer = await asyncio.open_connection(sock=near)
    writer.write(b"head")
    sending = begin(loop, writer.transport, file)
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="in progress"):
        writer.write(b"no")
    assert await read_all(loop, peer, 4 + SIZE) == b"head" + DATA
    assert await sending == SIZE
    writer.write(b"tail")
    await writer.drain()
    assert await read_all(loop, peer, 4) == b"tail"
    peer.close()
    writer.close()
    await writer.wait_closed()
