"""The rows that need a server: which server, which load, and what is read of it."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import loops

from servers import files, harness
from servers.harness import Figures, Server
from servers.programs import LoadError

#: Where `loops` is found by a new interpreter.
BENCHMARKS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ServerRow:
    """A line of the table that needs a server of *kind*.

    *needs* names the modules without which it is left out.
    """

    key: str
    title: str
    kind: str
    unit: str = "us CPU"
    needs: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """Why the row can't be measured here, or None if it can."""
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                return f"the package {module} is not installed"
        for program in self.programs:
            if shutil.which(program) is None:
                return f"the program {program} is not installed"
        return None

    def runs_on(self, loop: str) -> bool:
        return loop not in (loops.RAW, loops.ACCELERATED)

    def measure(self, loop: str, seconds: float, count: bool, notes: set[str]) -> dict:
        """One measurement of about *seconds*: a dictionary with "figure" at least.

        With *count*, system calls are counted too, which takes seconds more. Raises
        LoadError.
        """
        with harness.running(loop, self.kind) as server:
            try:
                figures = self.load(server, seconds)
            except LoadError as exc:
                raise LoadError(f"{exc}; {harness.last_line(server.log())}") from None
            log = server.log()
            if count:
                try:
                    figures.update(self.count(server))
                except LoadError as exc:
                    notes.add(f"{self.title}: {loop}: calls not counted: {exc}")
        if log:
            last = harness.last_line(log)
            notes.add(f"{self.title}: {loop} wrote to stderr: {last}")
        return figures

    def load(self, server: Server, seconds: float) -> Figures:
        raise NotImplementedError

    def count(self, server: Server) -> Figures:
        return {}


@dataclass(frozen=True)
class EchoRow(ServerRow):
    """One message of *size* bytes in flight on each of *conns* connections.

    *protocol* as load.c's; *idle* more connections are open. In the unit "msg/s" the
    figure is the rate, else the CPU time.
    """

    conns: int = 50
    size: int = 1024
    protocol: str = "tcp"
    idle: int = 0

    def runs_on(self, loop: str) -> bool:
        if loop == loops.RAW:
            return self.kind == "protocol"
        return super().runs_on(loop)

    def load(self, server: Server, seconds: float) -> Figures:
        figures = harness.load_echo(
            server, self.protocol, self.conns, self.size, seconds, self.idle
        )
        figures["figure"] = figures["rate" if self.unit == "msg/s" else "us"]
        return figures

    def count(self, server: Server) -> Figures:
        if self.conns + self.idle > 100 or self.unit == "msg/s":
            return {}

        def load(seconds: int) -> int:
            done = harness.run_load(
                server, self.protocol, self.conns, self.size, 0, 0, seconds / 2
            )
            return done["total"]

        return {"syscalls": harness.calls_per_message(server, load)}


@dataclass(frozen=True)
class WebRow(ServerRow):
    """Requests by wrk on *conns* connections; with *close*, a new one for each."""

    conns: int = 64
    scheme: str = "http"
    close: bool = False

    def load(self, server: Server, seconds: float) -> Figures:
        figures = harness.load_web(server, self.conns, seconds, self.scheme, self.close)
        return {"figure": figures["us"], **figures}

    def count(self, server: Server) -> Figures:
        def load(seconds: int) -> int:
            done = harness.run_wrk(
                server.port, self.conns, seconds, self.scheme, self.close
            )
            return done.requests

        return {"syscalls": harness.calls_per_message(server, load)}


@dataclass(frozen=True)
class IdleRow(ServerRow):
    """Resident bytes of the server for each connection that is open and idle.

    What the first *before* connections bring (buffers, free lists) does not count.
    """

    before: int = 1000
    conns: int = 5000

    def load(self, server: Server, seconds: float) -> Figures:
        source = next(SOURCES)
        with contextlib.ExitStack() as stack:
            stack.enter_context(harness.many_descriptors())
            at_start = server.descriptors()
            resident = []
            for more in (self.before, self.conns):
                for _ in range(more):
                    stack.enter_context(connected(server.port, source))
                at_start += more
                wait_for_descriptors(server, at_start)
                resident.append(server.rss_kib())
        return {"figure": (resident[1] - resident[0]) * 1024 / self.conns}


def sources() -> Iterator[str]:
    """Addresses of this machine, a new one for each measurement: of the last one's
    connections the ports are not free for a minute."""
    pid = os.getpid()
    for number in itertools.count():
        yield f"127.{2 + number % 200}.{pid >> 8 & 255}.{pid & 255}"


SOURCES = sources()


def connected(port: int, source: str) -> socket.socket:
    """A connection from the address *source*."""
    return socket.create_connection(("127.0.0.1", port), 10, (source, 0))


def wait_for_descriptors(server: Server, count: int) -> None:
    """Wait until the server has *count* open; LoadError when it takes too long."""
    deadline = time.monotonic() + 10
    while server.descriptors() < count:
        if time.monotonic() > deadline:
            raise LoadError(f"only {server.descriptors()} descriptors of {count}")
        time.sleep(0.02)


