"""What the transport tests share: recording protocols, connected sockets, waiting.

Everything here works on any asyncio event loop. Sockets called *peer* are plain
blocking sockets with a timeout: a test uses them from inside a callback to see what
the kernel has, and a test that would hang fails instead.
"""

import asyncio
import contextlib
import functools
import socket
import struct
import sys
import warnings

import pytest
import support

LIMIT = 30
"""Seconds after which an async test is taken to hang."""

PEER_TIMEOUT = 10
"""Seconds a blocking peer socket waits."""

KINDS = ["unix", "tcp", "tcp6"]

PY = sys.version_info[:2]


def has_ipv6():
    """Whether ::1 can be bound on this machine."""
    if not socket.has_ipv6:
        return False
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def oracle_bug(loop_kind, when, reason):
    """Skip on asyncio itself, where this version is known to misbehave.

    *when* is a bool about the Python version; pyloop has to pass all the same.
    """
    if loop_kind == "asyncio" and when:
        pytest.skip(f"asyncio of this Python version: {reason}")


def record_errors(loop):
    """Collect what the loop reports from here on; returns a support.ErrorRecorder.

    Errors nobody records are logged, and the suite fails a test that logs errors.
    """
    return support.ErrorRecorder(loop).__enter__()


@contextlib.contextmanager
def resource_warnings():
    """Collect the texts of the ResourceWarnings that the block causes."""
    texts = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
        texts += [str(w.message) for w in caught if w.category is ResourceWarning]


def on_loop(test):
    """Run an async test function on the `loop` fixture, for at most LIMIT seconds."""

    @functools.wraps(test)
    def run(**fixtures):
        support.run(fixtures["loop"], test(**fixtures), LIMIT)

    return run


def _wake(future):
    if not future.done():
        future.set_result(None)


async def settle(loop, rounds=3):
    """Let the loop poll *rounds* times, each with something ready.

    Whatever the kernel had ready before the call has been dispatched when this returns,
    so that "nothing happened" can be asserted without a sleep.
    """
    near, far = socket.socketpair()
    with near, far:
        for _ in range(rounds):
            ready = loop.create_future()
            loop.add_reader(near, _wake, ready)
            far.send(b"!")
            await ready
            loop.remove_reader(near)
            near.recv(1)
            await asyncio.sleep(0)


async def until(condition, what="the condition"):
    """Run the loop until *condition()* is true."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PEER_TIMEOUT
    while not condition():
        if loop.time() > deadline:
            pytest.fail(f"waited {PEER_TIMEOUT} s in vain for {what}")
        await asyncio.sleep(0.001)


class _Calls:
    """Records the calls of a protocol in `calls` as (name, argument) or (name,)."""

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.calls = []
        self.data = bytearray()
        self.transport = None
        self.keep_open = False
        self.made = loop.create_future()
        self.lost = loop.create_future()

    @property
    def names(self):
        return [call[0] for call in self.calls]

    def count(self, name):
        return self.names.count(name)

    def on(self, name):
        """Called for each recorded call; a test replaces it to act inside callbacks."""

    def _record(self, name, *args):
        self.calls.append((name, *args))
        self.on(name)

    def connection_made(self, transport):
        self.transport = transport
        if not self.made.done():
            self.made.set_result(transport)
        self._record("connection_made")

    def connection_lost(self, exc):
        if not self.lost.done():
            self.lost.set_result(exc)
        self._record("connection_lost", exc)

    def pause_writing(self):
        self._record("pause_writing")

    def resume_writing(self):
        self._record("resume_writing")

    def eof_received(self):
        self._record("eof_received")
        return self.keep_open

    async def called(self, name, times=1):
        """Wait until *name* has been called *times* times."""
        await until(lambda: self.count(name) >= times, f"{times} {name}()")

    async def received(self, size):
        """Wait until *size* bytes have come, and return all that came."""
        await until(lambda: len(self.data) >= size, f"{size} bytes")
        return bytes(self.data)


class Recorder(_Calls, asyncio.Protocol):
    """A Protocol that records."""

    def data_received(self, data):
        assert type(data) is bytes
        self.data += data
        self._record("data_received", data)


class TlsRecorder(Recorder):
    """A Recorder for TLS: closes its transport when the connection is lost.

    The TLS transport of Python 3.10 warns of not being closed otherwise.
    """

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self.transport.close()


class BufferedRecorder(_Calls, asyncio.BufferedProtocol):
    """A BufferedProtocol that records, with a buffer of *size* bytes."""

    def __init__(self, size=4096):
        super().__init__()
        self.buffer = bytearray(size)
        self.hints = []

    def get_buffer(self, sizehint):
        self.hints.append(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data += self.buffer[:nbytes]
        self._record("buffer_updated", nbytes)


def loopback(family=socket.AF_INET):
    """The numeric loopback address of *family*."""
    return "::1" if family == socket.AF_INET6 else "127.0.0.1"


def listening(family=socket.AF_INET):
    """A listening TCP socket on a free loopback port."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind((loopback(family), 0))
    sock.listen()
    return sock


