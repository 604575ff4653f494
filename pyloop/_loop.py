"""The loop: asyncio's own orchestration over the C core.

What runs per callback, per timer or per byte is in C (``pyloop._core``); what runs per
connection or per loop is asyncio's code of the running Python version, inherited from
``asyncio.BaseEventLoop`` or borrowed from its Unix selector loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import os
import signal
import socket
import sys
import threading
import types
import warnings
import weakref
from asyncio import base_events, format_helpers, unix_events
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from pyloop import _core, _forks
from pyloop._queues import Ready, Selector
from pyloop._selector import SelectorMethods
from pyloop._sendfile import SendfileMethods
from pyloop._subprocess import Child, SubprocessMethods
from pyloop._tls import make_protocol, start_tls
from pyloop._transports import TransportMethods

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Iterator

    from pyloop.metrics import Metrics

__all__ = ["Loop", "counts_jobs"]

# Names of asyncio's that its published types leave out or narrow.
_UnixLoop: Any = unix_events._UnixSelectorEventLoop
_base_events: Any = base_events

_run_in_executor: Any = asyncio.BaseEventLoop.run_in_executor

# The kind of a socket that does not block from the start, where there is one.
_NONBLOCKING = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)

# The 3.13 releases and some later bug fixes of others take debug=.
_FORMAT_TAKES_DEBUG = (
    "debug" in inspect.signature(format_helpers._format_callback_source).parameters
)


def _creation() -> Any:
    """The module pyloop._creation, or None: what nobody has imported knows nothing."""
    return sys.modules.get("pyloop._creation")


def counts_jobs(executor: Any) -> bool:
    """Whether jobs of this default executor, None before its first job, are counted.

    A plain one only: a subclass, or something else that behaves like one, may look at
    the functions that it is given.
    """
    return executor is None or type(executor) is concurrent.futures.ThreadPoolExecutor


class Loop(
    _core.Loop,
    SelectorMethods,
    SendfileMethods,
    SubprocessMethods,
    TransportMethods,
    asyncio.BaseEventLoop,
):
    """An asyncio event loop on pyloop's C core.

    Takes no arguments. Raises OSError when the system refuses the loop's descriptors,
    and ValueError when PYLOOP_POLLER names no way of watching descriptors. Everything
    that asyncio documents for ``asyncio.AbstractEventLoop`` of the running Python
    version holds; see docs/compatibility.md for what is missing and what differs.
    """

    _unix_server_sockets: dict[Any, int]

    if TYPE_CHECKING:  # of asyncio's class, which its published types leave out
        _internal_fds: int
        _default_executor: Any

        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _set_coroutine_origin_tracking(self, enabled: bool) -> None: ...
        def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None: ...
        def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None: ...

    def __init__(self) -> None:
        # Signals wake the loop by it: Python's C handler writes their numbers. First,
        # because it may fail: a loop is open, and to be closed, from super() on.
        self._ssock, self._csock = socket.socketpair(type=_NONBLOCKING)
        super().__init__()
        if _NONBLOCKING == socket.SOCK_STREAM:
            self._ssock.setblocking(False)
            self._csock.setblocking(False)
        self._internal_fds += 1
        _core.Loop._add_reader(self, self._ssock.fileno(), self._read_signals)
        self._signal_handlers: dict[int, asyncio.Handle] = {}
        self._unix_server_sockets = {}
        self._children: set[Child] = set()
        self._seldom_used = weakref.WeakSet()
        _forks.loops.add(self)

    # -- what asyncio's iteration is made of: for code that iterates by itself -------

    _selector = functools.cached_property(Selector)

    @property
    def _ready(self) -> Ready:
        return Ready(self)

    @_ready.setter
    def _ready(self, value: Any) -> None:
        if len(value) > 0:  # BaseEventLoop.__init__ assigns an empty deque
            raise AttributeError("_ready is pyloop's own queue: append() to it")

    def _process_events(self, event_list: list[Any]) -> None:
        """Take what _selector.select() returned: nothing, it is in _ready already."""

    def _run_handle(self, handle: Any) -> None:
        """What runs a handle of asyncio's own class; _add_callback() took it."""
        if not handle._cancelled:
            handle._run()

    # -- running ------------------------------------------------------------------

    def run_forever(self) -> None:
        """Run until stop() is called. As asyncio's loop.run_forever()."""
        self._check_closed()
        self._check_running()
        self._set_coroutine_origin_tracking(self._debug)
        if (creation := _creation()) is not None:
            creation.begin_run(self)
        old_hooks = sys.get_asyncgen_hooks()
        self._thread_id = threading.get_ident()
        try:
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook,
                finalizer=self._asyncgen_finalizer_hook,
            )
            asyncio._set_running_loop(self)
            with self._woken_by_signals():
                if type(self)._run_once is _core.Loop._run_once:
                    self._run()
                else:  # a subclass's own iteration
                    while True:
                        self._run_once()
                        if self._stopping:
                            break
        finally:
            self._stopping = False
            self._thread_id = None
            asyncio._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*old_hooks)

    @contextlib.contextmanager
    def _woken_by_signals(self) -> Iterator[None]:
        """While the main thread runs the loop, a signal ends a blocking poll.

        The kernel may deliver a signal to any thread, and a C-level handler only notes
        it, so Python's wake-up descriptor is ours for the run unless it is in use.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        fd = self._csock.fileno()
        try:
            old = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        except ValueError:  # not the main thread of the main interpreter
            yield
            return
        if old != -1 and old != fd:
            signal.set_wakeup_fd(old)
        try:
            yield
        finally:
            # Ours to take back only if nobody took it over meanwhile; a signal handler
            # needs it between runs too.
            if old == -1 and not self._signal_handlers:
                now = signal.set_wakeup_fd(-1)
                if now != fd and now != -1:
                    signal.set_wakeup_fd(now)

    # -- signals: asyncio's Unix loop, over a socket pair ---------------------

    if not TYPE_CHECKING:  # the types of asyncio's class are theirs
        add_signal_handler = _UnixLoop.add_signal_handler
        remove_signal_handler = _UnixLoop.remove_signal_handler
    _check_signal = _UnixLoop._check_signal
    _handle_signal = _UnixLoop._handle_signal

    def _read_signals(self) -> None:
        """Take the numbers of arrived signals; schedule what handles them."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while data := self._ssock.recv(4096):
                for signum in data:
                    if signum in self._signal_handlers:
                        self._handle_signal(signum)

    def _after_fork(self) -> None:
        """In a child: the numbers of signals come and go by a socket pair of its own.

        It takes the descriptors of the copied one, of which the signal module, and the
        loop, know the numbers. A C handler would else tell the parent's loop.
        """
        if self._ssock.fileno() < 0 or self._csock.fileno() < 0:
            return
        fresh = socket.socketpair()
        for mine, copied in zip(fresh, (self._ssock, self._csock), strict=True):
            with mine:
                mine.setblocking(False)
                os.dup2(mine.fileno(), copied.fileno(), inheritable=False)
        _core.Loop._add_reader(self, self._ssock.fileno(), self._read_signals)

    # -- transports ----------------------------------------------------------------

    if not TYPE_CHECKING:  # as above
        create_unix_connection = _UnixLoop.create_unix_connection
        create_unix_server = _UnixLoop.create_unix_server
        start_tls = start_tls

    def _make_read_pipe_transport(self, *args: Any, **kwargs: Any) -> Any:
        transport = super()._make_read_pipe_transport(*args, **kwargs)
        self._seldom_used.add(transport)
        return transport

    def _make_write_pipe_transport(self, *args: Any, **kwargs: Any) -> Any:
        transport = super()._make_write_pipe_transport(*args, **kwargs)
        self._seldom_used.add(transport)
        return transport

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        waiter: asyncio.Future[Any] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: asyncio.AbstractServer | None = None,
        context: Any = None,
        **timeouts: Any,
    ) -> asyncio.Transport:
        """TLS by asyncio's sslproto over our socket transport."""
        self._ensure_fd_no_transport(rawsock)
        ssl_protocol = make_protocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            **timeouts,
        )
        self._make_socket_transport(
            rawsock, ssl_protocol, extra=extra, server=server, context=context
        )
        transport: asyncio.Transport = ssl_protocol._app_transport
        return transport

    def _accept_in_task(
        self,
        sock: socket.socket,
        address: Any,
        protocol_factory: Any,
        sslcontext: ssl.SSLContext | None,
        server: asyncio.AbstractServer,
        *arguments: Any,
    ) -> None:
        """A connection that the C listener accepted: asyncio's coroutine starts it.

        arguments: the handshake timeout, the shutdown timeout and, from 3.15, the
        connection's context, each None where this Python's asyncio did not pass it.
        """
        given = arguments
        while given and given[-1] is None:
            given = given[:-1]
        keywords = {"context": given[2]} if len(given) > 2 else {}
        accepting = self._accept_connection2(
            protocol_factory, sock, {"peername": address}, sslcontext, server, *given
        )
        self.create_task(accepting, **keywords)

    # -- reports: rare, so worded here as this Python's asyncio words them ------------

    def _report_callback_error(self, handle: Any, exc: BaseException) -> None:
        """Tell the exception handler what a callback raised."""
        keywords = {"debug": self._debug} if _FORMAT_TAKES_DEBUG else {}
        call = format_helpers._format_callback_source(
            handle._callback, handle._args or (), **keywords
        )
        context = {
            "message": f"Exception in callback {call}",
            "exception": exc,
            "handle": handle,
        }
        if handle._source_traceback:
            context["source_traceback"] = handle._source_traceback
        self.call_exception_handler(context)

    def _log_slow_callback(self, subject: Any, seconds: float) -> None:
        """Debug mode: a callback ran for slow_callback_duration seconds or longer."""
        if isinstance(subject, asyncio.Handle):
            text = _base_events._format_handle(subject)
        else:
            text = repr(subject)
        _base_events.logger.warning("Executing %s took %.3f seconds", text, seconds)

    def _log_transport(
        self, level: str, transport: Any, text: str, exc: BaseException | None
    ) -> None:
        """Debug mode: what happened to a transport, and by which error if by one."""
        between = ": " if exc is not None else " "
        getattr(logger, level)("%r%s%s", transport, between, text, exc_info=exc)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report what went wrong, context, to the exception handler. As asyncio's.

        What is known of a task's creation goes with it.
        """
        if (creation := _creation()) is not None:
            context = creation.with_place(context)
        super().call_exception_handler(context)

    # -- what csrc calls while pyloop.tasks traces ------------------------------------

    def _task_created(self, task: Any) -> None:
        """A task was made: remember where."""
        if (creation := _creation()) is not None:
            creation.note(self, task)

    def _about_to_block(self) -> None:
        """No timer, no descriptor but our own: say so if nothing can end the wait."""
        from pyloop import _stalls

        _stalls.look(self)

    def _step_aside(self) -> None:
        """Do nothing, in Python: as a call begins, the interpreter looks around."""

    # -- metrics ---------------------------------------------------------------------

    def metrics(self) -> Metrics:
        """Return a reading of what the loop has counted of itself.

        From any thread, and of a loop that is closed or does not run, too. See
        pyloop.metrics.Metrics for each field and its unit.
        """
        from pyloop.metrics import read

        return read(self)

    if not TYPE_CHECKING:  # the types of asyncio's class are its

        def run_in_executor(self, executor, func, *args):
            """Call func(*args) in a thread; return an awaitable of the result.

            executor: a concurrent.futures.Executor; None is the default one, whose
            jobs are counted in metrics(). Raises RuntimeError when the loop is closed.
            As asyncio's loop.run_in_executor().
            """
            if executor is None and counts_jobs(self._default_executor):
                if self._debug:
                    self._check_callback(func, "run_in_executor")
                func = self._executor_job(func)
            return _run_in_executor(self, executor, func, *args)

    # -- closing ---------------------------------------------------------------------

    def close(self) -> None:
        """Close the loop; what is scheduled or watched is dropped. As asyncio's.

        Raises RuntimeError while the loop runs. Never waits for the executor.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._close_signals()
        self._close_children()
        super().close()
        self._close_core()

    def _close_signals(self) -> None:
        if sys.is_finalizing():
            # No handler can run any more, and signal's functions may be gone.
            if self._signal_handlers:
                warnings.warn(
                    f"{self!r} is closed as the interpreter exits: "
                    "skipping signal handlers removal",
                    ResourceWarning,
                    source=self,
                    stacklevel=3,
                )
            self._signal_handlers.clear()
        for signum in list(self._signal_handlers):
            self.remove_signal_handler(signum)
        fd = self._ssock.fileno()
        if fd >= 0:  # else the collector, or another thread's close(), was before us
            _core.Loop._remove_reader(self, fd)
        self._ssock.close()
        self._csock.close()
        self._internal_fds -= 1


def _borrowed(function: types.FunctionType) -> Any:
    """A method of asyncio's Unix loop, for whose super() it is one of Loop's."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    own = types.CellType(Loop)
    return types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(own if name == "__class__" else cell for name, cell in cells),
    )


if "_stop_serving" in vars(_UnixLoop):  # from 3.13 on: a server's file goes with it
    # asyncio's, and not one like it: tools that look for blocking calls know its file.
    Loop._stop_serving = _borrowed(_UnixLoop._stop_serving)  # type: ignore[method-assign]

# What programs call all the time.
_core.own_methods(
    Loop,
    (
        "call_at",
        "call_later",
        "call_soon",
        "call_soon_threadsafe",
        "create_future",
        "create_task",
        "get_debug",
        "time",
    ),
)
