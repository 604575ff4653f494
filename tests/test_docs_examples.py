"""The programs in docs/: that a page shows what is in the tree, and what it prints.

In a page, before a fenced block:

    <!-- program: examples/hang.py -->        the block is that file, whole
    <!-- output: python examples/hang.py -->  the block is what the command prints, both
                                              streams; "..." stands for anything

and after the command, where they are needed, `(status 1)` and `(needs aiohttp)`.
"""

import doctest
import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import support

ROOT = pathlib.Path(support.PROJECT_DIR)

MARK = re.compile(
    r"<!-- (?P<kind>program|output): (?P<what>[^(\n]+?)"
    r"(?: \(status (?P<status>\d+)\))?(?: \(needs (?P<needs>[\w ]+)\))? -->\n+"
    r"```\w*\n(?P<block>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


def marks(kind):
    """Every block of docs/*.md with a mark of that kind, as parameters of a test."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        for found in MARK.finditer(page.read_text()):
            if found["kind"] == kind:
                name = f"{page.stem}-{found['what'].split('/')[-1]}"
                yield pytest.param(found, id=name.replace(" ", "_"))


def test_every_mark_is_understood():
    pages = list((ROOT / "docs").glob("*.md"))
    written = sum(
        page.read_text().count(f"<!-- {kind}: ")
        for page in pages
        for kind in ("program", "output")
    )
    assert written == len([*marks("program"), *marks("output")])


@pytest.mark.parametrize("mark", list(marks("program")))
def test_a_page_shows_the_program(mark):
    assert mark["block"] == (ROOT / mark["what"]).read_text()


@pytest.mark.parametrize("mark", list(marks("output")))
def test_a_page_shows_what_a_program_prints(mark):
    for name in (mark["needs"] or "").split():
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    words = shlex.split(mark["what"])
    assert words[0] == "python"
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * support.PATIENCE,
    )
    checker = doctest.OutputChecker()
    example = doctest.Example("", mark["block"])
    if not checker.check_output(mark["block"], done.stdout, doctest.ELLIPSIS):
        flags = doctest.ELLIPSIS | doctest.REPORT_NDIFF
        pytest.fail(checker.output_difference(example, done.stdout, flags))
    assert done.returncode == int(mark["status"] or 0)
