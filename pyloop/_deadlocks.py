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
import types
from typing import TYPE_CHECKING, Any

from pyloop import _owners, _referrers, _snapshot
from pyloop._waits import Wait, expand

if TYPE_CHECKING:
    from collections.abc import Iterator

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


# -- which tasks are stuck -------------------------------------------------------------


_OUTSIDE = ("sleep", "socket", "stream", "process", "server", "executor")


class _Judge:
    """The tasks that are not known to be able to go on; fewer and fewer."""

    def __init__(self, snapshot: Snapshot, quiet: bool) -> None:
        self.snapshot = snapshot
        self.infos = snapshot.infos
        self.stuck = {key for key, info in self.infos.items() if info.wait is not None}
        self.holders: dict[int, list[_owners.Hold]] = {}  # by the id of a lock
        self.waiters: dict[int, list[int]] = {}  # by what they depend on
        if quiet:
            return
        timed = _timed(snapshot.loop)
        woken = [key for key in self.stuck if self._wakes(key, timed)]
        while woken:  # and what a task awaits is cancelled with it
            key = woken.pop()
            if key in self.stuck:
                self.stuck.remove(key)
                woken += map(id, self.infos[key].awaits)
        self._reduce()

    def _wakes(self, key: int, timed: set[int]) -> bool:
        """Whether a timer may end a task's wait, or it waits for the outside."""
        info = self.infos[key]
        wait = info.wait
        if wait is None or wait.kind in _OUTSIDE:
            return True
        known = {key, id(wait.future), *map(id, info.chain), *map(id, wait.targets)}
        return not known.isdisjoint(timed)

    def _reduce(self) -> None:
        """Take out all that others, which are not stuck, may wake."""
        led = set()  # those that whoever has a reference to something may wake
        for key in self.stuck:
            wait = self.infos[key].wait
            assert wait is not None
            if wait.targets:
                behind = {id(task) for task in self.infos[key].awaits}
            elif self._holders_of(wait):
                behind = {id(hold.task) for hold in self._holders_of(wait)}
            else:
                led.add(key)
                behind = {id(wait.future)}
            for other in behind:
                self.waiters.setdefault(other, []).append(key)
        self._free(self.stuck - led, None)
        futures = (self.infos[key].wait for key in led & self.stuck)
        search = _referrers.Search(
            self.snapshot, self.stuck, (wait.future for wait in futures if wait)
        )
        woken = {key for live in search.live for key in self.waiters.get(live, ())}
        self._free(woken & led, search)

    def _free(self, keys: set[int], search: _referrers.Search | None) -> None:
        """Take out those of the keys that may go on, and what depends on them.

        With a search, those that wait for what it has found to be alive are given.
        """
        while keys:
            free = {
                key
                for key in keys
                if key in self.stuck
                and (self._is_led_to(key, search) or self._may_go_on(key))
            }
            self.stuck -= free
            woken = free | (search.leads(free) if search is not None else set())
            keys = {key for each in woken for key in self.waiters.get(each, ())}

    def _is_led_to(self, key: int, search: _referrers.Search | None) -> bool:
        """Whether anything that is not stuck leads to what a task waits for."""
        wait = self.infos[key].wait
        assert wait is not None
        if search is None or wait.targets or self._holders_of(wait):
            return False
        return id(wait.future) in search.live

    def _may_go_on(self, key: int) -> bool:
        """The same of those that wait for tasks, or for what tasks hold."""
        wait = self.infos[key].wait
        assert wait is not None
        if wait.targets:
            ends = map(self._may_end, wait.targets)
            # gather() and TaskGroup go on at the first that fails.
            return all(ends) if wait.kind == "wait" and not wait.any_of else any(ends)
        return any(id(hold.task) not in self.stuck for hold in self._holders_of(wait))

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
        key = id(wait.resource)
        if key not in self.holders:
            holds = self.snapshot.holds.get(key, [])
            full = 1
            if wait.kind == "semaphore":  # of an unbounded one nobody knows how many
                full = getattr(wait.resource, "_bound_value", len(holds) + 1)
            known = len(holds) >= full and not any(hold.over for hold in holds)
            self.holders[key] = holds if known else []
        return self.holders[key]

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
        path: dict[int, Iterator[int]] = {}
        enter: int | None = start if start not in done else None
        while enter is not None or path:
            if enter is not None:
                done.add(enter)
                path[enter] = iter(self.edges(enter))
            enter = None
            for other in next(reversed(path.values())):
                if other in path:
                    whole = list(path)
                    return whole[whole.index(other) :]
                if other not in done:
                    enter = other
                    break
            else:
                path.popitem()
        return []


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
    nodes = tuple(_snapshot.node_of(snapshot, info) for info in infos)
    reasons = tuple(node.waits_for for node in nodes)
    return Deadlock(kind, nodes, reasons)
