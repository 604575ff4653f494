"""The scenarios of datagram transports; see scenarios.py."""

import asyncio
import contextlib
import socket

from scenarios import scenario
from streams import Foreign
from world import World, until


class Endpoint(asyncio.DatagramProtocol):
    """Counts its calls and keeps the datagrams."""

    def __init__(self, world, echo=False):
        world.protocols.append(self)
        self.world = world
        self.echo = echo
        self.transport = None
        self.made = self.lost = self.errors = self.paused = self.resumed = 0
        self.datagrams = []

    def connection_made(self, transport):
        self.made += 1
        self.transport = transport

    def datagram_received(self, data, addr):
        self.datagrams.append(data)
        if self.echo:
            self.transport.sendto(data, addr)

    def error_received(self, exc):
        self.errors += 1
        self.world.seen.add(exc, "error_received")

    def pause_writing(self):
        self.paused += 1

    def resume_writing(self):
        self.resumed += 1

    def connection_lost(self, exc):
        self.lost += 1
        if exc is not None:
            self.world.seen.add(exc, "connection_lost")


def make(w: World, echo=False, **arguments):
    """An endpoint, made and started; its protocol."""
    protocol = Endpoint(w, echo)
    w.run(w.loop.create_datagram_endpoint(lambda: protocol, **arguments))
    return protocol


def peer(w: World, family=socket.AF_INET):
    """A bound, non-blocking socket; a Unix one has an abstract name."""
    sock = w.close_later(socket.socket(family, socket.SOCK_DGRAM))
    sock.setblocking(False)
    sock.bind("" if family == socket.AF_UNIX else ("127.0.0.1", 0))
    return sock


