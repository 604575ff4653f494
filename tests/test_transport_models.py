"""Random programs on one stream transport, with asyncio's own loop as the model.

A program is a list of steps: calls of the transport's methods, and what the peer does.
It runs on a fresh loop of each kind, and what can be seen from outside has to be the
same: results and errors of the calls, the protocol's callbacks in their order, and
every byte the peer gets.  Known faults of asyncio are left out by `allowed`.

The examples are the same in every run (derandomize).
"""

import hashlib
import socket

import pytest
import support
from streamkit import (
    BufferedRecorder,
    Recorder,
    pattern,
    record_errors,
    settle,
)

hypothesis = pytest.importorskip(
    "hypothesis", reason="the random programs are made by hypothesis"
)
st = hypothesis.strategies

SMALL = 40
"""Bytes of a write that the kernel always takes whole."""

LARGE = 400_000
"""Bytes of a write that the kernel, with this SO_SNDBUF, never takes whole."""

SNDBUF = 8192

STEPS = [
    "write small",
    "write small",
    "write large",
    "write nothing",
    "write text",
    "writelines",
    "writelines twice",
    "pause",
    "resume",
    "close",
    "abort",
    "write_eof",
    "limits high",
    "limits zero",
    "switch protocol",
    "peer sends",
    "peer sends",
    "peer sends much",
    "peer reads",
    "peer reads",
    "peer shuts",
    "peer closes",
    "let run",
    "let run",
    "let run",
]


class Program:
    """One run of a list of steps on one loop; `trace` is what was seen."""

    def __init__(self, loop, buffered, keep_open, inside):
        self.loop = loop
        self.kind = BufferedRecorder if buffered else Recorder
        self.keep_open = keep_open
        self.inside = inside
        self.trace = []
        self.received = hashlib.sha256()
        self.received_bytes = 0
        self.sent = 0
        self.peer_sent = 0
        self.activity = 0

    def protocol(self, name):
        """A recorder whose calls go into the trace."""
        protocol = self.kind()
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

    def note_data(self, name, data):
        """Pieces of one stream may be cut anywhere: join them."""
        if self.trace and self.trace[-1][:2] == (name, "data"):
            data = self.trace.pop()[2] + data
        self.trace.append((name, "data", data))

    def lost(self):
        return any(entry[1] == "connection_lost" for entry in self.trace)

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
            return not any(entry[1] == "eof_received" for entry in self.trace)
        return True

    def next_bytes(self, size):
        self.sent += 1
        return pattern(size, self.sent)

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
        transport = self.transport
        self.trace.append(
            ("", step, transport.is_closing(), transport.is_reading())
            + (() if self.lost() else (transport.get_write_buffer_size() > 0,))
        )

    def do_write_small(self):
        self.transport.write(self.next_bytes(SMALL))

    def do_write_large(self):
        self.transport.write(self.next_bytes(LARGE))

    def do_write_nothing(self):
        self.transport.write(b"")

    def do_write_text(self):
        self.transport.write("text")

    def do_writelines(self):
        self.transport.writelines([self.next_bytes(SMALL), b"", self.next_bytes(7)])

    def do_writelines_twice(self):
        self.transport.writelines([self.next_bytes(3)])
        if not self.transport.is_closing():
            self.transport.writelines([self.next_bytes(SMALL)])

    def do_pause(self):
        self.transport.pause_reading()

    def do_resume(self):
        self.transport.resume_reading()

    def do_close(self):
        self.transport.close()

    def do_abort(self):
        self.transport.abort()

    def do_write_eof(self):
        self.transport.write_eof()

    def do_limits_high(self):
        self.transport.set_write_buffer_limits(high=10 * LARGE)

    def do_limits_zero(self):
        self.transport.set_write_buffer_limits(high=0)

    def do_switch_protocol(self):
        if not self.lost():
            self.kind = Recorder if self.kind is BufferedRecorder else BufferedRecorder
            self.transport.set_protocol(self.protocol("second"))

    def do_peer_sends(self):
        self.peer_send(SMALL)

    def do_peer_sends_much(self):
        self.peer_send(20_000)

    def peer_send(self, size):
        if self.peer.fileno() < 0:
            return
        self.peer_sent += 1
        try:
            self.peer.send(pattern(size, self.peer_sent))
        except BlockingIOError:
            self.trace.append(("peer", "blocked"))
        except OSError as exc:
            self.trace.append(("peer", type(exc)))

    def do_peer_shuts(self):
        try:
            self.peer.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self.trace.append(("peer", exc.errno))

    def do_peer_closes(self):
        self.peer.close()

    def do_peer_reads(self):
        """What there is now; all of it is compared at the end."""
        if self.peer.fileno() < 0:
            return
        try:
            while data := self.peer.recv(1 << 20):
                self.received.update(data)
                self.received_bytes += len(data)
            self.trace.append(("peer", "eof"))
        except BlockingIOError:
            pass
        except OSError as exc:
            self.trace.append(("peer", type(exc)))

    async def let_run(self):
        """Run until nothing more happens: how much is read at once differs."""
        before = -1
        while before != self.activity:
            before = self.activity
            await settle(self.loop)

    async def read_everything(self):
        """Read until nothing more comes."""
        before = -1
        while before != self.received_bytes:
            before = self.received_bytes
            self.do_peer_reads()
            await self.let_run()

    async def run(self, steps):
        near, self.peer = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SNDBUF)
        self.peer.setblocking(False)
        self.transport = None
        made = self.loop.create_connection(lambda: self.protocol("first"), sock=near)
        assert (await made)[0] is self.transport
        for step in steps:
            if step == "let run":
                await self.let_run()
            elif step == "peer reads":
                await self.read_everything()
                self.trace.append(("peer", "has", self.received_bytes))
            else:
                self.step(step)
        await self.read_everything()
        self.trace.append(("peer", "has", self.received.hexdigest()))
        self.trace.append(("", "lost", self.lost()))
        self.peer.close()
        if not self.lost():
            self.transport.abort()
        await settle(self.loop)
        lost = [entry for entry in self.trace if entry[1:2] == ("connection_lost",)]
        assert len(lost) == 1


