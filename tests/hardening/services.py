"""The scenarios of files that are sent, children, and TLS on open connections.

See scenarios.py.
"""

import asyncio
import contextlib
import errno
import io
import os
import signal
import socket
import tempfile
from unittest import mock

from corners import raises
from pipe_transports import ends
from scenarios import scenario, target
from streams import connect, drain, take
from world import GaveUp, Recorder, World, until

CONTENT = bytes(range(256)) * 160


def regular_file(w: World):
    """A file that has CONTENT."""
    file = w.close_later(tempfile.TemporaryFile())
    file.write(CONTENT)
    file.seek(0)
    return file


# --- files ----------------------------------------------------------------------


@scenario
def sock_sendfile(w: World):
    """More than the socket takes at once; then a part of the file, and its end."""
    left, right = w.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    file = regular_file(w)
    loop = w.loop

    async def main():
        sending = asyncio.ensure_future(loop.sock_sendfile(left, file, fallback=False))
        data = await take(right, len(CONTENT))
        assert await sending == len(CONTENT) and data == CONTENT
        assert file.tell() == len(CONTENT)
        assert await loop.sock_sendfile(left, file, 5, 7, fallback=False) == 7
        assert await loop.sock_sendfile(left, file, len(CONTENT)) == 0
        return await take(right, 7)

    with w.armed():
        data = w.run(main())
    assert data == CONTENT[5:12]


@scenario
def transport_sendfile(w: World):
    """Behind what is queued; and the peer's data waits meanwhile."""
    left, right = w.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    file = regular_file(w)
    loop = w.loop
    protocol = connect(w, left)
    transport = protocol.transport

    async def main():
        transport.write(CONTENT)
        sending = asyncio.ensure_future(loop.sendfile(transport, file, fallback=False))
        right.send(b"abc")
        data = await take(right, 2 * len(CONTENT))
        assert await sending == len(CONTENT)
        await until(lambda: len(protocol.data) == 3 or protocol.lost)
        return data

    with w.armed():
        data = w.run(main())
    assert data == CONTENT * 2 and protocol.data == b"abc"


@scenario
def sendfile_cancelled(w: World):
    left, right = w.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    file = regular_file(w)
    file.truncate(1 << 24)  # more than fits, whatever the kernel counts
    loop = w.loop
    protocol = connect(w, left)

    async def main():
        sending = asyncio.ensure_future(
            loop.sendfile(protocol.transport, file, fallback=False)
        )
        first = b""
        while not first and not sending.done():
            await asyncio.sleep(0.001)
            first = drain(right)
        sending.cancel()
        await asyncio.wait([sending])
        assert sending.cancelled() or sending.result()  # which raises
        protocol.transport.abort()
        await until(lambda: protocol.lost)
        return first

    with w.armed():
        first = w.run(main())
    assert first.startswith(CONTENT[:100])


@scenario
def sendfile_lost(w: World):
    """The connection is lost while a file is sent, and what may not be done then."""
    left, right = w.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    file = regular_file(w)
    file.truncate(1 << 24)
    loop = w.loop
    transport = connect(w, left).transport

    def sending():
        return loop.sendfile(transport, file, fallback=False)

    async def main():
        first = asyncio.ensure_future(sending())
        data = b""
        while not data and not first.done():
            await asyncio.sleep(0.001)
            data = drain(right)
        raises(RuntimeError, transport.write, b"x")
        raises(RuntimeError, transport._make_empty_waiter)
        transport.abort()
        await asyncio.wait([first])
        for ended in (first, asyncio.ensure_future(sending())):
            try:
                await ended
            except (ConnectionError, RuntimeError):
                continue
            raise AssertionError("it was sent")

    with w.armed():
        w.run(main())


@scenario
def sendfile_not_available(w: World):
    """A pipe is no file that the kernel sends from."""
    left, _ = w.pair()
    near, _ = ends(w)
    loop = w.loop
    with w.armed():
        for _ in range(2):
            raises(
                asyncio.SendfileNotAvailableError,
                w.run,
                loop.sock_sendfile(left, near, 0, 5, fallback=False),
            )


@scenario
def sendfile_fallback(w: World):
    """What is no file of the system is read in a thread, and written."""
    left, right = w.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    loop = w.loop
    protocol = connect(w, left)
    w.run(loop.run_in_executor(None, target))

    async def main():
        file = io.BytesIO(CONTENT)
        sending = asyncio.ensure_future(loop.sendfile(protocol.transport, file))
        data = await take(right, len(CONTENT))
        assert await sending == len(CONTENT)
        return data

    with w.armed():
        data = w.run(main())
    assert data == CONTENT


# --- children -------------------------------------------------------------------


