"""What blocks my loop: a thread that tells of callbacks which do not return.

::

    import pyloop.watchdog

    pyloop.watchdog.start(0.1)

From there on, whenever a callback (a task's step, a protocol's method) keeps a pyloop
loop of this interpreter from going on for 0.1 seconds, the logger ``pyloop.watchdog``
says so while it still does, with the stack of the loop's thread, and again when it is
over. docs/what-blocks-my-loop.md shows it.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import dataclasses
import inspect
import logging
import math
import numbers
import os
import sys
import sysconfig
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from pyloop import _core, _forks
from pyloop._libraries import is_library
from pyloop._loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

    from typing_extensions import Self

__all__ = ["Block", "Watchdog", "start"]

_logger = logging.getLogger("pyloop.watchdog")

# Seconds that a program waits for its watchdog's thread at most: a callback of the
# user's may be running in it.
_PATIENCE = 5.0

_A_MINUTE = 60.0

# Seconds to wait for the GIL that no other thread's Python code explains.
_MUCH = 0.05

# Without a GIL the other thread stops to be looked at, and has gone on right after.
_HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()

# How often it is looked at then: a function that returns while the frames are followed
# takes its callers' from them, which happens once in some 700 times.
_LOOKS = 10

# Where the standard library is.
_STANDARD = tuple(
    os.path.join(folder, "")
    for folder in {sysconfig.get_path("stdlib"), os.path.dirname(os.__file__)}
)

# Modules in which a thread stands while somebody looks at it with a debugger.
_DEBUGGERS = ("bdb", "pdb", "pydevd", "_pydevd_bundle", "debugpy", "pudb", "ipdb")


def _is_installed(file: str) -> bool:
    return any(name in file for name in ("/site-packages/", "/dist-packages/"))


def _is_standard(file: str) -> bool:
    return file.startswith((*_STANDARD, "<frozen ")) and not _is_installed(file)


def _is_anybody_s(file: str) -> bool:
    return is_library(file) or _is_installed(file) or _is_standard(file)


@dataclasses.dataclass(frozen=True)
class Block:
    """A callback that blocks its loop, or did: what a watchdog reports."""

    number: int
    """Which block it is. What is reported at its start and at its end have the same."""

    ended: bool
    """False: it still blocks. True: it is over, and seconds is how long it took."""

    seconds: float
    """For how long. It may be longer by a quarter of the watchdog's threshold."""

    thread: str
    """The name of the thread that runs the loop."""

    thread_id: int
    """Its threading.get_ident()."""

    task: str | None
    """The name of the task whose step it is; None for another callback."""

    stack: tuple[traceback.FrameSummary, ...]
    """Where it stood when it was seen, oldest first: what the loop called, up to the
    call that does not return. Empty for a C function that the loop called."""

    awaits: tuple[traceback.FrameSummary, ...]
    """Those of the stack that are coroutines: each awaits the next one."""

    gil_seconds: float
    """How long the watchdog waited for the GIL before it could look at the stack. If it
    is more than a few milliseconds, a C function had it, and the stack may be later."""

    left_out: int
    """How many blocks before this one were not reported, for there were too many."""

    @property
    def culprit(self) -> traceback.FrameSummary | None:
        """The innermost frame that is the program's own, if there is a frame.

        That is: neither of the standard library nor of an installed package; of a
        package if there is no other; any if there is no other.
        """
        for is_another_s in (_is_anybody_s, _is_standard):
            for frame in reversed(self.stack):
                if not is_another_s(frame.filename):
                    return frame
        return self.stack[-1] if self.stack else None

    def __str__(self) -> str:
        """Several lines: a headline, then the stack as in a traceback."""
        who = f"Task {self.task!r}" if self.task is not None else "A callback"
        has = "blocked" if self.ended else "has blocked"
        so_far = "" if self.ended else " so far"
        if (culprit := self.culprit) is not None:
            where = f"{culprit.filename}:{culprit.lineno} in {culprit.name}()"
        else:
            where = "in a C function"
        lines = [
            f"{who} {has} the event loop of thread {self.thread!r} for "
            f"{self.seconds:.2f} seconds{so_far}: {where}\n"
        ]
        if self.ended:
            return lines[0].rstrip("\n")
        lines += traceback.StackSummary.from_list(self.stack).format()
        if len(self.awaits) > 1:
            chain = "() awaits ".join(frame.name for frame in self.awaits)
            lines.append(f"  {chain}()\n")
        if self.gil_seconds > _MUCH:
            lines.append(
                f"  It took {self.gil_seconds:.2f} seconds to get the GIL, which a C "
                "function held:\n  the stack may be later than where it blocked.\n"
            )
        if self.left_out:
            lines.append(f"  {self.left_out} blocks before this were not reported.\n")
        return "".join(lines).rstrip("\n")


