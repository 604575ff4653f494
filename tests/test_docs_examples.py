"""The programs in docs/: that a page shows what is in the tree, and what it prints.

What docs/examples/ says is printed, `make examples` runs: see examples/test_pages.py.
"""

import docskit
import pytest

FOLDERS = ("docs", "docs/examples")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_mark_is_understood(folder):
    found = [mark for kind in docskit.KINDS for mark in docskit.marks(kind, folder)]
    assert docskit.count_written(folder) == len(found)


@pytest.mark.parametrize(
    "mark",
    [
        mark
        for folder in FOLDERS
        for kind in ("program", "part")
        for mark in docskit.marks(kind, folder)
    ],
)
def test_a_page_shows_the_program(mark):
    docskit.check_text(mark)


@pytest.mark.parametrize("mark", list(docskit.marks("output", "docs")))
def test_a_page_shows_what_a_program_prints(mark):
    docskit.check_output(mark)
