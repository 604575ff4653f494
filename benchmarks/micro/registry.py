"""What a micro benchmark is, and how one is found by its key."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: The modules of this package that hold rows, in the order of the table.
MODULES = (
    "callbacks",
    "timers",
    "tasks",
    "threads",
    "network",
    "processes",
    "lateness",
)

#: (loop, n) -> operations done, at least n.  The loop is not running yet.
Workload = Callable[[asyncio.AbstractEventLoop, int], int]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    *unit* is ``"ops/s"`` (the workload is timed and more is better) or
    ``"us late"`` (the workload returns the figure itself and less is better).

    *waits* says that the workload waits for time to pass or for other threads, so that
    only the wall clock can time it. Otherwise the process's CPU clock does: the same on
    an idle machine, and undisturbed by other processes.
    """

    key: str
    title: str
    workload: Callable[[asyncio.AbstractEventLoop, int], Any]
    unit: str = "ops/s"
    waits: bool = False


ROWS: dict[str, Row] = {}


def row(
    key: str, title: str, unit: str = "ops/s", *, waits: bool = False
) -> Callable[[Workload], Workload]:
    """Register the decorated workload under *key*; the rest as in Row."""

    def register(workload: Workload) -> Workload:
        if key in ROWS:
            raise ValueError(f"two rows are called {key!r}")
        ROWS[key] = Row(key, title, workload, unit, waits)
        return workload

    return register


def load_rows() -> dict[str, Row]:
    """Import every module of rows; key -> Row in the order of the table."""
    for module in MODULES:
        importlib.import_module(f"micro.{module}")
    return ROWS
