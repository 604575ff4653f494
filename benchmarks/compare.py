"""Compare event loops side by side, in one run.

    python benchmarks/compare.py                          everything
    python benchmarks/compare.py --quick --only call_     a first look at some rows
    python benchmarks/compare.py --loops asyncio,pyloop --json out.json

Every measurement is a process of its own (one loop, one row), and the loops take turns
within each round, so whatever else the machine does meets all of them alike.  The table
shows the median over the rounds and, in brackets, the best; the ratio against uvloop is
the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import loops
from micro.registry import load_rows
from servers import harness

MICRO = Path(__file__).resolve().parent / "micro"

DEFAULT_LOOPS = "asyncio,uvloop,rloop,pyloop"

MICRO_TIMEOUT = 120


@dataclass(frozen=True)
class ServerRow:
    """A line of the table that needs a server: its kind and its load.

    *size* is the message in bytes; 0 means HTTP requests by wrk.
    """

    key: str
    title: str
    kind: str
    conns: int
    size: int = 0

    @property
    def unit(self) -> str:
        return "us CPU"


SERVER_ROWS = (
    ServerRow("echo_1k", "echo, Protocol, 50 connections, 1 KiB", "protocol", 50, 1024),
    ServerRow(
        "echo_100k", "echo, Protocol, 10 connections, 100 KiB", "protocol", 10, 102400
    ),
    ServerRow(
        "echo_streams",
        "echo, streams readline, 50 connections, 1 KiB",
        "streams",
        50,
        1024,
    ),
    ServerRow(
        "echo_sock",
        "echo, sock_recv/sock_sendall, 50 connections, 1 KiB",
        "sock",
        50,
        1024,
    ),
    ServerRow("echo_udp", "echo, datagrams, 20 peers, 100 B", "datagrams", 20, 100),
    ServerRow(
        "uvicorn", "uvicorn + httptools, plain ASGI, 64 connections", "uvicorn", 64
    ),
    ServerRow("tls", "the same over TLS, 32 connections", "uvicorn_tls", 32),
    ServerRow("aiohttp", "aiohttp server, 64 connections", "aiohttp", 64),
)


@dataclass(frozen=True)
class Bar:
    """What pyloop promises about one row, as a ratio against uvloop."""

    key: str
    limit: float
    at_least: bool

    def met(self, ratio: float) -> bool:
        return ratio >= self.limit if self.at_least else ratio <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:.2f}x {loops.REFERENCE}"


BARS = (
    Bar("call_soon_one", 3.0, True),
    Bar("call_later_cancel", 2.0, True),
    Bar("create_task", 2.0, True),
    Bar("echo_1k", 1.0, False),
    Bar("echo_udp", 0.8, False),
    Bar("uvicorn", 0.95, False),
)


@dataclass
class Result:
    """One row measured: each loop's figure of every round, None where it failed."""

    key: str
    title: str
    unit: str
    figures: dict[str, list[float | None]]
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def more_is_better(self) -> bool:
        return self.unit == "ops/s"

    def median(self, loop: str) -> float | None:
        good = [figure for figure in self.figures[loop] if figure is not None]
        return statistics.median(good) if good else None

    def best(self, loop: str) -> float:
        good = [figure for figure in self.figures[loop] if figure is not None]
        return max(good) if self.more_is_better else min(good, key=abs)

    def ratio(self, loop: str) -> float | None:
        """The median over the rounds of this loop's figure over the reference's.

        None without both, and for lateness, where a ratio says nothing.
        """
        if self.unit == "us late" or loops.REFERENCE not in self.figures:
            return None
        pairs = zip(self.figures[loop], self.figures[loops.REFERENCE], strict=True)
        ratios = [mine / other for mine, other in pairs if mine and other]
        return statistics.median(ratios) if ratios else None


# --- measuring -------------------------------------------------------------------


class MeasurementFailed(Exception):
    """A measurement could not be made; the text says why in one line."""


def measure_micro(loop: str, key: str, seconds: float) -> float:
    argv = [sys.executable, str(MICRO), loop, key, "--seconds", str(seconds)]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=MICRO_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise MeasurementFailed(f"not done within {MICRO_TIMEOUT} s") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise MeasurementFailed(last[0])
    return json.loads(done.stdout)["figure"]


