"""CPython's own asyncio tests, those of the Python that runs this, on other loops.

    python tests/conformance/run.py [--loops asyncio,pyloop,uvloop] [--accelerate]
                                    [--table] [--json FILE] [NAME...]

A test that pyloop does not pass is an error, unless asyncio does not pass it either or
expectations.py leaves it out; so is one that is left out and passes. Other loops are
counted, and not judged; one that is not installed is said to be, and left out. NAME
selects tests whose name, "module.Class.test", has it as a part. With --accelerate,
pyloop's runs have what pyloop.install(accelerate=True) puts in the place of asyncio's.
--json puts the counts into a file that may have those of other Pythons already, such as
docs/results/conformance.json, of which docs/site/tables.py makes a table.
"""

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import sysconfig
import time
import unittest

import expectations
from substitutes import KINDS
from worker import PACKAGE, Result

HERE = os.path.dirname(os.path.abspath(__file__))

# The modules of test_asyncio that run loops; a version of Python has those of its
# time. Not here: what tests the selector and proactor loops, and classes without one.
MODULES = """
    test_base_events test_buffered_proto test_context test_eager_task_factory
    test_events test_free_threading test_futures test_futures2 test_graph test_locks
    test_pep492 test_queues test_runners test_sendfile test_server test_server_context
    test_sock_lowlevel test_ssl test_sslproto test_staggered test_streams
    test_subprocess test_taskgroups test_tasks test_threads test_timeouts
    test_unix_events test_waitfor
""".split()

LEFT_OUT_SHARE = 0.1  # of what runs, at most

# The table's. "no loop" passes without having made one of this kind, and says nothing;
# "skipped" is what the tests themselves skip here, or asyncio does not pass either.
COLUMNS = ("pass", "fail", "left out", "no loop", "skipped")


def find_tests(parts):
    """The names of all tests, or of those that have one of the parts in them."""
    found = []
    for name in MODULES:
        try:
            module = importlib.import_module(PACKAGE + name)
        except unittest.SkipTest:
            continue  # of the whole module: not for this system
        except ModuleNotFoundError as exc:
            if exc.name != PACKAGE + name:
                raise
            continue
        for cls in vars(module).values():
            own = isinstance(cls, type) and cls.__module__ == module.__name__
            if own and issubclass(cls, unittest.TestCase):
                tests = unittest.defaultTestLoader.getTestCaseNames(cls)
                found += [f"{name}.{cls.__name__}.{test}" for test in tests]
    return [name for name in found if not parts or any(p in name for p in parts)]


def run_tests(kind, names, slots, accelerate=False):
    """The Result of each test, by its name."""
    command = [sys.executable, os.path.join(HERE, "worker.py"), kind, str(slots)]
    if accelerate and kind == "pyloop":
        command.append("accelerate")
    process = subprocess.run(
        command, input="\n".join(names), stdout=subprocess.PIPE, text=True, check=True
    )
    results = map(Result.load, process.stdout.splitlines())
    return {result.test: result for result in results}


