"""examples/dask_scraper: a scrape by several processes, each with a loop of its own."""

import importlib.util
import os
import subprocess
import sys

import examplekit
import pytest
import support

SCRAPER = "dask_scraper/scraper.py"

pytestmark = [
    pytest.mark.packaged,
    pytest.mark.skipif(
        importlib.util.find_spec("distributed") is None,
        reason="distributed is not installed",
    ),
]

FOUND = """\
pages: 288
redirects: 26
missing: 15
timed out: 12
errors: 0
addresses asked: 341, by 2 workers
loops: {loop}
every page was found
"""


def test_every_page_is_found(loop_kind):
    """The children that Dask's nannies are have pyloop's loops too."""
    done = subprocess.run(
        [sys.executable, *examplekit.command(loop_kind, SCRAPER, "--demo")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=6 * support.PATIENCE,
        env=support.script_environment(),
    )
    loop = {"asyncio": "asyncio.unix_events", "pyloop": "pyloop._loop"}[loop_kind]
    assert (done.returncode, done.stdout) == (0, FOUND.format(loop=loop)), done.stderr


def test_by_configuration(tmp_path):
    """Dask's own setting, and a uvloop.py that is pyloop; no `python -m pyloop`."""
    (tmp_path / "uvloop.py").write_text("from pyloop import *\n")
    path = support.script_environment()["PYTHONPATH"]
    done = subprocess.run(
        [sys.executable, os.path.join(examplekit.EXAMPLES, SCRAPER), "--demo"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=6 * support.PATIENCE,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), path]),
            "DASK_DISTRIBUTED__ADMIN__EVENT_LOOP": "uvloop",
        },
    )
    assert done.stdout == FOUND.format(loop="pyloop._loop"), done.stderr


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "give either a start page or --demo"),
        (["http://a/", "--demo"], "give either a start page or --demo"),
        (["ftp://a/"], "'ftp://a/' is no http:// or https:// address"),
        (["--demo", "--workers", "0"], "argument --workers: 0 is not above 0"),
        (["--demo", "--timeout", "x"], "argument --timeout: invalid float value: 'x'"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    assert said in examplekit.refused(SCRAPER, *arguments)
