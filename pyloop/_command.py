"""The command line of ``python -m pyloop``: be python, with pyloop's loops.

What python itself does before a program's first line is done again here, for the
program: sys.argv, sys.path[0], the names in ``__main__``. What it does afterwards (exit
status, the end by SIGINT, atexit) it still does, because whatever the program raises
goes on to it; only our own frames are taken out of a traceback on the way.
"""

from __future__ import annotations

import argparse
import asyncio
import builtins
import importlib.machinery
import importlib.util
import os
import pkgutil
import runpy
import sys
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from pyloop import _children, _core, _everywhere
from pyloop._accelerate import accelerate
from pyloop._loop import Loop
from pyloop._report import Report
from pyloop._version import __version__

if TYPE_CHECKING:
    from types import CodeType, TracebackType

__all__ = ["main", "start"]

_USAGE = "python -m pyloop [options] (script.py | -m module | -c code | -) [args]"


class _Program(NamedTuple):
    """What is to be run: kind is "file", "module", "code" or "stdin"."""

    kind: str
    name: str  # the file, the module, or the code
    arguments: list[str]


# -- the command line ------------------------------------------------------------


def main(folder: str | None) -> None:
    """Run the program that sys.argv names; does what python would do with it.

    folder: what python has put first into sys.path, and was taken out; None if it did
    not, as in safe mode (``-P``, ``-I``).
    """
    own, words = _split(sys.argv[1:])
    options, unknown = _parser().parse_known_args(own)
    if unknown:
        _parser().error(
            f"{unknown[0]} is not an option of pyloop's; options of Python's stand "
            "before -m pyloop"
        )
    if options.version:
        print(_version())
        return
    program = _program(words)
    start(vars(options))
    _run(program, folder)


def start(options: dict[str, Any]) -> None:
    """Put this process on pyloop: before a program, and in multiprocessing's children.

    options: the names and values of the command line's.
    """
    _apply(argparse.Namespace(**options))
    _everywhere.take_over()
    _children.carry_over(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pyloop",
        usage=_USAGE,
        description="Run a Python program with every asyncio event loop it makes being "
        "one of pyloop. What follows the program is the program's.",
        epilog="Options of Python's stand before -m pyloop.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="store_true", help="say what is at work here, and end"
    )
    parser.add_argument(
        "--accelerate",
        action="store_true",
        help="replace asyncio's sleep(), gather(), ... by versions in C",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="asyncio's debug mode on every loop, and ResourceWarnings shown",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="say at the end, on stderr, what the loops left open or lost",
    )
    parser.add_argument(
        "--trace-deadlocks",
        action="store_true",
        help="say so when a loop is about to wait for ever, and where tasks were made",
    )
    parser.add_argument(
        "--watchdog",
        type=float,
        metavar="SECONDS",
        help="say so, while it lasts, when a callback blocks its loop for longer",
    )
    return parser


