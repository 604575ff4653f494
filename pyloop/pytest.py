"""A plugin for pytest: async tests on pyloop, and none that leaves something behind.

::

    pytest -p pyloop.pytest

runs every loop of the session on pyloop, whichever plugin makes it (pytest-asyncio,
anyio, ...), and fails tests that leave tasks, transports or descriptors. docs/pytest.md
has the options and markers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from pyloop import _everywhere, _forks, watchdog
from pyloop._loop import Loop
from pyloop._report import task_text
from pyloop._transports import open_transports

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

_KINDS = ("tasks", "transports", "descriptors")
_WATCH = pytest.StashKey["_Leaks"]()

# Iterations that a loop gets after a test to end what the test has begun to end.
_ITERATIONS = 3

# Seconds that a loop gets for it which another thread runs, such as a server's in a
# fixture: that a test has closed its connection comes there by the kernel.
_PATIENCE = 1.0

# Where a _cancel_all_tasks() may be that runs before a loop is closed: asyncio's, and
# those of its Runner's stand-ins on Python 3.10.
_RUNNERS = (
    "asyncio.runners",
    "anyio._backends._asyncio",
    "backports.asyncio.runner.runner",
)

# What anyio's plugin runs a test by, for as long as fixtures of anyio's need it.
_ANYIO_RUNNER = "TestRunner._run_tests_and_fixtures"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pyloop")
    group.addoption(
        "--loop",
        choices=("pyloop", "asyncio"),
        default="pyloop",
        help="the kind of loop for everything in the session that makes one; asyncio "
        "leaves them as they are",
    )
    group.addoption(
        "--loop-leaks",
        default=",".join(_KINDS),
        metavar="KINDS",
        help="what tests may not leave on a pyloop loop, comma-separated: "
        f"{', '.join(_KINDS)} (the default is all), or none",
    )
    group.addoption(
        "--loop-block-limit",
        type=float,
        metavar="SECONDS",
        help="fail a test in which a callback blocks a pyloop loop for longer",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "loop_leaks(allowed=None, *, tasks=..., transports=..., descriptors=...): "
        "False lets this test leave these (loop_leaks(False): anything), True not",
    )
    config.addinivalue_line(
        "markers",
        "loop_block_limit(seconds): this test's limit instead of --loop-block-limit; "
        "None: no limit",
    )
    leaks = _Leaks(_chosen_kinds(config.getoption("--loop-leaks")))
    config.stash[_WATCH] = leaks
    leaks.start()
    if config.getoption("--loop") == "pyloop":
        _everywhere.take_over()


def pytest_unconfigure(config: pytest.Config) -> None:
    leaks = config.stash.get(_WATCH, None)
    if leaks is None:
        return
    leaks.stop()
    if config.getoption("--loop") == "pyloop":
        _everywhere.give_back()


def pytest_report_header(config: pytest.Config) -> str:
    return f"loops: {config.getoption('--loop')}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Hold a test's call, without its fixtures, to what it may leave."""
    leaks = item.config.stash[_WATCH]
    kinds = _kinds_of(item, leaks.kinds)
    limit = _block_limit_of(item)
    blocks: dict[int, str] = {}
    leaks.begin(kinds)
    try:
        with _watched(limit, blocks):
            result = yield
    finally:
        left = leaks.end()
    problems = list(blocks.values())
    if left:
        problems.append("the test has left\n" + "\n".join(left))
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
    return result


# -- options and markers ---------------------------------------------------------


def _chosen_kinds(text: str) -> frozenset[str]:
    chosen = {part.strip() for part in text.split(",")} - {"", "none"}
    if wrong := chosen - set(_KINDS):
        raise pytest.UsageError(
            f"--loop-leaks: {sorted(wrong)} is none of {', '.join(_KINDS)}, none"
        )
    return frozenset(chosen)


