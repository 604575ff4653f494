"""What a run of compare.py found: figures, their medians and ratios, and the table."""

from __future__ import annotations

import contextlib
import json
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import loops
from servers import harness

#: unit -> what stands above its rows.
UNITS = {
    "ops/s": "operations per second (more is better)",
    "msg/s": "messages per second (more is better)",
    "us late": "microseconds late (less is better; negative is early)",
    "ms": "milliseconds until half of them are answered (less is better)",
    "us CPU": "the server's CPU microseconds per message (less is better)",
    "calls": "the server's system calls per message (less is better)",
    "rate": "the server's messages per second, load on another core (more is better)",
    "bytes": "bytes (less is better)",
    "ms CPU": "milliseconds of CPU (less is better)",
    "instructions": "instructions per operation (less is better)",
}

MORE_IS_BETTER = {"ops/s", "msg/s", "rate"}

#: One measurement: "figure", and perhaps "rate", "busy" and "syscalls".
Sample = dict[str, float]


@dataclass
class Result:
    """One row measured: each loop's sample of every round, None where it failed."""

    key: str
    title: str
    unit: str
    samples: dict[str, list[Sample | None]]
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def more_is_better(self) -> bool:
        return self.unit in MORE_IS_BETTER

    def figures(self, loop: str, name: str = "figure") -> list[float | None]:
        """One figure of every round's sample, None where there is none."""
        found = self.samples.get(loop, [])
        return [sample and sample.get(name) for sample in found]

    def measured(self, loop: str) -> list[float]:
        return [figure for figure in self.figures(loop) if figure is not None]

    def median(self, loop: str) -> float | None:
        good = self.measured(loop)
        return statistics.median(good) if good else None

    def best(self, loop: str) -> float:
        good = self.measured(loop)
        return max(good) if self.more_is_better else min(good, key=abs)

    def ratio(self, loop: str, other: str = loops.REFERENCE) -> float | None:
        """The median over the rounds of *loop*'s figure over *other*'s.

        None without both, and for lateness, where a ratio says nothing.
        """
        if self.unit == "us late":
            return None
        pairs = zip(self.figures(loop), self.figures(other), strict=False)
        ratios = [mine / theirs for mine, theirs in pairs if mine and theirs]
        return statistics.median(ratios) if ratios else None

    def best_peer(self) -> str | None:
        """The loop of somebody else whose median is the best; None without one."""
        peers = {
            name: median
            for name in self.samples
            if name not in loops.NO_PEERS and (median := self.median(name)) is not None
        }
        if not peers:
            return None
        choose = max if self.more_is_better else min
        return choose(peers, key=lambda name: peers[name])

    def part(self, name: str, unit: str) -> Result | None:
        """Another figure of the same samples as a row of its own, if there is one."""
        samples: dict[str, list[Sample | None]] = {
            loop: [
                None if figure is None else {"figure": figure}
                for figure in self.figures(loop, name)
            ]
            for loop in self.samples
        }
        if not any(any(found) for found in samples.values()):
            return None
        return Result(f"{self.key}_{name}", self.title, unit, samples)


def with_parts(results: list[Result]) -> list[Result]:
    """The rows, and after them what else their samples tell."""
    parts = [r.part("syscalls", "calls") for r in results]
    parts += [r.part("rate", "rate") for r in results if r.unit == "us CPU"]
    return results + [part for part in parts if part is not None]


# --- showing ---------------------------------------------------------------------


def number(figure: float) -> str:
    """A figure in three or four digits, with k or M where it is large."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(figure) >= size:
            return f"{digits(figure / size)} {unit}"
    return digits(figure)


def digits(figure: float) -> str:
    return f"{figure:.3g}" if abs(figure) < 100 else f"{figure:.0f}"


def cell(result: Result, loop: str, reference: str) -> str:
    median = result.median(loop)
    if median is None:
        return "fails" if loop in result.errors else "-"
    text = number(median)
    if len(result.measured(loop)) > 1:
        text += f" ({number(result.best(loop))})"
    ratio = result.ratio(loop, reference)
    if ratio is not None and loop != reference:
        text += f" {ratio:.2f}x"
    return text


def print_table(
    results: list[Result], names: list[str], reference: str = loops.REFERENCE
) -> None:
    """The rows in groups of one unit, as a table that is also valid Markdown.

    The ratios are those to the loop called *reference*.
    """
    everything = with_parts(results)
    for unit, title in UNITS.items():
        group = [result for result in everything if result.unit == unit]
        if not group:
            continue
        shown = [n for n in names if any(r.samples.get(n) for r in group)]
        lines = [[title, *shown]]
        lines += [
            [r.title, *(cell(r, name, reference) for name in shown)] for r in group
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(shown) + 1)]
        lines.insert(1, ["-" * width for width in widths])
        print()
        for line in lines:
            cells = [t.ljust(w) for t, w in zip(line, widths, strict=True)]
            print("| " + " | ".join(cells) + " |")
    for result in results:
        for loop, error in result.errors.items():
            print(f"\n{result.title}: {loop} fails: {error}")


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


def describe(about: dict[str, str | int], versions: dict[str, str]) -> str:
    """The machine and the loops in one line."""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Python {about['python']}, {about['cpu']}, {about['cores']} cores, "
        f"{about['system']}; {named}"
    )


# --- keeping ---------------------------------------------------------------------


@dataclass
class Run:
    """All of one run, as its file keeps it."""

    machine: dict[str, str | int]
    loops: dict[str, str]
    results: list[Result]

    def write(self, path: Path) -> None:
        """Write it to *path*, whose folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [vars(result) for result in self.results]
        whole = {"machine": self.machine, "loops": self.loops, "rows": rows}
        path.write_text(json.dumps(whole, indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> Run:
        """What `write` has written."""
        whole = json.loads(path.read_text())
        rows = [Result(**row) for row in whole["rows"]]
        return Run(whole["machine"], whole["loops"], rows)
