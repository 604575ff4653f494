"""Draw what a run of compare.py measured, as SVG.

    python benchmarks/plots.py benchmarks/results/3.14.json docs/plots

A plot of which the run has no row is not drawn.  Needs matplotlib.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import loops
import results
from results import Result, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUBJECT = "pyloop"

#: One colour and one marker for each loop in all plots; they differ in grey as well.
STYLES = {
    "asyncio": ("#8c8c8c", "s"),
    "uvloop": ("#1f6fb4", "D"),
    "zuvloop": ("#e08a1e", "^"),
    "rloop": ("#3a923a", "v"),
    "rsloop": ("#8f5fc0", "<"),
    "talyn": ("#8a5a44", ">"),
    loops.RAW: ("#000000", "|"),
    SUBJECT: ("#d0312d", "o"),
    loops.ACCELERATED: ("#f4a3a0", "o"),
}

#: Columns of the line with the machine's facts.
FACTS_WIDTH = 110


class Missing(Exception):
    """matplotlib is not installed."""


def new_axes(title: str, rows: float) -> tuple[Figure, Axes]:
    """Axes under *title* on a figure that is *rows* lines of text high."""
    try:
        import matplotlib
    except ImportError as exc:
        raise Missing(f"no plots: {exc}") from None
    from matplotlib.figure import Figure

    # The same figures give the same file, and text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "pyloop", "svg.fonttype": "none"})
    figure = Figure(figsize=(9, 1.8 + 0.27 * rows), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, run: Run, path: Path) -> None:
    """Write *figure* with the machine's facts below it."""
    facts = textwrap.fill(results.describe(run.machine, run.loops), FACTS_WIDTH)
    figure.supxlabel(facts, x=0.01, ha="left", fontsize=7, color="#555555")
    figure.savefig(path, format="svg", metadata={"Date": None})
    # matplotlib leaves blanks at the ends of lines.
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n")


def draw_ratios(run: Run, path: Path, title: str, rows: list[Result]) -> None:
    """A line for each row and on it a mark for each loop, at its ratio to uvloop."""
    rows = [row for row in rows if row.median(loops.REFERENCE)]
    if not rows:
        return
    figure, axes = new_axes(title, len(rows))
    places = range(len(rows), 0, -1)
    for name, (colour, marker) in STYLES.items():
        points = [
            (1.0 if name == loops.REFERENCE else row.ratio(name), place)
            for row, place in zip(rows, places, strict=True)
            if row.median(name)
        ]
        known = [(ratio, place) for ratio, place in points if ratio]
        if known:
            size = 60 if name in (SUBJECT, loops.RAW) else 26
            axes.scatter(
                *zip(*known, strict=True),
                c=colour,
                marker=marker,
                s=size,
                label=name,
                zorder=3,
            )
    axes.set_xscale("log")
    ticks = [0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20]
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}x")
    axes.minorticks_off()
    axes.axvline(1, color="#bbbbbb", linewidth=1)
    axes.set_yticks(list(places), [row.title for row in rows], fontsize=8)
    axes.set_ylim(0.4, len(rows) + 0.6)
    axes.grid(axis="both", color="#eeeeee")
    figure.legend(loc="outside upper left", ncols=len(STYLES), fontsize=8)
    save(figure, run, path)


def draw_bars(run: Run, path: Path, title: str, rows: list[Result]) -> None:
    """A group of bars for each row, with the figures at their ends."""
    if not rows:
        return
    names = [n for n in STYLES if any(row.median(n) is not None for row in rows)]
    figure, axes = new_axes(title, len(rows) * (len(names) + 1) * 0.62)
    thickness = 0.85 / len(names)
    for number, name in enumerate(names):
        places = [-i + 0.4 - (number + 0.5) * thickness for i in range(len(rows))]
        figures = [row.median(name) or 0.0 for row in rows]
        drawn = axes.barh(places, figures, thickness, color=STYLES[name][0], label=name)
        texts = [results.digits(figure) if figure else "" for figure in figures]
        axes.bar_label(drawn, texts, fontsize=7, padding=2)
    titles = [textwrap.fill(row.title, 30) for row in rows]
    axes.set_yticks([-i for i in range(len(rows))], titles, fontsize=8)
    figure.legend(loc="outside upper left", ncols=len(STYLES), fontsize=8)
    save(figure, run, path)


def draw_lines(
    run: Run, path: Path, title: str, points: dict[int, Result], label: str
) -> None:
    """A line for each loop over the numbers that *points* has rows of.

    Rates are drawn as the microseconds that one operation takes.
    """
    if len(points) < 2:
        return
    figure, axes = new_axes(title, 12)
    for name, (colour, marker) in STYLES.items():
        known = []
        for number, row in sorted(points.items()):
            median = row.median(name)
            if median:
                known.append((number, 1e6 / median if row.more_is_better else median))
        if known:
            axes.plot(
                *zip(*known, strict=True),
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=2.5 if name == SUBJECT else 1.2,
                label=name,
            )
    axes.set_xscale("log")
    axes.set_xticks(list(points), [f"{number:,}" for number in points])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label, fontsize=8)
    axes.set_ylabel("microseconds", fontsize=8)
    axes.grid(color="#eeeeee")
    figure.legend(loc="outside upper left", ncols=len(STYLES), fontsize=8)
    save(figure, run, path)


def numbered(rows: list[Result], pattern: str) -> dict[int, Result]:
    """The rows whose whole key is *pattern*, by the number in its group."""
    found = {}
    for row in rows:
        if match := re.fullmatch(pattern, row.key):
            found[int(match[1])] = row
    return dict(sorted(found.items()))


def draw(run: Run, folder: Path) -> None:
    """Draw all plots of *run* into *folder*, which is made.

    Raises Missing without matplotlib.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = results.with_parts(run.results)
    timers = numbered(rows, r"timers_(\d+)")
    growth = numbered(rows, r"echo_conns_(\d+)")
    for row in rows:
        if growth and row.key == "echo_1k":
            growth[50] = row
    apart = [*timers.values(), *numbered(rows, r"echo_conns_(\d+)").values()]
    plain = [row for row in rows if row not in apart]
    draw_ratios(
        run,
        folder / "in-process.svg",
        "Operations per second against uvloop's, further right is better",
        [row for row in plain if row.unit == "ops/s"],
    )
    draw_ratios(
        run,
        folder / "servers.svg",
        "CPU time of the server per message against uvloop's, further left is better",
        [row for row in plain if row.unit == "us CPU"],
    )
    draw_bars(
        run,
        folder / "calls.svg",
        "System calls of the server per message",
        [row for row in plain if row.unit == "calls"],
    )
    draw_bars(
        run,
        folder / "idle.svg",
        "Resident bytes of the server per idle connection",
        [row for row in plain if row.unit == "bytes"],
    )
    draw_lines(
        run,
        folder / "growth.svg",
        "CPU time of an echo server per message of 1 KiB",
        growth,
        "connections, each with a message in flight",
    )
    draw_lines(
        run,
        folder / "timers.svg",
        "call_later and cancel, beside timers that wait",
        timers,
        "timers outstanding",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="what compare.py --json wrote")
    parser.add_argument("folder", type=Path, help="where the plots go")
    args = parser.parse_args()
    try:
        draw(Run.read(args.results), args.folder)
    except Missing as exc:
        parser.exit(1, f"{exc}\n")


if __name__ == "__main__":
    main()
