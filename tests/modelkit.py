"""What the random programs on transports share: the connections, the steps, the trace.

A program is a list of steps: calls of the transport's methods, and what the peer does.
The peer is a plain non-blocking socket. A program runs on a fresh loop, and its trace
is what can be seen from outside: results and errors of the calls, the protocol's
callbacks in their order, and the bytes that came on both sides.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
import tempfile

import pytest
import support
from streamkit import (
    BufferedRecorder,
    Recorder,
    listening,
    pattern,
    record_errors,
    settle,
    until,
)

hypothesis = pytest.importorskip(
    "hypothesis", reason="the random programs are made by hypothesis"
)

KINDS = [
    f"{side} {family}"
    for side in ("client", "server")
    for family in ("socketpair", "unix", "tcp")
]
"""Whose transport is tested, and over what: the peer is the other side."""

SMALL = 40
"""Bytes of a write that the kernel always takes whole."""

LARGE = 400_000
"""Bytes of a write that the kernel, with these buffers, never takes whole."""

SNDBUF = {"socketpair": 8192, "unix": 8192, "tcp": 1 << 16}
"""SO_SNDBUF of the transport's end.

Linux does not hand it on to accepted Unix sockets, whose own is less than LARGE.
"""

PEER_RCVBUF = 1 << 16
"""SO_RCVBUF of a TCP peer: a larger one would take LARGE."""

PEER_SNDBUF = 1 << 20
"""SO_SNDBUF of a TCP peer: it takes what a program sends."""

LIMIT = 20
"""Seconds after which a program is taken to hang."""


def for_peer(sock):
    """Set the buffers of a TCP peer, or of the listener that it is accepted from."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PEER_RCVBUF)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PEER_SNDBUF)


