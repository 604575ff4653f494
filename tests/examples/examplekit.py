"""Running the programs of examples/ on asyncio's loop and on pyloop's.

Each runs as a user would start it, `python examples/NAME/FILE.py` or `python -m pyloop
examples/NAME/FILE.py`. What it leaves is seen in what it writes to stderr: asyncio's
ResourceWarnings there, and here pyloop's own report of tasks and transports too.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys

import programkit
import pytest
import support

EXAMPLES = os.path.join(support.PROJECT_DIR, "examples")

# The signals that end an example; one of them is enough for the suite.
ENDING = (signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.packaged))

# All that `--report` says of a program that has left nothing. Processes that its
# multiprocessing starts report too, at the same time: in pieces, not in lines.
CLEAN_REPORT = re.compile(
    r"-- pyloop: \d+ loops.*? --|callbacks: .*|received: .*"
    r"|slowest callbacks:|  \d+\.\d{3} s .*"
    r"|tasks left pending: none|transports left open: none"
    r"|errors that nothing handled: none"
)


def command(kind, path, *arguments, options=()):
    """The interpreter's arguments that run examples/PATH on this kind of loop.

    options: those of `python -m pyloop`, for pyloop.
    """
    warnings = ["-W", "always::ResourceWarning"]
    on_loop = {"asyncio": [], "pyloop": ["-m", "pyloop", *options]}[kind]
    program = os.path.join(EXAMPLES, path)
    return [*warnings, *on_loop, program, *map(str, arguments)]


def run(kind, path, *arguments, status=0, timeout=2 * support.PATIENCE, stdin=None):
    """Run examples/PATH to its end; return what it printed.

    It has to end with this status, and to say nothing on stderr, nor leave anything.
    """
    done = subprocess.run(
        [sys.executable, *command(kind, path, *arguments, options=["--report"])],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=support.script_environment(),
    )
    said = f"--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
    assert done.returncode == status, f"status {done.returncode}\n{said}"
    if kind == "pyloop":
        assert "tasks left pending: none" in done.stderr, said
        assert not CLEAN_REPORT.sub("", done.stderr).strip(), said
    else:
        assert not done.stderr, said
    return done.stdout


def refused(path, *arguments):
    """Run examples/PATH with arguments that it must refuse; return what it says."""
    done = subprocess.run(
        [sys.executable, *command("asyncio", path, *arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=support.PATIENCE,
        env=support.script_environment(),
    )
    assert done.returncode == 2 and not done.stdout, (done.returncode, done.stdout)
    assert "Traceback" not in done.stderr
    return done.stderr


@contextlib.contextmanager
def running(kind, path, *arguments, banner, **env):
    """Start examples/PATH, wait for the banner; gives a programkit.Program."""
    argv = command(kind, path, *arguments)
    with programkit.program(*argv, banner=banner, **env) as program:
        yield program
