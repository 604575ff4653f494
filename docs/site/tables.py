"""The tables of docs/compatibility.md, made of what tests have written.

    python docs/site/tables.py

`make conformance` and `make compat`, each with --json, write conformance.json and
compat.json in docs/results. This puts a table of each between its marks in the page:

    <!-- table: conformance -->
    <!-- end of table -->
"""

import json
import pathlib
import re

DOCS = pathlib.Path(__file__).resolve().parents[1]
PAGE = DOCS / "compatibility.md"

MARK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end of table -->\n)", re.S)


def lines_of(head, rows):
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def by_version(name):
    """What sorts "3.10.13" and "3.13.5, free-threaded" as one expects."""
    number, _, kind = name.partition(",")
    return [int(part) for part in re.findall(r"\d+", number)], kind


def conformance(results):
    """CPython's tests of asyncio: a row for each Python and loop."""
    sorts = ("pass", "fail", "left out", "no loop", "skipped")
    yield from lines_of(
        ("Python", "loop", *sorts),
        (
            (python, loop, *(counts[sort] for sort in sorts))
            for python in sorted(results, key=by_version)
            for loop, counts in sorted(results[python].items())
        ),
    )


def compat(results):
    """Other projects' tests: a row for each suite and loop."""
    if not results:
        yield "`make compat` has not been run for this version."
        return
    sorts = ("run", "passed", "failed", "skipped", "seconds")
    yield from lines_of(
        ("suite", "loop", *sorts),
        (
            (f"{name} {suite['version']}", loop, *(suite[loop][sort] for sort in sorts))
            for name, suite in sorted(results["suites"].items())
            for loop in ("asyncio", "pyloop")
        ),
    )
    versions = results["versions"]
    differences = sum(len(suite["differences"]) for suite in results["suites"].values())
    yield ""
    yield (
        f"Python {versions['python']}, pyloop {versions['pyloop']}, "
        f"libuv {versions['libuv']}. Tests that pass on asyncio and not on pyloop: "
        f"{differences}."
    )


MAKERS = {"conformance": conformance, "compat": compat}


def read(name):
    path = DOCS / "results" / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def filled(text):
    """A page's text with every table as the results have it."""

    def table(found):
        begin, name, _, end = found.groups()
        made = "\n".join(MAKERS[name](read(name)))
        return f"{begin}\n{made}\n\n{end}"

    return MARK.sub(table, text)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")