@dataclass(frozen=True)
class FileRow(ServerRow):
    """CPU microseconds of the server for each MiB of a large file that it sends."""

    def load(self, server: Server, seconds: float) -> Figures:
        with on_load_core():
            fetch(server.port)
            cpu, start, sent = server.cpu_seconds(), time.perf_counter(), 0
            while time.perf_counter() - start < seconds or sent == 0:
                sent += fetch(server.port)
            mib = sent >> 20
            wall = time.perf_counter() - start
            figures = harness.per_message(mib, server.cpu_seconds() - cpu, wall)
        return {"figure": figures["us"], **figures}


@contextlib.contextmanager
def on_load_core() -> Iterator[None]:
    """This thread is on the load's core meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {harness.LOAD_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def fetch(port: int) -> int:
    """Read until the server closes; the bytes, which the kernel throws away."""
    total = 0
    room = bytearray(1 << 20)  # never written to, but recv_into wants it
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        while read := sock.recv_into(room, len(room), socket.MSG_TRUNC):
            total += read
    if total != files.SIZE:
        raise LoadError(f"{total} bytes of {files.SIZE} came")
    return total


@dataclass(frozen=True)
class ImportRow(ServerRow):
    """Milliseconds of CPU from the interpreter's start to a loop that has been made.

    The interpreter's own start is taken off; asyncio's import is not.
    """

    def measure(self, loop: str, seconds: float, count: bool, notes: set[str]) -> dict:
        made = f"import loops; loops.new_event_loop({loop!r}).close()"
        best = min(cpu_of(made) for _ in range(max(3, int(seconds * 5))))
        empty = min(cpu_of("pass") for _ in range(3))
        return {"figure": (best - empty) * 1e3}


def cpu_of(program: str) -> float:
    """CPU seconds of a Python that runs *program*."""
    before = children_cpu()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise LoadError(harness.last_line(done.stderr))
    return children_cpu() - before


def children_cpu() -> float:
    """CPU seconds of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


UVICORN = ("uvicorn", "httptools")

#: The connections of the rows that show how cost grows with them.
GROWTH = (10, 500, 2000, 5000)

ROWS: tuple[ServerRow, ...] = (
    EchoRow("echo_1k", "echo, Protocol, 50 connections, 1 KiB", "protocol"),
    EchoRow(
        "echo_100k",
        "echo, Protocol, 10 connections, 100 KiB",
        "protocol",
        conns=10,
        size=102400,
    ),
    *(
        EchoRow(
            f"echo_conns_{conns}",
            f"echo, Protocol, {conns} connections, 1 KiB",
            "protocol",
            conns=conns,
        )
        for conns in GROWTH
    ),
    EchoRow(
        "echo_idle",
        "echo, Protocol, 100 connections beside 10,000 idle",
        "protocol",
        conns=100,
        idle=10_000,
    ),
    EchoRow(
        "echo_busy",
        "echo, Protocol, beside a busy Python thread",
        "protocol_busy",
        unit="msg/s",
    ),
    EchoRow("echo_streams", "echo, streams readline, 50 connections, 1 KiB", "streams"),
    EchoRow("echo_sock", "echo, sock_recv/sock_sendall, 50 connections, 1 KiB", "sock"),
    EchoRow(
        "echo_udp",
        "echo, datagrams, 20 peers, 100 B",
        "datagrams",
        conns=20,
        size=100,
        protocol="udp",
    ),
    EchoRow(
        "websockets",
        "echo, websockets, 50 connections, 1 KiB",
        "websockets",
        protocol="ws",
        needs=("websockets",),
    ),
    WebRow(
        "uvicorn",
        "uvicorn + httptools, plain ASGI, 64 connections",
        "uvicorn",
        needs=UVICORN,
        programs=("wrk",),
    ),
    WebRow(
        "uvicorn_32",
        "the same, 32 connections",
        "uvicorn",
        needs=UVICORN,
        programs=("wrk",),
        conns=32,
    ),
    WebRow(
        "tls",
        "the same over TLS, 32 connections",
        "uvicorn_tls",
        needs=UVICORN,
        programs=("wrk", "openssl"),
        conns=32,
        scheme="https",
    ),
    WebRow(
        "uvicorn_close",
        "uvicorn + httptools, a new connection for each request",
        "uvicorn",
        needs=UVICORN,
        programs=("wrk",),
        close=True,
    ),
    WebRow(
        "fastapi",
        "FastAPI under uvicorn, 32 connections",
        "uvicorn_fastapi",
        needs=(*UVICORN, "fastapi"),
        programs=("wrk",),
        conns=32,
    ),
    WebRow(
        "aiohttp",
        "aiohttp server, 64 connections",
        "aiohttp",
        needs=("aiohttp",),
        programs=("wrk",),
    ),
    FileRow("sendfile_100m", "100 MiB by sendfile, per MiB", "sendfile"),
    FileRow("read_write_100m", "100 MiB by read and write, per MiB", "read_write"),
    IdleRow("idle_rss", "RSS per idle server connection", "protocol", unit="bytes"),
    ImportRow("import", "import and a first loop", "", unit="ms CPU"),
)