def unix_listener(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen()
    return sock


class Program:
    """One run of a list of steps on one loop; `trace` is what was seen."""

    factories = (Recorder, BufferedRecorder)

    def __init__(self, loop, kind, buffered, keep_open, inside):
        self.loop = loop
        self.side, self.family = kind.split()
        self.buffered = buffered
        self.keep_open = keep_open
        self.inside = inside
        self.trace = []
        self.transport = None
        self.received = hashlib.sha256()
        self.received_bytes = 0
        self.written = 0
        self.writes = 0
        self.ending = False
        self.reset = False
        self.peer_sent = 0
        self.peer_sends = 0
        self.peer_ended = False
        self.got = 0
        self.activity = 0

    # -- the protocol --

    def protocol(self, name):
        """A recorder whose calls go into the trace."""
        protocol = self.factories[self.buffered]()
        protocol.keep_open = self.keep_open

        def seen(call):
            self.activity += 1
            if call == "connection_made":
                self.transport = protocol.transport
            last = protocol.calls[-1]
            if call == "data_received":
                self.note_data(name, last[1])
            elif call == "buffer_updated":
                self.note_data(name, bytes(protocol.buffer[: last[1]]))
            else:
                self.trace.append((name, call, *map(type, last[1:])))
            if call == self.inside[0] and not self.lost():
                self.step(self.inside[1])

        protocol.on = seen
        return protocol

    def first(self):
        return self.protocol("first")

    def note_data(self, name, data):
        """Pieces of one stream may be cut anywhere: join them."""
        self.got += len(data)
        if self.trace and self.trace[-1][:2] == (name, "data"):
            data = self.trace.pop()[2] + data
        self.trace.append((name, "data", data))

    def called(self, name):
        return any(entry[1] == name for entry in self.trace)

    def lost(self):
        return self.called("connection_lost")

    # -- steps --

    def allowed(self, step):
        """Leave out what asyncio does wrongly, or differently per version."""
        closing = self.transport.is_closing()
        if self.lost():
            # abort() after a close() that had to wait is an AttributeError.
            return step not in ("abort", "writelines", "writelines twice")
        if step.startswith("writelines"):
            # From 3.12 writelines() knows neither closing nor lost connections, and
            # tries to send although there is a queue.
            gone = self.peer.fileno() < 0
            return not (closing or (gone and self.transport.get_write_buffer_size()))
        if step in ("pause", "resume"):
            # After eof_received() returned true, asyncio tells the end again.
            return not self.called("eof_received")
        return True

    def state(self):
        """What the transport says of itself."""
        transport = self.transport
        return (transport.is_closing(), transport.is_reading()) + (
            () if self.lost() else (transport.get_write_buffer_size() > 0,)
        )

    def step(self, step):
        if not self.allowed(step):
            return
        method = getattr(self, "do_" + step.replace(" ", "_"))
        try:
            result = method()
        except Exception as exc:
            # asyncio before 3.12 names write() where writelines() was called.
            text = str(exc).replace("writelines()", "write()")
            self.trace.append(("", step, type(exc), text))
        else:
            assert result is None
        self.trace.append(("", step, *self.state()))

    def write(self, *sizes):
        """Write that many bytes, with writelines() unless it is one piece."""
        self.writes += 1
        pieces = [pattern(size, self.writes) for size in sizes]
        if len(pieces) == 1:
            self.transport.write(pieces[0])
        else:
            self.transport.writelines(pieces)
        self.written += sum(sizes)

    def do_write_small(self):
        self.write(SMALL)

    def do_write_large(self):
        self.write(LARGE)

    def do_write_nothing(self):
        self.write(0)

    def do_write_text(self):
        self.transport.write("text")

    def do_writelines(self):
        self.write(SMALL, 0, 7)

    def do_writelines_twice(self):
        self.write(3, 0)
        if not self.transport.is_closing():
            self.write(SMALL, 1)

    def do_pause(self):
        self.transport.pause_reading()

    def do_resume(self):
        self.transport.resume_reading()

    def do_close(self):
        self.ending = True
        self.transport.close()

    def do_abort(self):
        self.ending = True
        self.transport.abort()

    def do_write_eof(self):
        self.transport.write_eof()
        self.ending = True

    def do_limits_high(self):
        self.transport.set_write_buffer_limits(high=10 * LARGE)

    def do_limits_zero(self):
        self.transport.set_write_buffer_limits(high=0)

    def do_switch_protocol(self):
        if not self.lost():
            self.buffered = not self.buffered
            self.transport.set_protocol(self.protocol("second"))

    def do_peer_sends(self):
        self.peer_send(SMALL)

    def do_peer_sends_much(self):
        self.peer_send(20_000)

    def peer_send(self, size):
        if self.peer.fileno() < 0:
            return
        self.peer_sends += 1
        try:
            self.peer_sent += self.peer.send(pattern(size, self.peer_sends))
        except BlockingIOError:
            self.trace.append(("peer", "blocked"))
        except OSError as exc:
            self.trace.append(("peer", type(exc)))

    def do_peer_shuts(self):
        try:
            self.peer.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self.trace.append(("peer", exc.errno))
        self.peer_ended = True

    def do_peer_closes(self):
        self.peer.close()
        self.peer_ended = True

    # -- letting things happen --

    def peer_take(self, data):
        self.received.update(data)
        self.received_bytes += len(data)

    def peer_read(self):
        """Take what the peer has now; whether that was the end, and how it ended."""
        try:
            while data := self.peer.recv(1 << 20):
                self.peer_take(data)
        except BlockingIOError:
            self.acknowledge()
            return None
        except OSError as exc:
            # What the closing end had not sent yet may be gone.
            self.reset = True
            return type(exc)
        return "eof"

    def acknowledge(self):
        """Have TCP say at once what was read: buffers are then as empty as can be."""
        if self.family == "tcp":
            self.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def incoming(self):
        """Whether the protocol has something to be told that the peer did."""
        if self.lost() or self.called("eof_received"):
            return False
        if self.transport.is_closing() or not self.transport.is_reading():
            return False
        return self.peer_ended or self.got < self.peer_sent

    def outgoing(self):
        """Whether there is something that the peer has not read, its end included."""
        return (
            self.ending
            or self.lost()
            or self.transport.is_closing()
            or self.received_bytes < self.written
        )

    async def let_run(self):
        """Run until nothing more happens: how much is read at once differs."""
        before = -1
        while before != self.activity or self.incoming():
            before = self.activity
            await settle(self.loop)

    async def read_everything(self):
        """Have the peer read until there is nothing more to come."""
        while self.peer.fileno() >= 0:
            end = self.peer_read()
            await self.let_run()
            if end is not None:
                self.trace.append(("peer", end))
                break
            if not self.outgoing():
                break
        amount = None if self.reset else self.received_bytes
        self.trace.append(("peer", "has", amount))

    # -- connections --

    def arguments(self):
        """What is given to the coroutine that makes the transport, or the server."""
        return {}

    async def greet(self):
        """What the peer does before the transport is made."""

    async def connect(self, made):
        """Be a client: *made* connects to `listener`, or has it done already."""
        made = asyncio.ensure_future(made)
        if self.family != "socketpair":
            with self.listener as listener:
                listener.setblocking(False)
                self.peer, _ = await self.loop.sock_accept(listener)
        self.peer.setblocking(False)
        await self.greet()
        transport, _ = await made
        assert transport is self.transport
        if self.family != "socketpair" and not self.lost():
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SNDBUF[self.family])

    async def accept(self, server, peer):
        """Be a server, which *peer* connects to."""
        sock = server.sockets[0]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SNDBUF[self.family])
        self.peer = peer
        peer.connect(sock.getsockname())
        peer.setblocking(False)
        await self.greet()
        await until(lambda: self.transport is not None, "connection_made()")
        await self.let_run()

    async def start(self, folder):
        """Make the connection; returns the server if there is one."""
        loop, more = self.loop, self.arguments()
        kind = f"{self.side} {self.family}"
        if self.family == "socketpair":
            near, self.peer = socket.socketpair()
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SNDBUF[self.family])
            if self.side == "client":
                made = loop.create_connection(self.first, sock=near, **more)
            else:
                made = loop.connect_accepted_socket(self.first, near, **more)
            await self.connect(made)
        elif kind == "client tcp":
            self.listener = listening()
            for_peer(self.listener)
            host, port = self.listener.getsockname()
            await self.connect(loop.create_connection(self.first, host, port, **more))
        elif kind == "client unix":
            path = os.path.join(folder, "s")
            self.listener = unix_listener(path)
            await self.connect(loop.create_unix_connection(self.first, path, **more))
        elif kind == "server tcp":
            server = await loop.create_server(self.first, "127.0.0.1", 0, **more)
            peer = socket.socket()
            for_peer(peer)
            await self.accept(server, peer)
            return server
        else:
            path = os.path.join(folder, "s")
            server = await loop.create_unix_server(self.first, path, **more)
            await self.accept(server, socket.socket(socket.AF_UNIX))
            return server
        return None

    async def run(self, steps):
        with contextlib.ExitStack() as stack:
            folder = None
            if self.family == "unix":
                folder = stack.enter_context(tempfile.TemporaryDirectory())
            server = await self.start(folder)
            for step in steps:
                if step == "let run":
                    await self.let_run()
                elif step == "peer reads":
                    await self.read_everything()
                else:
                    self.step(step)
            await self.finish()
            if server is not None:
                server.close()
                await server.wait_closed()

    async def finish(self):
        await self.read_everything()
        if not self.reset:
            self.trace.append(("peer", "has", self.received.hexdigest()))
        self.trace.append(("", "lost", self.lost()))
        self.peer.close()
        if not self.lost():
            self.transport.abort()
        await settle(self.loop)
        lost = [entry for entry in self.trace if entry[1:2] == ("connection_lost",)]
        assert len(lost) == 1


def trace(program_class, loop_kind, steps, **settings):
    """What is seen when *steps* run on a new loop of this kind."""
    loop = support.make_loop(loop_kind)
    try:
        errors = record_errors(loop)
        program = program_class(loop, **settings)
        support.run(loop, program.run(steps), LIMIT)
        program.trace.append(("", "errors", *errors.messages))
        return program.trace
    finally:
        loop.close()


def agree(program_class, loop_kind, steps, **settings):
    """The program is seen to do the same on this kind of loop and on asyncio's.

    On a busy machine two runs on asyncio's own loop have been seen to differ. Such a
    model says nothing, and both are run again, at most twice.
    """
    for _ in range(3):
        expected = trace(program_class, "asyncio", steps, **settings)
        got = trace(program_class, loop_kind, steps, **settings)
        if got == expected:
            return
        if loop_kind != "asyncio" and expected == trace(
            program_class, "asyncio", steps, **settings
        ):
            break  # asyncio is sure of it
    assert got == expected


def examples(count):
    """Settings of hypothesis: *count* examples, the same in every run."""
    return hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
