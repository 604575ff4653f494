"""docs/examples/: that the programs print what their pages say."""

import docskit
import pytest

pytestmark = pytest.mark.packaged


@pytest.mark.parametrize("mark", list(docskit.marks("output", "docs/examples")))
def test_a_page_shows_what_an_example_prints(mark):
    docskit.check_output(mark)
