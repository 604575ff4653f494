"""Make every loop of a process one of pyloop's, whoever makes it and however.

For ``python -m pyloop`` and the pytest plugin. pyloop.install() does what a library may
do, which is to set a policy; a program that sets another policy, or calls a loop's
class, gets by it. Here the classes themselves are changed, so the program sees the
policy and the names that it expects.
"""

from __future__ import annotations

import importlib.util
import sys
from asyncio import unix_events
from typing import TYPE_CHECKING, Any

from pyloop._loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["give_back", "take_over", "when_imported"]

# Also asyncio.SelectorEventLoop, asyncio.EventLoop (3.13) and what policies call.
_AsyncioLoop: Any = unix_events._UnixSelectorEventLoop


def take_over() -> None:
    """Make asyncio's own loop class, and uvloop's once imported, give pyloop's loops.

    Subclasses of asyncio's class stay what they are: their methods are written against
    its attributes. So does a loop that is given a selector of the caller's choice. A
    second time does nothing.
    """
    if "__new__" in vars(_AsyncioLoop):
        return
    _AsyncioLoop.__new__ = staticmethod(_new)
    when_imported("uvloop", _take_over_uvloop)


def give_back() -> None:
    """Undo take_over(), but for modules that were imported in between."""
    if "__new__" in vars(_AsyncioLoop):
        del _AsyncioLoop.__new__
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if not isinstance(finder, _Finder)
    ]


def _new(cls: type, selector: Any = None, *args: Any, **kwargs: Any) -> Any:
    """What asyncio's class makes. Of another type than cls, it is not initialised."""
    if cls is _AsyncioLoop and selector is None:
        return Loop()
    return object.__new__(cls)


def _take_over_uvloop(module: ModuleType) -> None:
    """Change what uvloop makes: all its functions look its class up by this name."""
    module.Loop = Loop  # type: ignore[attr-defined]


def when_imported(name: str, change: Callable[[ModuleType], None]) -> None:
    """Call change(module) once the module of that name is imported, or now if it is.

    It is not imported for that.
    """
    if name in sys.modules:
        change(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Finder(name, change))


class _Finder:
    """Waits for the program to import a module, without importing it itself."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self.name = name
        self.change = change

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
