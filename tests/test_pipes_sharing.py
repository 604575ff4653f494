"""Pipe transports and others on one descriptor; descriptors closed, and used again."""

import asyncio
import contextlib
import errno
import os
import socket
import tty

import pytest
import support
from pipekit import (
    descriptors,
    file_of,
    fill,
    reading,
    take,
    until_closed,
    writing,
)
from streamkit import Recorder, on_loop, record_errors, settle, until


class Number:
    """A pipe object that is a descriptor and nothing else; no weak references."""

    __slots__ = ("fd",)

    def __init__(self, fd):
        self.fd = fd

    def fileno(self):
        return self.fd

    def close(self):
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


# --- several users of one descriptor ------------------------------------------------


@pytest.mark.parametrize("one_object", [True, False])
@on_loop
async def test_a_terminal_has_a_transport_for_each_direction(loop, one_object):
    """Both over one number, whether by one file object or by two."""
    master, slave = os.openpty()
    tty.setraw(slave)
    with file_of(slave, "r+b") as far:
        first = file_of(master, "r+b")
        second = first if one_object else os.fdopen(master, "wb", 0, closefd=False)
        writer, writing_protocol = await loop.connect_write_pipe(Recorder, second)
        reader, protocol = await loop.connect_read_pipe(Recorder, first)
        for _ in range(3):
            writer.write(b"ping")
            assert take(far) == b"ping"
            far.write(b"pong")
            await until(lambda: protocol.data == b"pong", "pong")
            protocol.data.clear()
        size = fill(writer)
        assert size > writer.get_write_buffer_size() > 0
        far.write(b"more")
        await protocol.received(4)
        got = 0
        while got < size:
            got += len(take(far))
            await asyncio.sleep(0)
        reader.pause_reading()
        far.write(b"unread")
        writer.close()
        await settle(loop)
        assert protocol.data == b"more"
        assert await writing_protocol.lost is None
        reader.close()
        assert await protocol.lost is None
        await until_closed(reader)
        second.close()
    assert not support.is_descriptor_open(master)


@on_loop
async def test_a_reader_of_the_users_beside_a_writing_transport(loop):
    master, slave = os.openpty()
    tty.setraw(slave)
    with file_of(slave, "r+b") as far:
        writer, protocol = await loop.connect_write_pipe(
            Recorder, file_of(master, "wb")
        )
        came = []
        loop.add_reader(master, lambda: came.append(os.read(master, 100)))
        fill(writer)
        far.write(b"abc")
        await until(lambda: came, "what the terminal was given")
        assert came == [b"abc"]
        assert loop.remove_reader(master)
        assert not loop.remove_reader(master)
        writer.abort()
        await protocol.lost


@on_loop
async def test_the_users_reader_takes_the_place_of_a_transports(loop):
    """Who asks last is served, as on asyncio; the transport's end does not matter."""
    async with reading() as (transport, protocol, far):
        fd = transport.get_extra_info("pipe").fileno()
        came = []
        loop.add_reader(fd, lambda: came.append(os.read(fd, 100)))
        far.write(b"abc")
        await until(lambda: came, "what was written")
        assert came == [b"abc"]
        assert protocol.data == b""
        loop.remove_reader(fd)


@pytest.mark.pyloop_only
@on_loop
async def test_the_users_reader_survives_the_transports_pause(loop):
    """asyncio's transport removes whatever reader there is."""
    async with reading() as (transport, _, far):
        fd = transport.get_extra_info("pipe").fileno()
        came = []
        loop.add_reader(fd, lambda: came.append(os.read(fd, 100)))
        transport.pause_reading()
        far.write(b"abc")
        await until(lambda: came, "what was written")
        loop.remove_reader(fd)


