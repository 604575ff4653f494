"""What a micro benchmark is, and how one is found by its key."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: The modules of this package that hold rows, in the order of the table.
MODULES = ("callbacks", "timers", "tasks", "threads", "network", "lateness")

#: (loop, n) -> operations done, at least n.  The loop is not running yet.
Workload = Callable[[asyncio.AbstractEventLoop, int], int]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    *unit* is ``"ops/s"`` (the workload is timed and more is better) or
    ``"us late"`` (the workload returns the figure itself and less is better).
    """

    key: str
    title: str
    workload: Callable[[asyncio.AbstractEventLoop, int], Any]
    unit: str = "ops/s"


ROWS: dict[str, Row] = {}


def row(key: str, title: str, unit: str = "ops/s") -> Callable[[Workload], Workload]:
    """Register the decorated workload under *key*."""

    def register(workload: Workload) -> Workload:
        if key in ROWS:
            raise ValueError(f"two rows are called {key!r}")
        ROWS[key] = Row(key, title, workload, unit)
        return workload

    return register


def load_rows() -> dict[str, Row]:
    """Import every module of rows; key -> Row in the order of the table."""
    for module in MODULES:
        importlib.import_module(f"micro.{module}")
    return ROWS
