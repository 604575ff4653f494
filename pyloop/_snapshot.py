"""All tasks of a loop at one moment, who awaits whom, and the text of it."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import re
from typing import TYPE_CHECKING, Any

from pyloop import _core, _creation, _forks, _owners, _waits
from pyloop._libraries import is_library
from pyloop._waits import Place, Wait

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Info", "Snapshot", "TaskNode", "TaskTree", "all_loops", "take"]


@dataclasses.dataclass(frozen=True)
class TaskNode:
    """One task of a tree, as it was when tree() was called. Holds no task."""

    name: str
    """The task's name."""
    coroutine: str
    """The name of its coroutine's function."""
    state: str
    """"waiting", "running", or "ready" to run."""
    place: Place | None
    """The innermost line of the program's own code where it waits or runs; None for a
    task that is asyncio's or C code alone."""
    stack: tuple[Place, ...]
    """That and all other places, the task's own coroutine first."""
    waits_for: str
    """What it waits for, in words; "" unless it is waiting."""
    created: Place | None
    """Where it was made, if that is known (debug mode, trace_creation())."""
    cancelling: int
    """How often cancel() was called without being taken back; 0 on Python 3.10."""
    awaits: tuple[TaskNode, ...]
    """The tasks whose end it waits for, through gather(), wait_for(), shield(),
    TaskGroup, wait() and as_completed()."""
    repeated: bool = False
    """Whether the task is elsewhere in the tree too, and ``awaits`` is told there."""


@dataclasses.dataclass(frozen=True)
class TaskTree:
    """The pending tasks of one loop."""

    loop: str
    """The loop's repr()."""
    roots: tuple[TaskNode, ...]
    """The tasks that no other task awaits; of tasks that await each other in a circle,
    one."""
    count: int
    """How many tasks there are."""

    def format(self, limit: int = 3) -> str:
        """Return the tree as text, a line for each task and one for what it waits for.

        limit: of tasks side by side that wait at the same places, at most so many are
        written; their number follows. Tasks at the end of long chains are not indented
        any further, but numbered by their depth.
        """
        tasks = "task" if self.count == 1 else "tasks"
        lines = [f"{self.loop}: {self.count} {tasks}"]
        lines += _format(self.roots, max(limit, 1))
        return "\n".join(lines)

    def nodes(self) -> Iterator[TaskNode]:
        """Return an iterator over the tasks, each once and before those it awaits."""
        waiting = collections.deque(self.roots)
        while waiting:
            node = waiting.popleft()
            if not node.repeated:
                yield node
                waiting.extend(node.awaits)


# -- as text -----------------------------------------------------------------------


def _title(node: TaskNode) -> str:
    return f"{node.name}: {node.coroutine}()"


def _details(node: TaskNode) -> Iterator[str]:
    if node.repeated:
        yield "(see above)"
        return
    if node.place is not None:
        yield f"{node.state} at {node.place}"
    else:
        yield node.state
    if node.waits_for:
        yield f"for {node.waits_for}"
    if node.cancelling > 0:
        times = "once" if node.cancelling == 1 else f"{node.cancelling} times"
        yield f"cancel() was called {times}, and it goes on"
    if node.created is not None:
        yield f"created at {node.created}"


# The depth from which on nothing is indented any further.
_DEEP = 40


@dataclasses.dataclass
class _Branches:
    """Tasks side by side, to be written."""

    nodes: tuple[TaskNode, ...]
    indent: str = ""
    depth: int = 0


def _format(nodes: tuple[TaskNode, ...], limit: int) -> Iterator[str]:
    waiting = [_written(_Branches(nodes), limit)]
    while waiting:  # not by recursion: a chain may be long
        item = next(waiting[-1], None)
        if item is None:
            waiting.pop()
        elif isinstance(item, _Branches):
            waiting.append(_written(item, limit))
        else:
            yield item