@on_loop
async def test_a_pipe_object_without_weak_references(loop):
    read, write = os.pipe()
    reader, protocol = await loop.connect_read_pipe(Recorder, Number(read))
    writer, lost = await loop.connect_write_pipe(Recorder, Number(write))
    writer.write(b"x" * 300000)
    writer.close()
    assert len(await protocol.received(300000)) == 300000
    assert await protocol.lost is None
    assert await lost.lost is None
    await until_closed(reader)


@on_loop
async def test_a_text_file(loop):
    """Of a pipe object only fileno() and close() are asked."""
    read, write = os.pipe()
    reader, protocol = await loop.connect_read_pipe(Recorder, os.fdopen(read, "r"))
    with os.fdopen(write, "w") as far:
        far.write("grüße")
    assert await protocol.lost is None
    assert protocol.data == "grüße".encode()
    await until_closed(reader)


# --- where a write ends matters -----------------------------------------------------


def packets(kind):
    """Two ends (read, write) between which each write stays what it is."""
    if kind == "seqpacket":
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return near.detach(), far.detach()
    return os.pipe2(os.O_DIRECT)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="packet pipes are Linux's")
@pytest.mark.parametrize("kind", ["pipe", "seqpacket"])
@on_loop
async def test_writes_are_not_joined(loop, kind):
    """Each write() that the kernel takes is a system call, in callbacks alike too."""
    read, write = packets(kind)
    transport, protocol = await loop.connect_write_pipe(Recorder, file_of(write, "wb"))
    with file_of(read, "rb") as far:
        for _ in range(8):
            transport.write(b"head")
            transport.write(b"body")
            assert [far.read(100), far.read(100)] == [b"head", b"body"]
            await asyncio.sleep(0)
        transport.writelines([b"one", b" ", b"write"])
        assert far.read(100) == b"one write"
    await protocol.lost


@on_loop
async def test_packets_are_received_one_by_one(loop):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far:
        transport, protocol = await loop.connect_read_pipe(Recorder, near)
        for data in (b"one", b"two", b"three"):
            far.send(data)
        await protocol.called("data_received", 3)
        assert [call[1] for call in protocol.calls[1:]] == [b"one", b"two", b"three"]
        far.send(b"four")
    await protocol.lost
    assert protocol.data == b"onetwothreefour"
    await until_closed(transport)


@on_loop
async def test_several_writers_of_a_fifo(loop):
    """The reader's end comes when the last of them has gone."""
    read, write = descriptors("fifo")
    reader, protocol = await loop.connect_read_pipe(Recorder, file_of(read, "rb"))
    ends = [write, os.dup(write), os.dup(write)]
    writers = []
    for end in ends:
        writers.append((await loop.connect_write_pipe(Recorder, file_of(end, "wb")))[0])
    for n, writer in enumerate(writers):
        writer.write(bytes([n]) * 1000)
        writer.close()
        await protocol.received(1000 * (n + 1))
        assert (n < 2) == ("eof_received" not in protocol.names)
        await settle(loop)
    assert await protocol.lost is None
    assert bytes(protocol.data) == b"".join(bytes([n]) * 1000 for n in range(3))
    await until_closed(reader)


@on_loop
async def test_what_comes_the_other_way_ends_a_writing_transport(loop):
    """A socket that can be read looks like one whose peer has gone: as on asyncio."""
    near, far = socket.socketpair()
    with far:
        transport, protocol = await loop.connect_write_pipe(Recorder, near)
        transport.write(b"abc")
        assert far.recv(100) == b"abc"
        far.send(b"answer")
        assert await protocol.lost is None
        assert transport.is_closing()
    await until_closed(transport)


# --- devices ------------------------------------------------------------------------


@on_loop
async def test_a_device_that_cannot_be_watched(loop):
    """epoll refuses /dev/null: that is reported, and the transport is there."""
    errors = record_errors(loop)
    pipe = open(os.devnull, "rb", buffering=0)
    transport, protocol = await loop.connect_read_pipe(Recorder, pipe)
    await settle(loop)
    error = errors.only()["exception"]
    assert isinstance(error, PermissionError)
    assert protocol.names == ["connection_made"]
    transport.pause_reading()
    with pytest.raises(PermissionError):
        transport.resume_reading()
    transport.close()
    assert await protocol.lost is None
    assert pipe.closed


