"""loop.sendfile() and loop.sock_sendfile(): what is done once per file.

asyncio's own methods check the arguments and fall back to reading and writing. They ask
the hooks here first; the parts of the file are sent by C (csrc/loop/sendfile.c).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import os
from asyncio import unix_events
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

_update: Any = unix_events._UnixSelectorEventLoop._sock_sendfile_update_filepos  # type: ignore[attr-defined]

# Late bug fixes of 3.14 on: the file's position is set when nothing was sent, too.
_ALWAYS_POSITIONS = "total_sent" not in inspect.signature(_update).parameters


class SendfileMethods:
    """A base of Loop: the hooks of asyncio.BaseEventLoop's sendfile methods."""

    async def _sock_sendfile_native(
        self: Any, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        """Send from a regular file to a stream socket; return the bytes sent.

        Raises SendfileNotAvailableError if nothing was sent and another way may work.
        The file's position is set behind what was sent, however this ends; where
        nothing was sent, only by Pythons whose asyncio does so.
        """
        if not hasattr(os, "sendfile"):  # Python was built without, or it was taken out
            raise asyncio.SendfileNotAvailableError("os.sendfile() is not available")
        try:
            fd = file.fileno()
        except (AttributeError, io.UnsupportedOperation):
            raise asyncio.SendfileNotAvailableError("not a regular file") from None
        try:
            size = os.fstat(fd).st_size
        except OSError:
            raise asyncio.SendfileNotAvailableError("not a regular file") from None
        if not (count or size):
            return 0
        if _ALWAYS_POSITIONS:
            with contextlib.suppress(OSError):  # a pipe has none
                os.lseek(fd, offset, os.SEEK_SET)
        sent: int = await self._sock_sendfile(sock, file, offset, count or None)
        return sent

    async def _sendfile_native(
        self: Any, transp: Any, file: Any, offset: int, count: int | None
    ) -> int:
        """The same to a transport, after what was written to it before.

        Meanwhile nothing is read, and write() raises RuntimeError. Raises
        ConnectionError if the transport is closed or loses its connection.
        """
        empty = transp._make_empty_waiter()
        resume_reading = transp.is_reading()
        transp.pause_reading()
        asyncios = self._withdraw(transp)
        try:
            await empty
            sent: int = await self.sock_sendfile(
                transp._sock, file, offset, count, fallback=False
            )
            return sent
        except (OSError, ValueError, asyncio.SendfileNotAvailableError) as exc:
            if transp.is_closing() and not isinstance(exc, ConnectionError):
                raise ConnectionError("Connection is closed by peer") from exc
            raise
        finally:
            transp._reset_empty_waiter()
            if asyncios is not None:
                asyncios.setdefault(transp._sock_fd, transp)
            if resume_reading:
                transp.resume_reading()
