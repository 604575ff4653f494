"""Child processes: asyncio's transport over subprocess.Popen, and waiting for the end.

asyncio's methods check the arguments, make pipes and call the protocol. What is here
is the hook that they call, ``_make_subprocess_transport``. A child's end is seen by its
pidfd, one more descriptor that the loop watches; where there is none, by a thread. The
policy's child watchers are not asked, and SIGCHLD is left alone.
"""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import functools
import itertools
import os
import signal
import sys
import threading
from asyncio import format_helpers, unix_events
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from pyloop import _core
from pyloop._transports import created_at

if TYPE_CHECKING:
    import subprocess

_UnixSubprocessTransport: Any = unix_events._UnixSubprocessTransport  # type: ignore[attr-defined]

UNKNOWN_STATUS = 255
"""The exit code of a child that somebody else has waited for; asyncio's choice."""

_UNKNOWN_TO_THREAD = "Unknown child process pid %d, will report returncode %d"

_thread_numbers = itertools.count(1)


class SubprocessTransport(_UnixSubprocessTransport):  # type: ignore[misc]
    """The transport of a child process; an asyncio.SubprocessTransport."""

    _source_traceback: Any = None  # in debug mode where it was made
    _born_ticks: int  # as of the core's transports

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._born_ticks = _core.ticks()
        super().__init__(*args, **kwargs)

    def _connect_pipes(self, waiter: Connected) -> Connecting:
        """What asyncio makes a task of, as this is constructed."""
        return Connecting(super()._connect_pipes(waiter), waiter)

    def close(self) -> None:
        """Close the pipes and kill the child, which is killed however this ends.

        Raises what closing a pipe raises: out of memory, MemoryError.
        """
        try:
            super().close()
        except BaseException:
            if self._proc is not None:
                self.kill()
            raise

    def __repr__(self) -> str:
        place = created_at(self) if self._source_traceback is not None else ""
        return f"{super().__repr__().removesuffix('>')}{place}>"

    def send_signal(self, signal: int) -> None:
        """Send a signal, unless the child has ended.

        Raises ProcessLookupError once connection_lost() was called, PermissionError if
        the child runs as somebody else. A child that was waited for gets none: its
        number may be another process's by now.
        """
        self._check_proc()
        if self._proc.returncode is None:
            try:
                os.kill(self._proc.pid, signal)
            except ProcessLookupError:
                pass

    def terminate(self) -> None:
        """Send SIGTERM, as send_signal()."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, as send_signal()."""
        self.send_signal(signal.SIGKILL)


class Connecting(collections.abc.Coroutine[Any, Any, None]):
    """The coroutine that connects the pipes, which tells the waiter how it ended.

    asyncio's own tells nobody if its task ends before the first step, cancelled or out
    of memory: none of its code is run then.
    """

    def __init__(self, coro: Any, waiter: Connected) -> None:
        self._coro = coro
        self._waiter = waiter
        self.__name__ = self.__qualname__ = coro.__qualname__

    def send(self, value: Any) -> Any:
        return self._coro.send(value)

    def throw(self, *exc_info: Any) -> Any:
        try:
            return self._coro.throw(*exc_info)
        except StopIteration:
            raise
        except BaseException as exc:
            self._tell(exc)
            raise

    def __del__(self) -> None:
        self._tell(RuntimeError("the pipes of the child were not connected"))

    def _tell(self, exc: BaseException) -> None:
        if not self._waiter.done() and not self._waiter.get_loop().is_closed():
            self._waiter.set_exception(exc)

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Any:
        return self._coro.__await__()


class Connected(asyncio.Future[None]):
    """Done when a transport's pipes are connected, which cannot be stopped.

    A task that awaits it and is cancelled has the CancelledError then, not before.
    """

    def cancel(self, msg: Any = None) -> bool:
        return False


