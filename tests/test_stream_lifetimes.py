"""Stream transports: descriptor numbers that others use next, objects that go away.

What is done here to a transport's socket is not allowed, but happens; it must cost the
one transport only.
"""

import asyncio
import gc
import os
import socket
import sys

import pytest
from streamkit import (
    Recorder,
    connected,
    listening,
    on_loop,
    oracle_bug,
    record_errors,
    resource_warnings,
    settle,
    socket_pair,
    until,
)


def close_and_reuse(sock):
    """Close sock behind its transport's back; sockets of which one has its number."""
    number = sock.fileno()
    sock.close()
    pair = socket.socketpair()
    assert number in {end.fileno() for end in pair}
    return pair if pair[0].fileno() == number else pair[::-1]


@on_loop
async def test_a_closing_transport_leaves_the_next_user_of_its_number_alone(loop):
    """The second transport is made between close() and connection_lost()."""
    near, far = socket.socketpair()
    first, first_protocol = await loop.create_connection(Recorder, sock=near)
    first.close()
    near, peer = close_and_reuse(near)
    second, protocol = await loop.create_connection(Recorder, sock=near)
    assert first_protocol.lost.done()
    with far, peer:
        for call in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                call(near, print)
        peer.send(b"abc")
        assert await protocol.received(3) == b"abc"
        second.close()
        await protocol.lost


@pytest.mark.parametrize("end", ["close", "abort"])
@on_loop
async def test_the_number_of_a_closed_socket_is_accepted(loop, loop_kind, end):
    """The first transport ends when the second one has been open for long."""
    oracle_bug(loop_kind, True, "removes the reader of the second one")
    errors = record_errors(loop)
    accepted = []

    def factory():
        accepted.append(Recorder())
        return accepted[0]

    near, far = socket_pair("tcp")
    first, first_protocol = await loop.create_connection(Recorder, sock=near)
    server = await loop.create_server(factory, sock=listening())
    address = server.sockets[0].getsockname()
    with socket.socket() as peer, far:
        number = near.fileno()
        near.close()
        peer.connect(address)
        await until(lambda: accepted and accepted[0].made.done(), "a connection")
        assert accepted[0].transport._sock_fd == number
        getattr(first, end)()
        await first_protocol.lost
        peer.send(b"abc")
        assert await accepted[0].received(3) == b"abc"
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(number, print)
        accepted[0].transport.close()
        assert await accepted[0].lost is None
    server.close()
    await server.wait_closed()
    assert errors.contexts == []


@on_loop
async def test_the_user_waits_for_the_number_of_a_closed_socket(loop, loop_kind):
    oracle_bug(loop_kind, True, "removes the user's reader")
    near, far = socket.socketpair()
    transport, protocol = await loop.create_connection(Recorder, sock=near)
    transport.close()
    near, peer = close_and_reuse(near)
    readable = asyncio.Event()
    with far, near, peer:
        loop.add_reader(near, readable.set)
        await protocol.lost
        peer.send(b"x")
        await asyncio.wait_for(readable.wait(), 10)
        assert loop.remove_reader(near) is True


class Evil:
    """Compared with anything, it gives the transport another protocol."""

    def __init__(self):
        self.transport = None
        self.next = Recorder()

    def __eq__(self, other):
        self.transport.set_protocol(self.next)
        gc.collect()
        return True

    __hash__ = None


class Removes(list):
    """A protocol whose methods are C functions: they keep no reference to it."""

    data_received = list.remove
    buffer_updated = list.remove

    def get_buffer(self, hint):
        return bytearray(10)

    def connection_made(self, transport):
        self[0].transport = transport

    def connection_lost(self, exc):
        pass


class BufferedRemoves(Removes, asyncio.BufferedProtocol):
    pass


