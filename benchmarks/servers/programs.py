"""The C programs of the benchmarks, compiled when they are first wanted."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
WATCHING = HERE.parent / "watching"

#: name -> its sources, and whether it links libuv.
PROGRAMS = {
    "load": ([HERE / "load.c"], False),
    "answer": ([HERE / "answer.c"], True),
    "raw": ([HERE / "raw.c", WATCHING / "server_uv_tcp.c"], True),
}

FLAGS = ("-std=gnu11", "-O2")


class LoadError(Exception):
    """The load could not be built, or a request or an echo failed."""


def cache_folder() -> Path:
    """Where what is made for the benchmarks is kept; nobody else can write there."""
    cache = Path(tempfile.gettempdir()) / f"pyloop-bench-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    if cache.stat().st_uid != os.getuid():
        raise LoadError(f"{cache} belongs to somebody else")
    return cache


def build(name: str) -> str:
    """Compile a program of PROGRAMS unless it has been; its path.

    The path is made of the sources' text: trees that differ do not take one another's.
    Raises LoadError with the reason when it can't be compiled.
    """
    sources, with_libuv = PROGRAMS[name]
    text = b"".join(source.read_bytes() for source in sources)
    program = cache_folder() / f"{name}-{hashlib.sha256(text).hexdigest()[:16]}"
    if program.exists():
        return str(program)
    unfinished = f"{program}.{os.getpid()}"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise LoadError(f"no C compiler (cc) to build {name} with")
    argv = [compiler, *FLAGS, "-o", unfinished, *map(str, sources)]
    if with_libuv:
        argv += libuv_options()
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise LoadError(f"{name} does not compile: {lines[0]}")
    os.replace(unfinished, program)
    return str(program)


def libuv_options() -> list[str]:
    """What the compiler has to be told of libuv."""
    command = [os.environ.get("PKG_CONFIG", "pkg-config"), "--cflags", "--libs"]
    try:
        done = subprocess.run([*command, "libuv"], capture_output=True, text=True)
    except OSError as exc:
        raise LoadError(f"libuv is found by {command[0]}: {exc}") from None
    if done.returncode != 0:
        raise LoadError(f"no libuv to compile against: {done.stderr.strip()}")
    return shlex.split(done.stdout)