def tcp_pair(family=socket.AF_INET):
    """Two connected TCP sockets."""
    with listening(family) as listener:
        near = socket.create_connection(listener.getsockname()[:2])
        far, _ = listener.accept()
    return near, far


def socket_pair(kind):
    """Two connected sockets: "unix", "tcp" or "tcp6"."""
    if kind == "unix":
        return socket.socketpair()
    if kind == "tcp6" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    return tcp_pair(socket.AF_INET6 if kind == "tcp6" else socket.AF_INET)


@contextlib.asynccontextmanager
async def connected(factory=Recorder, kind="unix", sndbuf=None):
    """A transport over one end of a pair: yields (transport, protocol, peer).

    *sndbuf* is the SO_SNDBUF of the transport's end, in bytes.
    """
    loop = asyncio.get_running_loop()
    near, peer = socket_pair(kind)
    if sndbuf is not None:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
    peer.settimeout(PEER_TIMEOUT)
    transport, protocol = await loop.create_connection(factory, sock=near)
    try:
        yield transport, protocol, peer
    finally:
        peer.close()
        # asyncio's abort() fails once a close() has flushed and lost the connection.
        if transport.get_protocol() is not None:
            transport.abort()
        # connection_lost() comes in the next iteration, and closes the socket.
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def fill(transport, chunk=b"f" * 65536):
    """Write until the kernel takes no more; returns the number of bytes written."""
    total = 0
    while transport.get_write_buffer_size() == 0:
        transport.write(chunk)
        total += len(chunk)
    return total


def recv_exactly(peer, size):
    """Read *size* bytes from a blocking *peer* without running the loop."""
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(size - len(data))
        assert piece, f"EOF after {bytes(data)!r}"
        data += piece
    return bytes(data)


def pending(peer):
    """What *peer* can read now without waiting; leaves its timeout as it was."""
    data = bytearray()
    timeout = peer.gettimeout()
    peer.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while piece := peer.recv(1 << 16):
            data += piece
    peer.settimeout(timeout)
    return bytes(data)


async def read_all(loop, peer, size=None):
    """Read *size* bytes (until EOF when None) from *peer* while the loop runs."""
    peer.setblocking(False)
    chunks = bytearray()
    while size is None or len(chunks) < size:
        want = 1 << 18 if size is None else min(1 << 18, size - len(chunks))
        data = await loop.sock_recv(peer, want)
        if not data:
            break
        chunks += data
    return bytes(chunks)


def reset(peer):
    """Close *peer* (TCP) with a RST instead of a FIN."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def pattern(size, seed=0):
    """*size* bytes in which a lost, doubled or swapped piece shows."""
    words = (size + 7) // 8
    raw = b"".join(struct.pack("<II", seed, n) for n in range(words))
    return raw[:size]
