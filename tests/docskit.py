"""The marks in the pages of docs/, which say what a block of a page has to be.

In a page, before a fenced block:

    <!-- program: examples/hang.py -->        the block is that file, whole
    <!-- part: examples/hang.py -->           the block is some lines of that file
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

KINDS = ("program", "part", "output")

MARK = re.compile(
    rf"<!-- (?P<kind>{'|'.join(KINDS)}): (?P<what>[^(\n]+?)"
    r"(?: \(status (?P<status>\d+)\))?(?: \(needs (?P<needs>[\w ]+)\))? -->\n+"
    r"```\w*\n(?P<block>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


def marks(kind, folder):
    """Every block of a folder's pages with a mark of that kind, as tests' parameters.

    folder: its path from the top of the tree, "docs/examples".
    """
    for page in sorted((ROOT / folder).glob("*.md")):
        for found in MARK.finditer(page.read_text()):
            if found["kind"] == kind:
                name = f"{page.stem}-{found['what'].split('/')[-1]}"
                yield pytest.param(found, id=name.replace(" ", "_"))


def count_written(folder):
    """How often the pages of a folder say that they have a mark, well-formed or not."""
    return sum(
        page.read_text().count(f"<!-- {kind}: ")
        for page in (ROOT / folder).glob("*.md")
        for kind in KINDS
    )


def check_text(mark):
    """Assert that the block of a `program` or a `part` is what the file has."""
    text = (ROOT / mark["what"]).read_text()
    if mark["kind"] == "program":
        assert mark["block"] == text
    else:
        assert mark["block"] in text


def check_output(mark):
    """Run the command of an `output`; assert that it prints the block."""
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
