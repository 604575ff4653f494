"""Random programs on one pipe transport, with asyncio's own loop as the model.

As test_transport_models.py does it for sockets: a list of steps runs on a loop of each
kind, and what can be seen from outside has to be the same. Known faults of asyncio are
left out by `allowed`. The examples are the same in every run (derandomize).
"""

import hashlib

import pytest
import support
from pipekit import descriptors, file_of, take, until_closed
from streamkit import Recorder, pattern, record_errors, settle

hypothesis = pytest.importorskip(
    "hypothesis", reason="the random programs are made by hypothesis"
)
st = hypothesis.strategies

SMALL = 40
"""Bytes of a write that the kernel always takes whole, several times running."""

LARGE = 700_000
"""Bytes of a write that no kind of pipe takes whole."""

WRITER_STEPS = [
    "write small",
    "write small",
    "write large",
    "write nothing",
    "writelines",
    "close",
    "abort",
    "write_eof",
    "limits high",
    "limits zero",
    "switch protocol",
    "peer reads",
    "peer reads",
    "peer reads all",
    "peer closes",
    "let run",
    "let run",
    "let run",
]

READER_STEPS = [
    "pause",
    "resume",
    "close",
    "switch protocol",
    "peer sends",
    "peer sends",
    "peer sends much",
    "peer closes",
    "let run",
    "let run",
    "let run",
]


class Program:
    """One run of a list of steps on one loop; `trace` is what was seen."""

    def __init__(self, loop, inside):
        self.loop = loop
        self.inside = inside
        self.trace = []
        self.activity = 0
        self.sent = 0
        self.taken = hashlib.sha256()
        self.taken_bytes = 0
        self.transport = None

    def protocol(self, name):
        protocol = Recorder()

        def seen(call):
            self.activity += 1
            self.transport = self.transport or protocol.transport
            last = protocol.calls[-1]
            if call == "data_received":
                self.note_data(name, last[1])
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
        """Leave out what asyncio does wrongly."""
        if step == "abort":  # connection_lost() is scheduled already: twice is an error
            closing = self.transport.is_closing()
            return not closing or self.transport.get_write_buffer_size() > 0
        if step == "limits high":  # resume_writing() waits for the queue to be empty
            calls = [entry[1] for entry in self.trace]
            return calls.count("pause_writing") == calls.count("resume_writing")
        return True

    def step(self, step):
        if not self.allowed(step):
            return
        assert getattr(self, "do_" + step.replace(" ", "_"))() is None
        self.trace.append(("", step, self.transport.is_closing()))

    def next_bytes(self, size):
        self.sent += 1
        return pattern(size, self.sent)

    def do_write_small(self):
        self.transport.write(self.next_bytes(SMALL))

    def do_write_large(self):
        self.transport.write(self.next_bytes(LARGE))

    def do_write_nothing(self):
        self.transport.write(b"")

    def do_writelines(self):
        self.transport.writelines([self.next_bytes(SMALL), b"", self.next_bytes(7)])

    def do_close(self):
        self.transport.close()

    def do_abort(self):
        self.transport.abort()

    def do_write_eof(self):
        self.transport.write_eof()

    def do_limits_high(self):
        self.transport.set_write_buffer_limits(high=20 * LARGE)

    def do_limits_zero(self):
        self.transport.set_write_buffer_limits(high=0)

    def do_pause(self):
        self.transport.pause_reading()

    def do_resume(self):
        self.transport.resume_reading()

    def do_switch_protocol(self):
        if not self.lost():
            self.transport.set_protocol(self.protocol("second"))

    def do_peer_reads(self):
        """What there is now; all of it is compared at the end."""
        if not self.far.closed:
            data = take(self.far)
            self.taken.update(data)
            self.taken_bytes += len(data)

    def do_peer_sends(self):
        self.peer_send(SMALL)

    def do_peer_sends_much(self):
        self.peer_send(3000)

    def peer_send(self, size):
        if not self.far.closed:
            try:
                done = self.far.write(self.next_bytes(size))
            except OSError as exc:
                done = type(exc)
            self.trace.append(("peer", "sent", done))

    def do_peer_closes(self):
        self.far.close()

    async def let_run(self):
        """Run until nothing more happens: how much is read at once differs."""
        before = -1
        while before != self.activity:
            before = self.activity
            await settle(self.loop)

    async def peer_reads_all(self):
        before = -1
        while before != self.taken_bytes:
            before = self.taken_bytes
            await self.let_run()
            self.do_peer_reads()

    async def run(self, steps, writes, kind):
        read, write = descriptors(kind)
        near, far = (write, read) if writes else (read, write)
        modes = ("wb", "rb") if writes else ("rb", "wb")
        loop, make = self.loop, lambda: self.protocol("first")
        connect = loop.connect_write_pipe if writes else loop.connect_read_pipe
        with file_of(far, modes[1]) as self.far:
            await connect(make, file_of(near, modes[0]))
            for step in steps:
                if step == "let run":
                    await self.let_run()
                elif step == "peer reads all":
                    await self.peer_reads_all()
                    self.trace.append(("peer", "has", self.taken_bytes))
                else:
                    self.step(step)
            if writes:
                await self.peer_reads_all()
            await self.let_run()
            self.trace.append(("peer", "has", self.taken.hexdigest()))
            self.trace.append(("", "lost", self.lost()))
        if not self.lost():
            (self.transport.abort if writes else self.transport.close)()
        await until_closed(self.transport)
        assert [entry[1:2] for entry in self.trace].count(("connection_lost",)) == 1


