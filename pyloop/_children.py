"""Interpreters that multiprocessing starts are on pyloop when their parent is.

A child of the start methods spawn and forkserver is a new interpreter, to which nothing
of what ``python -m pyloop`` did has come. The first thing that its parent sends is the
"preparation data", a pickled dict that is read before the program's main module is
imported. Here one item is added to it, and unpickling that item is what starts pyloop.
So it needs no environment variable, and works for whoever builds on multiprocessing:
pools, concurrent.futures, uvicorn's workers and reloader, Dask's nannies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyloop
from pyloop import _everywhere

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["carry_over"]

# Runs in the new interpreter, where file is the parent's pyloop/__init__.py. By the
# file, because sys.path is not the parent's yet, and the parent's own may have lost the
# folder that pyloop is in.
_FIND = """\
import importlib.util
import sys

if "pyloop" not in sys.modules:
    spec = importlib.util.spec_from_file_location("pyloop", file)
    module = sys.modules["pyloop"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
"""

# options is what the parent's command line said.
_START = f"""\
{_FIND}
from pyloop import _command
_command.start(options)
"""

_TAKE_OVER = f"""\
{_FIND}
from pyloop import _everywhere
_everywhere.take_over()
"""


class _Starter:
    """What starts pyloop where it is unpickled, and is None there."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, (_START, {"file": pyloop.__file__, "options": self.options})


def carry_over(options: dict[str, Any]) -> None:
    """Let children of multiprocessing call _command.start(options) before all else.

    options: what the command line said; they can be pickled. To be called once in a
    process.
    """

    def change_spawn(spawn: ModuleType) -> None:
        original = spawn.get_preparation_data

        def get_preparation_data(name: str) -> dict[str, Any]:
            return {**original(name), "pyloop": _Starter(options)}

        spawn.get_preparation_data = get_preparation_data  # type: ignore[attr-defined]

    _everywhere.when_imported("multiprocessing.spawn", change_spawn)
    _everywhere.when_imported("multiprocessing.forkserver", _change_forkserver)


def _change_forkserver(forkserver: ModuleType) -> None:
    """Let the process that forks the children have pyloop before it forks any.

    It imports the main module (from 3.14 on), which may make loops, and its children
    need not import pyloop then. Nothing but a command line tells it what to do, so that
    is changed. The options are not for it; its children get them as all others do.
    """
    util = forkserver.util
    original = util.spawnv_passfds

    def spawnv_passfds(path: bytes, args: list[str], passfds: list[int]) -> int:
        code = args.index("-c") + 1 if "-c" in args else len(args)
        if code < len(args) and "multiprocessing.forkserver import" in args[code]:
            start = f"exec({_TAKE_OVER!r}, {{'file': {pyloop.__file__!r}}}); "
            args = [*args[:code], start + args[code], *args[code + 1 :]]
        return original(path, args, passfds)  # type: ignore[no-any-return]

    util.spawnv_passfds = spawnv_passfds
