"""A loop that is about to wait for ever: pyloop.tasks.trace_deadlocks().

The loop calls look() when it has nothing to run, no timer and no descriptor but its own
to watch. What else could end the wait is looked for here; if there is nothing, and
tasks are pending, they never will end, and that is logged.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from concurrent.futures import thread as pool
from typing import Any

from pyloop import _core, _deadlocks, _snapshot, _waits

__all__ = ["is_quiet", "look"]

logger = logging.getLogger("pyloop.tasks")

_STATE = "_pyloop_told"
_pool: Any = pool


def _is_idle_worker(thread: threading.Thread) -> bool:
    """Whether a thread is a ThreadPoolExecutor's and has nothing to do."""
    queues = _pool._threads_queues
    queue = queues.get(thread)
    # Not by sys._current_frames(), which looks into other interpreters and may crash.
    frame: Any = _core.Watcher.frame(thread.ident or 0)
    if queue is None or frame is None or queue.qsize() > 0:
        return False
    # In its own loop, and between the items of work: it runs none.
    if frame.f_code is not _pool._worker.__code__:
        return False
    return frame.f_locals.get("work_item") is None


def _others_live() -> bool:
    """Whether another thread exists that may call call_soon_threadsafe()."""
    here = threading.current_thread()
    for thread in threading.enumerate():
        if thread is here or thread.name.startswith("pyloop-"):
            continue
        if not _is_idle_worker(thread):
            return True
    return False


def _is_known_handler(handler: Any) -> bool:
    """Whether a signal's handler is known to call nothing of the program's."""
    if not callable(handler) or handler is signal.default_int_handler:
        return True
    function = getattr(handler, "func", handler)  # asyncio.Runner's, a partial
    if getattr(function, "__qualname__", "") == "Runner._on_sigint":
        return True
    return getattr(handler, "_pyloop_dump", False) is True


def _handles_signals(loop: Any) -> bool:
    if loop._signal_handlers:
        return True
    if threading.current_thread() is not threading.main_thread():
        return False  # the main thread is another one that lives
    return not all(map(_is_known_handler, map(signal.getsignal, _SIGNALS)))


_SIGNALS = sorted(signal.valid_signals())


def is_quiet(loop: Any) -> bool:
    """Whether nothing outside the loop's own callbacks can make it do something."""
    return not (loop._children or _handles_signals(loop) or _others_live())


def _asks_executor(wait: _waits.Wait | None) -> bool:
    """Whether a wait is for what an executor does, or has done and the loop not heard.

    A worker that looks idle may have it: from Python 3.13 on a queue hands an item to a
    thread that waits for it, which then waits for the GIL, and the queue is empty.
    """
    if wait is None:
        return False
    return wait.kind == "executor" or any(
        _asks_executor(_waits.expand(target))
        for target in wait.targets
        # A task has a wait of its own.
        if not (isinstance(target, asyncio.Task) or target.done())
    )


def look(loop: Any) -> None:
    """Log that the loop will wait for ever, if so; once for each such state."""
    tasks: set[Any] = asyncio.all_tasks(loop)
    if not tasks or not is_quiet(loop):
        return
    told = frozenset((id(task), id(task._fut_waiter)) for task in tasks)
    if getattr(loop, _STATE, None) == told:
        return
    snapshot = _snapshot.take(loop)
    if any(_asks_executor(info.wait) for info in snapshot.infos.values()):
        return
    if loop._inbox_waiting:
        return  # a thread that is gone by now had called the loop
    setattr(loop, _STATE, told)
    logger.error("%s", report(snapshot))


def report(snapshot: Any) -> str:
    """The text: the tree, and what is known of why."""
    parts = [
        "the loop will wait for ever: no timer, descriptor, thread or signal handler "
        "is left that could make it go on",
        _snapshot.tree_of(snapshot).format(),
    ]
    parts += [found.format() for found in _deadlocks.find(snapshot, quiet=True)]
    return "\n".join(parts)
