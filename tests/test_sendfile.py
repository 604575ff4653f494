"""loop.sendfile() and loop.sock_sendfile(): what is sent, and where the file stands."""

import asyncio
import inspect
import io
import os
import socket
import tempfile

import pytest
import streamkit
import support
from streamkit import Recorder, connected, on_loop, pattern, read_all

SIZE = 3_000_000
DATA = pattern(SIZE)

# Whether this Python's asyncio sets the file's position when nothing was sent, too.
ALWAYS_POSITIONS = "total_sent" not in str(
    inspect.signature(asyncio.SelectorEventLoop._sock_sendfile_update_filepos)
)


@pytest.fixture
def file():
    with tempfile.TemporaryFile() as file:
        file.write(DATA)
        file.flush()
        file.seek(0)
        yield file


def pair(kind):
    near, far = streamkit.socket_pair(kind)
    near.setblocking(False)
    far.setblocking(False)
    return near, far


class Way:
    """A file to a socket, or to a transport over one: what both ways have in common."""

    def __init__(self, loop, name, near, transport):
        self.loop, self.name, self.near, self.transport = loop, name, near, transport

    def send(self, file, *args, **kwargs):
        if self.name == "sock_sendfile":
            return self.loop.sock_sendfile(self.near, file, *args, **kwargs)
        return self.loop.sendfile(self.transport, file, *args, **kwargs)


@pytest.fixture(params=["sock_sendfile", "sendfile"])
def way(request):
    """Calls test code as way(loop, kind) -> async context manager of (Way, peer)."""
    return lambda loop, kind="unix": _Open(loop, request.param, kind)


class _Open:
    def __init__(self, loop, name, kind):
        self.loop, self.name, self.kind = loop, name, kind

    async def __aenter__(self):
        self.near, self.far = pair(self.kind)
        transport = None
        if self.name == "sendfile":
            transport, _ = await self.loop.create_connection(Recorder, sock=self.near)
        self.way = Way(self.loop, self.name, self.near, transport)
        return self.way, self.far

    async def __aexit__(self, *exc_info):
        self.far.close()
        if self.way.transport is None:
            self.near.close()
        elif self.way.transport.get_protocol() is not None:
            self.way.transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


# --- what is sent -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@on_loop
async def test_a_whole_file(loop, way, kind, file):
    async with way(loop, kind) as (sender, peer):
        reading = loop.create_task(read_all(loop, peer, SIZE))
        assert await sender.send(file, fallback=False) == SIZE
        assert await reading == DATA
        assert file.tell() == SIZE


@pytest.mark.parametrize(
    "offset, count, sent",
    [
        (0, 10, 10),
        (1000, 2000, 2000),
        (SIZE - 5, 100, 5),  # beyond the end
        (SIZE - 5, None, 5),
        (SIZE, None, 0),
        (SIZE + 10, None, 0),
        (SIZE + 10, 5, 0),
        (7, 1 << 40, SIZE - 7),
        (7, SIZE - 7, SIZE - 7),
    ],
)
@on_loop
async def test_offset_and_count(loop, way, file, offset, count, sent):
    """The file's position is behind what was sent."""
    file.seek(3)
    async with way(loop) as (sender, peer):
        reading = loop.create_task(read_all(loop, peer, sent))
        assert await sender.send(file, offset, count, fallback=False) == sent
        assert await reading == DATA[offset : offset + sent]
        position = os.lseek(file.fileno(), 0, os.SEEK_CUR)
        assert position == (offset + sent if sent or ALWAYS_POSITIONS else 3)


@on_loop
async def test_the_position_of_the_file_is_not_where_it_begins(loop, way, file):
    file.seek(100)
    async with way(loop) as (sender, peer):
        assert await sender.send(file, count=10, fallback=False) == 10
        assert peer.recv(100) == DATA[:10]


@on_loop
async def test_an_empty_file(loop, way):
    async with way(loop) as (sender, peer):
        with tempfile.TemporaryFile() as empty:
            assert await sender.send(empty, fallback=False) == 0
            assert await sender.send(empty, 0, 10, fallback=False) == 0
        assert streamkit.pending(peer) == b""


