"""The scenarios of stream transports; see scenarios.py."""

import asyncio
import contextlib
import os
import socket

from scenarios import scenario
from world import BufferedRecorder, Recorder, World, until

LARGE = 60_000


def connect(w: World, sock, **options):
    """A transport over a connected socket, made and started; its protocol."""
    protocol = Recorder(w, **options)
    w.run(w.loop.create_connection(lambda: protocol, sock=sock))
    return protocol


def drain(sock):
    """What a non-blocking socket has; None after its end, or after an error."""
    data = bytearray()
    with contextlib.suppress(BlockingIOError):
        while part := sock.recv(1 << 20):
            data += part
        return None if not data else bytes(data)
    return bytes(data)


async def take(sock, size):
    """Read that many bytes of a plain socket while the loop runs."""
    data = bytearray()
    while len(data) < size:
        try:
            part = sock.recv(1 << 16)
        except BlockingIOError:
            await asyncio.sleep(
                0.002
            )  # seldom: a loop that spins is told by its CPU time
            continue
        if not part:
            break
        data += part
        await asyncio.sleep(0)
    return bytes(data)


@scenario
def make_transport(w: World):
    left, right = w.pair(socket.AF_INET)
    loop = w.loop
    protocol = Recorder(w)
    with w.armed():
        transport, _ = w.run(loop.create_connection(lambda: protocol, sock=left))
        transport.write(b"abc")
        transport.close()
        w.run(until(lambda: protocol.lost))
    assert drain(right) == b"abc"


@scenario
def echo(w: World):
    left, right = w.pair()
    protocol = connect(w, left, echo=True)
    with w.armed():
        right.send(b"abc")
        data = w.run(take(right, 3))
        right.shutdown(socket.SHUT_WR)
        w.run(until(lambda: protocol.lost))
    assert data == b"abc" and protocol.eof == 1 and protocol.error is None


@scenario
def buffered_echo(w: World):
    left, right = w.pair()
    protocol = BufferedRecorder(w, echo=True)
    w.run(w.loop.create_connection(lambda: protocol, sock=left))
    with w.armed():
        right.send(b"abc" * 50)
        data = w.run(take(right, 150))
        right.shutdown(socket.SHUT_WR)
        w.run(until(lambda: protocol.lost))
    assert data == b"abc" * 50 and protocol.error is None


@scenario
def write_kinds(w: World):
    left, right = w.pair()
    protocol = connect(w, left)
    transport = protocol.transport
    with w.armed():
        transport.write(b"a")
        transport.write(bytearray(b"b"))
        transport.write(memoryview(b"c"))
        transport.writelines([b"d", bytearray(b"e"), b"", memoryview(b"f")])
        transport.writelines(iter([b"g"]))
        transport.write_eof()
        got = w.run(take(right, 7))
        assert transport.get_write_buffer_size() == 0
    assert got == b"abcdefg"


