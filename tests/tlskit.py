"""A transport over TLS and its peer, whose records a test cuts as it likes."""

import contextlib
import ssl

from streamkit import Recorder, settle, socket_pair, until

__all__ = ["Peer", "Stand", "connected", "sslproto_of", "stand_in"]


class Peer:
    """The other side of a TLS connection."""

    def __init__(self, loop, sock, context):
        self.loop = loop
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.data = bytearray()
        self.raw = bytearray()
        sock.setblocking(False)

    async def greet(self):
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send_raw(self.outgoing.read())
                await settle(self.loop, 1)
                self.take()
            else:
                self.send_raw(self.outgoing.read())
                return

    def send_raw(self, data):
        if data:
            assert self.sock.send(data) == len(data)

    def records(self, *pieces):
        """The ciphertext of pieces, a record each."""
        for piece in pieces:
            assert self.tls.write(piece) == len(piece)
        return self.outgoing.read()

    def take(self):
        """Take what has come; False at the end."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self.sock.recv(1 << 20)
                if not data:
                    return False
                self.incoming.write(data)
                self.raw += data
        return True

    def count_records(self):
        """How many whole records have come since this was asked last."""
        count = at = 0
        while at < len(self.raw):
            count += 1
            at += 5 + int.from_bytes(self.raw[at + 3 : at + 5], "big")
        self.raw.clear()
        return count

    def read(self):
        """Decrypt what has come: all of it so far."""
        self.take()
        with contextlib.suppress(ssl.SSLWantReadError):
            while piece := self.tls.read(1 << 16):
                self.data += piece
        return bytes(self.data)

    async def got(self, data):
        await until(lambda: self.read() == data, "the peer's data")

    def goodbye(self):
        """The ciphertext of a close_notify."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()


@contextlib.asynccontextmanager
async def connected(loop, certificates, factory=Recorder, warm=True):
    """Yields (transport, protocol, peer). warm: a record came in already."""
    near, far = socket_pair("unix")
    peer = Peer(loop, far, certificates.server_context())
    connecting = loop.create_task(
        loop.create_connection(
            factory,
            sock=near,
            ssl=certificates.client_context(),
            server_hostname="localhost",
        )
    )
    await peer.greet()
    transport, protocol = await connecting
    if warm:
        peer.send_raw(peer.records(b"warm"))
        await until(lambda: protocol.data, "the first data")
        protocol.data.clear()
        protocol.calls.clear()
    try:
        yield transport, protocol, peer
    finally:
        far.close()
        if transport.get_protocol() is not None:
            transport.abort()
        await settle(loop)


def sslproto_of(transport):
    return transport._ssl_protocol


class Stand:
    """Between ssl.SSLObject and the _ssl object: write() and read() can fail."""

    def __init__(self, real):
        self.real = real
        self.failures = []

    def __getattr__(self, name):
        return getattr(self.real, name)

    def write(self, data):
        if self.failures:
            raise self.failures.pop()
        return self.real.write(data)

    def read(self, *args):
        if self.failures:
            raise self.failures.pop()
        return self.real.read(*args)


def stand_in(transport):
    tls = transport.get_extra_info("ssl_object")
    tls._sslobj = Stand(tls._sslobj)
    return tls._sslobj