@on_loop
async def test_a_device_is_not_watched_for_its_end(loop):
    """A terminal that can be read is no sign of an end to who writes to it."""
    async with writing("terminal") as (transport, protocol, far):
        master = os.fdopen(far.fileno(), "wb", 0, closefd=False)
        master.write(b"typed")
        await settle(loop)
        assert protocol.names == ["connection_made"]
        transport.write(b"shown")
        assert take(far) == b"shown"


@on_loop
async def test_a_terminal_that_is_hung_up_while_data_wait(loop):
    """Nobody reports it: EIO goes to connection_lost alone."""
    errors = record_errors(loop)
    async with writing("terminal") as (transport, protocol, far):
        fill(transport)
        far.close()
        exc = await protocol.lost
        assert exc.errno == errno.EIO
        assert protocol.names == ["connection_made", "connection_lost"]
    assert errors.messages == []


# --- closed behind the transport's back ---------------------------------------------


@pytest.mark.pyloop_only
@on_loop
async def test_a_reader_whose_pipe_was_closed(loop):
    """asyncio goes on with the number. EBADF is what the closed pipe has to say."""
    errors = record_errors(loop)
    async with reading() as (transport, protocol, _):
        transport.pause_reading()
        transport.get_extra_info("pipe").close()
        transport.resume_reading()
        assert (await protocol.lost).errno == errno.EBADF
    assert errors.messages == ["Fatal read error on pipe transport"]


@pytest.mark.pyloop_only
@pytest.mark.parametrize("queued", [False, True])
@on_loop
async def test_a_number_that_is_another_files_by_now(loop, queued):
    """Nothing is written to a stranger, and the stranger's watch is left alone."""
    async with writing() as (transport, protocol, _):
        pipe = transport.get_extra_info("pipe")
        fd = pipe.fileno()
        if queued:
            fill(transport)
        with support.socket_pair() as (left, right):
            pipe.close()
            os.dup2(left.fileno(), fd)
            came = []
            with os.fdopen(fd, "r+b", 0) as stranger:
                loop.add_reader(stranger, lambda: came.append(stranger.read(100)))
                transport.write(b"secret")
                transport.abort()
                exc = await protocol.lost
                assert exc is None if queued else exc.errno == errno.EBADF
                with pytest.raises(BlockingIOError):
                    right.recv(100)
                right.send(b"abc")
                await until(lambda: came, "the stranger's data")
                assert loop.remove_reader(stranger)


@on_loop
async def test_close_after_the_pipe_was_closed(loop):
    for end in (reading, writing):
        async with end() as (transport, protocol, _):
            transport.get_extra_info("pipe").close()
            transport.close()
            assert await protocol.lost is None


@pytest.mark.pyloop_only
@pytest.mark.parametrize("action", ["close", "abort", "lost"])
@on_loop
async def test_a_fileno_that_ends_the_transport(loop, action):
    errors = record_errors(loop)

    class Evil(Number):
        __slots__ = ("transport",)

        def fileno(self):
            transport, self.transport = getattr(self, "transport", None), None
            if transport is not None and action == "lost":
                transport._call_connection_lost(None)
            elif transport is not None:
                getattr(transport, action, transport.close)()
            return self.fd

    read, write = os.pipe()
    pipes = [Evil(read), Evil(write)]
    reader, reading_protocol = await loop.connect_read_pipe(Recorder, pipes[0])
    writer, writing_protocol = await loop.connect_write_pipe(Recorder, pipes[1])
    pipes[1].transport = writer
    writer.write(b"abc")
    await writing_protocol.lost
    assert writing_protocol.count("connection_lost") == 1
    pipes[0].transport = reader
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(reading_protocol.lost), 5)
    assert reading_protocol.count("connection_lost") == 1
    assert all("pipe transport" in message for message in errors.messages)


