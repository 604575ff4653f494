"""Pipe transports: protocols that raise, lost writes, logs, and what nobody closed."""

import asyncio
import gc
import logging
import os
import weakref

import pytest
import support
from pipekit import descriptors, file_of, fill, reading, take, until_closed, writing
from streamkit import Recorder, on_loop, record_errors, resource_warnings, settle

WARNING = "pipe closed by peer or os.write(pipe, data) raised exception."


class Failing(Recorder):
    """Records, and raises `error` in the method called `method`."""

    def __init__(self, method, error):
        super().__init__()
        self.method = method
        self.error = error

    def on(self, name):
        if name == self.method:
            raise self.error


# --- protocols that raise ---------------------------------------------------------


@on_loop
async def test_data_received_raises(loop):
    """It is reported, and the transport goes on."""
    errors = record_errors(loop)
    error = ValueError("data")
    async with reading(factory=lambda: Failing("data_received", error)) as (
        transport,
        protocol,
        far,
    ):
        far.write(b"one")
        await protocol.received(3)
        assert not transport.is_closing()
        far.write(b"two")
        assert await protocol.received(6) == b"onetwo"
        far.close()
        await protocol.lost
    assert errors.exceptions == [error, error]
    assert all("_read_ready" in message for message in errors.messages)


@on_loop
async def test_eof_received_raises(loop):
    errors = record_errors(loop)
    error = ValueError("eof")
    async with reading(factory=lambda: Failing("eof_received", error)) as (
        _,
        protocol,
        far,
    ):
        far.close()
        assert await protocol.lost is None
    assert errors.only()["exception"] is error


@pytest.mark.parametrize("end", [reading, writing])
@on_loop
async def test_connection_made_raises(loop, end):
    errors = record_errors(loop)
    error = ValueError("made")
    async with end(factory=lambda: Failing("connection_made", error)) as (
        transport,
        protocol,
        _,
    ):
        assert not transport.is_closing()
        assert protocol.names == ["connection_made"]
    assert errors.only()["exception"] is error


@pytest.mark.parametrize("end", [reading, writing])
@on_loop
async def test_connection_lost_raises(loop, end):
    errors = record_errors(loop)
    error = ValueError("lost")
    async with end(factory=lambda: Failing("connection_lost", error)) as (
        transport,
        protocol,
        far,
    ):
        pipe = transport.get_extra_info("pipe")
        transport.close()
        await until_closed(transport)
        assert pipe.closed
        assert protocol.count("connection_lost") == 1
    assert errors.only()["exception"] is error


@on_loop
async def test_pause_and_resume_writing_raise(loop):
    errors = record_errors(loop)

    class Both(Recorder):
        def on(self, name):
            if name in ("pause_writing", "resume_writing"):
                raise ValueError(name)

    async with writing(factory=Both) as (transport, protocol, far):
        transport.set_write_buffer_limits(high=0)
        fill(transport)
        while transport.get_write_buffer_size():
            take(far)
            await asyncio.sleep(0)
        assert protocol.names[1:] == ["pause_writing", "resume_writing"]
    assert errors.messages == [
        "protocol.pause_writing() failed",
        "protocol.resume_writing() failed",
    ]


@pytest.mark.pyloop_only
@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("data_received", "Exception in callback ReadPipeTransport._read_ready()"),
        ("connection_lost", "Fatal error: protocol.connection_lost() call failed."),
    ],
)
@on_loop
async def test_the_reports_name_the_transport(loop, method, message):
    errors = record_errors(loop)
    error = ValueError(method)
    async with reading(factory=lambda: Failing(method, error)) as (
        transport,
        protocol,
        far,
    ):
        far.write(b"abc")
        far.close()
        await protocol.lost
    context = errors.only()
    assert context["message"] == message
    assert context["exception"] is error
    assert context.get("transport", transport) is transport
    assert context.get("protocol", protocol) is protocol


class Leave(SystemExit):
    """What no test expects by accident."""


@pytest.mark.parametrize("method", ["data_received", "connection_lost"])
def test_what_leaves_the_loop(loop, method):
    """SystemExit is nobody's to report: it leaves run_forever()."""

    async def main():
        read, write = os.pipe()
        os.write(write, b"abc")
        os.close(write)
        await loop.connect_read_pipe(
            lambda: Failing(method, Leave()), file_of(read, "rb")
        )
        await loop.create_future()

    task = loop.create_task(main())
    with pytest.raises(Leave):
        loop.run_forever()
    task.cancel()
    support.spin(loop)


@on_loop
async def test_a_protocol_that_lacks_eof_received(loop, loop_kind):
    """asyncio forgets such a transport: its connection_lost never comes."""
    errors = record_errors(loop)

    class Half(asyncio.BaseProtocol):
        lost = False

        def connection_lost(self, exc):
            self.lost = True

    read, write = os.pipe()
    transport, protocol = await loop.connect_read_pipe(Half, file_of(read, "rb"))
    os.close(write)
    await settle(loop)
    assert transport.is_closing()
    assert isinstance(errors.only()["exception"], AttributeError)
    if loop_kind == "asyncio":
        transport._call_connection_lost(None)
    assert protocol.lost


