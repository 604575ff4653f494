"""Random programs on one datagram transport, with asyncio's own loop as the model.

A program is a list of steps: calls of the transport's methods, and what the peer does.
It runs on a fresh loop of each kind, and what can be seen from outside has to be the
same: results and errors of the calls, the protocol's callbacks in their order, and
every datagram the peer gets. Sockets are connected Unix ones, which the kernel fills
after few datagrams.

The examples are the same in every run (derandomize).
"""

import asyncio
import pathlib
import socket
import tempfile

import pytest
import support
from datagramkit import PAUSES, waiting
from streamkit import PEER_TIMEOUT, PY, record_errors

hypothesis = pytest.importorskip(
    "hypothesis", reason="the random programs are made by hypothesis"
)
st = hypothesis.strategies

STEPS = [
    "send",
    "send",
    "send many",
    "send too much",
    "send text",
    "send elsewhere",
    "close",
    "abort",
    "switch protocol",
    "peer sends",
    "peer sends",
    "peer sends three",
    "peer reads",
    "peer reads",
    "peer closes",
    "let run",
    "let run",
    "let run",
]

if PAUSES:
    STEPS += ["pause", "resume", "resume"]

# asyncio counts a header that it never takes off: its limits mean something else.
if PY != (3, 13) or hasattr(
    asyncio.selector_events._SelectorDatagramTransport, "_header_size"
):
    STEPS += ["limits low", "limits high"]

#: What the first datagram_received() does. Not what would have asyncio lose the
#: connection twice.
INSIDE = ["nothing", "send", "send many", "close", "abort", "switch protocol"]
if PAUSES:
    INSIDE += ["pause", "resume"]


class Protocol(asyncio.DatagramProtocol):
    def __init__(self, program, number):
        self.program = program
        self.number = number

    def see(self, *what):
        self.program.trace.append((self.number, *what))

    def datagram_received(self, data, addr):
        self.see("datagram_received", data, addr == self.program.peer_address)
        self.program.received += 1
        inside, self.program.inside = self.program.inside, "nothing"
        self.program.do(inside)

    def error_received(self, exc):
        self.see("error_received", type(exc), exc.errno)

    def pause_writing(self):
        self.see("pause_writing")

    def resume_writing(self):
        self.see("resume_writing")

    def connection_lost(self, exc):
        self.program.lost = True
        self.see("connection_lost", exc)


class Program:
    """One run of a list of steps on one loop; `trace` is what was seen."""

    def __init__(self, loop, folder, inside):
        self.loop = loop
        self.inside = inside
        self.trace = []
        self.lost = False
        self.sent = self.peer_sent = self.received = self.protocols = 0
        self.peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.peer_address = str(folder / "peer")
        self.peer.bind(self.peer_address)
        self.peer.settimeout(PEER_TIMEOUT)
        self.address = str(folder / "endpoint")
        self.transport, _ = support.run(
            loop,
            loop.create_datagram_endpoint(
                self.new_protocol,
                family=socket.AF_UNIX,
                local_addr=self.address,
                remote_addr=self.peer_address,
            ),
        )

    def new_protocol(self):
        self.protocols += 1
        return Protocol(self, self.protocols)

    def do(self, step):
        """Do a step; after connection_lost() asyncio's methods fail."""
        if self.lost and not step.startswith(("peer", "let")):
            return
        try:
            result = getattr(self, "do_" + step.replace(" ", "_"))()
        except (TypeError, ValueError) as exc:
            result = type(exc)
        self.trace.append((step, result, self.transport.is_closing()))

    def do_nothing(self):
        pass

    def do_send(self):
        self.sent += 1
        return self.transport.sendto(b"%d" % self.sent)

    def do_send_many(self):
        return [self.do_send() for _ in range(30)]

    def do_send_too_much(self):
        return self.transport.sendto(bytes(1 << 20))

    def do_send_text(self):
        return self.transport.sendto("text")

    def do_send_elsewhere(self):
        return self.transport.sendto(b"x", "/elsewhere")

    def do_pause(self):
        self.transport.pause_reading()
        return self.transport.is_reading()

    def do_resume(self):
        self.transport.resume_reading()
        return self.transport.is_reading()

    def do_close(self):
        return self.transport.close()

    def do_abort(self):
        return self.transport.abort()

    def do_switch_protocol(self):
        self.transport.set_protocol(self.new_protocol())

    def do_limits_low(self):
        if self.transport.is_closing():
            return None  # abort() leaves asyncio the size of what it drops
        self.transport.set_write_buffer_limits(high=100, low=30)
        return self.transport.get_write_buffer_size()

    def do_limits_high(self):
        self.transport.set_write_buffer_limits(high=10_000)
        return self.transport.get_write_buffer_limits()

    def do_peer_sends(self):
        if self.peer.fileno() < 0:
            return None
        self.peer.setblocking(False)
        try:
            self.peer.sendto(b"%d" % self.peer_sent, self.address)
        except OSError as exc:
            return exc.errno
        self.peer_sent += 1
        return self.peer_sent

    def do_peer_sends_three(self):
        return [self.do_peer_sends() for _ in range(3)]

    def do_peer_reads(self):
        return waiting(self.peer) if self.peer.fileno() >= 0 else None

    def do_peer_closes(self):
        """When all is received: at the first refusal the kernel drops what is not."""
        self.do_let_run()
        if self.received == self.peer_sent:
            self.peer.close()

    def do_let_run(self):
        """Iterate until nothing has been seen for a while."""
        quiet = 0
        while quiet < 4:
            seen = len(self.trace)
            support.run_once(self.loop)
            quiet = quiet + 1 if len(self.trace) == seen else 0

    def finish(self):
        self.do("let run")
        for _ in range(100):
            self.do("peer reads")
            self.do("let run")
            if self.lost or self.trace[-2][1] in ([], None):
                break
        if not self.lost:
            self.do("abort")
            self.do("let run")
        self.peer.close()
        return self.trace


def run_program(kind, steps, inside):
    loop = support.make_loop(kind)
    errors = record_errors(loop)
    with tempfile.TemporaryDirectory() as folder:
        program = Program(loop, pathlib.Path(folder), inside)
        try:
            for step in steps:
                program.do(step)
            return program.finish(), errors.messages
        finally:
            program.peer.close()
            loop.close()


def agree(loop_kind, steps, inside):
    expected = run_program("asyncio", steps, inside)
    assert run_program(loop_kind, steps, inside) == expected


@hypothesis.given(
    steps=st.lists(st.sampled_from(STEPS), max_size=14), inside=st.sampled_from(INSIDE)
)
@hypothesis.settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@pytest.mark.pyloop_only
def test_random_programs(loop_kind, steps, inside):
    agree(loop_kind, steps, inside)


@pytest.mark.parametrize(
    "steps",
    [
        ["send many", "close", "send", "peer reads", "let run", "peer reads"],
        ["send many", "peer closes", "let run", "send"],
        ["peer sends three", "switch protocol", "let run"],
        ["peer sends", "peer closes", "send", "let run"],
        ["send many", "abort", "peer reads"],
        ["close", "peer sends", "let run"],
        ["send too much", "send many", "send too much", "peer reads", "let run"],
    ],
    ids=" / ".join,
)
@pytest.mark.parametrize("inside", ["nothing", "send many", "close"])
@pytest.mark.pyloop_only
def test_chosen_programs(loop_kind, steps, inside):
    agree(loop_kind, steps, inside)