@scenario
def write_queued(w: World):
    """More than the kernel takes: the queue, flow control, and its end."""
    left, right = w.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    protocol = connect(w, left)
    transport = protocol.transport
    data = bytes(range(256)) * (LARGE // 256)
    transport.set_write_buffer_limits(high=20_000)
    with w.armed():
        transport.write(data)
        for number in range(20):  # the queue grows
            transport.write(bytes([number]))
        transport.write(bytearray(b"z"))
        transport.writelines([b"x", b"y"])
        transport.close()
        got = w.run(take(right, len(data) + 23))
        w.run(until(lambda: protocol.lost))
    assert got == data + bytes(range(20)) + b"zxy"
    assert protocol.paused == 1 and protocol.error is None


@scenario
def flow_control(w: World):
    left, right = w.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    protocol = connect(w, left)
    transport = protocol.transport
    with w.armed():
        transport.set_write_buffer_limits(high=1000, low=10)
        assert transport.get_write_buffer_limits() == (10, 1000)
        transport.write(b"x" * LARGE)
        got = w.run(take(right, LARGE))
        w.run(until(lambda: protocol.resumed))
        transport.write_eof()
        w.run(take(right, 1))
    assert got == b"x" * LARGE and protocol.paused == protocol.resumed == 1


@scenario
def abort_with_queue(w: World):
    left, _ = w.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    protocol = connect(w, left)
    with w.armed():
        protocol.transport.write(b"x" * LARGE)
        protocol.transport.abort()
        w.run(until(lambda: protocol.lost))
    assert protocol.error is None


@scenario
def close_from_callback(w: World):
    left, right = w.pair()
    protocol = connect(w, left)
    protocol.data_received = w.call(lambda data: protocol.transport.close())
    with w.armed():
        right.send(b"x")
        w.run(until(lambda: protocol.lost))
    assert protocol.error is None


@scenario
def peer_resets(w: World):
    left, right = w.pair(socket.AF_INET)
    protocol = connect(w, left)
    with w.armed():
        w.reset(right)
        w.run(until(lambda: protocol.lost))
    assert isinstance(protocol.error, ConnectionResetError)


@scenario
def write_to_lost_peer(w: World):
    left, right = w.pair()
    protocol = connect(w, left)
    with w.armed():
        right.close()
        for _ in range(8):
            protocol.transport.write(b"x")
        w.run(until(lambda: protocol.lost))
    assert isinstance(protocol.error, (BrokenPipeError, type(None)))


@scenario
def writelines_queued(w: World):
    left, right = w.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    protocol = connect(w, left)
    lines = [bytes([number]) * 600 for number in range(100)]
    with w.armed():
        protocol.transport.writelines(lines)
        got = w.run(take(right, 60_000))
    assert got == b"".join(lines)


@scenario
def held_writes(w: World):
    """Several writes in each callback: learned, held and sent together."""

    def reply(data):
        for part in (b"a", b"b", bytearray(b"c")):
            protocol.transport.write(part)

    left, right = w.pair()
    protocol = connect(w, left)
    protocol.data_received = w.call(reply)
    with w.armed():
        for _ in range(6):
            right.send(b"x")
            assert w.run(take(right, 3)) == b"abc"


@scenario
def writes_of_a_batch(w: World):
    """Of several transports in one iteration: held until it ends, with a guard."""
    pairs = [w.pair() for _ in range(3)]
    transports = [connect(w, left).transport for left, _ in pairs]
    turns = 40
    with w.armed():
        for _ in range(turns):
            for transport in transports:
                w.loop.call_soon(transport.write, b"abc")
            w.run_once()
        for _, right in pairs:
            assert w.run(take(right, 3 * turns)) == b"abc" * turns
        for transport in transports:
            w.loop.call_soon(transport.write, b"end")
            w.loop.call_soon(transport.close)
        w.run_once()
    for _, right in pairs:
        assert w.run(take(right, 3)) == b"end"


@scenario
def pausing(w: World):
    left, right = w.pair()
    protocol = connect(w, left)
    transport = protocol.transport
    with w.armed():
        transport.pause_reading()
        right.send(b"abc")
        w.run_once()
        assert not protocol.data and not transport.is_reading()
        transport.resume_reading()
        w.run(until(lambda: len(protocol.data) == 3))


@scenario
def switch_protocol(w: World):
    left, right = w.pair()
    first = connect(w, left)
    second = BufferedRecorder(w)
    second.made = 1
    first.made = 0  # connection_lost is the second one's
    with w.armed():
        first.transport.set_protocol(second)
        assert first.transport.get_protocol() is second
        right.send(b"abc")
        w.run(until(lambda: len(second.data) == 3))


@scenario
def extra_info(w: World):
    left, _ = w.pair(socket.AF_INET)
    protocol = connect(w, left)
    transport = protocol.transport
    with w.armed():
        assert transport.get_extra_info("peername") == left.getpeername()
        assert transport.get_extra_info("sockname") == left.getsockname()
        assert transport.get_extra_info("socket").fileno() == left.fileno()
        assert transport.get_extra_info("nothing", 1) == 1
        repr(transport)
        for name in ("_extra", "_sock", "_loop", "_protocol", "_server", "_closing"):
            getattr(transport, name)
        transport.close()
        w.run(until(lambda: protocol.lost))
    assert transport.get_extra_info("sockname") is not None
    repr(transport)


@scenario
def failing_protocol(w: World):
    """Each method of the protocol raises."""

    class Failing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise LookupError("made")

        def data_received(self, data):
            raise LookupError("data")

        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise LookupError("lost")

    left, right = w.pair()
    protocol = Failing(w)
    w.loop  # noqa: B018
    with w.armed():
        right.send(b"x")
        w.run(w.loop.create_connection(lambda: protocol, sock=left))
        w.run(until(lambda: protocol.lost))
    assert "LookupError" in w.seen.names


@scenario
def failing_flow_control(w: World):
    """The protocol raises when it is told to pause, to go on, and of the end."""

    class Failing(Recorder):
        def pause_writing(self):
            super().pause_writing()
            raise LookupError("pause")

        def resume_writing(self):
            super().resume_writing()
            raise LookupError("resume")

        def eof_received(self):
            super().eof_received()
            raise LookupError("eof")

    left, right = w.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    protocol = Failing(w)
    w.run(w.loop.create_connection(lambda: protocol, sock=left))
    protocol.transport.set_write_buffer_limits(high=1000)
    with w.armed():
        protocol.transport.write(b"x" * LARGE)
        got = w.run(take(right, LARGE))
        w.run(until(lambda: protocol.resumed or protocol.lost))
        right.shutdown(socket.SHUT_WR)
        w.run(until(lambda: protocol.lost))
    assert got == b"x" * LARGE and protocol.paused == protocol.eof == 1


@scenario
def failing_buffers(w: World):
    """A BufferedProtocol without a buffer, and one that does not take its data."""

    def fail(*args):
        raise LookupError("of the protocol")

    protocols = []
    sockets = [w.pair(), w.pair()]
    for (left, _), name in zip(sockets, ("get_buffer", "buffer_updated"), strict=True):
        protocol = BufferedRecorder(w)
        protocols.append(protocol)
        w.run(w.loop.create_connection(lambda p=protocol: p, sock=left))
        setattr(protocol, name, fail)
    with w.armed():
        for _, right in sockets:
            right.send(b"abc")
        w.run(until(lambda: all(p.lost for p in protocols)))
    del protocols[0].get_buffer, protocols[1].buffer_updated
    assert "LookupError" in w.seen.names


@scenario
def large_reads(w: World):
    """More than the shared buffer holds: received into the object handed out."""
    left, right = w.pair()
    size = 1 << 20
    data = bytes(range(256)) * (1 << 9)

    async def main():
        sending = asyncio.ensure_future(loop.sock_sendall(right, data))
        received = bytearray()
        while len(received) < len(data):
            part = await loop.sock_recv(left, size)
            if not part:
                break
            received += part
        await sending
        protocol = Recorder(w)
        await loop.create_connection(lambda: protocol, sock=left)
        sending = asyncio.ensure_future(loop.sock_sendall(right, data))
        await until(lambda: len(protocol.data) == len(data) or protocol.lost)
        await sending
        return received, protocol.data

    loop = w.loop
    with w.armed():
        first, second = w.run(main())
    assert first == second == data


@scenario
def dropped_transport(w: World):
    left, _ = w.pair()
    protocol = connect(w, left)
    protocol.made = 0  # nobody will tell it of the end
    with w.armed():
        protocol.transport.pause_reading()
        protocol.transport = None


@scenario
def fewer_writes(w: World):
    """Fewer writes than were learned, to two transports: what is held is sent."""

    def reply(data):
        for part in (b"a", b"b")[: len(data)]:
            protocol.transport.write(part)
        if len(data) == 2:
            other.transport.write(b"z")

    left, right = w.pair()
    far, near = w.pair()
    protocol, other = connect(w, left), connect(w, far)
    protocol.data_received = w.call(reply)
    with w.armed():
        for _ in range(5):
            right.send(b"xx")
            assert w.run(take(right, 2)) == b"ab"
        right.send(b"x")
        assert w.run(take(right, 1)) == b"a"
        assert w.run(take(near, 5)) == b"zzzzz"


class Foreign(socket.socket):
    """Of a family whose addresses only its own methods know."""

    family = socket.AF_PACKET


@scenario
def addresses_by_methods(w: World):
    left, _ = w.pair(socket.AF_INET)
    foreign = w.close_later(Foreign(fileno=left.detach()))
    foreign.setblocking(False)
    protocol = connect(w, foreign)
    transport = protocol.transport
    with w.armed():
        assert transport.get_extra_info("sockname") == foreign.getsockname()
        assert transport.get_extra_info("peername") == foreign.getpeername()
        transport.abort()
        w.run(until(lambda: protocol.lost))


@scenario
def descriptor_lost(w: World):
    """What a closing transport has to send finds its number another transport's."""
    left, _ = w.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    first = connect(w, left)
    with w.armed():
        first.transport.write(bytes(LARGE))
        first.transport.close()
        os.close(left.detach())
        near, far = w.pair()
        second = connect(w, near)
        second.transport.write(b"abc")
        assert w.run(take(far, 3)) == b"abc"
        first.transport.abort()
        w.run(until(lambda: first.lost))