@on_loop
async def test_a_buffered_protocol_is_not_asked_for_its_buffer(loop):
    errors = record_errors(loop)

    class Buffered(asyncio.BufferedProtocol):
        def get_buffer(self, sizehint):
            raise AssertionError("called")

    async with reading(factory=Buffered) as (_, _, far):
        far.write(b"abc")
        await settle(loop)
    async with reading() as (transport, _, far):
        transport.set_protocol(Buffered())
        far.write(b"abc")
        await settle(loop)
    assert [type(exc) for exc in errors.exceptions] == [AttributeError] * 2


# --- writes that are lost -----------------------------------------------------------


@on_loop
async def test_writes_to_a_closed_transport_are_counted(loop, asyncio_log):
    """From the sixth on, each is a warning; an end by close() is none of them."""
    async with writing() as (transport, _, far):
        transport.close()
        assert transport._conn_lost == 0
        for _ in range(5):
            transport.write(b"x")
        assert transport._conn_lost == 5
        assert asyncio_log.take_texts() == []
        transport.write(b"x")
        transport.writelines([b"x", b"y"])
        transport.write(b"")
        transport.writelines([])
        assert transport._conn_lost == 7
        assert asyncio_log.take_texts() == [WARNING] * 2
        await settle(loop)
        transport.write(b"x")
        assert asyncio_log.take_texts() == [WARNING]
        assert take(far) == b""


@on_loop
async def test_a_failed_write_is_the_first_of_them(loop, asyncio_log):
    async with writing() as (transport, _, far):
        far.close()
        transport.write(b"x")
        for _ in range(4):
            transport.write(b"x")
        assert asyncio_log.take_texts() == []
        transport.write(b"x")
        assert asyncio_log.take_texts() == [WARNING]


@pytest.mark.pyloop_only
@pytest.mark.parametrize("data", ["text", 5, None, [b"x"]])
@on_loop
async def test_what_is_not_bytes(loop, data):
    """asyncio asserts it, which -O switches off; here it is always a TypeError."""
    async with writing() as (transport, _, far):
        with pytest.raises(TypeError, match="data argument must be a bytes"):
            transport.write(data)
        transport.close()
        with pytest.raises(TypeError):
            transport.write(data)
        assert take(far) == b""


@on_loop
async def test_limits_out_of_order(loop):
    async with writing() as (transport, _, _):
        with pytest.raises(ValueError, match="must be >="):
            transport.set_write_buffer_limits(high=1, low=2)
        assert transport.get_write_buffer_limits() == (16384, 65536)


# --- what nobody closed -----------------------------------------------------------


def make(loop, mode):
    """A transport of one end of a pipe, whose protocol keeps no reference to it."""
    read, write = os.pipe()
    near, far = (read, write) if mode == "rb" else (write, read)
    pipe = file_of(near, mode)
    if mode == "rb":
        return loop._make_read_pipe_transport(pipe, asyncio.Protocol()), pipe, far
    return loop._make_write_pipe_transport(pipe, asyncio.BaseProtocol()), pipe, far


@pytest.mark.parametrize("mode", ["rb", "wb"])
def test_the_loop_is_closed_first(new_loop, mode):
    """The transport cannot close; dropped, it closes its pipe with a warning."""
    loop = new_loop()
    transport, pipe, far = make(loop, mode)
    support.spin(loop)
    loop.close()
    os.close(far)
    assert repr(transport).endswith(f"PipeTransport fd={pipe.fileno()} open>")
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        transport.close()
    transport.close()  # it is closing
    assert transport.is_closing()
    with resource_warnings() as texts:
        text = repr(transport)
        del transport
        support.collect()
    assert texts == [f"unclosed transport {text}"]
    assert pipe.closed


@pytest.mark.parametrize("mode", ["rb", "wb"])
def test_never_run(new_loop, mode):
    loop = new_loop()
    transport, pipe, far = make(loop, mode)
    loop.close()
    os.close(far)
    with resource_warnings() as texts:
        del transport
        support.collect()
    assert len(texts) == 1
    assert pipe.closed


@pytest.mark.parametrize("mode", ["rb", "wb"])
def test_the_pipe_can_be_taken_away(new_loop, mode):
    """As asyncio's own tests do it."""
    loop = new_loop()
    transport, pipe, far = make(loop, mode)
    support.spin(loop)
    loop.close()
    os.close(far)
    transport._pipe = None
    del transport
    support.collect()
    assert not pipe.closed
    pipe.close()


