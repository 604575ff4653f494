"""What the tests of pipe transports share: ends of all kinds, recording protocols.

The *far* end is a plain non-blocking file that the tests use from inside callbacks, to
see what the kernel has. Everything here works on any asyncio event loop on Unix.
"""

import asyncio
import contextlib
import os
import socket
import tempfile
import tty

from streamkit import Recorder

PIPE_KINDS = ["pipe", "fifo", "socket", "pty", "terminal"]
"""pty: the transport has the master; terminal: it has the slave."""

PEER_SHOWS = ["pipe", "fifo", "socket"]
"""Kinds whose writer notices that its reader has gone."""


def file_of(fd, mode):
    os.set_blocking(fd, False)
    return os.fdopen(fd, mode, buffering=0)


def fifo():
    """The two ends (read, write) of a named pipe that has no name any more."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "fifo")
        os.mkfifo(path)
        read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        return read, os.open(path, os.O_WRONLY | os.O_NONBLOCK)


def descriptors(kind):
    """Two connected descriptors: the first can be read, the second written."""
    if kind == "pipe":
        return os.pipe()
    if kind == "fifo":
        return fifo()
    if kind == "socket":
        near, far = socket.socketpair()
        return near.detach(), far.detach()
    master, slave = os.openpty()
    tty.setraw(slave)
    return (master, slave) if kind == "pty" else (slave, master)


@contextlib.asynccontextmanager
async def reading(kind="pipe", factory=Recorder):
    """A reading transport: yields (transport, protocol, far), far to be written to."""
    near, far = descriptors(kind)
    with file_of(far, "wb") as far:
        transport, protocol = await asyncio.get_running_loop().connect_read_pipe(
            factory, file_of(near, "rb")
        )
        try:
            yield transport, protocol, far
        finally:
            transport.close()
            await until_closed(transport)


@contextlib.asynccontextmanager
async def writing(kind="pipe", factory=Recorder):
    """A writing transport: yields (transport, protocol, far), far to be read."""
    # descriptors() names the kind of its first end, which is the far one here.
    far, near = descriptors({"pty": "terminal", "terminal": "pty"}.get(kind, kind))
    with file_of(far, "rb") as far:
        transport, protocol = await asyncio.get_running_loop().connect_write_pipe(
            factory, file_of(near, "wb")
        )
        try:
            yield transport, protocol, far
        finally:
            if transport.get_protocol() is not None and not protocol.lost.done():
                if not transport.is_closing() or transport.get_write_buffer_size():
                    transport.abort()
                await until_closed(transport)


async def until_closed(transport):
    """connection_lost() comes in a later iteration, and closes the pipe."""
    for _ in range(10):
        if transport.get_protocol() is None:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"still open: {transport!r}")


def take(far, size=1 << 20):
    """What the far end can read now, b"" if nothing."""
    chunks = bytearray()
    while len(chunks) < size:
        try:
            data = far.read(size - len(chunks))
        except BlockingIOError:
            break
        if not data:
            break
        chunks += data
    return bytes(chunks)


def fill(transport, chunk=b"f" * 4096):
    """Write until the kernel takes no more; returns the number of bytes written."""
    total = 0
    while transport.get_write_buffer_size() == 0:
        transport.write(chunk)
        total += len(chunk)
    return total
