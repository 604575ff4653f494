"""Who leads to a future: what the garbage collector knows of, for many at once.

Objects are in levels: the futures, what refers to them, what refers to that. For each
level all objects of the process are passed over once, however many futures there are.
The references that are found of an object are compared with its reference count: one
that is missing is held by C code, by a running function or by what gc.freeze() hides.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import types
from typing import TYPE_CHECKING, Any

from pyloop import _core

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyloop._snapshot import Snapshot

__all__ = ["Search"]

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

# What is further away than so many levels, or is found when there are so many objects,
# in all and for each future, is taken to be able to do something.
_LEVELS = 100
_MOST = 2000
_MOST_EACH = 50


def _reference_counts(items: list[Any]) -> list[int]:
    """Of objects that, of all that counts, `items` alone has, as this counts them."""
    return [sys.getrefcount(item) for item in items]


_OWN = _reference_counts([object()])[0]


def _ends(item: Any) -> bool:
    if _UNCOUNTED and isinstance(item, types.FunctionType):
        return True
    return isinstance(item, _ENDS)


class Search:
    """What leads to the futures that the stuck tasks of a snapshot wait for.

    futures: an iterator, which has no reference to them itself. Objects are told by
    their ids; those that are in levels stay alive as long as the search does.
    """

    def __init__(
        self, snapshot: Snapshot, stuck: set[int], futures: Iterator[Any]
    ) -> None:
        self.stuck = stuck
        self.parts: dict[int, int] = {}  # the id of a part of a task -> of the task
        self.mine: set[int] = set()  # what the snapshot is made of: not looked behind
        self.levels: list[list[Any]] = []
        self.lists: set[int] = set()  # their ids
        self.live: set[int] = set()  # objects by which something may happen
        self.found: dict[int, list[int]] = {}  # an object, or task -> what it leads to
        self._know(snapshot)
        self._go(list({id(future): future for future in futures}.values()))

    def _know(self, snapshot: Snapshot) -> None:
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

    # -- what leads to what -----------------------------------------------------------

    def _go(self, level: list[Any]) -> None:
        most = _MOST + _MOST_EACH * len(level)
        seen: set[int] = set()
        while level:
            self.levels.append(level)
            self.lists.add(id(level))
            seen.update(map(id, level))
            if len(self.levels) > _LEVELS or len(seen) > most:
                self._revive([*map(id, level)])
                return
            level = self._referrers_of(level, seen)

    def _referrers_of(self, level: list[Any], seen: set[int]) -> list[Any]:
        """Find what leads directly to these; return it without what was seen.

        No variable may have one of them while the collector is asked: before Python
        3.11 it knows the frames of running functions.
        """
        counts = dict.fromkeys(map(id, level), 0)
        nearer: dict[int, Any] = {}
        live: list[int] = []
        referrers = _core.referrers(level)
        while referrers:
            item = referrers.pop()
            if id(item) in self.lists:
                continue
            hits = [each for each in map(id, gc.get_referents(item)) if each in counts]
            for each in hits:
                counts[each] += 1
            if id(item) in self.mine:
                continue
            key = self.parts.get(id(item), id(item))
            self.found.setdefault(key, []).extend(hits)
            if key != id(item) or key in self.parts:
                if key not in self.stuck:
                    live += hits
            elif key in self.live or _ends(item):
                live += hits
            elif key not in seen:
                nearer[key] = item
        item = None
        for key, number in zip(counts, _reference_counts(level), strict=True):
            if number - _OWN != counts[key]:
                live.append(key)
        self._revive(live)
        # What leads to nothing but what is alive would tell nothing more.
        return [each for key, each in nearer.items() if not self._is_settled(key)]

    def _is_settled(self, key: int) -> bool:
        return all(each in self.live for each in self.found[key])

    def _revive(self, keys: list[int]) -> None:
        self.live.update(keys)
        self.leads(keys)

    def leads(self, keys: Iterable[int]) -> set[int]:
        """What these live objects or tasks lead to is alive: what was not, before."""
        waiting = list(keys)
        fresh: set[int] = set()
        while waiting:
            for each in self.found.get(waiting.pop(), ()):
                if each not in self.live:
                    self.live.add(each)
                    fresh.add(each)
                    waiting.append(each)
        return fresh
