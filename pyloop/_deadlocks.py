"""Which tasks can never go on: circles, and waits that nothing can end.

Every suspended task is taken to be stuck until something is found that could wake it: a
timer, a task that is not stuck, or anything at all that leads to the future it waits
for and is not itself a part of a stuck task. What leads to a future is asked of the
garbage collector, and checked against its reference count: what holds one and is not
found (C code, a running function) could do anything, so its task is not stuck. When the
loop has nothing left to do, and nobody else is there, all tasks are stuck.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import sys
import types
from typing import TYPE_CHECKING, Any

from pyloop import _owners, _snapshot
from pyloop._waits import Wait, expand

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyloop._snapshot import Info, Snapshot, TaskNode

__all__ = ["Deadlock", "find"]


@dataclasses.dataclass(frozen=True)
class Deadlock:
    """Tasks that can never go on."""

    kind: str
    """"cycle": tasks each of which waits for the next and the last for the first; or
    "orphan": one task that waits for something that nothing can bring about."""
    tasks: tuple[TaskNode, ...]
    """The tasks, in that order."""
    reasons: tuple[str, ...]
    """For each of them, in words, what it waits for."""

    def format(self) -> str:
        """Return it as text, two lines for each task."""
        if self.kind == "cycle":
            lines = ["deadlock: these tasks wait for each other"]
        else:
            lines = ["this task waits for what nothing can bring about"]
        for node, reason in zip(self.tasks, self.reasons, strict=True):
            where = f" at {node.place}" if node.place is not None else ""
            lines.append(f"  {node.name}: {node.coroutine}() waits{where}")
            lines.append(f"    for {reason}")
            if node.cancelling > 0:
                lines.append(f"    cancel() was called {node.cancelling}x: it goes on")
            if node.created is not None:
                lines.append(f"    created at {node.created}")
        return "\n".join(lines)


# -- what timers lead to --------------------------------------------------------------


def _timed(loop: Any) -> set[int]:
    """The ids of the futures, tasks and coroutines that the loop's timers know."""
    found: set[int] = set()
    frontier: list[Any] = []
    for handle in list(getattr(loop, "_scheduled", ())):
        if not handle.cancelled():
            frontier += [handle._callback, *(handle._args or ())]
    for _level in range(6):
        inner = []
        for item in frontier:
            if id(item) in found:
                continue
            found.add(id(item))
            if isinstance(item, asyncio.Future | types.CoroutineType | type):
                continue
            if isinstance(item, asyncio.AbstractEventLoop | types.ModuleType):
                continue
            if isinstance(item, types.FunctionType):
                inner += [cell.cell_contents for cell in _full(item)]
            else:
                inner += gc.get_referents(item)
        frontier = inner
    return found


def _full(function: Any) -> list[Any]:
    cells = function.__closure__ or ()
    return [cell for cell in cells if gc.get_referents(cell)]


# -- what leads to an object -----------------------------------------------------------

# Whatever these are, they may do something: a task is another loop's.
_ENDS: tuple[Any, ...] = (
    types.ModuleType,
    type,
    types.FrameType,
    asyncio.Handle,
    asyncio.AbstractEventLoop,
    asyncio.Task,
)
# Where there is no GIL, a running function may have these without being counted.
_UNCOUNTED = getattr(sys, "_is_gil_enabled", lambda: True)() is False
_MOST = 2000