def _written(branches: _Branches, limit: int) -> Iterator[str | _Branches]:
    """Lines, and what is to be written between them."""
    indent, depth = branches.indent, branches.depth
    alike: collections.Counter[Any] = collections.Counter()
    shown = []
    for node in branches.nodes:
        key = (node.stack, node.waits_for, len(node.awaits), node.created)
        alike[key] += 1
        if alike[key] <= limit:
            shown.append((key, alike[key], node))
    for index, (key, number, node) in enumerate(shown):
        more = alike[key] - number if number == limit else 0
        last = index == len(shown) - 1
        level = f"[{depth}] " if depth > _DEEP else ""
        yield f"{indent}{'└─ ' if last and not more else '├─ '}{level}{_title(node)}"
        inner = indent + ("   " if last and not more else "│  ")
        for text in _details(node):
            yield f"{inner}{'│  ' if node.awaits else '   '}{text}"
        deeper = inner if depth < _DEEP else indent
        yield _Branches(node.awaits, deeper, depth + 1)
        if more:
            yield f"{indent}{'└─ ' if last else '├─ '}and {more} more like that"


# -- reading -----------------------------------------------------------------------


@dataclasses.dataclass
class Info:
    """What is known of one task. Holds the task and what it waits for."""

    task: Any
    chain: list[Any]
    stack: tuple[Place, ...]
    wait: Wait | None
    running: bool
    awaits: tuple[Any, ...] = ()  # tasks

    @property
    def place(self) -> Place | None:
        for place in reversed(self.stack):
            if not is_library(place.file):
                return place
        return None


class Snapshot:
    """The pending tasks of a loop, by their ids."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.infos: dict[int, Info] = {}
        self.holds: dict[int, list[_owners.Hold]] = {}
        self._words: dict[tuple[str, int], str] = {}

    def words(self, wait: Wait) -> str:
        """What a task waits for, as a phrase."""
        key = wait.call, id(wait.future if wait.resource is None else wait.resource)
        if key not in self._words:  # repr() of a queue takes as long as it has items
            self._words[key] = _words(self, wait)
        return self._words[key]


def _tasks_behind(future: Any, seen: set[int]) -> Iterator[Any]:
    """The tasks that a future's end depends on, through gather() and shield()."""
    if id(future) in seen or future.done():
        return
    seen.add(id(future))
    if isinstance(future, asyncio.Task):
        yield future
        return
    for target in _waits.expand(future).targets:
        yield from _tasks_behind(target, seen)


def _pending(loop: Any) -> list[Any]:
    while True:
        try:
            found = asyncio.all_tasks(loop)
        except RuntimeError:  # changed by another thread meanwhile
            continue
        return sorted(found, key=_order)


def _order(task: Any) -> tuple[int, str]:
    """By the number in the name that asyncio gives, which is that of creation."""
    name = str(task.get_name())
    match = re.fullmatch(r"Task-(\d+)", name)
    return (int(match[1]), "") if match else (0, name)


def take(loop: Any) -> Snapshot:
    """Look at the loop's tasks."""
    snapshot = Snapshot(loop)
    current = asyncio.current_task(loop)
    pending = _pending(loop)
    completions = _waits.Completions(pending)
    for task in pending:
        chain = list(_waits.steps(task.get_coro()))
        wait = _waits.wait_of(task, chain, completions)
        stack = _waits.places(chain)
        info = Info(task, chain, stack, wait, task is current)
        if wait is not None:
            seen: set[int] = set()
            behind = [list(_tasks_behind(target, seen)) for target in wait.targets]
            found = [task for part in behind for task in part]
            ordered = wait.kind in ("gather", "shield")
            info.awaits = tuple(found if ordered else sorted(found, key=_order))
        snapshot.infos[id(task)] = info
    snapshot.holds = _owners.find(snapshot)
    return snapshot


def all_loops() -> list[Any]:
    """Every open loop of the process."""
    loops = [loop for loop in _forks.living(_forks.loops) if not loop.is_closed()]
    # Others': what refers to a class of loops has such loops among it. Whoever asks
    # gc.get_objects() disturbs other threads: see csrc/base/referrers.c.
    classes: list[Any] = [asyncio.BaseEventLoop]
    for cls in classes:
        classes += [each for each in cls.__subclasses__() if each not in classes]
    for found in _core.referrers(classes):
        if issubclass(type(found), asyncio.BaseEventLoop) and found not in loops:
            if not getattr(found, "_closed", True):
                loops.append(found)
    return loops


# -- in words ----------------------------------------------------------------------