def measure_server(
    loop: str, server_row: ServerRow, seconds: float, notes: set[str]
) -> float:
    try:
        with harness.running(loop, server_row.kind) as server:
            if server_row.size:
                protocol = "udp" if server_row.kind == "datagrams" else "tcp"
                result = harness.load_echo(
                    server, protocol, server_row.conns, server_row.size, seconds
                )
            else:
                scheme = "https" if server_row.kind == "uvicorn_tls" else "http"
                result = harness.load_web(server, server_row.conns, seconds, scheme)
            log = server.log()
    except harness.LoadError as exc:
        raise MeasurementFailed(str(exc)) from None
    if log:
        notes.add(
            f"{server_row.title}: {loop} wrote to stderr: {harness.last_line(log)}"
        )
    return result["us"]


def count_instructions(loop: str, key: str) -> float:
    """Instructions per operation of a row, under valgrind.

    The difference of two runs, so that starting the interpreter does not count.
    """

    def collected(count: int) -> int:
        with tempfile.NamedTemporaryFile() as out:
            argv = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}"]
            argv += [sys.executable, str(MICRO), loop, key, "--count", str(count)]
            environ = dict(os.environ, PYTHONHASHSEED="0")
            done = subprocess.run(argv, capture_output=True, text=True, env=environ)
        for line in done.stderr.splitlines():
            if "Collected :" in line and done.returncode == 0:
                return int(line.split()[-1])
        raise MeasurementFailed(f"valgrind: status {done.returncode}")

    few, many = 2000, 6000
    return (collected(many) - collected(few)) / (many - few)


@contextlib.contextmanager
def progress() -> Iterator:
    """A function that shows a text on the terminal's last line; wiped at the end."""
    shown = sys.stderr.isatty()

    def show(text: str) -> None:
        if shown:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)

    yield show
    show("")


def measure_row(row, names: list[str], rounds: int, measure, show) -> Result:
    """Measure one row *rounds* times on each loop; *measure* takes a loop's name."""
    result = Result(row.key, row.title, row.unit, {name: [] for name in names})
    for number in range(rounds):
        # Another loop begins each round, so that each has every neighbour in turn.
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            show(f"{row.title}: round {number + 1} of {rounds}, {name}")
            figure = None
            if name not in result.errors:
                try:
                    figure = measure(name)
                except MeasurementFailed as exc:
                    result.errors[name] = str(exc)
            result.figures[name].append(figure)
    return result


# --- showing ---------------------------------------------------------------------


def number(figure: float) -> str:
    """A figure in three or four digits, with k or M where it is large."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(figure) >= size:
            return f"{digits(figure / size)} {unit}"
    return digits(figure)


def digits(figure: float) -> str:
    return f"{figure:.3g}" if abs(figure) < 100 else f"{figure:.0f}"


def cell(result: Result, loop: str) -> str:
    median = result.median(loop)
    if median is None:
        return "fails"
    text = f"{number(median)} ({number(result.best(loop))})"
    ratio = result.ratio(loop)
    if ratio is not None and loop != loops.REFERENCE:
        text += f" {ratio:.2f}x"
    return text


def print_table(results: list[Result], names: list[str]) -> None:
    """The rows in groups of one unit, as a table that is also valid Markdown."""
    titles = {
        "ops/s": "operations per second (more is better)",
        "us late": "microseconds late (less is better; negative is early)",
        "us CPU": "the server's CPU microseconds per message (less is better)",
        "instructions": "instructions per operation (less is better)",
    }
    for unit, title in titles.items():
        group = [result for result in results if result.unit == unit]
        if not group:
            continue
        lines = [[title, *names]]
        lines += [[r.title, *(cell(r, name) for name in names)] for r in group]
        widths = [max(len(line[i]) for line in lines) for i in range(len(names) + 1)]
        lines.insert(1, ["-" * width for width in widths])
        print()
        for line in lines:
            cells = [t.ljust(w) for t, w in zip(line, widths, strict=True)]
            print("| " + " | ".join(cells) + " |")
    for result in results:
        for loop, error in result.errors.items():
            print(f"\n{result.title}: {loop} fails: {error}")


def print_bars(results: list[Result]) -> bool:
    """What pyloop promises, met or not; False if a measured one is not met."""
    measured = {
        result.key: result for result in results if result.unit != "instructions"
    }
    good = True
    lines = []
    for bar in BARS:
        result = measured.get(bar.key)
        if result is None or "pyloop" not in result.figures:
            continue
        ratio = result.ratio("pyloop")
        if ratio is None:
            verdict = (
                f"not measured ({result.errors.get('pyloop', 'no ' + loops.REFERENCE)})"
            )
        else:
            verdict = f"{'pass' if bar.met(ratio) else 'FAIL'}  {ratio:.2f}x"
        good = good and ratio is not None and bar.met(ratio)
        lines.append(f"  {result.title:<50} {str(bar):<18} {verdict}")
    if lines:
        print("\nbars of pyloop:")
        print("\n".join(lines))
    return good


def machine() -> dict[str, str | int]:
    """What a reader has to know of the machine."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cores": len(harness.CORES),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


