"""Print what a run of compare.py measured as a page of Markdown.

    python benchmarks/tables.py benchmarks/results/3.14.json > docs/measured-3.14.md

The bars that are missed come first, then all rows, then the bars that are met.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import bars
import loops
import results
from results import Run


def print_page(run: Run) -> None:
    """The whole run: the machine, the bars, the rows."""
    names = in_order(run)
    print(f"# Measured on Python {run.machine['python']}\n")
    print(f"Generated from one run: {results.describe(run.machine, run.loops)}.")
    print("How to read it: [performance.md](performance.md).\n")
    judged = bars.judge(run.results, str(run.machine["python"]))
    print("## Bars that are missed\n")
    print_verdicts([verdict for verdict in judged if not verdict.met])
    print("\n## Every row")
    results.print_table(run.results, names)
    print("\n## Bars that are met\n")
    print_verdicts([verdict for verdict in judged if verdict.met])


def in_order(run: Run) -> list[str]:
    """The loops that were measured, pyloop last."""
    found = {name for result in run.results for name in result.samples}
    peers = [name for name in loops.LOOPS if name not in loops.NO_PEERS]
    ours = [name for name in loops.LOOPS if name in loops.NO_PEERS]
    return [name for name in [*peers, loops.RAW, *ours] if name in found]


def print_verdicts(verdicts: list[bars.Verdict]) -> None:
    """The bars as a table: of what, the figure that was measured, the limit."""
    if not verdicts:
        print("None.")
        return
    print("| row | measured | bar |")
    print("| --- | --- | --- |")
    for verdict in verdicts:
        print(f"| {verdict.title} | {verdict.figure} | {verdict.bar} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="what compare.py --json wrote")
    print_page(Run.read(parser.parse_args().results))


if __name__ == "__main__":
    main()