def trace(loop_kind, steps, inside, writes, kind):
    """What is seen when *steps* run on a new loop of this kind."""
    loop = support.make_loop(loop_kind)
    try:
        errors = record_errors(loop)
        program = Program(loop, inside)
        support.run(loop, program.run(steps, writes, kind), 60)
        program.trace.append(("", "errors", *errors.messages))
        return program.trace
    finally:
        loop.close()


def agree(loop_kind, *arguments):
    assert trace(loop_kind, *arguments) == trace("asyncio", *arguments)


def examples(count):
    return hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def programs(steps):
    return st.lists(st.sampled_from(steps), min_size=1, max_size=12)


@hypothesis.given(
    steps=programs(WRITER_STEPS),
    inside=st.tuples(
        st.sampled_from(["nowhere", "nowhere", "pause_writing"]),
        st.sampled_from(["write small", "close", "abort", "limits zero"]),
    ),
    kind=st.sampled_from(["pipe", "fifo", "socket"]),
)
@examples(80)
def test_random_writers(loop_kind, steps, inside, kind):
    agree(loop_kind, steps, inside, True, kind)


@hypothesis.given(
    steps=programs(READER_STEPS),
    inside=st.tuples(
        st.sampled_from(["nowhere", "nowhere", "data_received", "eof_received"]),
        st.sampled_from(["pause", "resume", "close", "switch protocol"]),
    ),
    kind=st.sampled_from(["pipe", "fifo", "socket"]),
)
@examples(80)
def test_random_readers(loop_kind, steps, inside, kind):
    agree(loop_kind, steps, inside, False, kind)


@pytest.mark.parametrize(
    "steps",
    [
        ["write large", "close", "write small", "peer reads all"],
        ["write large", "write_eof", "abort", "peer reads all"],
        ["write large", "peer closes", "let run"],
        ["write large", "close", "peer closes", "let run"],
        ["peer closes", "write small", "write small", "let run"],
        ["limits zero", "write large", "peer reads all", "write large", "abort"],
        ["write large", "limits high", "limits zero", "peer reads all"],
        ["write large", "switch protocol", "peer reads all", "peer closes"],
    ],
    ids=" / ".join,
)
@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])
def test_chosen_writers(loop_kind, steps, kind):
    agree(loop_kind, steps, ("nowhere", "close"), True, kind)


def test_the_steps_are_methods():
    for step in WRITER_STEPS + READER_STEPS:
        if step not in ("let run", "peer reads all"):
            assert callable(getattr(Program, "do_" + step.replace(" ", "_")))
