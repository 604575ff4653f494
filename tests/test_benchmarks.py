"""The programs in benchmarks/: that they run, and that their arithmetic is right.

How fast anything is, is not looked at.  Each program is a process of its own, because
its modules have names that others may have.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from support import PATIENCE

ROOT = pathlib.Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the benchmarks are for Linux"
)


def run(*arguments):
    """What a Python in the folder of the benchmarks prints."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=BENCHMARKS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def evaluate(program):
    """What a program prints that imports what it needs of the benchmarks, as JSON."""
    return json.loads(run("-c", f"import json\n{program}"))


def result(samples, unit="ops/s"):
    """The text of a Result with figures for each loop; None is a failure."""
    samples = {
        loop: [figure and {"figure": figure} for figure in figures]
        for loop, figures in samples.items()
    }
    return f"Result('key', 'title', {unit!r}, {samples!r})"


def test_every_row_has_a_key_of_its_own():
    keys = [line.split()[0] for line in run("compare.py", "--list").splitlines()]
    assert len(keys) > 50
    assert len(set(keys)) == len(keys)


def test_every_bar_is_about_a_row():
    unknown = evaluate(
        "import bars\n"
        "from micro.registry import load_rows\n"
        "from servers.rows import ROWS\n"
        "known = {*load_rows(), *(row.key for row in ROWS)}\n"
        "known |= {f'{key}_syscalls' for key in known}\n"
        "wanted = {bar.key for bar in (*bars.PROMISES, *bars.GOALS)}\n"
        "wanted |= {bar.row for bar in bars.GOALS if bar.row}\n"
        "print(json.dumps(sorted(wanted - known)))\n"
    )
    assert unknown == []


def test_a_row_is_measured_and_kept(tmp_path):
    file = tmp_path / "folder" / "out.json"
    printed = run(
        "compare.py",
        *("--only", "call_soon_one", "--loops", "asyncio,nothing,pyloop"),
        *("--rounds", 2, "--quick", "--json", file),
    )
    assert "call_soon, one per tick" in printed
    kept = json.loads(file.read_text())
    (row,) = kept["rows"]
    assert row["key"] == "call_soon_one" and row["errors"] == {}
    assert list(row["samples"]) == ["asyncio", "pyloop"]
    for samples in row["samples"].values():
        assert len(samples) == 2 and all(s["figure"] > 0 for s in samples)
    read = evaluate(
        "import pathlib, results\n"
        f"run = results.Run.read(pathlib.Path({str(file)!r}))\n"
        "print(json.dumps([vars(result) for result in run.results]))\n"
    )
    assert read == kept["rows"]


def test_ratios_are_taken_round_by_round():
    samples = {"uvloop": [10, 20, 40], "pyloop": [20, None, 40], "rloop": [30, 30, 30]}
    program = (
        f"from results import Result\nresult = {result(samples)}\n"
        "print(json.dumps([result.ratio('pyloop'), result.median('pyloop'),"
        " result.ratio('pyloop', 'rloop'), result.best_peer()]))\n"
    )
    assert evaluate(program) == [1.5, 30, 1.0, "rloop"]


@pytest.mark.parametrize(
    ("bar", "samples", "unit", "met"),
    [
        ("at_least('key', 1)", {"uvloop": [2], "rloop": [3], "pyloop": [3]}, 0, True),
        ("at_least('key', 1)", {"uvloop": [2], "rloop": [3], "pyloop": [2]}, 0, False),
        ("at_most('key', 1)", {"uvloop": [2], "rloop": [3], "pyloop": [2]}, 1, True),
        ("at_most('key', 1)", {"uvloop": [2], "rloop": [3], "pyloop": [2.1]}, 1, False),
        ("at_least('key', 1)", {"uvloop": [None], "pyloop": [1]}, 0, True),
        ("at_least('key', 1)", {"uvloop": [1], "pyloop": [None]}, 0, None),
        ("at_most('key', 1.1, loops.RAW)", {"raw": [1], "pyloop": [1.05]}, 1, True),
        ("at_most('key', 950, '')", {"pyloop": [960]}, 1, False),
        ("at_most('key', 1, '', row='key', plus=3)", {"pyloop": [9]}, 1, True),
    ],
)
def test_bars(bar, samples, unit, met):
    program = (
        "import loops\nfrom bars import at_least, at_most\nfrom results import Result\n"
        f"bar = {bar}\nvalue = bar.value({{'key': "
        f"{result(samples, ('ops/s', 'us CPU')[unit])}}})\n"
        "print(json.dumps(value if value is None else bar.met(value)))\n"
    )
    assert evaluate(program) is met


def test_a_page_has_the_missed_bars_first(tmp_path):
    """And a bar belongs to the Python that was measured, whichever reads the file."""
    samples = {"uvloop": [{"figure": 10.0}], "pyloop": [{"figure": 15.0}]}
    rows = [
        {"key": "call_soon_one", "title": "ticks", "unit": "ops/s", "samples": samples},
        {"key": "aiohttp", "title": "web", "unit": "us CPU", "samples": samples},
    ]
    machine = {"python": "3.14.2", "cpu": "a processor", "cores": 2, "system": "Linux"}
    versions = {"uvloop": "1", "pyloop": "2"}
    kept = tmp_path / "3.14.json"
    kept.write_text(json.dumps({"machine": machine, "loops": versions, "rows": rows}))
    page = run("tables.py", kept).splitlines()
    assert page[0] == "# Measured on Python 3.14.2"
    places = [
        page.index("## Bars that are missed"),
        page.index("| web | 1.5 | <= 0.8x uvloop |"),
        page.index("## Every row"),
        page.index("## Bars that are met"),
        page.index("| ticks | 1.5 | >= 1x the best peer |"),
    ]
    assert places == sorted(places)
    assert "| ticks                                  | 10     | 15 1.50x |" in page


def test_a_summary_of_strace_is_added_up():
    summary = (
        "% time     seconds  usecs/call     calls    errors syscall\n"
        "------ ----------- ----------- --------- --------- ----------------\n"
        " 60.00    0.000060           1        40           sendto\n"
        " 40.00    0.000040           1        42         2 recvfrom\n"
        "------ ----------- ----------- --------- --------- ----------------\n"
        "100.00    0.000100           1        82         2 total\n"
    )
    program = (
        "from servers.harness import parse_strace\n"
        f"print(json.dumps(parse_strace({summary!r})))\n"
    )
    assert evaluate(program) == 82
