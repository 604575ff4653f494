"""What a loop has open, and where in the program it was made."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import weakref
from asyncio import base_subprocess, sslproto
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyloop import _core, _forks
from pyloop._libraries import is_library
from pyloop._selector import is_selector_datagram, served_by

if TYPE_CHECKING:
    from traceback import FrameSummary, StackSummary

__all__ = ["OpenTransport", "TransportMethods", "created_at", "open_transports"]

_KINDS = {
    socket.AF_INET: "TCP",
    socket.AF_INET6: "TCP",
    getattr(socket, "AF_UNIX", -1): "Unix",
}


@dataclasses.dataclass(frozen=True)
class OpenTransport:
    """One thing that a loop has open. ``str()`` of it is a line for people."""

    kind: str
    """"TCP", "Unix", "socket" (of another family), "TLS", "UDP", "Unix datagram",
    "datagram", "read pipe", "write pipe", "subprocess" or "server"."""
    transport: Any
    """The transport; of a server the asyncio.Server."""
    fd: int
    """The descriptor; -1 of a subprocess."""
    address: Any
    """What get_extra_info() has as sockname; None without."""
    peer: Any
    """What get_extra_info() has as peername, None without; of a subprocess the process
    id."""
    traceback: StackSummary | None
    """Debug mode's stack of where it was made, innermost frame last; of a connection
    that a server accepted, and of a child's pipe, where the server or the child was
    made. None if debug mode was off then."""
    age: float
    """For how many seconds there has been this transport or server."""

    @property
    def created_at(self) -> FrameSummary | None:
        """The innermost frame of traceback that is not asyncio's or pyloop's."""
        frame: FrameSummary | None = _own_frame(self.traceback)
        return frame

    def __str__(self) -> str:
        parts = [self.kind]
        if self.kind == "subprocess":
            parts.append(f"pid={self.peer}")
        else:
            parts.append(f"fd={self.fd}")
            if self.address:
                parts.append(_address(self.address))
            if self.peer:
                parts.append(f"-> {_address(self.peer)}")
        parts.append(f"age={_duration(self.age)}")
        return " ".join(parts) + _place(self.traceback)


def open_transports(loop: asyncio.AbstractEventLoop | None = None) -> list[Any]:
    """Return an OpenTransport for each transport and server that a loop has open.

    loop: a pyloop.Loop; None for all open loops of the process. A closed loop has none:
    close() drops what it watches. Transports that are closing, and not yet closed, are
    among them. With loops that run in other threads, what is returned may be out of
    date when it comes. Raises TypeError for a loop that is not one of pyloop's.
    """
    if loop is None:
        loops = _forks.living(_forks.loops)
    elif isinstance(loop, TransportMethods):
        loops = [loop]
    else:
        raise TypeError(f"loop must be a pyloop.Loop or None, not {loop!r}")
    return [found for one in loops if not one.is_closed() for found in _open(one)]


def _open(loop: Any) -> Iterator[OpenTransport]:
    seen = set()
    for user in [*loop._users(), *_forks.living(loop._seldom_used)]:
        if id(user) in seen:
            continue
        seen.add(id(user))
        if isinstance(user, _core.Listener):
            server = getattr(user, "_server", None)
            yield _server(user._sock, server, user, user._born_ticks)
        elif isinstance(user, base_subprocess.BaseSubprocessTransport):
            if user._proc is not None:
                yield _subprocess(user)
        elif isinstance(user, (_core.SocketTransport, _core.DatagramTransport)):
            yield _socket(user)
        elif isinstance(user, (_core.ReadPipeTransport, _core.WritePipeTransport)):
            # Closed pipes are in the set for as long as somebody has them.
            if user._pipe is not None:
                kind = "read pipe"
                if isinstance(user, _core.WritePipeTransport):
                    kind = "write pipe"
                yield OpenTransport(
                    kind, user, user._fileno, None, None, _traceback(user), _age(user)
                )
        elif (serving := served_by(user)) is not None:
            sock, server = serving
            yield _server(sock, server, user, loop._serving_since.get(sock.fileno()))
    for transport in loop._selector_transports():
        yield _socket(transport)


def _server(sock: Any, server: Any, listener: Any, born: int | None) -> OpenTransport:
    address = None
    with contextlib.suppress(OSError):
        address = sock.getsockname()
    traceback = getattr(listener, "_source_traceback", None)
    age = 0.0 if born is None else _core.seconds_since(born)  # its socket is closed
    return OpenTransport("server", server, sock.fileno(), address, None, traceback, age)


def _subprocess(transport: Any) -> OpenTransport:
    pid = transport.get_pid()
    return OpenTransport(
        "subprocess", transport, -1, None, pid, _traceback(transport), _age(transport)
    )


def _socket(transport: Any) -> OpenTransport:
    kind, shown = "socket", transport
    sock = transport.get_extra_info("socket")
    if isinstance(transport, _core.DatagramTransport) or is_selector_datagram(
        transport
    ):
        kind = {"TCP": "UDP", "Unix": "Unix datagram"}.get(
            _KINDS.get(sock.family, ""), "datagram"
        )
    else:
        kind = _KINDS.get(sock.family, kind)
        protocol = transport.get_protocol()
        if isinstance(protocol, sslproto.SSLProtocol):
            kind = "TLS"
            shown = getattr(protocol, "_app_transport", None) or transport
    return OpenTransport(
        kind,
        shown,
        sock.fileno(),
        transport.get_extra_info("sockname"),
        transport.get_extra_info("peername"),
        _traceback(transport),
        _age(transport),
    )


def _age(made: Any) -> float:
    born = getattr(made, "_born_ticks", None)
    if born is None:
        # One of asyncio's that the program has made: from the first look on.
        born = made._born_ticks = _core.ticks()
    return _core.seconds_since(born)


def _duration(seconds: float) -> str:
    """A length of time as people write it: 0.3s, 12s, 2h05m."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, whole = divmod(int(seconds), 60)
    if minutes == 0:
        return f"{whole}s"
    if minutes < 60:
        return f"{minutes}m{whole:02}s"
    return f"{minutes // 60}h{minutes % 60:02}m"


# -- where it was made --------------------------------------------------------------


def _traceback(transport: Any) -> Any:
    """Return where it was made; what a server or a subprocess has, where that was."""
    maker = getattr(transport, "_server", None)
    if isinstance(transport, (_core.ReadPipeTransport, _core.WritePipeTransport)):
        protocol = transport.get_protocol()
        if isinstance(protocol, base_subprocess.WriteSubprocessPipeProto):
            maker = getattr(protocol, "proc", None)
    of_maker = getattr(maker, "_source_traceback", None)
    return of_maker or getattr(transport, "_source_traceback", None)


def _own_frame(traceback: Any) -> Any:
    for frame in reversed(traceback or ()):
        if not is_library(frame.filename):
            return frame
    return None


def _place(traceback: Any) -> str:
    frame = _own_frame(traceback)
    return f" created at {frame.filename}:{frame.lineno}" if frame is not None else ""


def created_at(transport: Any) -> str:
    """Return " created at FILE:LINE" for the end of a text, "" if it is not known."""
    return _place(_traceback(transport))


def _address(address: Any) -> str:
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address)


class TransportMethods:
    """A base of Loop: what it keeps and says of its transports."""

    # Pipes and subprocesses: sockets are all in the core's table of descriptors.
    _seldom_used: weakref.WeakSet[Any]

    @staticmethod
    def _created_at(transport: Any) -> str:
        """What the core ends a transport's repr() with, in debug mode."""
        return created_at(transport)