@on_loop
async def test_in_a_cycle(loop):
    """The collector finds a writer that only its protocol refers to."""
    far, near = descriptors("terminal")
    pipe = file_of(near, "wb")

    async def make():
        transport, _ = await loop.connect_write_pipe(Recorder, pipe)
        return weakref.ref(transport)

    alive = await loop.create_task(make())
    await settle(loop)
    with resource_warnings() as texts:
        support.collect()
    support.collect()  # asyncio's warning had it as its source
    assert alive() is None
    assert len(texts) == 1
    assert pipe.closed
    os.close(far)


@on_loop
async def test_a_pipe_whose_close_raises(loop, loop_kind):
    errors = record_errors(loop)

    class Stuck:
        def __init__(self, fd):
            self.fd = fd

        def fileno(self):
            return self.fd

        def close(self):
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1
                raise OSError("stuck")

    read, write = os.pipe()
    transport, protocol = await loop.connect_read_pipe(Recorder, Stuck(read))
    transport.close()
    await protocol.lost
    await asyncio.sleep(0)
    assert str(errors.only()["exception"]) == "stuck"
    os.close(write)
    if loop_kind == "asyncio":
        transport._pipe = None  # it still has it, and would warn


# --- objects ----------------------------------------------------------------------


@pytest.mark.parametrize("end", [reading, writing])
@on_loop
async def test_an_instance_can_be_patched(loop, end):
    async with end() as (transport, _, _):
        transport.anything = 5
        transport.close = lambda: "patched"
        assert transport.close() == "patched"
        del transport.close
        assert transport.__dict__ == {"anything": 5} or "_fileno" in transport.__dict__
        assert weakref.ref(transport)() is transport


@pytest.mark.parametrize("mode", ["rb", "wb"])
@on_loop
async def test_repr(loop, mode):
    transport, pipe, far = make(loop, mode)
    fd = pipe.fileno()
    state = "idle" if mode == "rb" else "idle bufsize=0"
    assert repr(transport).endswith(f"PipeTransport fd={fd} {state}>")
    await settle(loop)
    if mode == "rb":
        assert repr(transport).endswith(f"PipeTransport fd={fd} polling>")
        transport.pause_reading()
        assert repr(transport).endswith(f"PipeTransport fd={fd} idle>")
    else:
        fill(transport)
        size = transport.get_write_buffer_size()
        assert repr(transport).endswith(
            f"PipeTransport fd={fd} polling bufsize={size}>"
        )
    transport.close()
    assert f"PipeTransport closing fd={fd} " in repr(transport)
    if mode == "wb":
        transport.abort()
    await settle(loop)
    assert repr(transport).endswith(f"PipeTransport closed fd={fd} closed>")
    os.close(far)


@on_loop
async def test_the_collector_in_every_callback(loop):
    class Collecting(Recorder):
        def on(self, name):
            gc.collect()

    for _ in range(3):
        async with reading(factory=Collecting) as (_, protocol, far):
            far.write(b"abc")
            await protocol.received(3)
            far.close()
            await protocol.lost
        async with writing(factory=Collecting) as (transport, protocol, far):
            transport.set_write_buffer_limits(high=0)
            fill(transport)
            far.close()
            await protocol.lost


# --- debug mode's log -----------------------------------------------------------------


class Log(logging.Handler):
    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append((record.levelname, record.getMessage()))


@pytest.fixture
def log():
    handler = Log()
    logger = logging.getLogger("asyncio")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.texts
    logger.setLevel(level)
    logger.removeHandler(handler)


def said(log, *words):
    """How many lines have all these words, on the right level."""
    return sum(all(word in " ".join(line) for word in words) for line in log)


@on_loop
async def test_the_log_of_a_reader(loop, log):
    loop.set_debug(True)
    async with reading("pty") as (transport, protocol, far):
        transport.pause_reading()
        transport.resume_reading()
        assert said(log, "DEBUG", "PipeTransport fd=", "pauses reading") == 1
        assert said(log, "DEBUG", "PipeTransport fd=", "resumes reading") == 1
        far.close()
        await protocol.lost
        assert said(log, "DEBUG", "Fatal read error on pipe transport") == 1
    async with reading() as (_, protocol, far):
        far.close()
        await protocol.lost
        assert said(log, "INFO", "PipeTransport fd=", "was closed by peer") == 1
    assert said(log, "Read pipe ", " connected: ") == 2


@on_loop
async def test_the_log_of_a_writer(loop, log):
    loop.set_debug(True)
    async with writing() as (_, protocol, far):
        far.close()
        await protocol.lost
        assert said(log, "INFO", "PipeTransport fd=", "was closed by peer") == 1
    async with writing() as (transport, protocol, far):
        far.close()
        transport.write(b"x")
        await protocol.lost
        assert said(log, "DEBUG", "Fatal write error on pipe transport") == 1
    assert said(log, "Write pipe ", " connected: ") == 2


@on_loop
async def test_nothing_is_logged_without_debug_mode(loop, log):
    async with reading() as (transport, protocol, far):
        transport.pause_reading()
        transport.resume_reading()
        far.close()
        await protocol.lost
    assert log == []