@pytest.mark.parametrize("cls", [Removes, BufferedRemoves])
@on_loop
async def test_a_protocol_that_its_own_method_drops(loop, cls):
    evil = Evil()
    near, far = socket.socketpair()
    with far:
        transport, _ = await loop.create_connection(
            lambda: cls([evil, 1, 2]), sock=near
        )
        del _
        far.send(b"x")
        await until(lambda: transport.get_protocol() is evil.next, "set_protocol()")
        far.send(b"y")
        assert await evil.next.received(1) == b"y"
        transport.close()
        await evil.next.lost


@on_loop
async def test_set_protocol_in_the_death_of_a_protocol(loop):
    class Dying(Recorder):
        def __del__(self):
            transport.set_protocol(last)

    last = Recorder()
    near, far = socket.socketpair()
    with far:
        transport, protocol = await loop.create_connection(Dying, sock=near)
        del protocol
        transport.set_protocol(Recorder())
        gc.collect()
        assert transport.get_protocol() is last
        far.send(b"x")
        assert await last.received(1) == b"x"
        transport.close()
        await last.lost


@on_loop
async def test_the_end_in_the_death_of_a_protocol(loop, loop_kind):
    """_call_connection_lost() is asyncio's own callback, and ends it at once."""
    oracle_bug(loop_kind, True, "keeps the protocol that was set")

    class Dying(Recorder):
        def __del__(self):
            transport._call_connection_lost(None)

    near, far = socket.socketpair()
    with far:
        transport, protocol = await loop.create_connection(Dying, sock=near)
        del protocol
        last = Recorder()
        transport.set_protocol(last)
        gc.collect()
        assert transport.get_protocol() is None
        assert last.names == ["connection_lost"]
        assert far.recv(1) == b""


class Disguised(Recorder):
    """A protocol that says of itself that it is a BufferedProtocol, and acts."""

    transport_to_change = None

    @property
    def __class__(self):
        if self.transport_to_change is not None:
            transport, self.transport_to_change = self.transport_to_change, None
            transport.set_protocol(self.next)
        return asyncio.BufferedProtocol


@on_loop
async def test_set_protocol_while_a_protocol_is_looked_at(loop, loop_kind):
    oracle_bug(loop_kind, True, "the outer set_protocol() is the last")
    async with connected() as (transport, _, peer):
        disguised = Disguised()
        disguised.next = Recorder()
        disguised.transport_to_change = transport
        transport.set_protocol(disguised)
        assert transport.get_protocol() is disguised.next
        peer.send(b"x")
        assert await disguised.next.received(1) == b"x"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ is new in 3.12")
@pytest.mark.parametrize("method", ["__buffer__", "__release_buffer__"])
@on_loop
async def test_a_buffer_whose_own_methods_end_the_transport(loop, loop_kind, method):
    """By asyncio's callback, so that the descriptor is closed, and used again."""
    oracle_bug(loop_kind, True, "goes on with the socket that is None")
    errors = record_errors(loop)
    pipe = []

    class Buffer:
        def __init__(self):
            self.memory = bytearray(10)

        def __len__(self):
            return 10

        def act(self, name):
            if name == method and transport._sock is not None:
                transport._call_connection_lost(None)
                pipe.extend(os.pipe())
                os.write(pipe[1], b"not for you")

        def __buffer__(self, flags):
            self.act("__buffer__")
            return memoryview(self.memory)

        def __release_buffer__(self, view):
            self.act("__release_buffer__")

    class Protocol(asyncio.BufferedProtocol):
        def get_buffer(self, hint):
            return Buffer()

        def buffer_updated(self, nbytes):
            pass

    near, far = socket.socketpair()
    with far, resource_warnings():
        transport, _ = await loop.create_connection(Protocol, sock=near)
        far.send(b"x")
        await until(lambda: pipe, "the buffer")
        await settle(loop)
    assert os.read(pipe[0], 100) == b"not for you"
    for fd in pipe:
        os.close(fd)
    assert errors.contexts == []
