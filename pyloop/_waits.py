"""What a suspended task waits for, read from the objects that asyncio leaves behind.

A task's coroutine leads through cr_await, gi_yieldfrom and ag_await to the innermost
one, whose frame says where it waits. What it waits for is told by asyncio's own
function at that end (Lock.acquire, Queue.get, wait, ...), by the future in the task's
_fut_waiter, and by that future's callbacks. Nothing is run, changed or kept.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import inspect
import itertools
import operator
import types
from typing import TYPE_CHECKING, Any

from pyloop._libraries import is_library

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "Completions",
    "Place",
    "Wait",
    "expand",
    "places",
    "steps",
    "wait_of",
]

# Objects of the interpreter that stand between an `await` and what is awaited.
_BETWEEN = (
    "anext_awaitable",
    "async_generator_asend",
    "async_generator_athrow",
    "coroutine_wrapper",
)


@dataclasses.dataclass(frozen=True)
class Place:
    """A place in a program. ``str()`` of it is ``file:line in function``."""

    file: str
    """The file's path; "" for a coroutine that is written in C."""
    line: int
    """The line's number, from 1 on; 0 for a coroutine that is written in C."""
    function: str
    """The function's name."""

    def __str__(self) -> str:
        if not self.file:
            return f"{self.function} (C)"
        return f"{self.file}:{self.line} in {self.function}"


@dataclasses.dataclass
class Wait:
    """What a task waits for. Holds the objects themselves: for a moment only.

    kind: a word, such as "lock". call: what was called, such as "Lock.acquire".
    resource: the lock, queue, ..., or None. future: what would wake the task.
    targets: the futures and tasks whose end is waited for, of all of them or, with
    any_of, of one.
    """

    kind: str
    call: str
    resource: Any = None
    future: Any = None
    targets: tuple[Any, ...] = ()
    any_of: bool = False


def _is_waiter(found: Any) -> bool:
    return (
        isinstance(
            found,
            types.CoroutineType
            | types.GeneratorType
            | types.AsyncGeneratorType
            | asyncio.Future,
        )
        or inspect.getattr_static(type(found), "_awaits", None) is not None
    )


def _inner(step: Any) -> Any:
    """What a coroutine, or what stands for one, awaits at the moment; or None."""
    if type(step).__name__ in _BETWEEN:
        return next(filter(_is_waiter, gc.get_referents(step)), None)
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        if inspect.getattr_static(type(step), name, None) is not None:
            return _ask(step, name)
    if inspect.getattr_static(type(step), "_awaits", None) is not None:
        return step._awaits
    return None


def _ask(step: Any, name: str) -> Any:
    """step.name, cr_await or the like, if it is suspended; else None.

    CPython 3.12 may crash when one that runs is asked (while an exception enters it,
    its stack is read where it has none), and it may begin to run in another thread at
    any moment. So no bytecode is between the two questions. Of an asynchronous
    generator nobody tells before 3.12 that it runs.
    """
    suspended, running = name[:3] + "suspended", name[:3] + "running"
    asked: Iterator[Any] = iter((step,))
    if hasattr(step, suspended):
        asked = filter(operator.attrgetter(suspended), asked)
    elif name != "ag_await" and hasattr(step, running):
        asked = itertools.filterfalse(operator.attrgetter(running), asked)
    return next(map(getattr, asked, (name,)), None)


def _frame(step: Any) -> Any:
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame = getattr(step, name, None)
        if frame is not None:
            return frame
    return None


def steps(coro: Any) -> Iterator[Any]:
    """Every coroutine or generator from a task's own to the innermost one."""
    seen = set()
    while coro is not None and id(coro) not in seen:
        seen.add(id(coro))
        if isinstance(coro, asyncio.Future):
            return
        if type(coro).__name__ not in _BETWEEN and hasattr(coro, "__qualname__"):
            yield coro
        coro = _inner(coro)


def place_of(step: Any) -> Place:
    """Where a coroutine or generator is."""
    frame = _frame(step)
    name = getattr(step, "__qualname__", None) or type(step).__name__
    if frame is None:
        return Place("", 0, name)
    return Place(frame.f_code.co_filename, frame.f_lineno or 0, name)


def places(chain: list[Any]) -> tuple[Place, ...]:
    return tuple(map(place_of, chain))


# -- futures that stand for others ------------------------------------------------


def _callbacks(future: Any) -> Iterator[Any]:
    try:
        registered = future._callbacks or ()
    except (AttributeError, RuntimeError):
        return
    for item in tuple(registered):
        yield item[0] if isinstance(item, tuple) else item


def _free_variable(function: Any, name: str) -> Any:
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None)
    if code is None or cells is None or name not in code.co_freevars:
        return None
    try:
        return cells[code.co_freevars.index(name)].cell_contents
    except ValueError:
        return None


def _shielded(future: Any) -> Any:
    """What asyncio.shield() made this future for, or None."""
    for callback in _callbacks(future):
        if getattr(callback, "__qualname__", "").startswith("shield.<locals>."):
            inner = _free_variable(callback, "inner")
            if inner is not future:
                return inner
    return None


def _source(future: Any) -> Any:
    """The concurrent.futures.Future whose end asyncio.wrap_future() passes on."""
    for callback in _callbacks(future):
        if getattr(callback, "__qualname__", "").startswith("_chain_future."):
            source = _free_variable(callback, "source")
            if source is not None and source is not future:
                return source
    return None


