"""The Jupyter kernel of docs/in-your-framework.md, where ipykernel is installed."""

import docskit
import pytest

pytestmark = pytest.mark.packaged

PAGES = [
    mark
    for mark in docskit.marks("output", "docs")
    if "notebook.py" in mark.values[0]["what"]
]


@pytest.mark.parametrize("mark", PAGES)
def test_the_output_on_the_page(mark):
    docskit.check_output(mark)
