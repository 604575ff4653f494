"""Which of the examples' tests run: all of them in `make examples`.

Elsewhere only those that need no package and little time, so that the suite stays
short: what is marked `packaged` is left out.
"""

import os

RUN_ALL = os.environ.get("PYLOOP_EXAMPLES") == "all"


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "packaged: needs packages, or some time; `make examples` runs it"
    )


def pytest_collection_modifyitems(config, items):
    if RUN_ALL:
        return
    left_out = [item for item in items if item.get_closest_marker("packaged")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
