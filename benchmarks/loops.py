"""The event loops that the benchmarks compare, by name.

A loop is named by the module that gives it; every one of them is made by that
module's ``new_event_loop()``.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import platform
import sys
from pathlib import Path

#: name -> distribution on the package index ("" for the standard library).
LOOPS = {
    "asyncio": "",
    "uvloop": "uvloop",
    "zuvloop": "zuvloop",
    "rloop": "rloop",
    "rsloop": "rsloop",
    "pyloop": "pyloop-uv",
}

#: The loop that the others are measured against.
REFERENCE = "uvloop"

# Last on the path: an installed pyloop wins, an in-place build serves otherwise.
sys.path.append(str(Path(__file__).resolve().parent.parent))


def new_event_loop(name: str) -> asyncio.AbstractEventLoop:
    """Make a loop of the kind called *name*.

    Raises ImportError if its package is not installed, KeyError if *name* is
    none of LOOPS.
    """
    if name not in LOOPS:
        raise KeyError(name)
    return importlib.import_module(name).new_event_loop()


def missing(name: str) -> str | None:
    """Why the loop called *name* can't be measured here, or None if it can."""
    if name not in LOOPS:
        return f"unknown; known are {', '.join(LOOPS)}"
    try:
        loop = new_event_loop(name)
    except (ImportError, AttributeError) as exc:
        hint = f"; its package is {LOOPS[name]}" if LOOPS[name] else ""
        return f"{exc}{hint}"
    loop.close()
    return None


def version(name: str) -> str:
    """The version of the loop called *name*, which must be installed."""
    if name == "asyncio":
        return platform.python_version()
    module = importlib.import_module(name)
    try:
        return str(module.__version__)
    except AttributeError:
        return importlib.metadata.version(LOOPS[name])
