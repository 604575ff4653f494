"""What a fork must not leave shared between a process's loops and their copies.

The core replaces what it has in the kernel when the child first uses a loop. Two things
are not its own: the sockets by which signals come, and what both processes would send.
"""

from __future__ import annotations

import os
import types
import weakref
from collections.abc import Callable
from typing import Any

from pyloop import _core

__all__ = ["living", "loops", "watchdogs"]

loops: weakref.WeakSet[Any] = weakref.WeakSet()
"""Every loop that may be used in a child: _before_fork() is called in the parent, and
_after_fork() in the child."""

watchdogs: weakref.WeakSet[Any] = weakref.WeakSet()
"""Every active watchdog: its thread ends before a fork, and begins again in both."""


def living(members: Any) -> list[Any]:
    """The members of a WeakSet, to which other threads may add meanwhile.

    The set itself cannot be iterated over then: it runs Python code between two.
    """
    found = [reference() for reference in list(members.data)]
    return [member for member in found if member is not None]


def _before() -> None:
    for watchdog in living(watchdogs):
        watchdog._before_fork()
    for loop in living(loops):
        loop._before_fork()


def _after_in_parent() -> None:
    for watchdog in living(watchdogs):
        watchdog._after_fork_in_parent()


def _after_in_child() -> None:
    for loop in living(loops):
        loop._after_fork()
    for watchdog in living(watchdogs):
        watchdog._after_fork_in_child()


def _alone(function: Callable[[], None]) -> Callable[[], None]:
    """The function with nothing in its globals but what those above use.

    What is registered for forks stays for as long as the interpreter; so it must not
    keep this module, and with that the package, which may be imported anew.
    """
    used: dict[str, Any] = {"loops": loops, "watchdogs": watchdogs}
    used["living"] = types.FunctionType(living.__code__, {})
    return types.FunctionType(function.__code__, used)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_alone(_before),
        # Later: from 3.13 on the interpreter counts the threads after this, and warns.
        after_in_parent=_core.Watcher.deferred(_alone(_after_in_parent)),
        after_in_child=_alone(_after_in_child),
    )
