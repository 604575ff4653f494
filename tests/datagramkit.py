"""What the datagram tests share: a recording protocol, endpoints, Unix addresses.

Peers are plain blocking sockets with a timeout, as in streamkit.
"""

import asyncio
import contextlib
import socket
import sys

import pytest
from streamkit import PEER_TIMEOUT, PY, has_ipv6, loopback, until

KINDS = ["udp", "udp6", "unix"]

#: From this version on asyncio can pause a datagram transport.
PAUSES = PY >= (3, 11)

#: From this version on sendto(b"") sends a datagram of no bytes.
SENDS_EMPTY = PY >= (3, 13)

#: What a queued datagram counts beyond its bytes.
HEADER = 8 if PY >= (3, 13) else 0

needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="abstract Unix addresses are Linux's"
)


class Recorder(asyncio.DatagramProtocol):
    """Records its calls in `calls` as (name, argument...), datagrams in `datagrams`."""

    def __init__(self):
        self.calls = []
        self.transport = None
        self.lost = asyncio.get_running_loop().create_future()

    @property
    def names(self):
        return [call[0] for call in self.calls]

    @property
    def datagrams(self):
        return [call[1] for call in self.calls if call[0] == "datagram_received"]

    @property
    def errors(self):
        return [call[1] for call in self.calls if call[0] == "error_received"]

    def count(self, name):
        return self.names.count(name)

    def on(self, name):
        """Called for each recorded call; a test replaces it to act inside callbacks."""

    def _record(self, name, *args):
        self.calls.append((name, *args))
        self.on(name)

    def connection_made(self, transport):
        self.transport = transport
        self._record("connection_made")

    def connection_lost(self, exc):
        if not self.lost.done():
            self.lost.set_result(exc)
        self._record("connection_lost", exc)

    def datagram_received(self, data, addr):
        assert type(data) is bytes
        self._record("datagram_received", data, addr)

    def error_received(self, exc):
        self._record("error_received", exc)

    def pause_writing(self):
        self._record("pause_writing")

    def resume_writing(self):
        self._record("resume_writing")

    async def called(self, name, times=1):
        """Wait until *name* has been called *times* times."""
        await until(lambda: self.count(name) >= times, f"{times} {name}()")

    async def received(self, count):
        """Wait for *count* datagrams, and return all that came."""
        await until(lambda: len(self.datagrams) >= count, f"{count} datagrams")
        return self.datagrams


def family_of(kind):
    return {
        "udp": socket.AF_INET,
        "udp6": socket.AF_INET6,
        "unix": getattr(socket, "AF_UNIX", None),
    }[kind]


def free_address(kind, folder, name="peer"):
    """An address to bind to: of a free port, or of a file in *folder* (a Path)."""
    if kind == "udp6" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    if kind == "unix":
        return str(folder / name)
    return (loopback(family_of(kind)), 0)


@contextlib.contextmanager
def peer_socket(kind, folder, name="peer"):
    """A bound blocking socket with a timeout."""
    with socket.socket(family_of(kind), socket.SOCK_DGRAM) as sock:
        sock.bind(free_address(kind, folder, name))
        sock.settimeout(PEER_TIMEOUT)
        yield sock


@contextlib.asynccontextmanager
async def endpoint(factory=Recorder, **arguments):
    """create_datagram_endpoint(factory, **arguments): yields (transport, protocol)."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(factory, **arguments)
    try:
        yield transport, protocol
    finally:
        # asyncio's abort() fails once a close() has flushed and lost the connection.
        if transport.get_protocol() is not None:
            transport.abort()
        # connection_lost() comes in the next iteration, and closes the socket.
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def bound(kind, folder, factory=Recorder):
    """An endpoint with a local address: yields (transport, protocol, address)."""
    address = free_address(kind, folder, "endpoint")
    arguments = {"family": family_of(kind)} if kind == "unix" else {}
    async with endpoint(factory, local_addr=address, **arguments) as (
        transport,
        protocol,
    ):
        yield transport, protocol, transport.get_extra_info("sockname")


@contextlib.asynccontextmanager
async def connected(kind, folder, factory=Recorder):
    """An endpoint connected to a peer socket: yields (transport, protocol, peer)."""
    with peer_socket(kind, folder) as peer:
        remote = peer.getsockname()
        if kind == "unix":
            arguments = {
                "family": socket.AF_UNIX,
                "local_addr": str(folder / "endpoint"),
                "remote_addr": remote,
            }
        else:
            arguments = {"remote_addr": remote[:2]}
        async with endpoint(factory, **arguments) as (transport, protocol):
            yield transport, protocol, peer


def waiting(peer):
    """The datagrams that *peer* can read now without waiting."""
    found = []
    peer.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(peer.recv(1 << 17))
    peer.settimeout(PEER_TIMEOUT)
    return found


def fill(transport, *address, size=100):
    """Send numbered datagrams until one is queued; returns them all."""
    sent = []
    while transport.get_write_buffer_size() == 0:
        sent.append(b"%06d" % len(sent) + b"." * (size - 6))
        transport.sendto(sent[-1], *address)
    return sent