def _kinds_of(item: pytest.Item, kinds: frozenset[str]) -> frozenset[str]:
    """What of these the markers leave, the closest last: it wins."""
    chosen = set(kinds)
    for marker in reversed(list(item.iter_markers("loop_leaks"))):
        if len(marker.args) > 1 or set(marker.kwargs) - set(_KINDS):
            raise pytest.UsageError(
                f"{item.nodeid}: loop_leaks takes True or False, and "
                f"{'=, '.join(_KINDS)}="
            )
        switched = dict.fromkeys(_KINDS, marker.args[0]) if marker.args else {}
        for kind, forbidden in {**switched, **marker.kwargs}.items():
            (chosen.add if forbidden else chosen.discard)(kind)
    return frozenset(chosen)


def _block_limit_of(item: pytest.Item) -> float | None:
    marker = item.get_closest_marker("loop_block_limit")
    if marker is None:
        limit = item.config.getoption("--loop-block-limit")
    elif len(marker.args) == 1 and not marker.kwargs:
        limit = marker.args[0]
    else:
        raise pytest.UsageError(
            f"{item.nodeid}: loop_block_limit takes a number of seconds, or None"
        )
    return None if limit is None else float(limit)


@contextlib.contextmanager
def _watched(limit: float | None, blocks: dict[int, str]) -> Generator[None]:
    """Note what blocks a loop for longer than limit, by its number."""
    if limit is None:
        yield
        return

    def note(block: watchdog.Block) -> None:  # first while it blocks, with the stack
        blocks.setdefault(block.number, str(block))

    with watchdog.start(limit, callback=note, rate=math.inf, gil_threshold=None):
        yield


# -- what a test leaves ------------------------------------------------------------


