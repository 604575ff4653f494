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
import compileall
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import bars
import loops
import plots
import results
from micro.registry import load_rows
from progress import Progress
from results import Result, Run, Sample
from servers import harness, outside
from servers.programs import LoadError
from servers.rows import ROWS, ServerRow

MICRO = Path(__file__).resolve().parent / "micro"

DEFAULT_LOOPS = "asyncio,uvloop,zuvloop,rloop,rsloop,talyn,raw,pyloop,accelerated"

MICRO_TIMEOUT = 60


# --- measuring -------------------------------------------------------------------


def run_micro(loop: str, key: str, seconds: float, port: int) -> Sample:
    """A row in a process of its own; *port* is that of its service, or 0."""
    argv = [sys.executable, str(MICRO), loop, key, "--seconds", str(seconds)]
    start = subprocess.Popen
    if port:
        argv += ["--service", str(port)]
        start = partial(harness.pinned, core=harness.SERVER_CORE)
    process = start(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=MICRO_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise LoadError(f"not done within {MICRO_TIMEOUT} s") from None
    if process.returncode != 0:
        last = err.strip().splitlines()[-1:] or [f"status {process.returncode}"]
        raise LoadError(last[0])
    return json.loads(out)


def count_instructions(loop: str, key: str) -> Sample:
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
        raise LoadError(f"valgrind: status {done.returncode}")

    few, many = 2000, 6000
    return {"figure": (collected(many) - collected(few)) / (many - few)}


#: (loop, round) -> its sample.  Raises LoadError with one line.
Measure = Callable[[str, int], Sample]


def measure_row(
    row, names: list[str], rounds: int, measure: Measure, progress: Progress
) -> Result:
    """Measure one row *rounds* times on each loop that it runs on."""
    names = [name for name in names if row.runs_on(name)]
    result = Result(row.key, row.title, row.unit, {name: [] for name in names})
    for number in range(rounds):
        # Another loop begins each round, so that each has every neighbour in turn.
        turn = number % max(len(names), 1)
        for name in names[turn:] + names[:turn]:
            progress.show(f"{row.title}: round {number + 1} of {rounds}, {name}")
            sample = None
            if name not in result.errors:
                try:
                    sample = measure(name, number)
                except (LoadError, OSError) as exc:
                    result.errors[name] = str(exc)
            result.samples[name].append(sample)
            progress.step()
    return result


# --- the command -----------------------------------------------------------------


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--loops", default=DEFAULT_LOOPS, help=f"default: {DEFAULT_LOOPS}"
    )
    parser.add_argument(
        "--reference",
        default=loops.REFERENCE,
        help=f"the loop that ratios are to; default: {loops.REFERENCE}",
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
        "--plots", type=Path, metavar="FOLDER", help="draw plots there (matplotlib)"
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
        "--no-strace", action="store_true", help="do not count system calls"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with status 1 when a bar is not met"
    )
    return parser.parse_args()


def chosen_loops(text: str) -> list[str]:
    """The loops of --loops that are installed; says which are not."""
    names = []
    for name in text.split(","):
        reason = None if name == loops.RAW else loops.missing(name)
        if reason is None:
            names.append(name)
        else:
            print(f"left out: {name}: {reason}", file=sys.stderr)
    if not names:
        sys.exit("no loop is left to measure")
    return names


def chosen_rows(only: str) -> list:
    """The rows whose key has a part of --only; a part with a $ ends the key."""
    parts = only.split(",")
    known = [*load_rows().values(), *ROWS]
    rows = [row for row in known if any(part in f"{row.key}$" for part in parts)]
    if not rows:
        sys.exit(f"no row has {only!r} in its key; --list shows them")
    return rows


class Measurements:
    """The measurements that the command line asks for."""

    def __init__(self, args: argparse.Namespace, names: list[str]) -> None:
        self.names = names
        self.notes: set[str] = set()  # what else is worth telling
        self.instructions = args.instructions
        self.strace = not (args.no_strace or args.instructions)
        if self.strace and shutil.which("strace") is None:
            self.notes.add("left out: system calls: strace is not installed")
            self.strace = False
        self.rounds = args.rounds or (3 if args.quick else 5)
        self.micro_seconds, self.server_seconds = (0.2, 1) if args.quick else (0.6, 3)
        if args.instructions:
            self.rounds = 1  # counting is exact enough

    def run(self, rows: list) -> list[Result]:
        """Measure *rows*; those that can't be measured here are named and left out.

        Interrupted, it returns what it has.
        """
        measured: list[Result] = []
        steps = self.rounds * len(self.names)
        with Progress(len(rows) * steps) as progress:
            try:
                for number, row in enumerate(rows):
                    progress.begin(number * steps, row.title)
                    reason = row.missing()
                    if reason is None:
                        try:
                            measured.append(self.row(row, progress))
                        except LoadError as exc:
                            reason = str(exc)
                    if reason is not None:
                        self.notes.add(f"left out: {row.title}: {reason}")
            except KeyboardInterrupt:
                self.notes.add("interrupted: the rows that are not above are missing")
        return measured

    def row(self, row, progress: Progress) -> Result:
        service = "" if isinstance(row, ServerRow) else row.service
        with outside.running(service) as port:
            measure = partial(self.sample, row, port)
            return measure_row(row, self.names, self.rounds, measure, progress)

    def sample(self, row, port: int, loop: str, number: int) -> Sample:
        if self.instructions:
            return count_instructions(loop, row.key)
        if isinstance(row, ServerRow):
            # Calls hardly vary from round to round: the first one counts them.
            count = self.strace and number == 0
            return row.measure(loop, self.server_seconds, count, self.notes)
        return run_micro(loop, row.key, self.micro_seconds, port)


def compile_bytecode() -> None:
    """Leave pyloop's bytecode beside it, as pip did for the peers."""
    found = importlib.util.find_spec("pyloop")
    for folder in (found and found.submodule_search_locations) or ():
        compileall.compile_dir(folder, quiet=2)  # what can't be written is left out


def main() -> int:
    args = parse_args()
    rows = chosen_rows(args.only)
    if args.list:
        for row in rows:
            print(f"{row.key:<22}{row.title}")
        return 0
    if args.instructions:
        if shutil.which("valgrind") is None:
            sys.exit("--instructions needs valgrind")
        rows = [
            replace(row, unit="instructions")
            for row in rows
            if row.unit == "ops/s" and not row.service
        ]
    names = chosen_loops(args.loops)
    compile_bytecode()
    run = Run(
        results.machine(),
        {name: loops.version(name) for name in names if name != loops.RAW},
        [],
    )
    print(results.describe(run.machine, run.loops))
    measurements = Measurements(args, names)
    run.results = measurements.run(rows)
    results.print_table(run.results, names, args.reference)
    for note in sorted(measurements.notes):
        print(f"\n{note}")
    good = True
    if args.reference == loops.REFERENCE:  # whom the bars are about
        good = bars.print_bars(run.results, str(run.machine["python"]))
    if args.json:
        run.write(args.json)
    if args.plots:
        try:
            plots.draw(run, args.plots)
        except plots.Missing as exc:
            print(exc, file=sys.stderr)
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