@on_loop
async def test_a_file_that_grows_while_it_is_sent(loop, way, file):
    """Its end is where it ends when everything before was sent."""
    async with way(loop) as (sender, peer):
        sending = loop.create_task(sender.send(file, fallback=False))
        await asyncio.sleep(0)
        os.pwrite(file.fileno(), b"more", SIZE)
        reading = loop.create_task(read_all(loop, peer, SIZE + 4))
        assert await sending == SIZE + 4
        assert await reading == DATA + b"more"


@on_loop
async def test_a_file_that_shrinks_while_it_is_sent(loop, way, file):
    async with way(loop) as (sender, peer):
        sending = loop.create_task(sender.send(file, fallback=False))
        await asyncio.sleep(0)
        os.ftruncate(file.fileno(), SIZE // 2)
        reading = loop.create_task(read_all(loop, peer, SIZE // 2))
        assert await sending == SIZE // 2
        assert await reading == DATA[: SIZE // 2]


@on_loop
async def test_two_files_one_after_the_other(loop, way, file):
    async with way(loop) as (sender, peer):
        reading = loop.create_task(read_all(loop, peer, SIZE + 100))
        assert await sender.send(file, 0, 100, fallback=False) == 100
        assert await sender.send(file, fallback=False) == SIZE
        assert await reading == DATA[:100] + DATA


@on_loop
async def test_many_at_once(loop, file):
    """Each on a socket of its own, all of one file: offsets are not shared."""
    pairs = [pair("unix") for _ in range(8)]
    sending = [
        loop.sock_sendfile(near, file, i * 1000, 300_000, fallback=False)
        for i, (near, _) in enumerate(pairs)
    ]
    reading = [read_all(loop, far, 300_000) for _, far in pairs]
    done = await asyncio.gather(*sending, *reading)
    for i in range(8):
        assert done[i] == 300_000
        assert done[8 + i] == DATA[i * 1000 : i * 1000 + 300_000]
    for near, far in pairs:
        near.close()
        far.close()


@on_loop
async def test_the_loop_goes_on_meanwhile(loop, way, file):
    async with way(loop) as (sender, peer):
        sending = loop.create_task(sender.send(file, fallback=False))
        ticks = 0
        for _ in range(10):
            await asyncio.sleep(0)
            ticks += not sending.done()
        assert ticks == 10  # nobody reads
        reading = loop.create_task(read_all(loop, peer, SIZE))
        assert await sending == SIZE
        await reading


# --- what cannot be sent ------------------------------------------------------------


def closed_socket():
    sock = socket.socket()
    sock.close()
    return sock


@pytest.mark.parametrize(
    "unfit",
    [
        lambda: io.BytesIO(DATA[:5000]),  # no descriptor
        closed_socket,  # its descriptor is -1
        object,
    ],
)
@on_loop
async def test_not_a_file(loop, way, unfit):
    async with way(loop) as (sender, _):
        with pytest.raises(asyncio.SendfileNotAvailableError, match="not a regular"):
            await sender.send(unfit(), fallback=False)


@on_loop
async def test_the_fallback_sends_what_has_no_descriptor(loop, way):
    async with way(loop) as (sender, peer):
        file = io.BytesIO(DATA[:5000])
        assert await sender.send(file, 10, 4000) == 4000
        assert await read_all(loop, peer, 4000) == DATA[10:4010]
        assert file.tell() == 4010


@on_loop
async def test_a_pipe_is_taken_for_an_empty_file(loop, way):
    """As on asyncio: its size is 0."""
    with support.pipe_pair() as (reading, writing):
        os.write(writing, b"something")
        with open(reading, "rb", buffering=0, closefd=False) as pipe:
            async with way(loop) as (sender, _):
                assert await sender.send(pipe, fallback=False) == 0


@on_loop
async def test_a_count_from_a_pipe_is_not_available(loop, loop_kind, way):
    streamkit.oracle_bug(loop_kind, ALWAYS_POSITIONS, "sets the position of a pipe")
    with support.pipe_pair() as (reading, writing):
        os.write(writing, b"something")
        with open(reading, "rb", buffering=0, closefd=False) as pipe:
            async with way(loop) as (sender, peer):
                with pytest.raises(asyncio.SendfileNotAvailableError) as caught:
                    await sender.send(pipe, 0, 4, fallback=False)
                assert "os.sendfile" in str(caught.value)
                assert streamkit.pending(peer) == b""


@on_loop
async def test_without_os_sendfile(loop, way, file, monkeypatch):
    monkeypatch.delattr(os, "sendfile")
    async with way(loop) as (sender, peer):
        with pytest.raises(asyncio.SendfileNotAvailableError, match="not available"):
            await sender.send(file, fallback=False)
        assert await sender.send(file, 0, 1000) == 1000
        assert peer.recv(2000) == DATA[:1000]


@on_loop
async def test_the_cause_of_what_is_not_available(loop, loop_kind, way, tmp_path):
    streamkit.oracle_bug(loop_kind, True, "does not say why sendfile failed")
    path = tmp_path / "written only"
    path.write_bytes(b"data")
    async with way(loop) as (sender, _):
        with open(path, "ab") as unreadable:
            with pytest.raises(asyncio.SendfileNotAvailableError) as caught:
                await sender.send(unreadable, fallback=False)
        assert isinstance(caught.value.__cause__, OSError)


@on_loop
async def test_a_closed_file(loop, way, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"data")
    file = open(path, "rb")
    file.close()
    async with way(loop) as (sender, _):
        with pytest.raises(ValueError, match="closed file"):
            await sender.send(file, fallback=False)


@on_loop
async def test_a_file_closed_on_the_way(loop, loop_kind, way):
    """Its number is not asked for data again: it may be another file's by now."""
    streamkit.oracle_bug(loop_kind, True, "goes on with the number")
    file = tempfile.TemporaryFile()
    file.write(DATA)
    async with way(loop) as (sender, peer):
        sending = loop.create_task(sender.send(file, fallback=False))
        await asyncio.sleep(0)
        file.close()
        reading = loop.create_task(read_all(loop, peer))
        with pytest.raises(ValueError, match="closed file"):
            await sending
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@on_loop
async def test_arguments(loop, way, file):
    async with way(loop) as (sender, _):
        for wrong in [-1, 1.5, "1"]:
            with pytest.raises((TypeError, ValueError), match="offset must be"):
                await sender.send(file, wrong, fallback=False)
        for wrong in [0, -1, 1.5, "1"]:
            with pytest.raises((TypeError, ValueError), match="count must be"):
                await sender.send(file, 0, wrong, fallback=False)
        with pytest.raises(OverflowError):
            await sender.send(file, 1 << 80, fallback=False)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 0


@on_loop
async def test_only_stream_sockets(loop, file):
    with support.socket_pair(socket.SOCK_DGRAM) as (left, _):
        with pytest.raises(ValueError, match="SOCK_STREAM"):
            await loop.sock_sendfile(left, file, fallback=False)


@on_loop
async def test_only_transports_of_sockets(loop, file):
    with support.pipe_pair() as (_, writing):
        transport, _ = await loop.connect_write_pipe(
            asyncio.BaseProtocol, open(writing, "wb", buffering=0, closefd=False)
        )
        with pytest.raises(RuntimeError, match="sendfile is not supported"):
            await loop.sendfile(transport, file)
        transport.close()
        await asyncio.sleep(0)


@on_loop
async def test_a_text_file(loop, way, tmp_path):
    path = tmp_path / "text"
    path.write_text("text")
    with open(path) as file:
        async with way(loop) as (sender, _):
            with pytest.raises(ValueError, match="binary mode"):
                await sender.send(file, fallback=False)


@on_loop
async def test_a_socket_that_is_not_connected(loop, file):
    with socket.socket() as sock:
        sock.setblocking(False)
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sock_sendfile(sock, file, fallback=False)
        with pytest.raises(OSError):
            await loop.sock_sendfile(sock, file)


@on_loop
async def test_a_blocking_socket_in_debug_mode(loop, file):
    loop.set_debug(True)
    near, far = socket.socketpair()
    with near, far, pytest.raises(ValueError, match="non-blocking"):
        await loop.sock_sendfile(near, file, fallback=False)


@on_loop
async def test_a_transport_s_socket_is_refused(loop, file):
    """While it sends a file too, from the user's own hands."""
    async with connected() as (transport, _, peer):
        sock = transport.get_extra_info("socket")
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_writer(sock.fileno(), print)
        sending = loop.create_task(loop.sendfile(transport, file, fallback=False))
        await asyncio.sleep(0)
        await read_all(loop, peer, SIZE)
        assert await sending == SIZE
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_writer(sock.fileno(), print)
