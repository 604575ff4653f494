"""connect_read_pipe: what the transport that reads a pipe does."""

import asyncio
import contextlib
import contextvars
import errno
import os
import weakref

import pytest
import support
from pipekit import PIPE_KINDS, file_of, reading
from streamkit import (
    PY,
    Recorder,
    on_loop,
    oracle_bug,
    pattern,
    record_errors,
    settle,
    until,
)

# --- made ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PIPE_KINDS)
@on_loop
async def test_data_come(loop, kind):
    async with reading(kind) as (transport, protocol, far):
        assert protocol.calls == [("connection_made",)]
        assert protocol.transport is transport
        far.write(b"one")
        assert await protocol.received(3) == b"one"
        far.write(b"two")
        assert await protocol.received(6) == b"onetwo"
        assert protocol.names == ["connection_made", "data_received", "data_received"]


@on_loop
async def test_what_it_is(loop):
    async with reading() as (transport, _, _):
        assert isinstance(transport, asyncio.ReadTransport)
        assert not isinstance(transport, asyncio.WriteTransport)
        for name in ("write", "writelines", "write_eof", "abort", "can_write_eof"):
            assert not hasattr(transport, name)


@on_loop
async def test_extra_info(loop):
    read, write = os.pipe()
    pipe = file_of(read, "rb")
    transport = loop._make_read_pipe_transport(pipe, Recorder(), extra={"addr": 5})
    with file_of(write, "wb"):
        assert transport.get_extra_info("pipe") is pipe
        assert transport.get_extra_info("addr") == 5
        assert transport.get_extra_info("socket") is None
        assert transport.get_extra_info("peername", 7) == 7
        transport.close()
        await settle(loop)
    assert transport.get_extra_info("pipe") is pipe
    assert pipe.closed


@on_loop
async def test_the_descriptor_becomes_non_blocking(loop):
    read, write = os.pipe()
    assert os.get_blocking(read)
    with os.fdopen(write, "wb", 0):
        transport, _ = await loop.connect_read_pipe(Recorder, os.fdopen(read, "rb", 0))
        assert not os.get_blocking(read)
        assert os.get_blocking(write)
        transport.close()
        await settle(loop)


@on_loop
async def test_waiter_and_order(loop):
    """connection_made, then the waiter; nothing before the next iteration."""
    order = []

    class Noting(Recorder):
        def on(self, name):
            order.append(name)

    read, write = os.pipe()
    waiter = loop.create_future()
    waiter.add_done_callback(lambda _: order.append("waiter"))
    os.write(write, b"early")
    transport = loop._make_read_pipe_transport(file_of(read, "rb"), Noting(), waiter)
    assert order == []
    await waiter
    await until(lambda: "data_received" in order)
    assert order == ["connection_made", "waiter", "data_received"]
    os.close(write)
    await until(lambda: "connection_lost" in order)
    assert transport.get_protocol() is None


def make_file(tmp_path):
    return open(tmp_path / "file", "w+b", buffering=0)


@on_loop
async def test_a_regular_file_is_refused(loop, tmp_path):
    with make_file(tmp_path) as file:
        with pytest.raises(ValueError, match="for pipes/sockets only"):
            await loop.connect_read_pipe(Recorder, file)
        assert not file.closed
        assert os.get_blocking(file.fileno())


# asyncio's transport that was not made complains of not being closed.
half_made = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@half_made
@on_loop
async def test_what_has_no_fileno(loop):
    with pytest.raises(AttributeError):
        await loop.connect_read_pipe(Recorder, 5)
    with pytest.raises(AttributeError):
        await loop.connect_read_pipe(Recorder, None)


@half_made
@on_loop
async def test_what_is_no_protocol(loop, loop_kind):
    read, write = os.pipe()
    os.close(write)
    with file_of(read, "rb") as pipe:
        with pytest.raises(AttributeError, match="connection_made"):
            await loop.connect_read_pipe(object, pipe)
        support.collect()
        assert pipe.closed == (loop_kind == "asyncio")  # by its transport's __del__


