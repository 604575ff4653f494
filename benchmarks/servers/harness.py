"""Start a server as a process, load it, and read what it costs.  Linux only."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import loops

from servers import programs
from servers.programs import LoadError

HERE = Path(__file__).resolve().parent

#: What a measurement gives: "us" and others, as the function that makes it says.
Figures = dict[str, float]

#: The cores of the server and of the load, of those this process may use.  With one
#: core they share it, and the figures mean little.
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]

START_SECONDS = 20
STOP_SECONDS = 10

#: What a load may take longer than it was told to: connecting, and a slow loop.
PATIENCE_SECONDS = 20


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

    Pinned before it is the program, so that its threads are, too.  It may open as many
    descriptors as the hard limit lets it.
    """

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        raise_descriptors()

    return subprocess.Popen(argv, preexec_fn=prepare, **kwargs)


def raise_descriptors() -> tuple[int, int]:
    """Let this process open as many descriptors as it may; the limits it had."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """This process may open as many descriptors as the hard limit lets it."""
    before = raise_descriptors()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def read_port(process: subprocess.Popen[bytes]) -> int | None:
    """The port that a server prints as soon as it serves; None when it does not."""
    if not select.select([process.stdout], [], [], START_SECONDS)[0]:
        return None
    line = process.stdout.readline()
    if not line:
        process.wait(STOP_SECONDS)  # so that all it has to say is on stderr
        return None
    return json.loads(line)["port"]


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

    loops.RAW is no loop but an echo server in C.  Raises LoadError when the server does
    not start, or does not end cleanly.
    """
    with tempfile.TemporaryFile() as stderr:
        argv = [sys.executable, str(HERE), loop, kind]
        if loop == loops.RAW:
            argv = [programs.build("raw")]
        process = pinned(argv, SERVER_CORE, stdout=subprocess.PIPE, stderr=stderr)
        try:
            port = read_port(process)
            if port is None:
                raise LoadError(f"{kind} did not start: {last_line(read_all(stderr))}")
            yield Server(process, port, stderr)
        finally:
            process.stdout.close()
            stop(process)
        if process.returncode != 0:
            why = last_line(read_all(stderr))
            raise LoadError(f"{kind} ended with status {process.returncode}: {why}")


def load_echo(
    server: Server, protocol: str, conns: int, size: int, seconds: float, idle: int = 0
) -> Figures:
    """Load an echo server by "tcp", "ws" or "udp"; its figures per message.

    "us" is CPU microseconds per message, "busy" the share of its core that the server
    used (0 to 1), "rate" messages per second.  *idle* more connections are open.
    """
    warmup = min(0.5, seconds / 2)
    result = run_load(server, protocol, conns, size, idle, warmup, seconds)
    return per_message(
        result["messages"], result["cpu_ns"] / 1e9, result["wall_ns"] / 1e9
    )


def run_load(
    server: Server,
    protocol: str,
    conns: int,
    size: int,
    idle: int,
    warmup: float,
    seconds: float,
) -> dict[str, int]:
    """Run load.c to its end; what it printed."""
    argv = [programs.build("load"), protocol, str(server.port), str(conns), str(idle)]
    argv += [str(size), str(warmup), str(seconds), str(server.pid)]
    process = pinned(argv, LOAD_CORE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = finish(process, warmup + seconds)
    if process.returncode != 0:
        raise LoadError(err.strip() or f"load: status {process.returncode}")
    return json.loads(out)


def finish(process: subprocess.Popen[bytes], seconds: float) -> tuple[str, str]:
    """What a load of *seconds* writes until it ends; LoadError if it does not end."""
    try:
        out, err = process.communicate(timeout=seconds + PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise LoadError("the load did not end") from None
    return out.decode(), (err or b"").decode()


def per_message(messages: int, cpu_seconds: float, wall_seconds: float) -> Figures:
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
    port: int, conns: int, seconds: int, scheme: str = "http", close: bool = False
) -> subprocess.Popen[bytes]:
    """Start wrk against 127.0.0.1 on LOAD_CORE; *seconds* is a whole number for wrk.

    With *close* every request asks for its connection to be closed.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise LoadError("wrk is not installed (the package is called wrk everywhere)")
    argv = [wrk, "-t1", f"-c{conns}", f"-d{seconds}s"]
    if close:
        argv += ["-H", "Connection: close"]
    argv += [f"{scheme}://127.0.0.1:{port}/"]
    return pinned(argv, LOAD_CORE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run_wrk(
    port: int, conns: int, seconds: int, scheme: str = "http", close: bool = False
) -> WrkResult:
    """Run wrk to its end; raises LoadError when a request failed."""
    process = start_wrk(port, conns, seconds, scheme, close)
    result = parse_wrk(finish(process, seconds)[0])
    if result.failures:
        raise LoadError(f"wrk: {result.failures}")
    return result


def load_web(
    server: Server,
    conns: int,
    seconds: float,
    scheme: str = "http",
    close: bool = False,
) -> Figures:
    """Load a web server with wrk; the same figures as load_echo, per request."""
    run_wrk(server.port, conns, 1, scheme, close)
    whole_seconds = max(1, round(seconds))
    cpu = server.cpu_seconds()
    start = time.perf_counter()
    result = run_wrk(server.port, conns, whole_seconds, scheme, close)
    wall = time.perf_counter() - start
    return per_message(result.requests, server.cpu_seconds() - cpu, wall)


# --- system calls ---------------------------------------------------------------


@contextlib.contextmanager
def counting(threads: list[int], calls: list[int]) -> Iterator[None]:
    """Append to *calls* how many system calls these threads make meanwhile."""
    strace = shutil.which("strace")
    if strace is None:
        raise LoadError("strace is not installed")
    with tempfile.NamedTemporaryFile() as out:
        argv = [strace, "-c", "-o", out.name]
        for thread in threads:
            argv += ["-p", str(thread)]
        process = pinned(argv, LOAD_CORE, stderr=subprocess.PIPE)
        try:
            for _ in threads:
                line = process.stderr.readline().decode()
                if "attached" not in line:
                    raise LoadError(line.strip() or "strace ended")
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()
        calls.append(parse_strace(out.read().decode()))


def parse_strace(summary: str) -> int:
    """The calls in a table of ``strace -c``: the sum of its fourth column."""
    total = 0
    for line in summary.splitlines():
        words = line.split()
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            total += int(words[3])
    return total


def calls_per_message(server: Server, load: Callable[[int], int]) -> float:
    """System calls of the server per message.

    *load* loads it for a number of seconds and returns the messages that were
    answered.  The difference of two loads counts, so what connections cost does not.
    Under strace a server takes several times as long.  So its other threads, which may
    work by the clock, are counted by themselves, while the first one is at full speed.
    """
    calls: list[int] = []
    messages = []
    for seconds in (1, 2):
        with counting([server.pid], calls):
            messages.append(load(seconds))
    if messages[1] <= messages[0]:
        raise LoadError("strace leaves no messages to count")
    first = (calls[1] - calls[0]) / (messages[1] - messages[0])
    threads = [int(name) for name in os.listdir(f"/proc/{server.pid}/task")]
    threads.remove(server.pid)
    if not threads:
        return first
    with counting(threads, calls):
        done = load(1)
    return first + calls[2] / done
