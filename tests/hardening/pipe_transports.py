"""The scenarios of pipe transports; see scenarios.py."""

import contextlib
import fcntl
import os

from scenarios import scenario
from world import Recorder, World, until


def ends(w: World):
    """Both ends of a pipe, unbuffered and non-blocking: the read one, the write one.

    The loop is made as well, so that it is not in the armed part.
    """
    assert not w.loop.is_closed()
    files = []
    for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True):
        os.set_blocking(fd, False)
        files.append(w.close_later(os.fdopen(fd, mode, 0)))
    return files


def reader(w: World, pipe):
    protocol = Recorder(w)
    w.run(w.loop.connect_read_pipe(lambda: protocol, pipe))
    return protocol


def writer(w: World, pipe):
    protocol = Recorder(w)
    w.run(w.loop.connect_write_pipe(lambda: protocol, pipe))
    return protocol


def drain(pipe):
    """What a non-blocking pipe has."""
    data = bytearray()
    while part := pipe.read(1 << 20):
        data += part
    return bytes(data)


@scenario
def pipe_read(w: World):
    near, far = ends(w)
    with w.armed():
        protocol = reader(w, near)
        far.write(b"abc")
        w.run(until(lambda: len(protocol.data) == 3 or protocol.lost or w.seen.names))
        far.close()
        if w.seen.names:  # it could not be watched, which is reported
            protocol.transport.close()
        w.run(until(lambda: protocol.lost))
    assert protocol.data == b"abc" and protocol.eof == 1 and protocol.error is None


@scenario
def pipe_write(w: World):
    far, near = ends(w)
    with w.armed():
        protocol = writer(w, near)
        protocol.transport.write(b"abc")
        protocol.transport.writelines([b"d", bytearray(b"e"), memoryview(b"f")])
        protocol.transport.close()
        w.run(until(lambda: protocol.lost))
    assert drain(far) == b"abcdef" and protocol.error is None


@scenario
def pipe_write_queued(w: World):
    far, near = ends(w)
    fcntl.fcntl(near, 1031, 4096)  # F_SETPIPE_SZ, which Python 3.10 does not name
    protocol = writer(w, near)
    transport = protocol.transport
    got = []
    with w.armed():
        for _ in range(20):
            transport.write(b"x" * 300)
            transport.write(bytearray(10))
        transport.write_eof()
        while not protocol.lost:
            with contextlib.suppress(BlockingIOError):
                got.append(len(far.read(1 << 20) or b""))
            w.run(until(lambda: True))
            w.check_gave_up()
    assert sum(got) + len(drain(far)) == 20 * 310


@scenario
def pipe_reader_gone(w: World):
    far, near = ends(w)
    protocol = writer(w, near)
    with w.armed():
        protocol.transport.write(b"x" * 100_000)
        far.close()
        w.run(until(lambda: protocol.lost))
    assert isinstance(protocol.error, BrokenPipeError)


@scenario
def pipe_pause(w: World):
    near, far = ends(w)
    protocol = reader(w, near)
    transport = protocol.transport
    with w.armed():
        transport.pause_reading()
        far.write(b"abc")
        w.run(until(lambda: True))
        transport.resume_reading()
        w.run(until(lambda: len(protocol.data) == 3 or protocol.lost))
        transport.close()
        w.run(until(lambda: protocol.lost))
    assert protocol.data == b"abc"


@scenario
def pipe_extras(w: World):
    near, far = ends(w)
    with w.armed():
        protocol = reader(w, near)
        transport = protocol.transport
        transport.note = repr(transport)
        assert transport.get_extra_info("pipe") is near
        transport.set_protocol(transport.get_protocol())
        transport.close()
        w.run(until(lambda: protocol.lost))
        repr(transport)


@scenario
def pipe_write_extras(w: World):
    far, near = ends(w)
    with w.armed():
        protocol = writer(w, near)
        transport = protocol.transport
        transport.note = repr(transport)
        assert transport.get_extra_info("pipe") is near
        transport.set_protocol(transport.get_protocol())
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        assert transport.can_write_eof() and not transport.is_closing()
        while transport.get_write_buffer_size() == 0 and not transport.is_closing():
            transport.write(bytes(10_000))
        assert protocol.paused or transport.is_closing()
        transport.abort()
        w.run(until(lambda: protocol.lost))
        repr(transport)


@scenario
def pipe_over_sockets(w: World):
    """One end of a socket pair for reading, the other for writing."""
    near, far = w.pair()
    loop = w.loop
    receiving, sending = Recorder(w), Recorder(w)
    with w.armed():
        w.run(loop.connect_read_pipe(lambda: receiving, near))
        transport, _ = w.run(loop.connect_write_pipe(lambda: sending, far))
        assert receiving.transport.is_reading()
        transport.write(b"abc")
        w.run(until(lambda: len(receiving.data) == 3 or w.seen.names or receiving.lost))
        receiving.transport.close()
        w.run(until(lambda: sending.lost or w.seen.names))
    assert receiving.data == b"abc"


@scenario
def pipe_over_terminal(w: World):
    """A pseudo-terminal, whose end is an error when its other side is closed."""
    main, side = os.openpty()
    for fd in (main, side):
        os.set_blocking(fd, False)
    near, far = (w.close_later(os.fdopen(fd, "rb+", 0)) for fd in (main, side))
    loop = w.loop
    protocol = Recorder(w)
    with w.armed():
        w.run(loop.connect_read_pipe(lambda: protocol, near))
        far.write(b"abc")
        w.run(until(lambda: len(protocol.data) == 3 or protocol.lost or w.seen.names))
        protocol.transport.close()
        w.run(until(lambda: protocol.lost))
    assert protocol.data == b"abc"


@scenario
def failing_pipe_protocols(w: World):
    """Protocols that raise when they get data and when they are to pause."""

    class Failing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise LookupError("data")

        def pause_writing(self):
            raise LookupError("pause")

        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise LookupError("lost")

    near, far = ends(w)
    receiving, sending = Failing(w), Failing(w)
    w.run(w.loop.connect_read_pipe(lambda: receiving, near))
    w.run(w.loop.connect_write_pipe(lambda: sending, far))
    with w.armed():
        sending.transport.set_write_buffer_limits(high=10)
        sending.transport.write(bytes(100_000))
        w.run(until(lambda: receiving.data or receiving.lost))
        sending.transport.abort()
        w.run(until(lambda: sending.lost and receiving.lost))
    assert "LookupError" in w.seen.names


@scenario
def pipe_refused(w: World):
    near, _ = ends(w)
    with w.armed():
        with contextlib.suppress(ValueError):
            w.run(
                w.loop.connect_read_pipe(lambda: Recorder(w), open(__file__, "rb", 0))
            )
            raise AssertionError("a regular file was taken")
        with contextlib.suppress(AttributeError):
            w.run(w.loop.connect_read_pipe(object, near))
            raise AssertionError("what is no protocol was taken")
    assert not near.closed
