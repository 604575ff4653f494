"""The event loops that the benchmarks compare, by name.

A loop is named by the module that gives it; it is made by that module's
``new_event_loop()``, or by its class ``Loop`` where there is no such function.
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
    "talyn": "talyn",
    "pyloop": "pyloop-uv",
    "accelerated": "pyloop-uv",
}

#: pyloop after ``pyloop.install(accelerate=True)``, which is about asyncio's functions
#: more than about the loop: only the rows that use those are measured on it.
ACCELERATED = "accelerated"

#: The loop that the others are measured against.
REFERENCE = "uvloop"

#: No loop: the echo rows on a server in C over libuv, which no loop can be better than.
RAW = "raw"

#: What pyloop is not compared with when the best of the others is asked for.
NO_PEERS = ("pyloop", ACCELERATED, RAW)

# Last on the path: an installed pyloop wins, an in-place build serves otherwise.
sys.path.append(str(Path(__file__).resolve().parent.parent))


def new_event_loop(name: str) -> asyncio.AbstractEventLoop:
    """Make a loop of the kind called *name*.

    Raises ImportError if its package is not installed, KeyError if *name* is
    none of LOOPS.
    """
    if name not in LOOPS:
        raise KeyError(name)
    if name == ACCELERATED:
        import pyloop

        pyloop.install(accelerate=True)
        return pyloop.new_event_loop()
    module = importlib.import_module(name)
    make = getattr(module, "new_event_loop", None)
    return make() if make else module.Loop()


def missing(name: str) -> str | None:
    """Why the loop called *name* can't be measured here, or None if it can."""
    if name not in LOOPS:
        return f"unknown; known are {', '.join(LOOPS)}"
    try:
        loop = new_event_loop(name)
    except (ImportError, AttributeError, TypeError) as exc:
        hint = f"; its package is {LOOPS[name]}" if LOOPS[name] else ""
        return f"{exc}{hint}"
    loop.close()
    return None


def version(name: str) -> str:
    """The version of the loop called *name*, which must be installed."""
    if name == "asyncio":
        return platform.python_version()
    module = importlib.import_module("pyloop" if name == ACCELERATED else name)
    try:
        return str(module.__version__)
    except AttributeError:
        return importlib.metadata.version(LOOPS[name])
