"""connect_write_pipe: what the transport that writes to a pipe does."""

import asyncio
import os

import pytest
from pipekit import PEER_SHOWS, PIPE_KINDS, file_of, fill, take, writing
from streamkit import (
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
async def test_a_write_is_offered_at_once(loop, kind):
    async with writing(kind) as (transport, protocol, far):
        assert protocol.calls == [("connection_made",)]
        transport.write(b"one")
        assert take(far) == b"one"
        transport.write(bytearray(b"two"))
        transport.write(memoryview(b"three"))
        assert take(far) == b"twothree"
        transport.writelines([b"4", bytearray(b"5"), memoryview(b"6")])
        assert take(far) == b"456"
        assert transport.get_write_buffer_size() == 0


@on_loop
async def test_what_it_is(loop):
    async with writing() as (transport, _, _):
        assert isinstance(transport, asyncio.WriteTransport)
        assert transport.can_write_eof()
        assert transport.get_write_buffer_limits() == (16384, 65536)


@on_loop
async def test_a_regular_file_is_refused(loop, tmp_path):
    with open(tmp_path / "file", "wb", buffering=0) as file:
        with pytest.raises(ValueError, match="only for pipes, sockets and character"):
            await loop.connect_write_pipe(Recorder, file)
        assert not file.closed
        assert os.get_blocking(file.fileno())


@on_loop
async def test_the_null_device_takes_all(loop):
    transport, protocol = await loop.connect_write_pipe(
        Recorder,
        open(os.devnull, "wb", buffering=0),
    )
    transport.write(b"x" * 1000000)
    assert transport.get_write_buffer_size() == 0
    transport.close()
    assert await protocol.lost is None


# --- the queue ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", PIPE_KINDS)
@on_loop
async def test_megabytes(loop, kind):
    data = pattern(1 << 20)
    async with writing(kind) as (transport, _, far):
        for start in range(0, len(data), 100000):
            transport.write(data[start : start + 100000])
        assert transport.get_write_buffer_size() > 0
        got = bytearray()
        while len(got) < len(data):
            got += take(far)
            await asyncio.sleep(0)
        assert got == data
        await until(lambda: transport.get_write_buffer_size() == 0)


@on_loop
async def test_flow_control(loop):
    async with writing() as (transport, protocol, far):
        transport.set_write_buffer_limits(high=1000, low=100)
        assert transport.get_write_buffer_limits() == (100, 1000)
        fill(transport)
        transport.write(b"x" * 1001)
        assert protocol.names == ["connection_made", "pause_writing"]
        transport.write(b"y" * 10)
        assert protocol.count("pause_writing") == 1
        while not protocol.count("resume_writing"):
            take(far)
            await asyncio.sleep(0)
        assert transport.get_write_buffer_size() <= 100
        assert protocol.names == ["connection_made", "pause_writing", "resume_writing"]


@on_loop
async def test_writes_before_the_start(loop):
    read, write = os.pipe()
    protocol = Recorder()
    with file_of(read, "rb") as far:
        transport = loop._make_write_pipe_transport(file_of(write, "wb"), protocol)
        transport.write(b"early")
        assert far.read(100) == b"early"
        size = fill(transport)
        transport.close()
        assert protocol.names == []
        got = 0
        while not protocol.lost.done():
            got += len(take(far))
            await asyncio.sleep(0)
        assert got + len(take(far)) == size
        assert protocol.names == ["connection_made", "connection_lost"]


@on_loop
async def test_a_queued_buffer_may_be_changed(loop):
    async with writing() as (transport, _, far):
        size = fill(transport)
        data = bytearray(b"before")
        transport.write(data)
        transport.write(memoryview(data))
        data[:] = b"behind"
        transport.close()
        got = b""
        while len(got) < size + 12:
            got += take(far)
            await asyncio.sleep(0)
        assert got[size:] == b"beforebefore"


@pytest.mark.pyloop_only
@on_loop
async def test_writing_goes_on_at_the_low_water_mark(loop):
    """asyncio's pipes wait until nothing is queued, whatever the mark is."""
    async with writing() as (transport, protocol, far):
        transport.set_write_buffer_limits(high=400000, low=200000)
        transport.write(b"x" * 600000)
        assert protocol.names == ["connection_made", "pause_writing"]
        while not protocol.count("resume_writing"):
            assert transport.get_write_buffer_size() > 200000
            take(far)
            await asyncio.sleep(0)
        assert 200000 >= transport.get_write_buffer_size() > 100000


@pytest.mark.parametrize("end", ["close", "abort"])
@on_loop
async def test_the_end_inside_resume_writing(loop, loop_kind, end):
    oracle_bug(loop_kind, True, "calls connection_lost() twice")

    class Ending(Recorder):
        def resume_writing(self):
            super().resume_writing()
            getattr(self.transport, end)()

    async with writing(factory=Ending) as (transport, protocol, far):
        transport.set_write_buffer_limits(high=0)
        fill(transport)
        while not protocol.lost.done():
            take(far)
            await asyncio.sleep(0)
        assert protocol.names[2:] == ["resume_writing", "connection_lost"]


@pytest.mark.parametrize("end", ["close", "abort", "write_eof"])
@on_loop
async def test_the_end_inside_connection_made(loop, loop_kind, end):
    oracle_bug(loop_kind, True, "goes on to watch the closed descriptor")

    class Ending(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            getattr(transport, end)()

    async with writing(factory=Ending) as (transport, protocol, far):
        assert await protocol.lost is None
        assert protocol.names == ["connection_made", "connection_lost"]
        assert far.read(1) == b""


@pytest.mark.parametrize("first", ["close", "abort", "write"])
@on_loop
async def test_abort_after_the_end_has_begun(loop, loop_kind, first):
    oracle_bug(loop_kind, True, "calls connection_lost() twice")
    async with writing() as (transport, protocol, far):
        if first == "write":
            far.close()
            transport.write(b"x")
        else:
            getattr(transport, first)()
        transport.abort()
        await protocol.lost
        transport.abort()
        await settle(loop)
        assert protocol.count("connection_lost") == 1


@on_loop
async def test_drain_and_close_of_a_stream_writer(loop):
    def factory():
        return asyncio.streams.FlowControlMixin(loop=loop)

    far, near = os.pipe()
    with file_of(far, "rb") as far:
        pipe = file_of(near, "wb")
        transport, protocol = await loop.connect_write_pipe(factory, pipe)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        writer.write(b"x" * 300000)
        drained = loop.create_task(writer.drain())
        await settle(loop)
        assert not drained.done()
        got = 0
        while got < 300000:
            got += len(take(far))
            await asyncio.sleep(0)
        await drained
        writer.close()
        await settle(loop)
        assert transport.get_protocol() is None


# --- the end ------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "write_eof"])
@on_loop
async def test_what_is_queued_is_written_before_the_end(loop, end):
    async with writing() as (transport, protocol, far):
        size = fill(transport)
        getattr(transport, end)()
        getattr(transport, end)()
        assert transport.is_closing()
        transport.write(b"late")
        await settle(loop)
        assert protocol.names == ["connection_made"]
        got = b""
        while not protocol.lost.done():
            got += take(far)
            await asyncio.sleep(0)
        assert len(got + take(far)) == size
        assert await protocol.lost is None
        assert protocol.names == ["connection_made", "connection_lost"]


@on_loop
async def test_abort_drops_what_is_queued(loop):
    async with writing() as (transport, protocol, far):
        size = fill(transport)
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost is None
        assert len(take(far)) < size
        assert protocol.names == ["connection_made", "connection_lost"]


@pytest.mark.parametrize("kind", PEER_SHOWS)
@pytest.mark.parametrize("queued", [False, True])
@on_loop
async def test_the_reader_goes(loop, kind, queued):
    errors = record_errors(loop)
    async with writing(kind) as (transport, protocol, far):
        if queued:
            fill(transport)
        far.close()
        exc = await protocol.lost
        assert type(exc) is BrokenPipeError if queued else exc is None
        assert protocol.names == ["connection_made", "connection_lost"]
        assert transport.is_closing()
    assert errors.messages == []


@pytest.mark.parametrize("kind", PEER_SHOWS)
@on_loop
async def test_a_write_to_nobody(loop, kind):
    """The error goes to connection_lost alone; it counts as a lost write."""
    errors = record_errors(loop)
    async with writing(kind) as (transport, protocol, far):
        far.close()
        transport.write(b"x")
        assert transport._conn_lost == 1
        assert transport.is_closing()
        assert type(await protocol.lost) is BrokenPipeError
        assert protocol.names == ["connection_made", "connection_lost"]
    assert errors.messages == []


@on_loop
async def test_the_reader_goes_while_it_closes(loop):
    async with writing() as (transport, protocol, far):
        fill(transport)
        transport.close()
        far.close()
        exc = await protocol.lost
        assert type(exc) is BrokenPipeError
        assert exc.errno is None  # seen by watching, not by a write that failed
        assert protocol.names == ["connection_made", "connection_lost"]
