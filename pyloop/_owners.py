"""Who holds asyncio's locks and semaphores, which do not know it themselves.

A task that is suspended in the body of `async with lock:` has the lock's bound
__aexit__ on its coroutine's stack (from Python 3.14 on, the function and the lock, one
after the other): the collector's gc.get_referents() shows it on every version. A lock
that was acquired in another way leaves no trace, so while pyloop.tasks traces
deadlocks, Lock and Semaphore note who acquires them and where.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any

from pyloop import _creation
from pyloop._replaced import Replaced

if TYPE_CHECKING:
    from pyloop._snapshot import Info, Snapshot
    from pyloop._waits import Place

__all__ = ["Hold", "find", "restore", "watch"]


@dataclasses.dataclass
class Hold:
    """That a task holds a lock: which, its name, and where it was acquired if known."""

    task: Any
    name: str
    place: Place | None = None

    @property
    def over(self) -> bool:
        """Whether the task has ended, so that it will not release the lock."""
        return self.task is None or self.task.done()

    def __str__(self) -> str:
        where = f", acquired at {self.place}" if self.place is not None else ""
        over = ", which has ended" if self.over else ""
        return f"task {self.name}{over}{where}"


# -- by what suspended coroutines have on their stacks -------------------------------


def _is_exit(item: Any) -> bool:
    return (
        isinstance(item, types.FunctionType) and item.__name__ == "__aexit__"
    ) or type(item).__name__ == "AccelFunction"


def _entered(step: Any) -> list[Any]:
    """The locks and conditions whose `async with` a coroutine is in, or entering."""
    items = gc.get_referents(step)
    frames = [item for item in items if isinstance(item, types.FrameType)]
    for frame in frames:  # Python 3.10 has it all there
        items += gc.get_referents(frame)
    found = []
    for before, item in zip([None, *items], items, strict=False):
        owner = None
        if isinstance(item, types.MethodType) and _is_exit(item.__func__):
            owner = item.__self__
        elif _is_exit(before):
            owner = item
        if isinstance(owner, asyncio.Lock | asyncio.Semaphore | asyncio.Condition):
            found.append(owner)
    return found


def _held(info: Info) -> list[Any]:
    """The locks and semaphores that a suspended task holds by `async with`."""
    held = [owner for step in info.chain for owner in _entered(step)]
    wait = info.wait
    if wait is not None and wait.resource is not None:
        entering = any(
            getattr(step, "__qualname__", "").endswith("__aenter__")
            for step in info.chain
        )
        # It waits to enter, or gave the lock up for the time that it waits.
        for index, owner in reversed(list(enumerate(held))):
            inner = getattr(owner, "_lock", owner)
            waits = wait.resource is owner or wait.resource is inner
            if waits and (entering or wait.kind == "condition"):
                del held[index]
                break
    return [getattr(owner, "_lock", owner) for owner in held]


def find(snapshot: Snapshot) -> dict[int, list[Hold]]:
    """By the id of each lock or semaphore that a task waits for, who holds it."""
    seen: dict[int, list[Hold]] = {}
    for info in snapshot.infos.values():
        for owner in _held(info):
            hold = Hold(info.task, str(info.task.get_name()))
            seen.setdefault(id(owner), []).append(hold)
    found = {}
    for info in snapshot.infos.values():
        wait = info.wait
        if wait is None or wait.kind not in ("lock", "semaphore"):
            continue
        key = id(wait.resource)
        if key not in found:
            found[key] = _noted(wait.resource) or seen.get(key, [])
    return found


# -- by what Lock.acquire() and Semaphore.acquire() note ------------------------------


@dataclasses.dataclass
class _Note:
    task: weakref.ref[Any]
    name: str
    place: _creation.Raw | None


_lock = threading.Lock()
_notes: weakref.WeakKeyDictionary[Any, list[_Note]] = weakref.WeakKeyDictionary()
_replaced = Replaced()


def _noted(owner: Any) -> list[Hold]:
    try:
        with _lock:
            notes = list(_notes.get(owner, ()))
    except TypeError:  # a subclass that cannot be a key
        return []
    return [
        Hold(note.task(), note.name, _creation.place_of(note.place)) for note in notes
    ]


def _note(owner: Any, place: _creation.Raw | None) -> None:
    task = asyncio.current_task()
    if task is None:
        return
    note = _Note(weakref.ref(task), str(task.get_name()), place)
    try:
        with _lock:
            _notes.setdefault(owner, []).append(note)
    except TypeError:
        return


def _forget(owner: Any) -> None:
    """One release: the current task's, or of the one that acquired it first."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    try:
        with _lock:
            notes = _notes.get(owner, [])
            for index in range(len(notes) - 1, -1, -1):
                if notes[index].task() is task:
                    del notes[index]
                    return
            del notes[:1]
    except TypeError:
        return


def _acquire_of(original: Any) -> Any:
    @functools.wraps(original)
    async def acquire(self: Any) -> Any:
        place = _creation.caller(1)
        taken = await original(self)
        _note(self, place)
        return taken

    return acquire


def _release_of(original: Any) -> Any:
    @functools.wraps(original)
    def release(self: Any) -> None:
        original(self)
        _forget(self)

    return release


def watch() -> None:
    """Note from now on who acquires locks and semaphores."""
    if _replaced:
        return
    for cls in (asyncio.Lock, asyncio.Semaphore):
        for name, make in (("acquire", _acquire_of), ("release", _release_of)):
            _replaced.put(cls, name, make(vars(cls)[name]))


def restore() -> None:
    """Note no more; asyncio's own functions are back where ours still are."""
    _replaced.restore()
    with _lock:
        _notes.clear()
