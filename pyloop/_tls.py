"""asyncio's TLS without the buffers that pyloop does not read into.

An SSLProtocol of asyncio, from Python 3.11 on, begins with a buffer of 256 KiB, all of
it written with zeros: for each connection as much memory, and the caches emptied.
pyloop's transports read past it (csrc/transport/tls.c), and if it is asked for after
all, asyncio's ``get_buffer()`` makes it as large as is wanted.
"""

from __future__ import annotations

import asyncio
import builtins
import sys
import types
from asyncio import base_events, sslproto
from typing import Any

__all__ = ["make_protocol", "start_tls"]

_sslproto: Any = sslproto
_base_events: Any = base_events

_SSLProtocol: Any = _sslproto.SSLProtocol


def make_protocol(*args: Any, **kwargs: Any) -> Any:
    """An asyncio.sslproto.SSLProtocol, of these arguments, with an empty buffer."""
    cls = _sslproto.SSLProtocol
    if cls is not _SSLProtocol or sys.version_info < (3, 11):
        return cls(*args, **kwargs)
    protocol = cls.__new__(cls)
    protocol.max_size = 0  # in the place of the class's: the size of its first buffer
    cls.__init__(protocol, *args, **kwargs)
    del protocol.max_size
    return protocol


class _Sslproto:
    """The module asyncio.sslproto with another way to make an SSLProtocol."""

    @staticmethod
    def SSLProtocol(*args: Any, **kwargs: Any) -> Any:
        return make_protocol(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(sslproto, name)


class _Globals(dict[str, Any]):
    """The globals of asyncio.base_events as they are, but for its ``sslproto``.

    It holds what the interpreter looks for without asking, as it imports, and the
    builtins that code uses; the rest is looked up there each time.
    """

    _theirs = vars(_base_events)
    _stand_in = _Sslproto()

    def __init__(self, code: types.CodeType) -> None:
        super().__init__(
            (name, value)
            for name, value in self._theirs.items()
            if name.startswith("__")
        )
        self.update(
            (name, vars(builtins)[name])
            for name in code.co_names
            if name not in self._theirs and name in vars(builtins)
        )

    def __missing__(self, name: str) -> Any:
        value = self._theirs[name]
        return self._stand_in if value is sslproto else value


def _start_tls() -> Any:
    """asyncio's BaseEventLoop.start_tls, which makes its SSLProtocol by _Sslproto."""
    theirs: Any = asyncio.BaseEventLoop.start_tls
    ours: Any = types.FunctionType(
        theirs.__code__,
        _Globals(theirs.__code__),
        theirs.__name__,
        theirs.__defaults__,
        theirs.__closure__,
    )
    ours.__kwdefaults__ = theirs.__kwdefaults__
    ours.__qualname__ = theirs.__qualname__
    ours.__doc__ = theirs.__doc__
    return ours


start_tls = _start_tls()