def plain(thing: Any) -> str:
    """repr() without the address."""
    try:
        text = re.sub(r" at 0x[0-9a-f]+|0x[0-9a-f]+ ?", "", repr(thing))
    except Exception as error:
        text = f"<{type(thing).__name__}, whose repr() raises {type(error).__name__}>"
    return text if len(text) <= 200 else text[:200] + "...>"


def _count(targets: tuple[Any, ...]) -> str:
    number = sum(not target.done() for target in targets)
    return f"{number} {'task' if number == 1 else 'tasks'}"


_PLAIN = {
    "sleep": "the end of asyncio.sleep()",
    "process": "the end of a child process",
    "server": "the server's end",
    "executor": "a thread or process of an executor",
    "shield": "what asyncio.shield() shields",
    "future": "a future that somebody has to set a result of",
}


def _words(snapshot: Snapshot, wait: Wait) -> str:
    """What a task waits for, as a phrase."""
    if wait.kind == "lock" or wait.kind == "semaphore":
        return f"{plain(wait.resource)}{_held_by(snapshot, wait.resource)}"
    if wait.kind == "task":
        return f"task {wait.future.get_name()}"
    if wait.kind == "wait_for":
        behind = [
            str(task.get_name()) for task in _tasks_behind(wait.targets[0], set())
        ]
        return "wait_for() of " + (f"task {behind[0]}" if behind else "a future")
    if wait.kind in ("gather", "wait", "as_completed"):
        one = "one" if wait.any_of else "all"
        return f"{one} of {_count(wait.targets)} in {wait.kind}()"
    if wait.kind == "task group":
        return f"{_count(wait.targets)} of its TaskGroup"
    if wait.kind in _PLAIN:
        return _PLAIN[wait.kind]
    if wait.kind in ("stream", "socket"):
        return f"{wait.call}()"
    return f"{wait.call}() of {plain(wait.resource)}"


def _held_by(snapshot: Snapshot, resource: Any) -> str:
    holds = snapshot.holds.get(id(resource), [])
    if not holds:
        return ""
    return (
        ", held by "
        + ", ".join(map(str, holds[:3]))
        + (f" and {len(holds) - 3} more" if len(holds) > 3 else "")
    )


def node_of(
    snapshot: Snapshot,
    info: Info,
    awaits: tuple[TaskNode, ...] = (),
    repeated: bool = False,
) -> TaskNode:
    """The node of one task, with those of the tasks that it awaits."""
    task = info.task
    cancelling = task.cancelling() if hasattr(task, "cancelling") else 0
    state = "waiting" if info.wait is not None else "ready"
    return TaskNode(
        name=str(task.get_name()),
        coroutine=getattr(task.get_coro(), "__qualname__", type(task).__name__),
        state="running" if info.running else state,
        place=info.place,
        stack=info.stack,
        waits_for=snapshot.words(info.wait) if info.wait is not None else "",
        created=_creation.of(task),
        cancelling=cancelling,
        awaits=awaits,
        repeated=repeated,
    )


def _grown(snapshot: Snapshot, key: int, done: set[int]) -> TaskNode:
    """The node of a task, with all below it: not by recursion, a chain may be long."""

    def begin(key: int) -> tuple[Info, Iterator[int], list[TaskNode]]:
        done.add(key)
        info = snapshot.infos[key]
        inner = [each for each in map(id, info.awaits) if each in snapshot.infos]
        return info, iter(inner), []

    path = [begin(key)]
    while True:
        info, rest, awaits = path[-1]
        inner = next(rest, None)
        if inner is None:
            node = node_of(snapshot, info, tuple(awaits))
            path.pop()
            if not path:
                return node
            path[-1][2].append(node)
        elif inner in done:
            awaits.append(node_of(snapshot, snapshot.infos[inner], repeated=True))
        else:
            path.append(begin(inner))


def tree_of(snapshot: Snapshot) -> TaskTree:
    """The tree of what was seen."""
    awaited = {id(inner) for info in snapshot.infos.values() for inner in info.awaits}
    done: set[int] = set()
    first = [key for key in snapshot.infos if key not in awaited]
    roots = [_grown(snapshot, key, done) for key in first]
    for key in snapshot.infos:  # what is left is in circles
        if key not in done:
            roots.append(_grown(snapshot, key, done))
    return TaskTree(plain(snapshot.loop), tuple(roots), len(snapshot.infos))