class Parent(asyncio.SubprocessProtocol):
    """Counts its calls and keeps the output."""

    def __init__(self, world):
        self.world = world
        self.transport = None
        self.made = self.lost = self.exited = 0
        self.data = bytearray()
        self.ended = []

    def connection_made(self, transport):
        self.made += 1
        self.transport = transport
        self.world.transports.append(transport)

    def pipe_data_received(self, fd, data):
        self.data += data

    def pipe_connection_lost(self, fd, exc):
        self.ended.append(fd)
        if exc is not None:
            self.world.seen.add(exc, "pipe_connection_lost")

    def process_exited(self):
        self.exited += 1

    def connection_lost(self, exc):
        self.lost += 1


@scenario
def child_with_pipes(w: World):
    protocol = Parent(w)
    loop = w.loop
    with w.armed():
        transport, _ = w.run(loop.subprocess_exec(lambda: protocol, "cat"))
        transport.get_pipe_transport(0).write(b"abc")
        w.run(until(lambda: protocol.data == b"abc" or protocol.lost))
        transport.get_pipe_transport(0).close()
        w.run(until(lambda: protocol.lost))
    assert protocol.data == b"abc" and sorted(protocol.ended) == [0, 1, 2]
    assert transport.get_returncode() == 0 and protocol.exited == 1


@scenario
def child_killed(w: World):
    protocol = Parent(w)
    loop = w.loop
    with w.armed():
        transport, _ = w.run(
            loop.subprocess_exec(
                lambda: protocol, "sleep", "100", stdin=None, stdout=None, stderr=None
            )
        )
        transport.send_signal(signal.SIGINT)
        transport.kill()
        w.run(until(lambda: protocol.lost))
    assert transport.get_returncode() in (-signal.SIGKILL, -signal.SIGINT)


@scenario
def child_of_streams(w: World):
    """asyncio.create_subprocess_shell() and communicate()."""
    PIPE = asyncio.subprocess.PIPE

    async def main():
        process = await asyncio.create_subprocess_shell(
            "cat; exit 3", stdin=PIPE, stdout=PIPE
        )
        w.transports.append(process._transport)
        output, _ = await process.communicate(b"abc")
        return output, process.returncode

    w.loop  # noqa: B018
    with w.armed():
        result = w.run(main())
    assert result == (b"abc", 3)


@scenario
def child_in_thread(w: World):
    """Without a pidfd a thread waits for the child."""
    protocol = Parent(w)
    loop = w.loop

    def pidfd_open(pid, flags=0):
        raise OSError(errno.ENOSYS, "there is no such call")

    with mock.patch.object(os, "pidfd_open", pidfd_open), w.armed():
        transport, _ = w.run(
            loop.subprocess_exec(
                lambda: protocol, "cat", stdin=None, stdout=None, stderr=None
            )
        )
        w.run(until(lambda: protocol.lost))
    assert transport.get_returncode() == 0


@scenario
def child_cancelled(w: World):
    """Cancelled as it starts: the child is killed and waited for."""
    protocol = Parent(w)
    loop = w.loop

    async def main():
        starting = asyncio.ensure_future(
            loop.subprocess_exec(lambda: protocol, "sleep", "100")
        )
        for _ in range(2):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        with contextlib.suppress(asyncio.CancelledError):
            w.transports.append((await starting)[0])
            w.transports[-1].kill()

    try:
        with w.armed():
            w.run(main())
    except GaveUp:  # of a pidfd that is believed to be closed; that is told
        for transport in w.transports:
            transport._proc.kill()
            transport._proc.wait()
        raise


@scenario
def child_not_started(w: World):
    loop = w.loop
    name = os.path.join(os.sep, "no", "such", "program")
    with w.armed():
        for _ in range(2):
            try:
                w.run(loop.subprocess_exec(asyncio.SubprocessProtocol, name))
            except FileNotFoundError:
                pass
            else:
                raise AssertionError("it started")


# --- TLS on a connection that is open ---------------------------------------------


@scenario
def start_tls(w: World):
    """Both sides begin TLS on plain transports, and one ends it."""
    loop = w.loop
    server_context = w.certificates.server_context()
    client_context = w.certificates.client_context()
    first, second = (connect(w, sock) for sock in w.pair())
    far, near = Recorder(w, echo=True), Recorder(w)
    w.protocols.clear()  # who of them is told of the end depends on when it comes
    w.transports += [first.transport, second.transport]

    async def main():
        near.transport, far.transport = await asyncio.gather(
            loop.start_tls(
                first.transport, near, client_context, server_hostname="localhost"
            ),
            loop.start_tls(second.transport, far, server_context, server_side=True),
        )
        near.transport.write(b"abc" * 10_000)
        await until(lambda: len(near.data) == 30_000 or near.lost)
        near.transport.close()
        await until(lambda: near.lost and far.lost)

    with w.armed():
        w.run(main())
    assert near.data == b"abc" * 10_000
