"""Who awaits whom, which tasks can never go on, and where tasks were made.

::

    import signal
    import pyloop.tasks

    pyloop.tasks.dump_on_signal(signal.SIGUSR1)  # kill -USR1 <pid>: who waits for what
    pyloop.tasks.trace_deadlocks()  # a loop that will hang for ever says so

tree() works on every loop of asyncio's; what is noted as it happens (where a task was
made, that a loop will hang) is noted by pyloop's loops alone. docs/my-program-hangs.md
is a walk through it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

from pyloop import _core, _creation, _deadlocks, _owners, _snapshot
from pyloop._deadlocks import Deadlock
from pyloop._snapshot import TaskNode, TaskTree
from pyloop._waits import Place

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Deadlock",
    "Place",
    "TaskNode",
    "TaskTree",
    "dump",
    "dump_on_signal",
    "find_deadlocks",
    "trace_creation",
    "trace_deadlocks",
    "tree",
]


def _loop_for(loop: Any) -> Any:
    if loop is not None:
        return loop
    running = asyncio._get_running_loop()
    if running is None:
        raise RuntimeError("no running event loop: tree() needs the loop to look at")
    return running


def tree(loop: asyncio.AbstractEventLoop | None = None) -> TaskTree:
    """Return who awaits whom among the pending tasks of a loop, at this moment.

    loop: the running one by default; RuntimeError if there is none. Nothing is kept of
    the tasks. From another thread than the loop's, tasks that run meanwhile may be told
    as they were or as they are.
    """
    return _snapshot.tree_of(_snapshot.take(_loop_for(loop)))


def find_deadlocks(
    loop: asyncio.AbstractEventLoop | None = None,
) -> tuple[Deadlock, ...]:
    """Return the pending tasks of a loop that can never go on, as far as it is certain.

    loop: the running one by default; RuntimeError if there is none. Two kinds are told:
    "cycle", tasks that wait for each other, directly or through locks, semaphores,
    gather() and so on; "orphan", a task that waits for something that only it, and
    other tasks that can never go on, have a reference to. Whatever may still be ended
    by a timer, a descriptor, a thread, or something that a running function, a module,
    a class or C code refers to is not named. cancel() alone would end what is named.

    Who holds a lock is known if it is held by `async with`, or was acquired while
    trace_deadlocks() was on. It is supposed that whoever acquired one releases it.

    Passes over all objects of the process several times, for all tasks together: some
    milliseconds in a small program, and 0.1 for each task. Call it in the loop's
    thread.
    """
    snapshot = _snapshot.take(_loop_for(loop))
    return _deadlocks.find(snapshot, quiet=False)


_waits_traced = False


def trace_deadlocks(enabled: bool = True) -> None:
    """Have every loop of pyloop's say so when it is about to wait for ever.

    That is a loop with pending tasks, but with nothing to run, no timer, no descriptor
    that it watches, no child process, no handler of a signal but Python's own, and no
    other thread in the process but idle workers of executors. The report has the tree
    and the deadlocks; it goes to the logger "pyloop.tasks" as an error, once for each
    such state. It costs nothing while the loop has something to do.

    From now on asyncio's Lock and Semaphore note who acquires them, and where: some
    microseconds each time, and while it is on they are not accelerated.
    trace_creation() is turned on too. With enabled=False all of that ends.
    """
    global _waits_traced
    _waits_traced = bool(enabled)
    if enabled:
        _owners.watch()
    else:
        _owners.restore()
    trace_creation(enabled)


def trace_creation(enabled: bool = True, warn_at: int = 10_000) -> None:
    """Have every loop of pyloop's note the line that makes a task.

    The line is in tree(), and in what the loop reports of the task: an exception that
    nobody retrieved, or its end while it was pending. Where a coroutine was made that
    is never awaited is in Python's warning, for coroutines made in this thread and in
    those that run a loop from now on. Debug mode does the same, at a higher price.

    warn_at: when so many tasks that were made at one line are pending, a warning goes
    to the logger "pyloop.tasks", and again each time that as many more were made; 0
    means never. A task costs some microseconds more. Raises ValueError if warn_at is
    negative.
    """
    if warn_at < 0:
        raise ValueError(f"warn_at must not be negative: {warn_at}")
    settings = _creation.settings
    settings.enabled = bool(enabled)
    settings.warn_at = warn_at
    settings.forget()
    _core.trace(_waits_traced, settings.enabled)
    depth = sys.get_coroutine_origin_tracking_depth()
    if enabled and depth == 0:
        sys.set_coroutine_origin_tracking_depth(1)
    elif not enabled and depth == 1:
        sys.set_coroutine_origin_tracking_depth(0)


def dump(file: IO[str] | None = None) -> None:
    """Write the tree of every open loop of the process to a file, stderr by default."""
    out = sys.stderr if file is None else file
    here = threading.get_ident()
    texts = []
    for loop in _snapshot.all_loops():
        thread = getattr(loop, "_thread_id", None)
        text = tree(loop).format()
        if thread is not None and thread != here:
            text += "\n(it runs in another thread, and may have gone on meanwhile)"
        texts.append(text)
    out.write("\n\n".join(texts or ["no open event loop"]) + "\n")
    out.flush()


def dump_on_signal(
    signum: int = signal.SIGUSR1, file: str | os.PathLike[str] | None = None
) -> Callable[[], None]:
    """Write the tree of every loop of the process when a signal comes.

    signum: the signal, whose handler is replaced. file: a path to append to; stderr by
    default. Works while the main thread's loop blocks in its poll, and while a callback
    runs Python code; a C call that does not return keeps it waiting. Returns a function
    that puts the former handler back. Raises RuntimeError off the main thread, where
    Python allows no signal handlers, and what signal.signal() raises.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "dump_on_signal() works in the main thread only: Python runs signal "
            "handlers there, whichever thread a loop runs in"
        )
    path = None if file is None else os.fspath(file)

    def write_tree(signum: int, frame: Any) -> None:
        if path is None:
            dump()
            return
        with open(path, "a", encoding="utf-8") as out:
            dump(out)

    write_tree._pyloop_dump = True  # type: ignore[attr-defined]
    before = signal.signal(signum, write_tree)

    def restore() -> None:
        if signal.getsignal(signum) is write_tree:
            signal.signal(signum, signal.SIG_DFL if before is None else before)

    return restore