class _Leaks:
    """Finds what is there after a test's call and was not before.

    Loops that are closed in the call (asyncio.run(), anyio's without fixtures) are
    looked at as they are; asyncio.Runner cancels a loop's tasks before that, so its
    cancelling is where they are seen.
    """

    def __init__(self, kinds: frozenset[str]) -> None:
        self.kinds = kinds  # what tests without a marker may not leave
        self.wanted: frozenset[str] = frozenset()  # of the running test
        self.found: list[str] = []
        self.looped = False
        self.tasks: weakref.WeakSet[Any] = weakref.WeakSet()
        self.transports: weakref.WeakSet[Any] = weakref.WeakSet()
        self.descriptors: dict[int, str] = {}
        self.undo: list[Callable[[], None]] = []

    def start(self) -> None:
        """Look at what is closed and cancelled, until stop()."""
        Loop().close()  # libuv's first one makes a pipe that stays in the process
        loops: Any = Loop
        close = loops.close

        def closing(loop: Loop) -> None:
            if not loop.is_closed() and not loop.is_running():
                self.looped = True
                self.look_at(loop)
            close(loop)

        loops.close = closing
        self.undo = [lambda: setattr(loops, "close", close)]

    def look_at_runners(self) -> None:
        """Look at what they cancel, too: those that are imported by now."""
        for name in _RUNNERS:
            module: Any = sys.modules.get(name)
            cancel_all = getattr(module, "_cancel_all_tasks", None)
            if cancel_all is not None and not hasattr(cancel_all, "_pyloop"):
                self.look_at_runner(module, cancel_all)

    def look_at_runner(self, module: Any, cancel_all: Callable[[Any], None]) -> None:
        def cancelling(loop: asyncio.AbstractEventLoop) -> None:
            if isinstance(loop, Loop):
                self.look_at_tasks(loop)
            cancel_all(loop)

        cancelling._pyloop = True  # type: ignore[attr-defined]
        module._cancel_all_tasks = cancelling
        self.undo.append(lambda: setattr(module, "_cancel_all_tasks", cancel_all))

    def stop(self) -> None:
        while self.undo:
            self.undo.pop()()

    def begin(self, kinds: frozenset[str]) -> None:
        """Note what there is before a call."""
        self.wanted, self.found = kinds, []
        if not kinds:
            return
        self.look_at_runners()
        loops = _open_loops()
        self.looped = bool(loops)
        self.tasks.update(task for loop in loops for task in asyncio.all_tasks(loop))
        self.transports.update(one.transport for one in open_transports())
        self.descriptors = _descriptors() if "descriptors" in kinds else {}

    def end(self) -> list[str]:
        """Say, a line each, what of the wanted kinds the call has left."""
        if self.wanted:
            for loop in _open_loops():
                self.look_at(loop)
            if "descriptors" in self.wanted and self.looped:
                self.look_at_descriptors()
        found, self.found = self.found, []
        self.wanted = frozenset()
        self.tasks.clear()
        self.transports.clear()
        self.descriptors = {}
        return list(dict.fromkeys(found))

    def look_at(self, loop: Loop) -> None:
        if self.has_new(loop):
            if loop.is_running():
                self.wait_for(loop)
            else:
                _iterate(loop)
            self.look_at_tasks(loop)
            self.look_at_transports(loop)

    def has_new(self, loop: Loop) -> bool:
        """Whether the loop has something that the test may not leave."""
        if "tasks" in self.wanted and self.new_tasks(loop):
            return True
        sockets = not self.wanted.isdisjoint({"transports", "descriptors"})
        return sockets and bool(self.new_transports(loop))

    def wait_for(self, loop: Loop) -> None:
        """Let the thread that runs the loop end what the test has begun to end."""
        if loop._thread_id == threading.get_ident():
            return
        deadline = time.monotonic() + _PATIENCE
        while self.has_new(loop) and time.monotonic() < deadline:
            time.sleep(0.002)

    def new_tasks(self, loop: Loop) -> list[asyncio.Task[Any]]:
        return [
            task
            for task in asyncio.all_tasks(loop)
            if task not in self.tasks
            and getattr(task.get_coro(), "__qualname__", "") != _ANYIO_RUNNER
        ]

    def new_transports(self, loop: Loop) -> list[Any]:
        return [
            one for one in open_transports(loop) if one.transport not in self.transports
        ]

    def look_at_tasks(self, loop: Loop) -> None:
        if "tasks" in self.wanted:
            self.found += [f"task {task_text(task)}" for task in self.new_tasks(loop)]

    def look_at_transports(self, loop: Loop) -> None:
        for one in self.new_transports(loop):
            # Not again as a descriptor.
            self.descriptors.setdefault(one.fd, _descriptor(one.fd) or "")
            if "transports" in self.wanted:
                self.found.append(f"transport {one}")

    def look_at_descriptors(self) -> None:
        def new() -> list[tuple[int, str]]:
            return [
                (fd, what)
                for fd, what in _descriptors().items()
                if self.descriptors.get(fd) != what
            ]

        if new():
            gc.collect()  # what only a cycle holds is not left
            for fd, what in new():
                self.found.append(f"descriptor {fd}, which is {what}")


def _open_loops() -> list[Loop]:
    return [loop for loop in _forks.living(_forks.loops) if not loop.is_closed()]


def _iterate(loop: Loop) -> None:
    """Run what is due: what is closed or cancelled needs an iteration or two."""
    if asyncio._get_running_loop() is not None:
        return
    for _ in range(_ITERATIONS):
        loop.call_soon(loop.stop)
        loop.run_forever()


def _descriptor(fd: int) -> str | None:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{fd}")
    return None


def _descriptors() -> dict[int, str]:
    """What is open, as far as a test can leak it; nothing where there is no /proc."""
    numbers: Iterable[str] = ()
    with contextlib.suppress(OSError):
        numbers = os.listdir("/proc/self/fd")
    found = {int(number): _descriptor(int(number)) for number in numbers}
    # Devices are opened once per process, by libraries: /dev/urandom, /dev/null.
    return {
        fd: what
        for fd, what in found.items()
        if what is not None and not what.startswith("/dev/")
    }