def waiting(sock):
    """The datagrams that a non-blocking socket has."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(1000))
    return found


@scenario
def make_endpoint(w: World):
    far = peer(w)
    loop = w.loop
    protocol = Endpoint(w)
    with w.armed():
        transport, _ = w.run(
            loop.create_datagram_endpoint(
                lambda: protocol, remote_addr=far.getsockname()
            )
        )
        transport.sendto(b"abc")
        repr(transport)
        transport.close()
        w.run(until(lambda: protocol.lost))
    assert waiting(far) == [b"abc"]


@scenario
def datagram_echo(w: World):
    far = peer(w)
    protocol = make(w, echo=True, local_addr=("127.0.0.1", 0))
    address = protocol.transport.get_extra_info("sockname")
    sent = [b"%d" % n for n in range(5)]
    with w.armed():
        for burst in (sent[:1], sent[1:]):
            for data in burst:
                far.sendto(data, address)
            w.run(until(lambda last=burst[-1]: last in protocol.datagrams))
    assert protocol.datagrams == sent and waiting(far) == sent


@scenario
def datagrams_paused(w: World):
    far = peer(w)
    protocol = make(w, local_addr=("127.0.0.1", 0))
    transport = protocol.transport
    address = transport.get_extra_info("sockname")
    received = protocol.datagram_received

    def pausing(data, addr):
        received(data, addr)
        transport.pause_reading()
        w.loop.call_soon(transport.resume_reading)

    protocol.datagram_received = pausing
    with w.armed():
        for n in range(4):
            far.sendto(b"%d" % n, address)
        w.run(until(lambda: len(protocol.datagrams) == 4))
    del protocol.datagram_received
    assert protocol.datagrams == [b"0", b"1", b"2", b"3"]


@scenario
def datagrams_queued(w: World):
    """The queue, flow control, several at once, one by one, and the end."""
    far, other = peer(w, socket.AF_UNIX), peer(w, socket.AF_UNIX)
    protocol = make(w, family=socket.AF_UNIX)
    transport = protocol.transport
    transport.set_write_buffer_limits(high=100, low=50)
    got = []

    def all_there():
        got.extend(waiting(far))
        return len(got) == count and protocol.resumed

    with w.armed():
        count = 0
        while transport.get_write_buffer_size() == 0:
            transport.sendto(b"x", far.getsockname())
            count += 1
        for number in range(20):
            transport.sendto(b"%d" % number * 10, far.getsockname())
            count += 1
        for _ in range(5):
            transport.sendto(b"other", other.getsockname())
        transport.sendto(bytearray(b"z"), bytearray(far.getsockname()))
        count += 1
        w.run(until(all_there))
        transport.close()
        w.run(until(lambda: protocol.lost))
    assert got[-1] == b"z" and waiting(other) == [b"other"] * 5


@scenario
def datagram_extras(w: World):
    far = peer(w)
    protocol = make(w, remote_addr=far.getsockname())
    transport = protocol.transport
    with w.armed():
        transport.note = repr(transport)
        for name in ("sockname", "peername", "socket", "nothing"):
            transport.get_extra_info(name)
        for name in ("_extra", "_sock", "_loop", "_protocol", "_address", "_paused"):
            getattr(transport, name)
        transport.set_protocol(transport.get_protocol())
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        assert transport.is_reading() and not transport.is_closing()
        transport.pause_reading()
        transport.resume_reading()
        transport.sendto(memoryview(b"abc"))
        transport.close()
        w.run(until(lambda: protocol.lost))
        repr(transport)
    assert waiting(far) == [b"abc"]


@scenario
def failing_datagram_protocol(w: World):
    """Its methods raise, when data and when errors come."""

    def fail(*args):
        failed.append(args)
        if isinstance(args[0], OSError):
            w.seen.add(args[0], "error_received")
        raise LookupError("of the protocol")

    far = peer(w)
    failed = []
    protocol = make(w, remote_addr=far.getsockname())
    protocol.datagram_received = protocol.error_received = fail
    with w.armed():
        far.sendto(b"abc", protocol.transport.get_extra_info("sockname"))
        w.run(until(lambda: len(failed) == 1))
        far.close()
        protocol.transport.sendto(b"abc")
        w.run(until(lambda: len(failed) == 2))
    del protocol.datagram_received, protocol.error_received
    assert "LookupError" in w.seen.names


@scenario
def datagrams_refused(w: World):
    far = peer(w)
    protocol = make(w, remote_addr=far.getsockname())
    far.close()
    with w.armed():
        protocol.transport.sendto(b"abc")
        w.run(until(lambda: protocol.errors == 1))
        protocol.transport.sendto(bytes(70_000))
        w.run(until(lambda: protocol.errors == 2))
        with contextlib.suppress(ValueError):
            protocol.transport.sendto(b"abc", ("127.0.0.1", 1))
            raise AssertionError("another address was taken")
        protocol.transport.abort()
        w.run(until(lambda: protocol.lost))


@scenario
def datagrams_closed_with_queue(w: World):
    """close() sends what is queued first, abort() drops it."""
    far = peer(w, socket.AF_UNIX)
    closing, aborting = (make(w, family=socket.AF_UNIX) for _ in range(2))
    got = []
    with w.armed():
        for protocol in (closing, aborting):
            while protocol.transport.get_write_buffer_size() == 0:
                protocol.transport.sendto(b"x", far.getsockname())
        closing.transport.sendto(b"last", far.getsockname())
        closing.transport.close()
        aborting.transport.abort()
        while not (closing.lost and aborting.lost):
            got += waiting(far)
            w.run(until(lambda: True))
            w.check_gave_up()
    assert (got + waiting(far))[-1] == b"last"


@scenario
def datagrams_left(w: World):
    """The loop is stopped between the datagrams of a burst; the rest comes later."""
    far = peer(w)
    protocol = make(w, local_addr=("127.0.0.1", 0))
    address = protocol.transport.get_extra_info("sockname")
    received = protocol.datagram_received

    def stopping(data, addr):
        received(data, addr)
        w.loop.stop()

    protocol.datagram_received = stopping
    with w.armed():
        for n in range(4):
            far.sendto(b"%d" % n, address)
        for _ in range(8):
            w.run_once()
    del protocol.datagram_received
    assert protocol.datagrams == [b"0", b"1", b"2", b"3"]


class Refusing(Foreign):
    """Sends when it is asked the second time, and fails to receive."""

    asked = 0

    def sendto(self, *args):
        self.asked += 1
        if self.asked % 2:
            raise BlockingIOError
        return super().sendto(*args)

    def recvfrom(self, size):
        raise LookupError("of the socket")


@scenario
def failing_datagram_socket(w: World):
    far = peer(w)
    near = w.close_later(Refusing(socket.AF_INET, socket.SOCK_DGRAM))
    near.bind(("127.0.0.1", 0))
    near.setblocking(False)
    protocol = make(w, sock=near)
    with w.armed():
        for data in (b"a", b"b"):
            protocol.transport.sendto(data, far.getsockname())
        w.run(until(lambda: protocol.transport.get_write_buffer_size() == 0))
        far.sendto(b"abc", near.getsockname())
        w.run(until(lambda: protocol.lost))
    assert waiting(far) == [b"a", b"b"] and "LookupError" in w.seen.names


@scenario
def datagrams_by_methods(w: World):
    """Names of hosts and other families' addresses: the socket's methods are called."""
    far = peer(w)
    near = w.close_later(Foreign(socket.AF_INET, socket.SOCK_DGRAM))
    near.bind(("127.0.0.1", 0))
    near.setblocking(False)
    protocol = make(w, echo=True, sock=near)
    named = make(w, local_addr=("127.0.0.1", 0))
    with w.armed():
        far.sendto(b"abc", near.getsockname())
        w.run(until(lambda: protocol.datagrams))
        named.transport.sendto(b"def", ("localhost", far.getsockname()[1]))
        w.run(until(lambda: True))
    assert sorted(waiting(far)) == [b"abc", b"def"]


@scenario
def datagrams_over_ipv6(w: World):
    """Where there is IPv6."""
    near, far = (
        w.close_later(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        for _ in range(2)
    )
    for sock in (near, far):
        sock.setblocking(False)
        try:
            sock.bind(("::1", 0))
        except OSError:
            return
    protocol = make(w, echo=True, sock=near)
    with w.armed():
        far.sendto(b"abc", near.getsockname())
        w.run(until(lambda: protocol.datagrams))
        protocol.transport.sendto(b"def", (*far.getsockname()[:2], 0, 0))
        protocol.transport.close()
        w.run(until(lambda: protocol.lost))
    assert waiting(far) == [b"abc", b"def"]
