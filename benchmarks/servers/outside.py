"""Services for rows in which the loop is the client's, each on the load's core.

Every one listens on 127.0.0.1 only, keeps nothing once it has ended, and ends with the
row that needed it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from servers import harness, programs
from servers.programs import LoadError

START_SECONDS = 20

#: The superuser of the PostgreSQL that is made for the row.
POSTGRES_USER = "bench"


@contextlib.contextmanager
def running(service: str) -> Iterator[int]:
    """The service called *service*; yields its port, 0 if *service* is "".

    Raises LoadError when it is not installed or does not start.
    """
    if not service:
        yield 0
        return
    start = {"answer": answer, "redis": redis, "postgres": postgres}[service]
    with start() as port:
        yield port


@contextlib.contextmanager
def answer() -> Iterator[int]:
    """The HTTP server of answer.c."""
    process = harness.pinned(
        [programs.build("answer")], harness.LOAD_CORE, stdout=subprocess.PIPE
    )
    try:
        port = harness.read_port(process)
        if port is None:
            raise LoadError("answer did not start")
        yield port
    finally:
        process.stdout.close()
        harness.stop(process)


@contextlib.contextmanager
def redis() -> Iterator[int]:
    """redis-server without files."""
    port = free_port()
    argv = [found("redis-server"), "--bind", "127.0.0.1", "--port", str(port)]
    argv += ["--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as folder, daemon(argv, port, cwd=folder):
        yield port


@contextlib.contextmanager
def postgres() -> Iterator[int]:
    """A PostgreSQL with a new, empty cluster; as another user if this one is root."""
    server, initdb = found("postgres"), found("initdb")
    owner = postgres_owner()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        if owner:
            os.chown(folder, owner["user"], owner["group"])
        data = Path(folder) / "data"
        argv = [initdb, "-D", str(data), "-U", POSTGRES_USER]
        argv += ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        made = subprocess.run(argv, capture_output=True, text=True, cwd=folder, **owner)
        if made.returncode != 0:
            raise LoadError(f"initdb: {harness.last_line(made.stderr.strip())}")
        argv = [server, "-D", str(data), "-h", "127.0.0.1", "-p", str(port)]
        argv += ["-k", folder, "-F"]
        with daemon(argv, port, cwd=folder, **owner):
            yield port


def postgres_owner() -> dict[str, int]:
    """Popen's arguments for the user of PostgreSQL, which refuses to be root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid}
    raise LoadError("postgres does not run as root, and there is no other user")


@contextlib.contextmanager
def daemon(argv: list[str], port: int, **kwargs) -> Iterator[None]:
    """The program *argv*, from when *port* takes connections; ended by its id."""
    with tempfile.TemporaryFile() as log:
        process = harness.pinned(
            argv, harness.LOAD_CORE, stdout=log, stderr=log, **kwargs
        )
        try:
            if not answers(process, port):
                last = harness.last_line(harness.read_all(log))
                raise LoadError(f"{Path(argv[0]).name} did not start: {last}")
            yield
        finally:
            harness.stop(process)


def answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until *port* takes connections; False when it will not."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        time.sleep(0.05)
    return False


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def found(program: str) -> str:
    """The path of *program*; distributions keep PostgreSQL's outside of PATH."""
    path = shutil.which(program)
    if path is None:
        others = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"))
        if not others:
            raise LoadError(f"{program} is not installed")
        path = others[-1]
    return path