@pytest.mark.pyloop_only
@pytest.mark.parametrize("mode", ["rb", "wb"])
@on_loop
async def test_a_fileno_that_ends_the_transport_and_lies(loop, mode):
    """The number is another file's already, and nothing is read or written there."""
    read, write = os.pipe()
    near, far = (read, write) if mode == "rb" else (write, read)

    class Liar(Number):
        __slots__ = ("stranger", "transport")

        def fileno(self):
            transport, self.transport = getattr(self, "transport", None), None
            if transport is not None:
                self.stranger = self.fd
                transport._call_connection_lost(None)
                os.dup2(spare.fileno(), self.stranger)
            return getattr(self, "stranger", self.fd)

    pipe = Liar(near)
    connect = loop.connect_read_pipe if mode == "rb" else loop.connect_write_pipe
    with support.socket_pair() as (spare, other):
        other.send(b"not for you")
        transport, protocol = await connect(Recorder, pipe)
        pipe.transport = transport
        if mode == "rb":
            os.write(far, b"abc")
        else:
            transport.write(b"secret")
        await protocol.lost
        await settle(loop)
        assert protocol.names == ["connection_made", "connection_lost"]
        with pytest.raises(BlockingIOError):
            other.recv(100)
        assert spare.recv(100) == b"not for you"
        os.close(pipe.stranger)
    os.close(far)


# --- connecting is cancelled ------------------------------------------------------


@pytest.mark.parametrize("mode", ["rb", "wb"])
@on_loop
async def test_connecting_is_cancelled(loop, mode):
    read, write = os.pipe()
    near, far = (read, write) if mode == "rb" else (write, read)
    protocol = Recorder()
    connect = loop.connect_read_pipe if mode == "rb" else loop.connect_write_pipe
    pipe = file_of(near, mode)
    task = loop.create_task(connect(lambda: protocol, pipe))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await protocol.lost is None
    assert protocol.names == ["connection_made", "connection_lost"]
    await until_closed(protocol.transport)
    assert pipe.closed
    os.close(far)


# --- many ---------------------------------------------------------------------------


@on_loop
async def test_a_hundred_pipes_at_once(loop):
    ends = [os.pipe() for _ in range(100)]
    readers = [
        await loop.connect_read_pipe(Recorder, file_of(read, "rb")) for read, _ in ends
    ]
    writers = [
        await loop.connect_write_pipe(Recorder, file_of(write, "wb"))
        for _, write in ends
    ]
    for n, (transport, _) in enumerate(writers):
        transport.write(b"%d," % n * 1000)
        transport.write_eof()
    for n, (transport, protocol) in enumerate(readers):
        assert await protocol.lost is None
        assert protocol.data == b"%d," % n * 1000
        await until_closed(transport)


@on_loop
async def test_loops_of_pipes(loop):
    """What is read from each pipe is written to the next: a ring of ten."""

    class Next(Recorder):
        out = None

        def data_received(self, data):
            self.data += data
            self.out.write(data)

    ends = [os.pipe() for _ in range(10)]
    stages = [
        await loop.connect_read_pipe(Next, file_of(read, "rb")) for read, _ in ends
    ]
    for n, (_, stage) in enumerate(stages):
        write = ends[(n + 1) % len(ends)][1]
        stage.out, _ = await loop.connect_write_pipe(Recorder, file_of(write, "wb"))
    stages[0][1].out.write(b"x" * 1000)
    await until(lambda: len(stages[0][1].data) >= 20000, "twenty rounds")
    for transport, stage in stages:
        transport.close()
        stage.out.abort()
    for transport, stage in stages:
        await until_closed(transport)
        await until_closed(stage.out)
