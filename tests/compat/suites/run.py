"""The test suites of other projects, unpatched, on asyncio and on pyloop.

    python tests/compat/suites/run.py [--only aiohttp,anyio] [--json FILE]
                                      [--repository websockets=FOLDER]

A test that passes on asyncio and does not on pyloop is an error, unless differences.py
explains it; so is an explanation that is no longer needed, a loop in pyloop's run that
is not pyloop's, and a run that does not end by itself. What differs is run twice more
on both, in turn, before it counts. Everything that is made is in build/compat/VERSION/,
the output of each run among it.
"""

import argparse
import pathlib
import platform
import signal
import subprocess
import sys

# servicekit is in the one, tables in the other.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))
sys.path.append(str(pathlib.Path(__file__).resolve().parents[3] / "docs" / "site"))

import environments
import report
import running
import servicekit
import sources
import tables
from comparing import BAD, MISSING, explain, foreign_loops, is_steady, worse
from differences import KNOWN, SOMETIMES
from environments import ROOT
from table import SUITES

AGAIN = 2  # more rounds for what differs
TAIL = 15  # lines of a failure that are shown

Unavailable = (
    environments.EnvironmentFailure,
    servicekit.ServiceError,
    sources.SourceError,
)


def say(*words, sep=" "):
    print(*words, sep=sep, flush=True)


# --- a suite --------------------------------------------------------------------------


def prepare(suite, build, repositories):
    """Get sources and environment; return a Place, and where the tests are from."""
    folder = build / f"src-{suite.name}"
    sources.unpack(suite, sources.fetch_sdist(suite, build / "sdists"), folder)
    source = "sdist"
    if suite.repository:
        origin = repositories.get(suite.name, suite.repository)
        if not sources.check_out(suite, origin, folder):
            raise sources.SourceError(
                f"{origin} cannot be cloned, and the sdist has not all that its tests "
                f"import; --repository {suite.name}=PLACE names another place"
            )
        source = "tag"
    python = environments.make(suite, build)
    return running.Place(suite, python, folder, build / "logs" / suite.name), source


def again(place, tests, first):
    """Run tests twice more on both, in turn: {test: pairs of outcomes}.

    first: their outcomes in the whole runs, {test: (asyncio's, pyloop's)}.
    """
    rounds = {test: [first[test]] for test in tests}
    for number in range(AGAIN):
        results = [
            running.run(place, kind, tests, f"again-{number + 1}").results
            for kind in running.KINDS
        ]
        for test in tests:
            rounds[test].append(
                tuple(result.get(test, MISSING).outcome for result in results)
            )
    return rounds


def compare(place, asyncio, pyloop):
    """What differs, in every round or not: two lists, and the rounds of each test."""
    suspects = worse(asyncio.results, pyloop.results)
    if not suspects:
        return [], [], {}
    name = place.suite.name
    say(f"{name}: {len(suspects)} tests differ; each is run {AGAIN} times more on both")
    first = {
        test: tuple(run.results.get(test, MISSING).outcome for run in (asyncio, pyloop))
        for test in suspects
    }
    rounds = again(place, suspects, first)
    steady = [test for test in suspects if is_steady(rounds[test])]
    unsteady = [test for test in suspects if test not in steady]
    for test in unsteady:
        say(f"{name}: run again, does not count: {test}: {as_text(rounds[test])}")
    return steady, unsteady, rounds


def as_text(rounds):
    return ", ".join(f"{asyncio}/{pyloop}" for asyncio, pyloop in rounds)


def problems_of(suite, runs, differences, rounds):
    """What is wrong with a suite's runs, in words."""
    asyncio, pyloop = runs
    found = [f"{run.kind}: {run.problem}" for run in runs if run.problem]
    if not pyloop.results:
        found.append("no test has run")
    always, _ = explain(differences, SOMETIMES.get(suite.name, {}))
    unexplained, stale = explain(always, KNOWN.get(suite.name, {}))
    for test in unexplained:
        text = pyloop.results.get(test, MISSING).text.splitlines()[-TAIL:]
        lines = "".join(f"\n      {line}" for line in text)
        found.append(f"differs: {test}: {as_text(rounds[test])}{lines}")
    found += [f"explained, but it does not differ: {entry}" for entry in stale]
    if not any(kind.startswith("pyloop.") for kind in pyloop.kinds):
        found.append(f"none of pyloop's loops has run: {pyloop.kinds}")
    foreign = foreign_loops(pyloop.kinds, suite.own_loops)
    found += [f"a loop that is not pyloop's: {pyloop.kinds[k]} {k}" for k in foreign]
    found += [
        f"loops of {kind} are allowed, and there is none"
        for kind in suite.own_loops
        if kind not in pyloop.kinds
    ]
    return found


def run_suite(suite, build, repositories):
    """Run a suite on both; return what is kept of it, and what is wrong."""
    place, source = prepare(suite, build, repositories)
    runs = []
    for kind in running.KINDS:
        runs.append(running.run(place, kind))
        kept = report.facts(runs[-1])
        words = ", ".join(
            f"{kept[key]} {key}" for key in ("passed", "failed", "skipped")
        )
        say(f"{suite.name} {suite.version}, {kind}: {words}, {kept['seconds']} s")
    asyncio, pyloop = runs
    if pyloop.note:
        say(f"{suite.name}: {pyloop.note}")
    steady, unsteady, rounds = compare(place, asyncio, pyloop)
    both = [
        test
        for test, ended in asyncio.results.items()
        if ended.outcome in BAD and test not in unsteady
    ]
    if both:
        good = sum(
            pyloop.results.get(test, MISSING).outcome not in BAD for test in both
        )
        say(f"{suite.name}: {len(both)} fail on asyncio, {good} of them not on pyloop")
    kept = {
        "version": suite.version,
        "source": source,
        **{run.kind: report.facts(run) for run in runs},
        "differences": steady,
        "unsteady": unsteady,
    }
    return kept, problems_of(suite, runs, steady, rounds)


# --- all of them ----------------------------------------------------------------------


def versions():
    """What the results are results of."""
    code = "from pyloop import _core, __version__ as v; print(v, _core.libuv_version)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    pyloop, libuv = done.stdout.split()
    return {"python": platform.python_version(), "pyloop": pyloop, "libuv": libuv}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    names = [suite.name for suite in SUITES]
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(names)}")
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="where the results go, too"
    )
    parser.add_argument(
        "--repository",
        action="append",
        default=[],
        metavar="NAME=PLACE",
        help="where to clone the tests from that an sdist has not",
    )
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else names
    if unknown := set(options.only) - set(names):
        parser.error(
            f"--only: {', '.join(sorted(unknown))}: none of {', '.join(names)}"
        )
    options.repositories = dict(one.partition("=")[::2] for one in options.repository)
    return options


def main():
    options = arguments()
    # So that what was started is stopped when this is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    version = ".".join(platform.python_version_tuple()[:2])
    build = ROOT / "build" / "compat" / version
    facts = versions()
    results, problems = build / "results.json", []
    for suite in SUITES:
        if suite.name not in options.only:
            continue
        try:
            kept, found = run_suite(suite, build, options.repositories)
        except Unavailable as exc:
            problems.append(f"{suite.name}: {exc}")
            continue
        problems += [f"{suite.name}: {problem}" for problem in found]
        for path in filter(None, (results, options.json)):
            report.write(path, facts, {suite.name: kept})
    say(*tables.compat(report.read(results)), sep="\n")
    for problem in problems:
        say(problem)
    say(f"{len(problems)} problems" if problems else "no problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