def _summary(frame: FrameType) -> traceback.FrameSummary:
    code = frame.f_code
    return traceback.FrameSummary(
        code.co_filename, frame.f_lineno, code.co_name, lookup_line=False
    )


def _below_the_loop(thread_id: int) -> list[FrameType]:
    """The frames of a thread that its pyloop loop called, the oldest first."""
    frames: list[FrameType] = []
    called = 0
    frame = _core.Watcher.frame(thread_id)
    while frame is not None:
        if frame.f_code is Loop.run_forever.__code__:
            called = len(frames)
        frames.append(frame)
        frame = frame.f_back
    return frames[:called][::-1] if called else []


def _is_debugged(frames: list[FrameType]) -> bool:
    names = (str(frame.f_globals.get("__name__", "")) for frame in frames)
    return any(name.partition(".")[0] in _DEBUGGERS for name in names)


def _is_coroutine(frame: FrameType) -> bool:
    kinds = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    return bool(frame.f_code.co_flags & (kinds | inspect.CO_ITERABLE_COROUTINE))


def _task_name(run: int) -> str | None:
    """The name of the task that a loop, which is in this run, is in a step of."""
    for loop in _forks.living(_forks.loops):
        if loop._run_number == run:
            task = asyncio.current_task(loop)
            return task.get_name() if task is not None else None
    return None


def _thread_name(thread_id: int) -> str:
    for thread in threading.enumerate():
        if thread.ident == thread_id:
            return thread.name
    return str(thread_id)


def _seconds(name: str, value: object) -> float:
    """An argument that is to be a number of seconds (or of something else)."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    number = float(value)
    if not number > 0:
        raise ValueError(f"{name} must be greater than 0, not {value!r}")
    return number


class Watchdog:
    """What start() returns. A context manager, which stops it at its end.

    It has one thread, whatever number of loops run. Several may be active at once.
    """

    def __init__(
        self,
        threshold: float,
        callback: Callable[[Block], object] | None,
        rate: float,
        gil_threshold: float,
    ) -> None:
        self._settings = threshold, gil_threshold
        self._callback = callback
        self._rate = rate
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._ending = False
        self._stopped = False
        self._told: dict[int, Block] = {}  # whose end is to be told too
        self._told_at: collections.deque[float] = collections.deque()
        self._left_out = 0
        self._signum = self._register_dump() if gil_threshold > 0 else 0
        self._watcher = self._new_watcher()

    def _new_watcher(self) -> _core.Watcher:
        return _core.Watcher(*self._settings, self._signum)

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "active"
        return f"<{type(self).__name__} {state} threshold={self._settings[0]}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    # -- beginning and ending -----------------------------------------------------

    def _start(self) -> None:
        with self._lock:
            self._start_thread()
        _forks.watchdogs.add(self)
        if self._thread is not None and not self._thread.daemon:
            register_atexit: Any = threading._register_atexit  # type: ignore[attr-defined]
            register_atexit(self.stop)  # before threads are waited for
        else:
            atexit.register(self.stop)

    def _start_thread(self) -> None:
        keywords: dict[str, Any] = {"target": self._main, "name": "pyloop-watchdog"}
        self._ending = False
        try:
            thread = threading.Thread(**keywords, daemon=True)
        except RuntimeError:  # an interpreter that has none
            thread = threading.Thread(**keywords, daemon=False)
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """Stop watching. Idempotent, from any thread.

        A report that is being made is finished first, and waited for, five seconds at
        most. The end of a block is not reported any more.
        """
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        _forks.watchdogs.discard(self)
        atexit.unregister(self.stop)
        if self._end_thread() and self._signum:
            import faulthandler

            faulthandler.unregister(self._signum)

    def _end_thread(self) -> bool:
        """Have the thread end; whether it has."""
        with self._lock:
            self._ending = True
            thread = self._thread
        if thread is None:
            return True
        self._watcher.wake()
        if thread is threading.current_thread():
            return False
        thread.join(_PATIENCE)
        if thread.is_alive():
            return False
        # Or a fork makes the interpreter warn of a thread that has not quite left the
        # kernel.
        place = f"/proc/self/task/{thread.native_id}"
        for _ in range(1000):
            if not os.path.exists(place):
                break
            time.sleep(0.0001)  # it needs a processor for that
        return True

    def _before_fork(self) -> None:
        """No thread while the process forks: the child would have its locks."""
        self._end_thread()

    def _after_fork_in_parent(self) -> None:
        with self._lock:
            self._ending = self._stopped
            if self._thread is None and not self._stopped:
                self._start_thread()

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        self._thread = None
        self._told.clear()
        self._watcher = self._new_watcher()
        if not self._stopped:
            self._start_thread()

    # -- the thread ---------------------------------------------------------------

    def _main(self) -> None:
        watcher = self._watcher
        while True:
            event = watcher.next(self._may_tell())
            if event is not None:
                try:
                    self._tell(*event)
                except BaseException:
                    _logger.exception("The watchdog could not make a report")
            if self._is_to_end():
                return

    def _is_to_end(self) -> bool:
        with self._lock:
            if self._ending:
                self._thread = None
            return self._ending

    def _may_tell(self) -> bool:
        """Whether one more report is allowed now."""
        old = time.monotonic() - _A_MINUTE
        while self._told_at and self._told_at[0] <= old:
            self._told_at.popleft()
        return len(self._told_at) < self._rate

    def _tell(
        self,
        ended: bool,
        number: int,
        run: int,
        thread_id: int,
        seconds: float,
        gil_seconds: float,
    ) -> None:
        if ended:
            block = self._told.pop(number, None)
            if block is not None:
                self._emit(dataclasses.replace(block, ended=True, seconds=seconds))
            return
        frames = self._frames(number, thread_id)
        stack = tuple(_summary(frame) for frame in frames)
        awaits = tuple(
            summary
            for frame, summary in zip(frames, stack, strict=True)
            if _is_coroutine(frame)
        )
        if _is_debugged(frames):
            return
        if not self._may_tell():
            self._left_out += 1
            return
        self._told_at.append(time.monotonic())
        self._told[number] = block = Block(
            number=number,
            ended=False,
            seconds=seconds,
            thread=_thread_name(thread_id),
            thread_id=thread_id,
            task=_task_name(run) if frames else None,
            stack=stack,
            awaits=awaits,
            gil_seconds=gil_seconds,
            left_out=self._left_out,
        )
        self._left_out = 0
        self._emit(block)

    def _frames(self, number: int, thread_id: int) -> list[FrameType]:
        """The frames of a callback while it runs, none if it was over too soon."""
        frames: list[FrameType] = []
        looks = 1 if _HAS_GIL else _LOOKS
        while looks > 0 and not frames and self._watcher.goes_on(number):
            frames = _below_the_loop(thread_id)
            looks -= 1
        if _HAS_GIL and not self._watcher.goes_on(number):
            return []  # it returned while the GIL was waited for
        return frames

    def _emit(self, block: Block) -> None:
        if self._callback is not None:  # first: a handler of the log may block, too
            try:
                self._callback(block)
            except BaseException:
                _logger.exception("The watchdog's callback failed")
        _logger.warning("%s", block)

    @staticmethod
    def _register_dump() -> int:
        """The signal that has all threads' stacks written to stderr; 0 without one."""
        signum = _core.Watcher.free_signal()
        try:
            if signum:
                import faulthandler  # subinterpreters may not have it

                os.fstat(2)
                faulthandler.register(signum, file=2, all_threads=True)
        except (ImportError, OSError, RuntimeError, ValueError):
            return 0
        return signum