# --- the command -----------------------------------------------------------------


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--loops", default=DEFAULT_LOOPS, help=f"default: {DEFAULT_LOOPS}"
    )
    parser.add_argument(
        "--only", default="", help="comma-separated parts of row keys (see --list)"
    )
    parser.add_argument("--rounds", type=int, help="default: 5, with --quick 3")
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all figures there"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the keys of the rows"
    )
    parser.add_argument(
        "--instructions",
        action="store_true",
        help="count instructions with valgrind (in-process rows only)",
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with status 1 when a bar is not met"
    )
    return parser.parse_args()


def chosen_loops(text: str) -> list[str]:
    """The loops of --loops that are installed; says which are not."""
    names = []
    for name in text.split(","):
        reason = loops.missing(name)
        if reason is None:
            names.append(name)
        else:
            print(f"left out: {name}: {reason}", file=sys.stderr)
    if not names:
        sys.exit("no loop is left to measure")
    return names


def chosen_rows(only: str) -> tuple[list, list]:
    """The in-process rows and the server rows whose key has a part of --only."""
    parts = only.split(",")

    def chosen(row) -> bool:
        return any(part in row.key for part in parts)

    micro = [row for row in load_rows().values() if chosen(row)]
    servers = [row for row in SERVER_ROWS if chosen(row)]
    if not micro and not servers:
        sys.exit(f"no row has {only!r} in its key; --list shows them")
    return micro, servers


def measure_all(
    args: argparse.Namespace,
    names: list[str],
    micro: list,
    servers: list,
    notes: set[str],
) -> list[Result]:
    """Measure the chosen rows; what else is worth telling goes to *notes*."""
    rounds = args.rounds or (3 if args.quick else 5)
    micro_seconds, server_seconds = (0.2, 1) if args.quick else (0.6, 3)

    def timed(row, loop: str) -> float:
        if isinstance(row, ServerRow):
            return measure_server(loop, row, server_seconds, notes)
        return measure_micro(loop, row.key, micro_seconds)

    def counted(row, loop: str) -> float:
        return count_instructions(loop, row.key)

    measure = timed
    rows = [*micro, *servers]
    if args.instructions:
        # Counting is exact enough that one round does.
        measure, rounds = counted, 1
        rows = [
            replace(row, unit="instructions") for row in micro if row.unit == "ops/s"
        ]
    with progress() as show:
        return [
            measure_row(row, names, rounds, partial(measure, row), show) for row in rows
        ]


def main() -> int:
    args = parse_args()
    micro, servers = chosen_rows(args.only)
    if args.list:
        for row in [*micro, *servers]:
            print(f"{row.key:<22}{row.title}")
        return 0
    if args.instructions and shutil.which("valgrind") is None:
        sys.exit("--instructions needs valgrind")
    names = chosen_loops(args.loops)
    about = machine()
    versions = {name: loops.version(name) for name in names}
    print(
        f"Python {about['python']}, {about['cpu']}, {about['cores']} cores, "
        f"{about['system']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )
    notes: set[str] = set()
    results = measure_all(args, names, micro, servers, notes)
    print_table(results, names)
    for note in sorted(notes):
        print(f"\n{note}")
    good = print_bars(results)
    if args.json:
        rows = [
            {
                "key": r.key,
                "title": r.title,
                "unit": r.unit,
                "figures": r.figures,
                "errors": r.errors,
            }
            for r in results
        ]
        args.json.write_text(
            json.dumps({"machine": about, "loops": versions, "rows": rows}, indent=1)
            + "\n"
        )
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
