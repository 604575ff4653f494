"""One run of a suite's tests on one kind of loop, in a process of its own."""

import dataclasses
import json
import os
import signal
import subprocess
import time

from comparing import Ended
from environments import RECORDER
from recorder import VARIABLE
from table import nothing

KINDS = ("asyncio", "pyloop")

# A test may choose its own variables; these would choose for it.
NOT_INHERITED = ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTHONASYNCIODEBUG")


@dataclasses.dataclass
class Run:
    """What a run has found."""

    kind: str
    results: dict  # {test: Ended}
    kinds: dict  # {class of loops: how many of them ran}
    seconds: float
    problem: str = ""  # why there may be tests without a result
    note: str = ""  # what the machine lacks


@dataclasses.dataclass
class Place:
    """Where a suite's tests are run from."""

    suite: object
    python: object  # the environment's interpreter
    folder: object  # the unpacked sources
    logs: object  # what runs print, and record, goes here


def run(place, kind, tests=None, label="all"):
    """Run the tests, node ids of pytest's, or all of the suite, on a kind of loop."""
    suite = place.suite
    place.logs.mkdir(parents=True, exist_ok=True)
    record = place.logs / f"{kind}-{label}.jsonl"
    record.unlink(missing_ok=True)
    with (suite.setting or nothing)() as setting:
        command = [*setting.prefix, str(place.python)]
        if kind == "pyloop":
            command += ["-m", "pyloop"]
        command += ["-m", "pytest", "-p", RECORDER, "-p", "no:cacheprovider"]
        command += ["--color=no", *suite.arguments, *setting.arguments]
        command += tests if tests is not None else suite.tests
        environment = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
        environment |= suite.environment | setting.environment
        environment[VARIABLE] = str(record)
        started = time.monotonic()
        problem = wait_for(
            command,
            place.folder,
            environment,
            place.logs / f"{kind}-{label}.log",
            suite.limit,
        )
        seconds = time.monotonic() - started
    results, kinds = read(record)
    return Run(kind, results, kinds, seconds, problem, setting.note)


def wait_for(command, folder, environment, log, limit):
    """Run the command to its end; return what was wrong with it, "" if nothing was."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"it has not ended after {limit} s"
        finally:
            end_session(process)
    if status in (0, 1):  # all passed, some failed
        return ""
    return f"died of signal {-status}" if status < 0 else f"exit status {status}"


def end_session(process):
    """Kill what is left of the process and its children, which may outlive it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def read(record):
    """The results and the loops of a run, from what its recorder has written."""
    results, kinds, open_test = {}, {}, None
    for line in record.read_text().splitlines() if record.exists() else ():
        entry = json.loads(line)
        if "test" not in entry:
            kinds, open_test = entry["loops"], None
        elif "outcome" not in entry:
            open_test = entry["test"]
        else:
            open_test = None
            results[entry["test"]] = Ended(
                entry["outcome"], entry["text"], tuple(entry.get("loops", ()))
            )
    if open_test is not None:
        results[open_test] = Ended("died", "the process ended, or was ended, in it")
    return results, kinds