def start(
    threshold: float = 0.1,
    *,
    callback: Callable[[Block], object] | None = None,
    rate: float = 60,
    gil_threshold: float | None = 1.0,
) -> Watchdog:
    """Watch every pyloop loop that this interpreter runs, now or later.

    A callback that runs for longer than threshold seconds is reported while it runs and
    when it ends: as a warning of the logger pyloop.watchdog, and by callback(block),
    which is given a Block, in the watchdog's thread. Awaiting blocks nothing.

    threshold: seconds, greater than 0; below 0.004 it is noticed later.
    rate: at most so many blocks are reported in a minute (math.inf: all); the next
    report says how many were left out.
    gil_threshold: when the GIL could not be had for so many seconds more, faulthandler
    writes all threads' stacks to file descriptor 2 (on Linux). None: never.

    Raises TypeError or ValueError for an argument of another kind, and RuntimeError
    when no thread can be started, as in Python 3.12 while it exits. It ends with stop()
    or the interpreter. A forked child goes on with a thread of its own.
    """
    seconds = _seconds("threshold", threshold)
    gil_seconds = (
        0.0 if gil_threshold is None else _seconds("gil_threshold", gil_threshold)
    )
    if not math.isfinite(seconds):
        raise ValueError(f"threshold must be finite, not {threshold!r}")
    if callback is not None and not callable(callback):
        raise TypeError(
            f"callback must be callable or None, not {type(callback).__name__}"
        )
    rate = _seconds("rate", rate)
    if gil_seconds >= 1e9:  # longer than any program runs
        gil_seconds = 0.0
    watchdog = Watchdog(seconds, callback, rate, gil_seconds)
    try:
        watchdog._start()
    except BaseException:
        watchdog.stop()
        raise
    return watchdog