def expand(future: Any) -> Wait:
    """What it is to wait for a future: a task, gather(), shield(), a thread, ..."""
    if isinstance(future, asyncio.Task):
        return Wait("task", "await", future=future, targets=(future,))
    children = getattr(future, "_children", None)
    if type(future).__name__ == "_GatheringFuture" and children is not None:
        return Wait("gather", "gather", future=future, targets=tuple(children))
    inner = _shielded(future)
    if inner is not None:
        return Wait("shield", "shield", future=future, targets=(inner,))
    source = _source(future)
    if source is not None:
        return Wait("executor", "run_in_executor", source, future)
    return Wait("future", "await", future, future)


# -- asyncio's functions at the end of the chain -----------------------------------


# Of asyncio's and pyloop's functions that wait: the kind, and what `self` is.
_KINDS = {
    "Barrier.wait": "barrier",
    "Condition.wait": "condition",
    "Event.wait": "event",
    "Lock.acquire": "lock",
    "Queue.get": "queue get",
    "Queue.join": "queue join",
    "Queue.put": "queue put",
    "Semaphore.acquire": "semaphore",
    "FlowControlMixin._drain_helper": "stream",
    "StreamReader.read": "stream",
    "StreamReader.readexactly": "stream",
    "StreamReader.readline": "stream",
    "StreamReader.readuntil": "stream",
    "StreamReader._wait_for_data": "stream",
    "StreamWriter.drain": "stream",
    "StreamWriter.wait_closed": "stream",
    "Process.wait": "process",
    "BaseSubprocessTransport._wait": "process",
    "Server.serve_forever": "server",
    "Server.wait_closed": "server",
    "TaskGroup.__aexit__": "task group",
    "TaskGroup._aexit": "task group",
    "_AsCompletedIterator._wait_for_one": "as_completed",
    "as_completed.<locals>._wait_for_one": "as_completed",
    "_cancel_and_wait": "wait_for",
    "_wait": "wait",
    "sleep": "sleep",
    "wait_for": "wait_for",
}

_OWNERS = (
    asyncio.Lock,
    asyncio.Event,
    asyncio.Condition,
    asyncio.Semaphore,
    asyncio.Queue,
    asyncio.StreamReader,
)


def _kind_of(step: Any) -> str | None:
    name = getattr(step, "__qualname__", "")
    frame = _frame(step)
    if frame is not None and not is_library(frame.f_code.co_filename):
        return None
    if name.startswith(("Loop.sock_", "BaseSelectorEventLoop.sock_")):
        return "socket"
    if name.startswith("PriorityQueue.") or name.startswith("LifoQueue."):
        name = name.replace("PriorityQueue", "Queue").replace("LifoQueue", "Queue")
    return _KINDS.get(name)


def _variables(step: Any) -> dict[str, Any]:
    """The local variables of one of asyncio's functions, or what C code has of them."""
    frame = _frame(step)
    if frame is not None:
        return dict(frame.f_locals)
    held = [item for item in gc.get_referents(step) if isinstance(item, _OWNERS)]
    return {"self": held[0]} if held else {}


class Completions:
    """What as_completed() of a loop's tasks is still to give, before Python 3.13.

    Only the callback that it has put on each of them knows. All are looked at at once,
    the first time that somebody asks; of use for as long as nothing runs.
    """

    def __init__(self, tasks: Iterable[Any]) -> None:
        self._tasks = tasks
        self._found: dict[int, Any] | None = None

    def todo(self, done: Any) -> Any:
        """The futures of the as_completed() that has this queue of those that ended."""
        if self._found is None:
            self._found = {}
            for task in self._tasks:
                for callback in _callbacks(task):
                    queue = _free_variable(callback, "done")
                    if queue is not None:
                        self._found[id(queue)] = _free_variable(callback, "todo")
        return self._found.get(id(done)) or ()


def _targets(
    kind: str, variables: dict[str, Any], completions: Completions
) -> tuple[tuple[Any, ...], bool]:
    """Of what asyncio's function waits for the end, and whether one of it is enough."""
    owner = variables.get("self")
    if kind == "task group":
        return tuple(getattr(owner, "_tasks", ())), False
    if kind == "wait":
        one = variables.get("return_when") != asyncio.ALL_COMPLETED
        pending = [item for item in variables.get("fs", ()) if not item.done()]
        return tuple(pending), one and len(pending) > 1
    if kind == "as_completed":
        todo = getattr(owner, "_todo", None)
        if todo is None:
            todo = completions.todo(variables.get("done"))
        return tuple(todo), True
    if kind == "wait_for" and isinstance(variables.get("fut"), asyncio.Future):
        return (variables["fut"],), False
    return (), False


def wait_of(task: Any, chain: list[Any], completions: Completions) -> Wait | None:
    """What a task waits for; None if it does not: it runs, or is about to.

    completions: those of the loop's tasks, the same for all that are asked about.
    """
    future = getattr(task, "_fut_waiter", None)
    if future is None or future.done():
        return None
    library = []
    for step in reversed(chain):
        frame = _frame(step)
        if frame is not None and not is_library(frame.f_code.co_filename):
            break
        library.append(step)
    found = None
    for step in library:
        kind = _kind_of(step)
        if kind is None or (found is not None and found.kind == "lock"):
            continue  # Condition.wait() takes its lock back: that is what it waits for
        variables = _variables(step)
        targets, any_of = _targets(kind, variables, completions)
        if kind == "wait_for" and not targets:
            continue
        owner = variables.get("self")
        call = getattr(step, "__qualname__", kind)
        found = Wait(kind, call, owner, future, targets, any_of)
    return found if found is not None else expand(future)
