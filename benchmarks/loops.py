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

#: pyloop with one of its tools on, for what that costs: measured when it is named.
TOOLS = {
    "watchdog": "watchdog.start(0.1)",
    "deadlocks": "tasks.trace_deadlocks()",
    "creation": "tasks.trace_creation()",
    "telemetry": "telemetry.instrument(loop)",
    "debug": "loop.set_debug(True)",
}

#: The loop that the others are measured against.
REFERENCE = "uvloop"

#: No loop: the echo rows on a server in C over libuv, which no loop can be better than.
RAW = "raw"

#: What pyloop is not compared with when the best of the others is asked for.
NO_PEERS = ("pyloop", ACCELERATED, RAW, *TOOLS)

# Last on the path: an installed pyloop wins, an in-place build serves otherwise.
sys.path.append(str(Path(__file__).resolve().parent.parent))


def new_event_loop(name: str) -> asyncio.AbstractEventLoop:
    """Make a loop of the kind called *name*.

    Raises ImportError if its package is not installed, KeyError if *name* is
    none of LOOPS or TOOLS.
    """
    if name in TOOLS:
        return with_tool(name)
    if name not in LOOPS:
        raise KeyError(name)
    if name == ACCELERATED:
        import pyloop

        pyloop.install(accelerate=True)
        return pyloop.new_event_loop()
    module = importlib.import_module(name)
    make = getattr(module, "new_event_loop", None)
    return make() if make else module.Loop()


def with_tool(name: str) -> asyncio.AbstractEventLoop:
    """Make a pyloop loop, with a tool of TOOLS on."""
    import pyloop.tasks
    import pyloop.telemetry
    import pyloop.watchdog

    loop = pyloop.new_event_loop()
    names = {name: vars(pyloop)[name] for name in ("tasks", "telemetry", "watchdog")}
    exec(TOOLS[name], {"loop": loop, **names})
    return loop


def missing(name: str) -> str | None:
    """Why the loop called *name* can't be measured here, or None if it can."""
    if name in TOOLS:
        name = "pyloop"
    if name not in LOOPS:
        return f"unknown; known are {', '.join([*LOOPS, *TOOLS])}"
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
    ours = name == ACCELERATED or name in TOOLS
    module = importlib.import_module("pyloop" if ours else name)
    try:
        return str(module.__version__)
    except AttributeError:
        return importlib.metadata.version(LOOPS[name])
