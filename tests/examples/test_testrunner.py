"""examples/testrunner: what became of each file, and the sums."""

import json
import os
import signal

import examplekit
import pytest

RUNNER = "testrunner/runner.py"

DEMO = [
    "crashed  test_crash.py: no counts",
    "failed   test_bad.py: 1 passed, 1 failed, 1 errors, 1 expected failures",
    "hung     test_hang.py: no counts",
    "no tests test_empty.py: no counts",
    *(f"ok       test_good_{number}.py: 2 passed, 1 skipped" for number in range(4)),
    "ok       test_noise.py: 1 passed",
    "files: 1 crashed, 1 failed, 1 hung, 1 no tests, 5 ok",
    "tests: 10 passed, 1 failed, 1 errors, 4 skipped, 1 expected failures",
]

GOOD = """\
import unittest

class Good(unittest.TestCase):
    def test_one(self):
        pass

    def test_two(self):
        pass
"""

BAD = """\
import unittest

class Bad(unittest.TestCase):
    def test_bad(self):
        self.fail("what it says")
"""

#: Holds the FIFO open for as long as it, or what it has started, runs.
HANG = """\
import subprocess, sys, unittest

class Hang(unittest.TestCase):
    def test_hang(self):
        with open("fifo", "w") as fifo:
            code = "import sys, time; print('started', flush=True); time.sleep(3600)"
            subprocess.run([sys.executable, "-c", code], stdout=fifo)
"""

PYTEST = """\
import pytest

def test_good():
    pass

@pytest.mark.parametrize("number", [1, 2])
def test_bad(number):
    assert number == 2

@pytest.mark.skip
def test_skipped():
    pass

@pytest.mark.xfail
def test_known():
    assert 0

def test_error(missing):
    pass
"""


def outcomes(output):
    """The lines that a runner printed, sorted, without their numbers."""
    return sorted(line.partition("] ")[2] or line for line in output.splitlines())


@pytest.mark.packaged
def test_demo(loop_kind):
    printed = examplekit.run(loop_kind, RUNNER, "--demo", "--jobs", 4, status=1)
    assert outcomes(printed) == sorted(DEMO)


def test_a_folder(loop_kind, tmp_path):
    (tmp_path / "test_good.py").write_text(GOOD)
    (tmp_path / "test_bad.py").write_text(BAD)
    (tmp_path / "other.py").write_text(BAD)
    report = tmp_path / "report.json"
    arguments = tmp_path, "--jobs", 1, "--verbose", "--report", report
    printed = examplekit.run(loop_kind, RUNNER, *arguments, status=1).splitlines()
    assert printed[0] == f"[1/2] failed   {tmp_path}/test_bad.py: 1 failed"
    assert "    | AssertionError: what it says" in printed
    assert printed[-3] == f"[2/2] ok       {tmp_path}/test_good.py: 2 passed"
    assert printed[-2:] == ["files: 1 failed, 1 ok", "tests: 2 passed, 1 failed"]
    statuses = [
        (one["status"], one["counts"]) for one in json.loads(report.read_text())
    ]
    assert statuses == [("failed", {"failed": 1, "passed": 0}), ("ok", {"passed": 2})]


@pytest.mark.parametrize("number", examplekit.ENDING)
def test_a_signal_ends_the_tests_too(loop_kind, number, tmp_path):
    for name, source in ("a", GOOD), ("b", HANG), ("c", GOOD):
        (tmp_path / f"test_{name}.py").write_text(source)
    os.mkfifo(tmp_path / "fifo")
    arguments = tmp_path, "--jobs", 1
    ready = "ok .*test_a.py"
    with examplekit.running(loop_kind, RUNNER, *arguments, banner=ready) as runner:
        with open(tmp_path / "fifo") as fifo:
            assert fifo.readline() == "started\n"
            assert runner.end(number) == 128 + number
            assert fifo.read() == ""  # nobody has it open any more
        assert runner.output.splitlines()[-1] == (
            f"stopped by {signal.Signals(number).name}, 2 files left out"
        )


@pytest.mark.packaged
def test_pytest(loop_kind, tmp_path):
    (tmp_path / "test_it.py").write_text(PYTEST)
    arguments = tmp_path, "--with", "pytest"
    printed = examplekit.run(loop_kind, RUNNER, *arguments, status=1)
    counts = "2 passed, 1 failed, 1 errors, 1 skipped, 1 expected failures"
    assert printed.splitlines()[-1] == f"tests: {counts}"


@pytest.mark.packaged
@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "nothing to run: files, folders or --demo"),
        (["missing.py"], "'missing.py' is no file and no folder"),
        (["--demo", "."], "--demo has files of its own"),
        ([".", "--jobs", "0"], "argument --jobs: 0 is not above 0"),
        ([".", "--with", "nose"], "argument --with: invalid choice: 'nose'"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    assert said in examplekit.refused(RUNNER, *arguments)