class Child:
    """Waits for one child process, in behalf of its transport.

    exited is done when the child has been waited for. Owns the pidfd until then, or
    until stop_watching().
    """

    def __init__(self, loop: Any, transport: Any, exited: asyncio.Future[None]) -> None:
        self.loop = loop
        self.transport = transport
        self.process: subprocess.Popen[bytes] = transport._proc
        self.exited = exited
        self.pidfd = -1

    def watch(self) -> None:
        """Begin to wait. Raises RuntimeError if that takes a thread and none starts."""
        try:
            try:
                self._watch_pidfd()
            except (AttributeError, OSError, MemoryError):
                # There are no pidfds here, none is left, or it cannot be watched.
                self._watch_in_thread()
        except BaseException:
            # Nobody waits: Popen will, when it is dropped and another child starts.
            self.exited.set_result(None)
            raise

    def _watch_pidfd(self) -> None:
        self.pidfd = os.pidfd_open(self.process.pid)
        try:
            self.loop._add_reader(self.pidfd, self._on_pidfd)
        except BaseException:
            self._close_pidfd()
            raise
        self.loop._children.add(self)

    def _on_pidfd(self) -> None:
        self.stop_watching()
        self._on_end(
            "child process pid %d exit status already read:  will report returncode %d"
        )

    def stop_watching(self) -> None:
        """Forget the pidfd: it did its work, or the loop is about to close."""
        self.loop._remove_reader(self.pidfd)
        self.loop._children.discard(self)
        self._close_pidfd()

    def _close_pidfd(self) -> None:
        pidfd, self.pidfd = self.pidfd, -1
        os.close(pidfd)

    def _watch_in_thread(self) -> None:
        thread = threading.Thread(
            target=self._wait_in_thread,
            name=f"pyloop-waitpid-{next(_thread_numbers)}",
            daemon=True,
        )
        thread.start()

    def _wait_in_thread(self) -> None:
        # Only look: the loop's thread reaps, so that the number is not another's while
        # that thread may still send signals to it.
        if hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._reap(_UNKNOWN_TO_THREAD)
        try:
            self.loop.call_soon_threadsafe(self._on_end, _UNKNOWN_TO_THREAD)
        except RuntimeError:  # the loop is closed
            self._reap(_UNKNOWN_TO_THREAD)
            logger.warning(
                "Loop %r that handles pid %r is closed", self.loop, self.process.pid
            )

    def _reap(self, unknown: str) -> None:
        """Wait for the child, which has ended, and tell Popen.

        unknown: the warning if somebody else has waited for it, and not Popen.
        """
        try:
            _, status = os.waitpid(self.process.pid, 0)
        except ChildProcessError:
            if self.process.returncode is None:
                self.process.returncode = UNKNOWN_STATUS
                logger.warning(unknown, self.process.pid, UNKNOWN_STATUS)
        else:
            self.process.returncode = os.waitstatus_to_exitcode(status)

    def _on_end(self, unknown: str) -> None:
        """Reap the child, and tell the transport in another callback.

        In between, what the child has written before may be read.
        """
        self._reap(unknown)
        if not self.exited.done():
            self.exited.set_result(None)
        self.loop.call_soon(self.transport._process_exited, self.process.returncode)


def _close_pipes(transport: Any, connected: Connected) -> None:
    """Close what was connected after transport.close(), and what was not connected."""
    connected.exception()  # it has been raised already
    process = transport._proc
    for number, protocol in transport._pipes.items():
        if protocol is not None:
            protocol.pipe.close()
        elif process is not None:
            (process.stdin, process.stdout, process.stderr)[number].close()


class SubprocessMethods:
    """A base of Loop: the hook of asyncio.BaseEventLoop's subprocess methods."""

    async def _make_subprocess_transport(
        self: Any,
        protocol: asyncio.SubprocessProtocol,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SubprocessTransport:
        """Start a child; return its transport when the pipes are connected.

        kwargs: what subprocess.Popen takes. Raises what Popen raises. Cancelled or
        failed half way, it kills the child, waits for it and closes the pipes.
        """
        connected = Connected(loop=self)
        exited = self.create_future()  # first: it may fail, and then nothing is begun
        transport = SubprocessTransport(
            self,
            protocol,
            args,
            shell,
            stdin,
            stdout,
            stderr,
            bufsize,
            waiter=connected,
            extra=extra,
            **kwargs,
        )
        self._seldom_used.add(transport)
        if self._debug:
            transport._source_traceback = format_helpers.extract_stack(sys._getframe())
        child = Child(self, transport, exited)
        try:
            child.watch()
            await connected
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            try:
                transport.close()
            finally:
                connected.add_done_callback(functools.partial(_close_pipes, transport))
                await asyncio.wait((connected, exited))
            raise
        return transport

    def _close_children(self: Any) -> None:
        """The loop closes: children that live on are nobody's to wait for."""
        for child in list(self._children):
            child.stop_watching()