class Run:
    """All results of one kind of loop, and what is wrong with them."""

    def __init__(self, kind, names, slots, asyncios=None, accelerate=False):
        """asyncios: the results of asyncio's run of the same names, if it was run."""
        started = time.monotonic()
        self.kind = kind
        self.results = run_tests(kind, names, slots, accelerate)
        # Tests of time fail on a busy machine: by itself, each gets a second attempt.
        # A crash or a hang is one however seldom it comes.
        again = [name for name in self.suspects() if self.of(name) == "fail"]
        if again:
            second = run_tests(kind, again, 1, accelerate)
            self.results.update(second)
        self.unsteady = [name for name in again if self.of(name) == "pass"]
        self.excused = set()  # what asyncio does not pass either
        if kind != "asyncio" and self.suspects():
            oracle = asyncios or run_tests("asyncio", self.suspects(), 1)
            self.excused = {
                name for name in self.suspects() if oracle[name].outcome != "pass"
            }
        self.seconds = time.monotonic() - started

    def of(self, name):
        return self.results[name].outcome

    def suspects(self):
        """What does not pass and is not left out."""
        return [
            name
            for name, result in self.results.items()
            if result.outcome != "pass"
            and not (self.kind != "asyncio" and expectations.is_left_out(name))
        ]

    def failures(self):
        """What asyncio passes and this kind of loop does not."""
        if self.kind == "asyncio":
            return [name for name in self.suspects() if self.of(name) != "skip"]
        return [name for name in self.suspects() if name not in self.excused]

    def counts(self):
        """How many tests there are of each sort, in the table's order."""
        counts = dict.fromkeys(COLUMNS, 0)
        failures = set(self.failures())
        for name, result in self.results.items():
            if name in failures:
                counts["fail"] += 1
            elif result.outcome != "pass":
                left_out = self.kind != "asyncio" and expectations.is_left_out(name)
                counts["left out" if left_out else "skipped"] += 1
            else:
                counts["pass" if result.loops else "no loop"] += 1
        return counts

    def report(self):
        """Print what is wrong, with reasons if it is judged, and this run's line."""
        for name in self.failures():
            result = self.results[name]
            print(f"{self.kind}: {result.outcome}: {name}")
            if self.kind == "pyloop":
                text = result.text.splitlines()[-25:]
                print(*(f"    {line}\n" for line in text), sep="")
        for name in self.unsteady:
            print(f"{self.kind}: passed at the second attempt only: {name}")
        for name in sorted(self.excused):
            if self.of(name) != "skip":
                print(f"{self.kind}: {self.of(name)}, as on asyncio: {name}")
        counts = ", ".join(f"{count} {sort}" for sort, count in self.counts().items())
        print(f"{self.kind}: {counts} ({self.seconds:.1f} s)")

    def row(self):
        cells = [python_name(), self.kind, *self.counts().values()]
        return "| " + " | ".join(map(str, cells)) + " |"


def python_name():
    """This Python, as the table names it."""
    free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return platform.python_version() + ", free-threaded" * free


def keep(path, runs):
    """Put the counts of runs into a file, in the place of this Python's former ones."""
    path = pathlib.Path(path)
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[python_name()] = {run.kind: run.counts() for run in runs}
    path.write_text(json.dumps(kept, indent=1) + "\n")


def wrong_expectations(run, everything):
    """What is wrong with the list itself, as text, by a run of pyloop."""
    outcomes = {name: result.outcome for name, result in run.results.items()}
    wrong = [f"left out, but it passes: {n}" for n in expectations.stale(outcomes)]
    if everything:
        missing = expectations.without_a_test(outcomes)
        wrong += [f"left out, but there is no such test: {name}" for name in missing]
        counts = run.counts()
        if counts["left out"] >= LEFT_OUT_SHARE * sum(counts.values()):
            wrong.append(f"{counts['left out']} left out: too many")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loops", default="pyloop", help="comma-separated kinds")
    parser.add_argument(
        "--slots",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="classes side by side; default: the processors",
    )
    parser.add_argument(
        "--accelerate", action="store_true", help="pyloop.install(accelerate=True)"
    )
    parser.add_argument("--table", action="store_true", help="rows for the table")
    parser.add_argument("--json", metavar="FILE", help="a file for the counts, too")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    kinds = options.loops.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--loops: {', '.join(unknown)}: none of {', '.join(KINDS)}")
    if importlib.util.find_spec("test.test_asyncio") is None:
        # Distributions pack it by itself: Debian's is libpython3-testsuite.
        print(f"{sys.executable} has no test.test_asyncio: nothing to conform to")
        return 0
    names = find_tests(options.names)
    if not names:
        parser.error(f"no test is named like {' or '.join(options.names)}")
    runs, results = [], {}
    for kind in sorted(kinds):  # asyncio's first
        if kind not in ("asyncio", "pyloop") and importlib.util.find_spec(kind) is None:
            print(f"{kind}: it is not installed for this Python, and is left out")
            continue
        runs.append(
            Run(
                kind,
                names,
                options.slots,
                results.get("asyncio"),
                options.accelerate,
            )
        )
        results[kind] = runs[-1].results
    wrong = []
    for run in runs:
        run.report()
        if run.kind == "pyloop":
            wrong += wrong_expectations(run, everything=not options.names)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if options.table:
        print("| Python | loop | " + " | ".join(COLUMNS) + " |")
        print("|---" * (2 + len(COLUMNS)) + "|")
        print(*(run.row() for run in runs), sep="\n")
    if options.json:
        keep(options.json, runs)
    judged = [run for run in runs if run.kind == "pyloop"]
    passed = sum(run.counts()["pass"] for run in judged)
    failed = sum(len(run.failures()) for run in judged) + len(wrong)
    seconds = sum(run.seconds for run in runs)
    print(f"{passed} passed, {failed} failed in {seconds:.1f}s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
