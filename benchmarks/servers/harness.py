"""Start a server as a process, load it, and read what it costs.  Linux only."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent

#: The cores of the server and of the load, of those this process may use.  With one
#: core they share it, and the figures mean little.
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]

STOP_SECONDS = 10


class LoadError(Exception):
    """The load could not be built, or a request or an echo failed."""


@dataclass(frozen=True)
class Server:
    """A running server: its process and the port it listens on."""

    process: subprocess.Popen[bytes]
    port: int
    stderr: IO[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_seconds(self) -> float:
        """User and system time that the server's process has used, to the nanosecond.

        The id of another process's CPU clock is made from its pid as
        clock_getcpuclockid(3) makes it: the complement of the pid, and 2 for the
        scheduler's own clock.
        """
        return time.clock_gettime((~self.pid << 3) | 2)

    def log(self) -> str:
        """What the server has written to stderr so far."""
        return read_all(self.stderr)

    def rss_kib(self) -> int:
        """Resident memory of the server's process, in KiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)[1])

    def descriptors(self) -> int:
        """How many descriptors the server's process has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def read_all(file: IO[bytes]) -> str:
    """All of *file*, whose position is shared with the process that writes to it."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace").strip()


def last_line(text: str) -> str:
    return (text.splitlines() or ["nothing on stderr"])[-1]


def pinned(argv: list[str], core: int, **kwargs) -> subprocess.Popen[bytes]:
    """Start *argv* on one *core*; other arguments as Popen's.

    Pinned before it is the program, so that its threads are, too.
    """
    return subprocess.Popen(
        argv, preexec_fn=lambda: os.sched_setaffinity(0, {core}), **kwargs
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask *process* to end, and kill it when it does not within STOP_SECONDS."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise LoadError(
            f"the server did not end within {STOP_SECONDS} s of SIGTERM"
        ) from None


@contextlib.contextmanager
def running(loop: str, kind: str) -> Iterator[Server]:
    """A server of *kind* on the loop called *loop*, pinned to SERVER_CORE.

    Raises LoadError when it does not start, or does not end cleanly.
    """
    with tempfile.TemporaryFile() as stderr:
        argv = [sys.executable, str(HERE), loop, kind]
        process = pinned(argv, SERVER_CORE, stdout=subprocess.PIPE, stderr=stderr)
        try:
            line = process.stdout.readline()
            if not line:
                process.wait(STOP_SECONDS)
                raise LoadError(f"{kind} did not start: {last_line(read_all(stderr))}")
            yield Server(process, json.loads(line)["port"], stderr)
        finally:
            process.stdout.close()
            stop(process)
        if process.returncode != 0:
            why = last_line(read_all(stderr))
            raise LoadError(f"{kind} ended with status {process.returncode}: {why}")


def cache_folder() -> Path:
    """Where what is made for the benchmarks is kept; nobody else can write there."""
    cache = Path(tempfile.gettempdir()) / f"pyloop-bench-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    if cache.stat().st_uid != os.getuid():
        raise LoadError(f"{cache} belongs to somebody else")
    return cache


def build_load() -> str:
    """Compile load.c when the cached program is older than it; its path."""
    source, program = HERE / "load.c", cache_folder() / "load"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise LoadError("no C compiler (cc) to build the load with")
        subprocess.run(
            [compiler, "-std=c11", "-O2", "-o", str(program), str(source)], check=True
        )
    return str(program)


def load_echo(
    server: Server, protocol: str, conns: int, size: int, seconds: float
) -> dict[str, float]:
    """Load an echo server by "tcp" or "udp"; its figures per message.

    "us" is CPU microseconds per message, "busy" the share of its core that the server
    used (0 to 1), "rate" messages per second.
    """
    argv = [build_load(), protocol, str(server.port), str(conns), str(size)]
    argv += [str(min(0.5, seconds / 2)), str(seconds), str(server.pid)]
    process = pinned(argv, LOAD_CORE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    if process.returncode != 0:
        raise LoadError(err.decode().strip() or f"load: status {process.returncode}")
    result = json.loads(out)
    return per_message(
        result["messages"], result["cpu_ns"] / 1e9, result["wall_ns"] / 1e9
    )


def per_message(
    messages: int, cpu_seconds: float, wall_seconds: float
) -> dict[str, float]:
    if messages == 0:
        raise LoadError("no message was answered")
    return {
        "us": cpu_seconds / messages * 1e6,
        "busy": cpu_seconds / wall_seconds,
        "rate": messages / wall_seconds,
    }


@dataclass(frozen=True)
class WrkResult:
    """What wrk printed at its end."""

    requests: int
    rate: float
    failures: str  # wrk's own words, "" when there were none


def parse_wrk(text: str) -> WrkResult:
    """Read the summary of wrk; raises LoadError when it has none."""
    total = re.search(r"^\s*(\d+) requests in ", text, re.M)
    rate = re.search(r"^Requests/sec:\s*([\d.]+)", text, re.M)
    if total is None or rate is None:
        raise LoadError(f"wrk: {text.strip()}")
    failures = []
    for line in text.splitlines():
        # "Socket errors" is printed only when one of its counts is not zero.
        if "Socket errors:" in line or "Non-2xx or 3xx responses:" in line:
            failures.append(line.strip())
    return WrkResult(int(total[1]), float(rate[1]), "; ".join(failures))


def start_wrk(
    port: int, conns: int, seconds: int, scheme: str = "http"
) -> subprocess.Popen[bytes]:
    """Start wrk against 127.0.0.1 on LOAD_CORE; *seconds* is a whole number for wrk."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise LoadError("wrk is not installed (the package is called wrk everywhere)")
    argv = [wrk, "-t1", f"-c{conns}", f"-d{seconds}s"]
    argv += [f"{scheme}://127.0.0.1:{port}/"]
    return pinned(argv, LOAD_CORE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run_wrk(port: int, conns: int, seconds: int, scheme: str = "http") -> WrkResult:
    """Run wrk to its end; raises LoadError when a request failed."""
    process = start_wrk(port, conns, seconds, scheme)
    result = parse_wrk(process.communicate()[0].decode())
    if result.failures:
        raise LoadError(f"wrk: {result.failures}")
    return result


def load_web(
    server: Server, conns: int, seconds: float, scheme: str = "http"
) -> dict[str, float]:
    """Load a web server with wrk; the same figures as load_echo, per request."""
    run_wrk(server.port, conns, 1, scheme)
    whole_seconds = max(1, round(seconds))
    cpu = server.cpu_seconds()
    start = time.perf_counter()
    result = run_wrk(server.port, conns, whole_seconds, scheme)
    wall = time.perf_counter() - start
    return per_message(result.requests, server.cpu_seconds() - cpu, wall)
