"""Random programs on one TLS transport, with asyncio's own loop as the model.

As in test_transport_models, but the transport is that of asyncio.sslproto, over the
loop's. The peer is an ssl.SSLObject between two buffers in memory, and its socket is
read and written where the program says so: nothing depends on a thread.

The examples are the same in every run (derandomize).
"""

import fcntl
import ssl
import struct
import termios

import pytest
from modelkit import KINDS, Program, agree, examples, hypothesis
from streamkit import settle

st = hypothesis.strategies

STEPS = [
    "write small",
    "write small",
    "write large",
    "write nothing",
    "write text",
    "writelines",
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
    "peer sends garbage",
    "peer reads",
    "peer reads",
    "peer unwraps",
    "peer shuts",
    "peer closes",
    "let run",
    "let run",
    "let run",
]

ENDS = ("peer unwraps", "peer shuts", "peer closes", "peer sends garbage")
"""How the peer ends the connection: as it should, and in three other ways."""

NOWHERE = ("nowhere", "close")


def asked(sock, request):
    """The int that ioctl() gives for a socket; 0 for one that is closed."""
    if sock.fileno() < 0:
        return 0
    return struct.unpack("i", fcntl.ioctl(sock.fileno(), request, bytes(4)))[0]


class TlsProgram(Program):
    """A Program whose two ends speak TLS."""

    def __init__(self, loop, contexts, **settings):
        super().__init__(loop, keep_open=False, **settings)
        self.read_before = -1
        self.quiet = 0
        self.ended = False
        near, far = contexts if self.side == "client" else contexts[::-1]
        self.near_context = near
        self.to_peer, self.from_peer = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = far.wrap_bio(
            self.to_peer,
            self.from_peer,
            server_side=self.side == "client",
            server_hostname=None if self.side == "client" else "localhost",
        )

    def arguments(self):
        more = {"ssl": self.near_context}
        if self.side == "client":
            more["server_hostname"] = "localhost"
        return more

    async def greet(self):
        """The peer's side of the handshake."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                await settle(self.loop, 1)
                self.feed()
            else:
                self.flush()
                return

    def flush(self):
        """Send what the peer's TLS has made."""
        data = self.from_peer.read()
        if data:
            assert self.peer.send(data) == len(data)

    def feed(self):
        """Give the peer's TLS what has come."""
        try:
            while data := self.peer.recv(1 << 20):
                self.to_peer.write(data)
        except BlockingIOError:
            self.acknowledge()
        else:
            self.to_peer.write_eof()

    def allowed(self, step):
        """Leave out what asyncio does wrongly."""
        if self.lost():
            return step.startswith("peer")
        if step in ENDS:
            # Data that asyncio.sslproto still has are lost or not, by whether the loop
            # polls before it runs what is ready.
            if self.got < self.peer_sent:
                return False
            # asyncio of 3.13 may run a cancelled writer for ever, and send no more,
            # when the end comes while there is a queue.
            self.ended = self.ending or self.transport.get_write_buffer_size() == 0
            return self.ended
        return not (self.ended and step.startswith(("write", "peer sends")))

    def state(self):
        if self.lost() or self.ending:
            # asyncio fails to say how much it holds once it has none to ask.
            return ()
        return (self.transport.is_closing(), self.transport.get_write_buffer_size() > 0)

    def peer_does(self, method, *args):
        """Have the peer's TLS do something, and send what that makes."""
        if self.peer.fileno() < 0:
            return
        try:
            method(*args)
        except ssl.SSLWantReadError:
            pass
        except OSError as exc:
            self.trace.append(("peer", type(exc)))
        try:
            self.flush()
        except OSError as exc:
            self.trace.append(("peer", type(exc)))

    def peer_send(self, size):
        self.peer_sends += 1
        self.peer_sent += size
        self.peer_does(self.tls.write, b"%c" % (self.peer_sends % 256) * size)

    def do_peer_unwraps(self):
        self.peer_does(self.tls.unwrap)

    def do_peer_sends_garbage(self):
        self.peer_does(self.from_peer.write, b"this is no record of TLS")

    def peer_read(self):
        try:
            self.feed()
            while data := self.tls.read(1 << 20):
                self.peer_take(data)
        except ssl.SSLWantReadError:
            return None
        except OSError as exc:
            self.reset = not isinstance(exc, ssl.SSLError)
            return type(exc)
        return "eof"

    def incoming(self):
        # A record that is not whole yet, or an end that TLS waits with, is nothing to
        # wait for: let_run() stops when nothing more happens.
        return False

    def outgoing(self):
        # Not what was written either: TLS drops it when the connection ends. TCP may
        # wait with a small window for 200 ms: the kernel is asked what it has. Twice,
        # because the transport may have more to send once that has gone.
        if self.lost():
            return True
        moves = self.read_before != self.received_bytes or self.in_kernel()
        self.read_before = self.received_bytes
        self.quiet = 0 if moves else self.quiet + 1
        return self.quiet < 2

    def in_kernel(self):
        """Whether there are bytes that have been sent and not read."""
        near = self.transport.get_extra_info("socket")
        return (
            asked(near, termios.TIOCOUTQ) > 0 or asked(self.peer, termios.FIONREAD) > 0
        )

    async def finish(self):
        await super().finish()
        # Or Python 3.10 warns of the transport, although its connection is lost.
        self.transport.close()

    async def let_run(self):
        await super().let_run()
        await settle(self.loop)


@pytest.fixture(scope="module")
def contexts(certificates):
    """(client's, server's): made once, because that takes longer than a program."""
    return certificates.client_context(), certificates.server_context()


programs = st.lists(st.sampled_from(STEPS), min_size=1, max_size=12)
insides = st.one_of(
    st.just(NOWHERE),
    st.tuples(
        st.sampled_from(["data_received", "buffer_updated"]),
        st.sampled_from(["write small", "write large", "pause", "close", "abort"]),
    ),
)


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.given(steps=programs, buffered=st.booleans(), inside=insides)
@examples(20)
def test_random_programs(loop_kind, contexts, kind, steps, buffered, inside):
    agree(
        TlsProgram,
        loop_kind,
        steps,
        contexts=contexts,
        kind=kind,
        buffered=buffered,
        inside=inside,
    )


@pytest.mark.parametrize(
    "steps",
    [
        ["write large", "peer sends much", "let run", "peer reads", "peer unwraps"],
        ["write large", "close", "peer reads", "peer unwraps", "let run"],
        ["pause", "peer unwraps", "let run", "resume", "let run"],
        ["peer sends", "let run", "peer sends garbage", "let run"],
        ["pause", "peer sends much", "let run", "resume", "let run", "peer closes"],
        ["limits zero", "write small", "peer reads", "peer shuts", "let run"],
        ["peer sends", "switch protocol", "let run", "peer sends", "let run"],
    ],
    ids=" / ".join,
)
def test_chosen_programs(loop_kind, contexts, steps):
    for kind in KINDS:
        for buffered in (False, True):
            agree(
                TlsProgram,
                loop_kind,
                steps,
                contexts=contexts,
                kind=kind,
                buffered=buffered,
                inside=NOWHERE,
            )