def trace(kind, steps, **settings):
    """What is seen when *steps* run on a new loop of this kind."""
    loop = support.make_loop(kind)
    try:
        errors = record_errors(loop)
        program = Program(loop, **settings)
        support.run(loop, program.run(steps), 60)
        program.trace.append(("", "errors", *errors.messages))
        return program.trace
    finally:
        loop.close()


def agree(kind, steps, **settings):
    expected = trace("asyncio", steps, **settings)
    got = trace(kind, steps, **settings)
    assert got == expected


programs = st.lists(st.sampled_from(STEPS), min_size=1, max_size=14)
insides = st.one_of(
    st.just(("nowhere", "close")),
    st.tuples(
        st.sampled_from(
            ["connection_made", "data_received", "buffer_updated", "eof_received"]
        ),
        st.sampled_from(["write small", "pause", "close", "abort", "write_eof"]),
    ),
)


def examples(count):
    return hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@hypothesis.given(steps=programs, buffered=st.booleans(), keep_open=st.booleans())
@examples(150)
def test_random_programs(loop_kind, steps, buffered, keep_open):
    agree(
        loop_kind,
        steps,
        buffered=buffered,
        keep_open=keep_open,
        inside=("nowhere", "close"),
    )


@hypothesis.given(steps=programs, buffered=st.booleans(), inside=insides)
@examples(100)
def test_random_programs_with_calls_inside_callbacks(
    loop_kind, steps, buffered, inside
):
    agree(loop_kind, steps, buffered=buffered, keep_open=False, inside=inside)


@pytest.mark.parametrize(
    "steps",
    [
        ["write large", "close", "write small", "peer reads"],
        ["write large", "write_eof", "close", "peer reads"],
        ["write large", "peer closes", "let run"],
        ["peer sends", "peer closes", "write small", "let run"],
        ["pause", "peer sends", "peer closes", "let run", "resume", "let run"],
        ["pause", "peer closes", "write small", "write small", "let run"],
        ["limits zero", "write large", "peer reads", "write large", "abort"],
        ["write_eof", "write small", "peer shuts", "let run"],
        ["write large", "limits high", "limits zero", "peer reads", "let run"],
        ["write large", "switch protocol", "peer reads", "peer sends", "let run"],
        ["close", "switch protocol", "let run"],
        ["peer sends", "switch protocol", "let run", "peer shuts", "let run"],
    ],
    ids=" / ".join,
)
@pytest.mark.parametrize("buffered", [False, True])
def test_chosen_programs(loop_kind, steps, buffered):
    for keep_open in (False, True):
        agree(
            loop_kind,
            steps,
            buffered=buffered,
            keep_open=keep_open,
            inside=("nowhere", "close"),
        )


def test_the_steps_are_methods():
    for step in STEPS:
        if step != "let run":
            assert callable(getattr(Program, "do_" + step.replace(" ", "_")))
