"""Sockets with methods of their own: asyncio's selector transports call these.

A subclass of socket.socket may count what it sends, talk to a proxy, or fail on
purpose. pyloop's transports and servers read, write and accept on the descriptor, and
would pass such methods by; so these sockets get what asyncio gives every socket, in the
code of this Python version, over the loop's _add_reader() and _add_writer(). The core
asks here (csrc/loop/sockets.c) about what is not exactly a socket.socket.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import sys
import weakref
from asyncio import format_helpers, selector_events, trsock
from typing import Any

from pyloop import _core

__all__ = ["SelectorMethods", "is_selector_datagram", "served_by"]

_SelectorLoop: Any = selector_events.BaseSelectorEventLoop
_StreamTransport: Any = selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
_DatagramTransport: Any = selector_events._SelectorDatagramTransport  # type: ignore[attr-defined]

# What asyncio calls, without what our transports call as well: close() and fileno().
_OF_STREAMS = (
    "getpeername",
    "getsockname",
    "recv",
    "recv_into",
    "send",
    "sendmsg",
    "setsockopt",
    "shutdown",
)
_OF_DATAGRAMS = ("recvfrom", "send", "sendto")
_OF_SERVERS = ("accept", "_accept")

# By name, what socket.socket has; None for what it has not everywhere.
_PLAIN = {
    name: getattr(socket.socket, name, None)
    for name in {*_OF_STREAMS, *_OF_DATAGRAMS, *_OF_SERVERS}
}
_LOOK_UP = (object.__getattribute__, socket.socket.__getattribute__)


def _has_own(sock: Any, names: tuple[str, ...]) -> bool:
    """Whether one of the methods of a socket is not socket.socket's, or may not be."""
    cls: Any = type(sock)
    if issubclass(cls, trsock.TransportSocket):  # it has none, or deprecated ones
        return False
    if cls.__getattribute__ not in _LOOK_UP:
        return True
    attributes = getattr(sock, "__dict__", ())
    for name in names:
        found = getattr(cls, name, None)
        if found is None:  # then what the class makes up, if it does
            found = getattr(cls, "__getattr__", _PLAIN[name])
        if name in attributes or found is not _PLAIN[name]:
            return True
    return False


def is_selector_datagram(transport: Any) -> bool:
    """Whether a transport is asyncio's own for datagrams."""
    return isinstance(transport, _DatagramTransport)


def served_by(handle: Any) -> tuple[Any, Any] | None:
    """The socket and the server for which a handle accepts as asyncio, if it does."""
    callback = getattr(handle, "_callback", None)
    if getattr(callback, "__func__", None) is not SelectorMethods._accept_connection:
        return None
    _factory, sock, _context, server, *_ = handle._args
    return sock, server


class SelectorMethods:
    """A base of Loop: asyncio's transports and servers, and what they use of a loop."""

    _accept_connection = _SelectorLoop._accept_connection
    _accept_connection2 = _SelectorLoop._accept_connection2

    @functools.cached_property
    def _transports(self) -> weakref.WeakValueDictionary[int, Any]:
        """By descriptor, asyncio's transports; it enters them itself."""
        return weakref.WeakValueDictionary()

    def _find_transport(self, fd: int) -> Any:
        """The transport of a descriptor that was claimed; None when it is gone."""
        return self._transports.get(fd)

    @functools.cached_property
    def _serving_since(self) -> dict[int, int]:
        """By descriptor, the _core.ticks() at which accepting as asyncio began."""
        return {}

    def _selector_transports(self) -> list[Any]:
        """Asyncio's transports that are open. From any thread."""
        if "_transports" not in vars(self):
            return []
        found = [reference() for reference in self._transports.valuerefs()]
        return [one for one in found if one is not None and one._sock is not None]

    def _withdraw(self, transport: Any) -> Any:
        """A transport of asyncio's lends its descriptor to a sock_* operation.

        Returns where it is entered again by its descriptor; None for one of the core's.
        """
        fd = transport._sock_fd
        if self._find_transport(fd) is not transport:
            return None
        del self._transports[fd]
        return self._transports

    def _make_selector_socket(
        self: Any,
        sock: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None,
        extra: dict[str, Any] | None,
        server: asyncio.AbstractServer | None,
        context: Any,
    ) -> Any:
        """Asyncio's transport of a connected stream socket; None for a plain one."""
        if not _has_own(sock, _OF_STREAMS):
            return None
        keywords = {} if context is None else {"context": context}  # from 3.15 on
        return self._claimed(
            sock, _StreamTransport, protocol, waiter, extra, server, **keywords
        )

    def _make_selector_datagram(
        self: Any,
        sock: Any,
        protocol: asyncio.BaseProtocol,
        address: Any,
        waiter: asyncio.Future[Any] | None,
        extra: dict[str, Any] | None,
    ) -> Any:
        """Asyncio's transport of a datagram socket; None for a plain one."""
        if not _has_own(sock, _OF_DATAGRAMS):
            return None
        return self._claimed(sock, _DatagramTransport, protocol, address, waiter, extra)

    def _claimed(self: Any, sock: Any, cls: Any, *args: Any, **keywords: Any) -> Any:
        """A transport, whose descriptor nobody else may use any more."""
        self._ensure_fd_no_transport(sock)
        self._claim(sock)
        transport = cls(self, sock, *args, **keywords)
        transport._born_ticks = _core.ticks()  # as of the core's transports
        if self._debug:
            here = sys._getframe(2)
            transport._source_traceback = format_helpers.extract_stack(here)
        return transport

    def _start_selector_serving(
        self: Any,
        protocol_factory: Any,
        sock: Any,
        sslcontext: Any,
        server: asyncio.AbstractServer | None,
        backlog: int | None,
        *arguments: Any,
    ) -> Any:
        """Accept as asyncio, and return True; None for a plain socket.

        arguments: those of _start_serving() that this Python's asyncio passed, and None
        for the others.
        """
        if not _has_own(sock, _OF_SERVERS):
            return None
        while arguments and arguments[-1] is None:
            arguments = arguments[:-1]
        if backlog is None:
            backlog = 100
        self._serving_since[sock.fileno()] = _core.ticks()
        _SelectorLoop._start_serving(
            self, protocol_factory, sock, sslcontext, server, backlog, *arguments
        )
        return True
