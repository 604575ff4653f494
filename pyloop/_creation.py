"""Where tasks were made: noted for each while pyloop.tasks traces creation.

A place is an attribute of the task: asyncio reports a lost exception from the task's
finalizer, when weak references to it may be gone.
"""

from __future__ import annotations

import asyncio
import collections
import linecache
import logging
import sys
import threading
import traceback
import types
from typing import Any

from pyloop._libraries import is_library
from pyloop._waits import Place

__all__ = ["begin_run", "caller", "note", "of", "place_of", "settings", "with_place"]

logger = logging.getLogger("pyloop.tasks")

_ATTRIBUTE = "_pyloop_created"


# A code object and a line number: what a place is until somebody looks.
Raw = tuple[types.CodeType, int]


class Settings:
    """What trace_creation() was told, and what was counted since."""

    enabled = False
    warn_at = 0
    made: collections.Counter[tuple[int, Raw]]
    next_look: dict[tuple[int, Raw], int]

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        self.made = collections.Counter()
        self.next_look = {}


settings = Settings()


# Whether a file is a library: see is_library().
_libraries: dict[str, bool] = {}


def caller(depth: int) -> Raw | None:
    """The innermost place of the program's on the stack, `depth` frames up or more."""
    frame: Any = sys._getframe(depth + 1)
    while frame is not None:
        code = frame.f_code
        library = _libraries.get(code.co_filename)
        if library is None:
            library = _libraries[code.co_filename] = is_library(code.co_filename)
        if not library:
            return code, frame.f_lineno or 0
        frame = frame.f_back
    return None


def place_of(raw: Raw | None) -> Place | None:
    """The place that caller() found."""
    if raw is None:
        return None
    code, line = raw
    return Place(code.co_filename, line, getattr(code, "co_qualname", code.co_name))


def note(loop: Any, task: Any) -> None:
    """Remember where a task was made: called by the loop that made it."""
    place = caller(2)
    if place is None:
        return
    try:
        task._pyloop_created = place
    except AttributeError:  # a task factory's own kind
        return
    if settings.warn_at > 0:
        _count(loop, place)


def of(task: Any) -> Place | None:
    """Where a task was made, as far as it is known."""
    place = place_of(getattr(task, _ATTRIBUTE, None))
    if place is not None or not isinstance(task, asyncio.Future):
        return place
    for entry in reversed(getattr(task, "_source_traceback", None) or ()):
        if not is_library(entry.filename):
            return Place(entry.filename, entry.lineno or 0, entry.name)
    return None


def _count(loop: Any, place: Raw) -> None:
    """Warn when too many tasks of one place are pending: looked at now and then."""
    key = id(loop), place
    with settings.lock:
        settings.made[key] += 1
        made = settings.made[key]
        if made < settings.next_look.get(key, settings.warn_at):
            return
        tasks = asyncio.all_tasks(loop)
        pending = sum(getattr(task, _ATTRIBUTE, None) == place for task in tasks)
        few = pending < settings.warn_at
        # What is missing, or the next doubling: all_tasks() stays a small part.
        step = max(settings.warn_at - pending, settings.warn_at // 4) if few else made
        settings.next_look[key] = made + step
    if not few:
        logger.warning(
            "%d tasks made at %s are pending: they are made faster than they end",
            pending,
            place_of(place),
        )


def with_place(context: dict[str, Any]) -> dict[str, Any]:
    """A context for the exception handler, with the place of its task if it is known.

    source_traceback is where asyncio puts it in debug mode, and what its handler logs.
    """
    task = context.get("task") or context.get("future")
    place = place_of(getattr(task, _ATTRIBUTE, None))
    if place is None or "source_traceback" in context:
        return context
    line = linecache.getline(place.file, place.line)
    summary = traceback.FrameSummary(
        place.file, place.line, place.function, lookup_line=False, line=line
    )
    entries = traceback.StackSummary.from_list([summary])
    return {**context, "source_traceback": entries}


def begin_run(loop: Any) -> None:
    """A loop's run begins in this thread: a coroutine's origin is noted in it, too.

    In debug mode the loop does that itself, with more of the stack.
    """
    if settings.enabled and sys.get_coroutine_origin_tracking_depth() == 0:
        sys.set_coroutine_origin_tracking_depth(1)