# Of the options above those that are followed by a value.
_WITH_VALUE = frozenset({"--watchdog"})


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Part the options that are ours from the program and all that is its.

    argparse cannot: it would take options of the program's for ours, and ``--`` away.
    """
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            return words[:at], words[at + 1 :]
        if word == "-" or not word.startswith("-") or word[:2] in ("-m", "-c"):
            break
        at += 2 if word in _WITH_VALUE else 1
    return words[:at], words[at:]


def _program(words: list[str]) -> _Program:
    """Say which program the words name; end with a message if they name none."""
    if not words:
        _parser().error("no program: give a script, -m module, -c code or -")
    first, rest = words[0], words[1:]
    if first == "-":
        return _Program("stdin", first, rest)
    kind = {"-m": "module", "-c": "code"}.get(first[:2])
    if kind is None:
        return _Program("file", first, rest)
    if len(first) > 2:  # -mmodule
        return _Program(kind, first[2:], rest)
    if not rest:
        _parser().error(f"argument expected for the {first} option")
    return _Program(kind, rest[0], rest[1:])


def _version() -> str:
    """Return a line each for what a bug report should say."""
    import platform

    build = _core.build_facts()
    kind = "asserts on" if build["asserts"] else "asserts off"
    if build["sanitizers"]:
        kind += f", sanitizers {build['sanitizers']}"
    loop = Loop()
    try:
        poller = loop._poller
    finally:
        loop.close()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    lines = [
        f"pyloop {__version__} ({build['compiler']}, {kind})",
        f"libuv {_core.libuv_version} (compiled with {build['libuv']})",
        f"{python} ({sys.platform}, {platform.machine()})",
        f"descriptors watched by {poller}",
    ]
    return "\n".join(lines)


def _apply(options: argparse.Namespace) -> None:
    """Do what the options ask for before there is a loop."""
    if options.accelerate:
        accelerate()
    if options.trace_deadlocks:
        from pyloop import tasks

        tasks.trace_deadlocks()
    if options.watchdog is not None:
        from pyloop import watchdog

        try:
            watchdog.start(options.watchdog)
        except ValueError as exc:
            _parser().error(f"--watchdog: {exc}")
    if options.debug:
        # What asyncio asks for each new loop; the environment is the program's.
        asyncio.coroutines._is_debug_mode = lambda: True  # type: ignore[attr-defined]
        if not sys.warnoptions:
            warnings.simplefilter("default", ResourceWarning)
    if options.report:
        Report().start()


# -- being python ----------------------------------------------------------------


def _run(program: _Program, folder: str | None) -> None:
    """Run the program as ``__main__``; folder as for main().

    Whatever it raises goes on to the interpreter, which then prints a traceback that
    begins with the program's own frames.
    """
    try:
        if program.kind == "module":
            if folder is not None:
                sys.path.insert(0, folder)
            _run_module(program)
        else:
            _run_code(program)
    except BaseException:
        _hide_our_frames()
        raise


def _run_module(program: _Program) -> None:
    sys.argv[:] = ["-m", *program.arguments]
    _fresh_main()
    runpy._run_module_as_main(program.name)  # type: ignore[attr-defined]


def _run_code(program: _Program) -> None:
    safe = getattr(sys.flags, "safe_path", sys.flags.isolated)
    first = "-c" if program.kind == "code" else program.name
    sys.argv[:] = [first, *program.arguments]
    if program.kind == "file":
        finder = pkgutil.get_importer(program.name)
        if finder is not None:  # a folder, or a zip file
            sys.path.insert(0, _absolute(program.name))  # in safe mode too
            _fresh_main()
            runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]
            return
        code = _file_code(program.name)
        if not safe:
            sys.path.insert(0, os.path.dirname(os.path.realpath(program.name)))
        exec(code, _fresh_main(_absolute(program.name), _file_loader(program.name)))
        return
    if not safe:
        sys.path.insert(0, "")
    if program.kind == "stdin":
        code = compile(sys.stdin.buffer.read(), "<stdin>", "exec", dont_inherit=True)
        exec(code, _fresh_main("<stdin>"))
    else:
        exec(_string_code(program.name), _fresh_main())


def _fresh_main(file: str | None = None, loader: Any = None) -> dict[str, Any]:
    """Return ``__main__``'s names as python has them before a program's first line.

    The module stays the same: the interpreter, and ``-i``, know it.
    """
    names = sys.modules["__main__"].__dict__
    names.clear()
    names.update(
        __name__="__main__",
        __doc__=None,
        __package__=None,
        __loader__=loader or importlib.machinery.BuiltinImporter,
        __spec__=None,
        __builtins__=builtins,
    )
    if sys.version_info < (3, 14):
        names["__annotations__"] = {}
    if file is not None:
        names["__file__"] = file
        if sys.version_info < (3, 15):
            names["__cached__"] = None
    return names


def _absolute(path: str) -> str:
    """As python names a script in ``__file__``: absolute, otherwise as it was given."""
    if os.path.isabs(path):
        return path
    try:
        folder = os.getcwd()
    except OSError:  # it is gone
        return path
    if path == "." and sys.version_info >= (3, 11):
        return folder
    return os.path.join(folder, path)


def _file_loader(path: str) -> Any:
    if path.endswith(".pyc"):
        return importlib.machinery.SourcelessFileLoader("__main__", _absolute(path))
    return importlib.machinery.SourceFileLoader("__main__", _absolute(path))


def _file_code(path: str) -> CodeType:
    """Return a script's code; end with python's message if it cannot be read."""
    name = _absolute(path)
    try:
        with open(name, "rb") as file:
            source = file.read()
    except OSError as exc:
        print(
            f"{sys.executable}: can't open file {name!r}: "
            f"[Errno {exc.errno}] {exc.strerror}",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    if source.startswith(importlib.util.MAGIC_NUMBER):
        return _file_loader(path).get_code("__main__")  # type: ignore[no-any-return]
    return compile(source, name, "exec", dont_inherit=True)


def _string_code(source: str) -> CodeType:
    """Return the code of ``-c``, whose lines tracebacks show from Python 3.13 on."""
    if sys.version_info >= (3, 14):
        import textwrap

        source = textwrap.dedent(source)
    code = compile(source, "<string>", "exec", dont_inherit=True)
    if sys.version_info >= (3, 13):
        import linecache

        # Known by its code, or by its name in the first of these Pythons.
        key = code if hasattr(linecache, "_interactive_cache") else "<string>"
        linecache._register_code(key, source, "<string>")  # type: ignore[attr-defined]
    return code


# -- tracebacks ------------------------------------------------------------------


def _hide_our_frames() -> None:
    """Let the next traceback that the interpreter prints begin below _run()."""
    original = getattr(sys, "excepthook", sys.__excepthook__)

    def excepthook(
        kind: type[BaseException], value: BaseException, traceback: TracebackType | None
    ) -> None:
        sys.excepthook = original
        traceback = _of_the_program(traceback)
        value.__traceback__ = sys.last_traceback = traceback
        original(kind, value, traceback)

    sys.excepthook = excepthook


def _of_the_program(traceback: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that python would have without us."""
    rest = traceback
    while rest is not None and rest.tb_frame.f_code is not _run.__code__:
        rest = rest.tb_next
    while rest is not None and rest.tb_frame.f_globals is globals():
        rest = rest.tb_next
    return rest