@half_made
@on_loop
async def test_a_closed_file_is_refused(loop):
    read, write = os.pipe()
    os.close(write)
    file = file_of(read, "rb")
    file.close()
    with pytest.raises(ValueError, match="closed"):
        await loop.connect_read_pipe(Recorder, file)


@half_made
def test_a_closed_loop_refuses(new_loop):
    loop = new_loop()
    read, write = os.pipe()
    os.close(write)

    async def make():
        return Recorder()

    protocol = loop.run_until_complete(make())
    loop.close()
    with file_of(read, "rb") as file, pytest.raises(RuntimeError, match="closed"):
        loop._make_read_pipe_transport(file, protocol)
    support.collect()


# --- reading ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PIPE_KINDS)
@on_loop
async def test_megabytes(loop, kind):
    data = pattern(1 << 20)
    async with reading(kind) as (_, protocol, far):
        sent = 0
        while sent < len(data):
            with contextlib.suppress(BlockingIOError):
                sent += far.write(data[sent : sent + 65536]) or 0
            await asyncio.sleep(0)
        assert await protocol.received(len(data)) == data


@on_loop
async def test_pause_and_resume(loop):
    async with reading() as (transport, protocol, far):
        transport.pause_reading()
        transport.pause_reading()
        far.write(b"abc")
        await settle(loop)
        assert protocol.data == b""
        transport.resume_reading()
        transport.resume_reading()
        assert await protocol.received(3) == b"abc"


@on_loop
async def test_is_reading(loop, loop_kind):
    oracle_bug(loop_kind, PY < (3, 11), "is_reading() is not implemented")
    async with reading() as (transport, _, _):
        assert transport.is_reading() is True
        transport.pause_reading()
        assert transport.is_reading() is False
        transport.resume_reading()
        assert transport.is_reading() is True
        transport.close()
        assert transport.is_reading() is False


@on_loop
async def test_the_end_while_paused(loop):
    """The writer goes; the loop does not spin on it, and the end comes on resuming."""
    async with reading() as (transport, protocol, far):
        transport.pause_reading()
        far.write(b"abc")
        far.close()
        await settle(loop)
        assert protocol.names == ["connection_made"]
        transport.resume_reading()
        assert await protocol.lost is None
        assert protocol.names[1:] == [
            "data_received",
            "eof_received",
            "connection_lost",
        ]


@on_loop
async def test_pause_inside_data_received(loop):
    class Pausing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async with reading(factory=Pausing) as (transport, protocol, far):
        far.write(b"one")
        await protocol.called("data_received")
        far.write(b"two")
        await settle(loop)
        assert protocol.data == b"one"
        transport.resume_reading()
        await protocol.received(6)


@pytest.mark.pyloop_only
@on_loop
async def test_the_context_is_that_of_the_making(loop):
    var = contextvars.ContextVar("var", default="nobody")
    seen = []

    class Looking(Recorder):
        def on(self, name):
            seen.append(var.get())

    var.set("maker")
    async with reading(factory=Looking) as (transport, protocol, far):

        async def resume():
            var.set("resumer")
            transport.resume_reading()

        transport.pause_reading()
        await loop.create_task(resume())
        far.write(b"abc")
        await protocol.received(3)
        far.close()
        await protocol.lost
    assert seen == ["maker"] * 4


@on_loop
async def test_set_protocol(loop):
    async with reading() as (transport, protocol, far):
        second = Recorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        far.write(b"abc")
        await second.received(3)
        assert protocol.data == b""
        far.close()
        await second.lost
        assert second.names == ["data_received", "eof_received", "connection_lost"]


