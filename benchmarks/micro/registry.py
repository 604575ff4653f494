"""What a micro benchmark is, and how one is found by its key."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import loops

#: The modules of this package that hold rows, in the order of the table.
MODULES = (
    "callbacks",
    "timers",
    "tasks",
    "threads",
    "network",
    "connections",
    "services",
    "processes",
    "startup",
    "lateness",
    "answers",
)

#: (loop, n) -> operations done, at least n.  The loop is not running yet.
Workload = Callable[[asyncio.AbstractEventLoop, int], int]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    *unit* is ``"ops/s"`` (the workload is timed and more is better) or another of
    results.py (the workload returns the figure itself and less is better).

    *waits* says that the workload waits for time to pass or for other threads, so that
    only the wall clock can time it. Otherwise the process's CPU clock does: the same on
    an idle machine, and undisturbed by other processes.

    *prepare* is called once with the loop, on which all of the measurement then runs,
    and is not timed.

    With *steady* all slices of a measurement count, not the best one: what disturbs
    them is what the row is about.

    *accelerates* says that the row uses functions of asyncio that pyloop can replace.

    *service* is what has to run outside (see outside.py); *needs* names the modules
    without which the row is left out.
    """

    key: str
    title: str
    workload: Callable[[asyncio.AbstractEventLoop, int], Any]
    unit: str = "ops/s"
    waits: bool = False
    prepare: Callable[[asyncio.AbstractEventLoop], None] | None = None
    steady: bool = False
    accelerates: bool = False
    service: str = ""
    needs: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """Why the row can't be measured here, or None if it can."""
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                return f"the package {module} is not installed"
        return None

    def runs_on(self, loop: str) -> bool:
        return loop != loops.RAW and (self.accelerates or loop != loops.ACCELERATED)


#: The port on 127.0.0.1 of the service that the row needs; set before it is measured.
service_port = 0


ROWS: dict[str, Row] = {}


def row(
    key: str, title: str, unit: str = "ops/s", **options: Any
) -> Callable[[Workload], Workload]:
    """Register the decorated workload under *key*; the rest as in Row."""

    def register(workload: Workload) -> Workload:
        if key in ROWS:
            raise ValueError(f"two rows are called {key!r}")
        ROWS[key] = Row(key, title, workload, unit, **options)
        return workload

    return register


def load_rows() -> dict[str, Row]:
    """Import every module of rows; key -> Row in the order of the table."""
    for module in MODULES:
        importlib.import_module(f"micro.{module}")
    return ROWS
