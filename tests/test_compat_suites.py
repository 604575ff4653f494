"""How `make compat` compares two runs of a suite, and what it takes for granted."""

import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import support

SUITES = pathlib.Path(support.PROJECT_DIR, "tests/compat/suites")
RESULTS = pathlib.Path(support.PROJECT_DIR, "docs/results/compat.json")


def load(*names):
    """Import files of the runner, whose folder is on nobody's path otherwise."""
    sys.path.insert(0, str(SUITES))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(SUITES))


comparing, recorder, report, table = load("comparing", "recorder", "report", "table")


def results(**outcomes):
    return {test: comparing.Ended(outcome) for test, outcome in outcomes.items()}


@pytest.mark.parametrize(
    ("reference", "candidate", "worse"),
    [
        ("passed", "passed", False),
        ("passed", "failed", True),
        ("passed", "error", True),
        ("passed", "died", True),
        ("passed", "missing", True),
        ("passed", "skipped", True),
        ("xfailed", "passed", False),
        ("xfailed", "failed", True),
        ("skipped", "skipped", False),
        ("skipped", "failed", True),
        ("skipped", "passed", False),
        ("failed", "failed", False),
        ("failed", "died", False),
        ("error", "skipped", False),
    ],
)
def test_what_is_worse(reference, candidate, worse):
    assert comparing.is_worse(reference, candidate) is worse


def test_tests_that_only_one_run_has():
    asyncio = results(both="passed", gone="passed", gone_skipped="skipped")
    pyloop = results(both="passed", new="failed", new_good="passed")
    assert comparing.worse(asyncio, pyloop) == ["gone", "gone_skipped", "new"]


@pytest.mark.parametrize(
    ("rounds", "steady"),
    [
        ([("passed", "failed")] * 3, True),
        ([("passed", "failed"), ("passed", "passed"), ("passed", "failed")], True),
        ([("passed", "failed"), ("passed", "passed"), ("passed", "passed")], False),
        ([("passed", "failed"), ("failed", "failed"), ("passed", "failed")], False),
        ([("passed", "missing"), ("passed", "missing"), ("passed", "died")], True),
    ],
)
def test_what_counts_after_more_rounds(rounds, steady):
    assert comparing.is_steady(rounds) is steady


def test_known_differences_are_exact():
    known = {"a.py::one": "why", "a.py::two[x]": "why", "a.py::old": "why"}
    differences = ["a.py::one[1]", "a.py::one[2]", "a.py::two[x]", "a.py::two[y]"]
    assert comparing.explain(differences, known) == (["a.py::two[y]"], ["a.py::old"])


def test_loops_that_are_not_pyloops():
    kinds = {"pyloop._loop.Loop": 9, "uvloop.Loop": 1, "conftest.Own": 2}
    assert comparing.foreign_loops(kinds, ("conftest.Own",)) == ["uvloop.Loop"]


def test_counts():
    ended = results(a="passed", b="xfailed", c="failed", d="died", e="skipped")
    assert comparing.counts(ended) == {
        "run": 4,
        "passed": 2,
        "failed": 2,
        "skipped": 1,
    }


def test_what_the_recorder_writes(tmp_path):
    """Each kind of outcome, the loops of each test, and the process that dies."""
    tmp_path.joinpath("test_them.py").write_text(
        """
import asyncio, os, pytest

@pytest.fixture
def broken():
    yield
    raise ValueError("torn down")

def test_runs_a_loop():
    asyncio.new_event_loop().run_until_complete(asyncio.sleep(0))

def test_fails():
    assert 1 == 2

def test_error(broken):
    pass

@pytest.mark.xfail
def test_xfailed():
    assert False

def test_skipped():
    pytest.skip("no")

def test_dies():
    os._exit(3)
"""
    )
    record = tmp_path / "record"
    path = os.pathsep.join([str(SUITES), support.PROJECT_DIR])
    support.run_script(
        "import runpy, sys\nsys.argv[1:] = ['-m', 'pytest', *sys.argv[1:]]\n"
        "runpy.run_module('pyloop', run_name='__main__', alter_sys=True)\n",
        *["-p", "recorder", "-p", "no:cacheprovider", "-p", "no:asyncio"],
        *["--rootdir", tmp_path, tmp_path / "test_them.py"],
        env={"PYTHONPATH": path, recorder.VARIABLE: str(record)},
        check=False,
    )
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    ended = {
        line["test"].split("::")[1]: (line["outcome"], line["loops"])
        for line in lines
        if "outcome" in line
    }
    assert ended == {
        "test_runs_a_loop": ("passed", ["pyloop._loop.Loop"]),
        "test_fails": ("failed", []),
        "test_error": ("error", []),
        "test_xfailed": ("xfailed", []),
        "test_skipped": ("skipped", []),
    }
    assert lines[-1]["test"].endswith("::test_dies")


def test_requirements_are_of_the_suites_versions():
    text = SUITES.joinpath("table.py").read_text()
    suites = re.findall(r'    Suite\(\n        "([\w-]+)",\n        "([\d.]+)",', text)
    assert len(suites) == 10
    for name, version in suites:
        lines = SUITES.joinpath(f"requirements/{name}.txt").read_text().splitlines()
        assert f"{name}=={version}" in lines
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), name


def test_the_results_have_no_difference_that_is_not_explained():
    (differences,) = load("differences")
    for name, suite in json.loads(RESULTS.read_text())["suites"].items():
        known = differences.KNOWN.get(name, {}) | differences.SOMETIMES.get(name, {})
        assert comparing.explain(suite["differences"], known)[0] == []


def test_results_of_other_versions_go(tmp_path):
    path = tmp_path / "new" / "results.json"
    report.write(path, {"python": "3.13.0"}, {"b": 1})
    report.write(path, {"python": "3.13.0"}, {"a": 2})
    assert list(json.loads(path.read_text())["suites"]) == ["a", "b"]
    report.write(path, {"python": "3.14.0"}, {"c": 3})
    assert json.loads(path.read_text())["suites"] == {"c": 3}


def names_of_loopback(prefix):
    """The addresses of localhost, as a command with this prefix sees them."""
    code = (
        "import socket; print(*{a[4][0] for a in socket.getaddrinfo('localhost', 1)})"
    )
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code], stdout=subprocess.PIPE, check=True
    )
    return done.stdout.decode().split()


def test_a_run_has_an_ipv6_localhost_and_the_machine_keeps_its_own():
    before = pathlib.Path("/etc/hosts").read_text()
    with table.ipv6_name() as setting:
        if not setting.prefix:
            pytest.skip(setting.note or "localhost is ::1 already, or there is no IPv6")
        assert {"127.0.0.1", "::1"} <= set(names_of_loopback(setting.prefix))
        assert "::1" not in names_of_loopback(())
    assert pathlib.Path("/etc/hosts").read_text() == before
    assert table.lacks_ipv6_name()


@pytest.mark.parametrize(
    ("lacks", "program", "noted"),
    [(False, "unshare", False), (True, None, True), (True, "false", True)],
)
def test_a_run_where_no_name_is_lent(monkeypatch, lacks, program, noted):
    monkeypatch.setattr(table, "lacks_ipv6_name", lambda: lacks)
    monkeypatch.setattr(table.shutil, "which", lambda name: program)
    ended = subprocess.CompletedProcess((), 1)  # as where there are no namespaces
    monkeypatch.setattr(table.subprocess, "run", lambda command: ended)
    with table.ipv6_name() as setting:
        assert setting.prefix == ()
        assert ("IPv6" in setting.note) is noted