class _Search:
    """Who could set the result of what the tasks of a snapshot wait for."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.parts: dict[int, int] = {}  # the id of a part of a task -> of the task
        self.mine: set[int] = {id(self.__dict__), id(self.parts)}
        for key, info in snapshot.infos.items():
            self.parts[key] = key
            self.mine |= {id(info), id(info.__dict__), id(info.chain)}
            self.mine |= {id(info.awaits), id(info.wait)}
            if info.wait is not None:
                self.mine |= {id(info.wait.__dict__), id(info.wait.targets)}
            for step in info.chain:
                self.parts[id(step)] = key
                for inner in gc.get_referents(step):
                    if isinstance(inner, types.FrameType):
                        self.parts[id(inner)] = key
        for holds in snapshot.holds.values():
            self.mine.add(id(holds))
            for hold in holds:
                self.mine |= {id(hold), id(hold.__dict__)}
        self.mine.add(id(snapshot.infos))

    def holders(self, info: Info) -> set[int] | None:
        """The ids of the tasks that lead to the future a task waits for.

        None: something else does, or may.
        """
        assert info.wait is not None
        found: set[int] = set()
        level: list[Any] = [info.wait.future]
        seen = {id(info.wait.future)}
        while level:
            nearer = self._level(level, seen, found)
            if nearer is None or len(seen) > _MOST:
                return None
            level = nearer
        return found

    def _level(
        self, level: list[Any], seen: set[int], found: set[int]
    ) -> list[Any] | None:
        """What leads to the objects of `level` directly, without what was seen."""
        counts = dict.fromkeys(map(id, level), 0)
        referrers = gc.get_referrers(*level)
        nearer: list[Any] = []
        while referrers:
            item = referrers.pop()
            if item is level or item is referrers:
                continue
            if sys.getrefcount(item) < _OWN:
                continue  # nobody else has it: the arguments of the call above
            self._count(item, counts)
            if id(item) in self.mine:
                continue
            if id(item) in self.parts:
                found.add(self.parts[id(item)])
                continue
            if _ends(item):
                return None
            if id(item) not in seen:
                seen.add(id(item))
                nearer.append(item)
        item = None
        return nearer if _all_found(level, counts) else None

    @staticmethod
    def _count(item: Any, counts: dict[int, int]) -> None:
        for referent in gc.get_referents(item):
            if id(referent) in counts:
                counts[id(referent)] += 1


def _ends(item: Any) -> bool:
    if _UNCOUNTED and isinstance(item, types.FunctionType):
        return True
    return isinstance(item, _ENDS)


def _own_references() -> int:
    """What sys.getrefcount() counts of an object that a list alone has, as below."""
    for item in [object()]:
        return sys.getrefcount(item)
    raise AssertionError


_OWN = _own_references()


def _all_found(level: list[Any], counts: dict[int, int]) -> bool:
    for item in level:
        if sys.getrefcount(item) - _OWN != counts[id(item)]:
            return False
    return True


# -- which tasks are stuck -------------------------------------------------------------


_OUTSIDE = ("sleep", "socket", "stream", "process", "server", "executor")


class _Judge:
    """The tasks that are not known to be able to go on; fewer and fewer."""

    def __init__(self, snapshot: Snapshot, quiet: bool) -> None:
        self.snapshot = snapshot
        self.infos = snapshot.infos
        self.stuck = {key for key, info in self.infos.items() if info.wait is not None}
        self.leads: dict[int, set[int] | None] = {}
        if quiet:
            return
        timed = _timed(snapshot.loop)
        woken = [key for key in self.stuck if self._wakes(key, timed)]
        while woken:  # and what a task awaits is cancelled with it
            key = woken.pop()
            if key in self.stuck:
                self.stuck.remove(key)
                woken += map(id, self.infos[key].awaits)
        self.search = _Search(snapshot)
        changed = True
        while changed:
            free = {key for key in self.stuck if self._may_go_on(key)}
            self.stuck -= free
            changed = bool(free)

    def _wakes(self, key: int, timed: set[int]) -> bool:
        """Whether a timer may end a task's wait, or it waits for the outside."""
        info = self.infos[key]
        wait = info.wait
        if wait is None or wait.kind in _OUTSIDE:
            return True
        known = {key, id(wait.future), *map(id, info.chain), *map(id, wait.targets)}
        return not known.isdisjoint(timed)

    def _may_go_on(self, key: int) -> bool:
        info = self.infos[key]
        wait = info.wait
        assert wait is not None
        if wait.targets:
            ends = [self._may_end(target) for target in wait.targets]
            # gather() and TaskGroup go on at the first that fails.
            return all(ends) if wait.kind == "wait" and not wait.any_of else any(ends)
        holds = self._holders_of(wait)
        if holds:
            return any(id(hold.task) not in self.stuck for hold in holds)
        return self._is_led_to(key)

    def _may_end(self, target: Any) -> bool:
        if target.done():
            return True
        if isinstance(target, asyncio.Task):
            return id(target) not in self.stuck
        inner = expand(target)
        if not inner.targets:
            return True  # a future among others: not looked into
        return any(self._may_end(each) for each in inner.targets)

    def _holders_of(self, wait: Wait) -> list[_owners.Hold]:
        """Who has to release a lock: nobody else can."""
        if wait.kind not in ("lock", "semaphore"):
            return []
        holds = self.snapshot.holds.get(id(wait.resource), [])
        full = 1
        if wait.kind == "semaphore":  # of an unbounded one nobody knows how many
            full = getattr(wait.resource, "_bound_value", len(holds) + 1)
        if len(holds) < full or any(hold.over for hold in holds):
            return []
        return holds

    def _is_led_to(self, key: int) -> bool:
        """Whether anything that is not stuck leads to what a task waits for."""
        if key not in self.leads:
            self.leads[key] = self.search.holders(self.infos[key])
        holders = self.leads[key]
        return holders is None or not holders <= self.stuck

    # -- among the stuck ------------------------------------------------------------

    def edges(self, key: int) -> list[int]:
        """The stuck tasks that a stuck task waits for."""
        info = self.infos[key]
        found = [id(task) for task in info.awaits]
        wait = info.wait
        if wait is not None and wait.kind in ("lock", "semaphore"):
            holds = self.snapshot.holds.get(id(wait.resource), [])
            found += [id(hold.task) for hold in holds if not hold.over]
        return [other for other in dict.fromkeys(found) if other in self.stuck]

    def cycles(self) -> list[list[int]]:
        """Circles among the stuck tasks, each task in one at most."""
        found: list[list[int]] = []
        done: set[int] = set()
        for start in self.infos:
            path = self._circle(start, done) if start in self.stuck else []
            if path:
                found.append(path)
        return found

    def _circle(self, start: int, done: set[int]) -> list[int]:
        """Depth first, without recursion; what was left is never entered again."""
        path: list[int] = []
        stack: list[tuple[int, Iterable[int]]] = []
        enter: int | None = start if start not in done else None
        while enter is not None or stack:
            if enter is not None:
                done.add(enter)
                path.append(enter)
                stack.append((enter, iter(self.edges(enter))))
            enter = None
            for other in stack[-1][1]:
                if other in path:
                    return path[path.index(other) :]
                if other not in done:
                    enter = other
                    break
            else:
                stack.pop()
                path.pop()
        return []


def _reason(snapshot: Snapshot, info: Info) -> str:
    assert info.wait is not None
    return _snapshot.words(snapshot, info.wait)


def find(snapshot: Snapshot, quiet: bool) -> tuple[Deadlock, ...]:
    """The deadlocks of a snapshot. quiet: nothing at all can make the loop go on."""
    judge = _Judge(snapshot, quiet)
    found = []
    cycles = judge.cycles()
    in_cycles = {key for cycle in cycles for key in cycle}
    for cycle in cycles:
        infos = [snapshot.infos[key] for key in cycle]
        found.append(_told("cycle", snapshot, infos))
    for key, info in snapshot.infos.items():
        if key in judge.stuck and key not in in_cycles and not judge.edges(key):
            found.append(_told("orphan", snapshot, [info]))
    return tuple(found)


def _told(kind: str, snapshot: Snapshot, infos: list[Info]) -> Deadlock:
    nodes = tuple(_snapshot.lone_node(snapshot, info) for info in infos)
    return Deadlock(kind, nodes, tuple(_reason(snapshot, info) for info in infos))
