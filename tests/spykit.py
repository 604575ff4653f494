"""Sockets whose methods record that they are called, for the tests of such sockets."""

import asyncio
import collections
import contextlib
import socket

import streamkit
from streamkit import Recorder, socket_pair, tcp_pair

__all__ = ["Plain", "Spied", "always", "at_most", "once", "over", "plain", "spied"]


class Spied(socket.socket):
    """Records the calls of its methods, some of which a test does in another way.

    `ways` maps the name of a method to a function that is called in its place, with the
    socket's own method first; `calls` has the names, `sent` and `got` count bytes.
    """

    def __init__(self, *args, ways=None, **kwargs):
        self.calls = collections.Counter()
        self.ways = ways or {}
        self.sent = self.got = 0
        super().__init__(*args, **kwargs)

    @classmethod
    def of(cls, sock, **ways):
        """In the place of a plain socket, whose descriptor it takes."""
        timeout = sock.gettimeout()
        made = cls(fileno=sock.detach(), ways=ways)
        made.settimeout(timeout)
        return made

    def _call(self, name, *args):
        self.calls[name] += 1
        method = getattr(super(), name)
        way = self.ways.get(name)
        return method(*args) if way is None else way(method, *args)

    def recv(self, *args):
        data = self._call("recv", *args)
        self.got += len(data)
        return data

    def recv_into(self, *args):
        count = self._call("recv_into", *args)
        self.got += count
        return count

    def recvfrom(self, *args):
        return self._call("recvfrom", *args)

    def recvfrom_into(self, *args):
        return self._call("recvfrom_into", *args)

    def send(self, *args):
        count = self._call("send", *args)
        self.sent += count
        return count

    def sendmsg(self, *args):
        count = self._call("sendmsg", *args)
        self.sent += count
        return count

    def sendto(self, *args):
        return self._call("sendto", *args)

    def shutdown(self, *args):
        return self._call("shutdown", *args)

    def connect(self, *args):
        return self._call("connect", *args)

    def accept(self):
        connection, address = self._call("accept")
        return Spied.of(connection, **self.ways.get("connection", {})), address

    def close(self):
        if self.fileno() >= 0:  # the collector comes here too
            return self._call("close")


def once(exc):
    """A way that fails the first time."""
    failing = [exc]

    def way(method, *args):
        if failing:
            raise failing.pop()
        return method(*args)

    return way


def always(exc):
    def way(method, *args):
        raise exc

    return way


def at_most(size):
    """A way to send no more than that at once."""

    def way(method, data, *args):
        if not isinstance(data, (bytes, bytearray, memoryview)):
            data = b"".join(data)  # sendmsg's
            return method([data[:size]])
        return method(data[:size])

    return way


class Plain(socket.socket):
    """Nothing that a transport calls is its own, but what all transports call."""

    def close(self):
        super().close()

    def fileno(self):
        return super().fileno()


def plain():
    near, peer = tcp_pair()
    return Plain(fileno=near.detach()), peer


@contextlib.asynccontextmanager
async def over(sock, peer, factory=Recorder):
    """A transport over a socket: yields its protocol, which knows it."""
    loop = asyncio.get_running_loop()
    peer.settimeout(streamkit.PEER_TIMEOUT)
    with peer:
        transport, protocol = await loop.create_connection(factory, sock=sock)
        assert protocol.transport is transport
        try:
            yield protocol
        finally:
            if not protocol.lost.done():
                transport.abort()
                await protocol.lost


@contextlib.asynccontextmanager
async def spied(factory=Recorder, kind="unix", **ways):
    """The same over a Spied socket: yields (sock, protocol, peer)."""
    near, peer = socket_pair(kind)
    sock = Spied.of(near, **ways)
    async with over(sock, peer, factory) as protocol:
        yield sock, protocol, peer
