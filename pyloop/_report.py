"""``python -m pyloop --report``: what became of the loops, said as the program ends."""

from __future__ import annotations

import asyncio
import atexit
import collections
import os
import sys
from typing import TYPE_CHECKING, Any

from pyloop import _forks
from pyloop._loop import Loop
from pyloop._transports import open_transports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyloop.metrics import Metrics

__all__ = ["Report", "task_text"]

MOST = 20
"""How many of each kind of finding are shown; the others are counted."""

SLOWEST = 5
"""How many of the slowest callbacks are shown."""

_SUMMED = (
    "bytes_in",
    "bytes_out",
    "busy_seconds",
    "callbacks",
    "idle_seconds",
    "messages_in",
    "messages_out",
    "ticks",
)


class Report:
    """Watches every loop of the process from start() on; writes to stderr at its end.

    What a loop left behind is looked at as it is closed, or at the end if nobody closed
    it. Texts are kept, and no objects: what is dropped is dropped as without a report.
    """

    def __init__(self) -> None:
        self.finished = False
        self.loops = 0
        self.unclosed_loops = 0
        self.figures = _Figures()
        self.tasks = _Findings("tasks left pending")
        self.transports = _Findings("transports left open")
        self.errors = _Findings("errors that nothing handled")

    def start(self) -> None:
        """Watch from here on. The program's own atexit functions run before the end."""
        report = self
        loops: Any = Loop  # to mypy, methods are not to be replaced
        close, handle = loops.close, loops.call_exception_handler

        def closing(loop: Loop) -> None:
            # The interpreter, which then can import nothing, closes what is left.
            finished = report.finished or loop.is_closed() or loop.is_running()
            if not finished:
                report.look_at(loop)
            close(loop)

        def handling(loop: Loop, context: dict[str, Any]) -> None:
            report.errors.add(_error_text(context))
            handle(loop, context)

        loops.close = closing
        loops.call_exception_handler = handling
        atexit.register(self.finish)

    def look_at(self, loop: Loop) -> None:
        """Note what a loop has open that runs no more."""
        self.loops += 1
        self.figures.add(loop.metrics())
        for task in asyncio.all_tasks(loop):
            self.tasks.add(task_text(task))
        for transport in open_transports(loop):
            self.transports.add(str(transport))

    def finish(self) -> None:
        """Look at the loops that nobody has closed, and write the report."""
        for loop in _forks.living(_forks.loops):
            if not loop.is_closed():
                self.unclosed_loops += 1
                self.look_at(loop)
        self.finished = True
        if sys.stderr is not None:  # or it would be stdout
            print("\n".join(self.lines()), file=sys.stderr)

    def lines(self) -> Iterable[str]:
        """The report's lines."""
        unclosed = (
            f", {self.unclosed_loops} never closed" if self.unclosed_loops else ""
        )
        yield f"-- pyloop: {self.loops} loops{unclosed}{_which_process()} --"
        yield from self.figures.lines()
        for findings in (self.tasks, self.transports, self.errors):
            yield from findings.lines()
        if any("created at" not in text for text in self.transports.counts):
            yield "(with --debug, where each transport was made)"


class _Figures:
    """What the metrics of all loops come to."""

    def __init__(self) -> None:
        self.sums: collections.Counter[str] = collections.Counter()
        self.longest = 0.0
        self.slowest: dict[tuple[str, str], float] = {}

    def add(self, metrics: Metrics) -> None:
        self.sums.update({name: getattr(metrics, name) for name in _SUMMED})
        self.longest = max(self.longest, metrics.lag.max)
        for slow in metrics.slowest:
            key = slow.name, slow.where
            self.slowest[key] = max(slow.seconds, self.slowest.get(key, 0.0))

    def lines(self) -> Iterable[str]:
        """What was done and how long it took; nothing if no loop ever ran."""
        sums = self.sums
        if not sums["callbacks"]:
            return
        yield (
            f"callbacks: {sums['callbacks']} in {sums['ticks']} iterations; busy "
            f"{sums['busy_seconds']:.3f} s, idle {sums['idle_seconds']:.3f} s, longest "
            f"without a look at the kernel {self.longest:.3f} s"
        )
        yield (
            f"received: {sums['bytes_in']} bytes in {sums['messages_in']} messages; "
            f"sent: {sums['bytes_out']} bytes in {sums['messages_out']} messages"
        )
        slowest = sorted(self.slowest.items(), key=lambda item: item[1], reverse=True)
        if slowest:
            yield "slowest callbacks:"
        for (name, where), seconds in slowest[:SLOWEST]:
            yield f"  {seconds:.3f} s {name}() {where}".rstrip()


class _Findings:
    """Texts of one kind, equal ones counted."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.counts: collections.Counter[str] = collections.Counter()

    def add(self, text: str) -> None:
        self.counts[text] += 1

    def lines(self) -> Iterable[str]:
        yield f"{self.title}: {self.counts.total() if self.counts else 'none'}"
        for text, count in self.counts.most_common(MOST):
            times = f" ({count} times)" if count > 1 else ""
            yield f"  {text}{times}"
        if len(self.counts) > MOST:
            yield f"  and {len(self.counts) - MOST} others"


def _which_process() -> str:
    """Say which child of multiprocessing this is; nothing of the program's first."""
    processes = sys.modules.get("multiprocessing.process")
    if processes is None or processes.parent_process() is None:
        return ""
    return f" in {processes.current_process().name} ({os.getpid()})"


def task_text(task: asyncio.Task[Any]) -> str:
    """A task: its name, its coroutine and the line that it waits at."""
    frames = task.get_stack(limit=1)
    place = ""
    if frames:
        place = f" at {frames[0].f_code.co_filename}:{frames[0].f_lineno}"
    coro: Any = task.get_coro()
    name = getattr(coro, "__qualname__", type(coro).__qualname__)
    return f"{task.get_name()}: {name}(){place}"


def _error_text(context: dict[str, Any]) -> str:
    """What the exception handler is told, and the innermost line it comes from."""
    text = str(context.get("message") or "Unhandled exception in event loop")
    exception = context.get("exception")
    if exception is None:
        return text
    text += f": {type(exception).__name__}: {exception}"
    innermost = exception.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    if innermost is None:
        return text
    return f"{text} at {innermost.tb_frame.f_code.co_filename}:{innermost.tb_lineno}"