@on_loop
async def test_streams(loop):
    """The documented use: a StreamReader over a pipe."""
    reader = asyncio.StreamReader(limit=64)
    async with reading(factory=lambda: asyncio.StreamReaderProtocol(reader)) as (
        _,
        _,
        far,
    ):
        far.write(b"line\n")
        assert await reader.readline() == b"line\n"
        far.write(b"x" * 1000)  # beyond twice the limit: paused, and resumed
        assert await reader.readexactly(1000) == b"x" * 1000
        far.write(b"rest")
        far.close()
        assert await reader.read() == b"rest"
        assert reader.at_eof()


# --- the end ------------------------------------------------------------------------


@pytest.mark.parametrize("keep_open", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])
@on_loop
async def test_the_writer_goes(loop, kind, keep_open):
    """eof_received, then connection_lost, whatever the protocol answers."""
    async with reading(kind) as (transport, protocol, far):
        protocol.keep_open = keep_open
        far.write(b"last")
        far.close()
        assert await protocol.lost is None
        assert protocol.names[1:] == [
            "data_received",
            "eof_received",
            "connection_lost",
        ]
        assert transport.is_closing()


@on_loop
async def test_eof_and_the_end_are_callbacks_of_their_own(loop):
    seen = []

    class Looking(Recorder):
        def on(self, name):
            if name == "eof_received":
                seen.append(self.transport.is_closing())
                self.transport.close()
                loop.call_soon(seen.append, "after")
            elif name == "connection_lost":
                seen.append(name)

    async with reading(factory=Looking) as (_, protocol, far):
        far.close()
        await protocol.lost
        await asyncio.sleep(0)
        assert seen == [True, "connection_lost", "after"]
        assert protocol.count("connection_lost") == 1


@pytest.mark.parametrize("kind", ["pty", "terminal"])
@on_loop
async def test_the_other_side_of_a_terminal_goes(loop, kind):
    """EIO is the end of it, which is nothing to report."""
    errors = record_errors(loop)
    async with reading(kind) as (_, protocol, far):
        far.write(b"last")
        await protocol.received(4)
        far.close()
        exc = await protocol.lost
        if kind == "pty":
            assert exc.errno == errno.EIO
            assert protocol.names[-1] == "connection_lost"
            assert "eof_received" not in protocol.names
    assert errors.messages == []


@pytest.mark.parametrize("end", ["close", "close twice"])
@on_loop
async def test_close(loop, end):
    async with reading() as (transport, protocol, far):
        far.write(b"unread")
        transport.close()
        if end == "close twice":
            transport.close()
        assert transport.is_closing()
        assert protocol.names == ["connection_made"]
        assert await protocol.lost is None
        transport.close()
        await settle(loop)
        assert protocol.names == ["connection_made", "connection_lost"]
        assert transport.get_protocol() is None
        transport.pause_reading()
        transport.resume_reading()


@on_loop
async def test_close_inside_data_received(loop):
    class Closing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.close()

    async with reading(factory=Closing) as (_, protocol, far):
        far.write(b"one")
        await protocol.lost
        assert protocol.names == ["connection_made", "data_received", "connection_lost"]


@on_loop
async def test_close_inside_connection_made(loop):
    class Closing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.close()

    async with reading(factory=Closing) as (_, protocol, far):
        with contextlib.suppress(BrokenPipeError):  # it may be closed by now
            far.write(b"one")
        await protocol.lost
        assert protocol.names == ["connection_made", "connection_lost"]


@on_loop
async def test_the_loop_keeps_it_alive(loop):
    read, write = os.pipe()
    protocol = Recorder()
    transport = loop._make_read_pipe_transport(file_of(read, "rb"), protocol)
    protocol.on = lambda name: None
    await protocol.made
    alive = weakref.ref(transport)
    protocol.transport = protocol.made = None
    del transport
    support.collect()
    assert alive() is not None
    os.write(write, b"abc")
    await protocol.received(3)
    os.close(write)
    await protocol.lost
    support.collect()
    assert alive() is None
