"""A plugin for pytest that writes down how each test ended and which loops ran in it.

It is loaded into other projects' sessions, on every kind of loop alike. A line of JSON
is written as a test begins and one as it has ended, so that a process that dies says in
which test; the file is named by the environment.
"""

import asyncio
import json
import os
import weakref

VARIABLE = "PYLOOP_COMPAT_RECORD"

TEXT_LINES = 60  # of a failure, its last ones


class Recorder:
    def __init__(self, path):
        self.file = open(path, "a", buffering=1)
        self.process = os.getpid()
        self.reports = []
        self.loops = weakref.WeakSet()  # every one that has run
        self.kinds = {}  # how many of them there were of each class
        self.in_test = set()  # the classes of those that ran in this test
        self.watch()

    def watch(self):
        """Be told of every loop that runs: asyncio's, uvloop's and pyloop's say so."""
        set_running_loop = asyncio._set_running_loop

        def told(loop):
            set_running_loop(loop)
            if loop is not None:
                self.saw(loop)

        asyncio._set_running_loop = asyncio.events._set_running_loop = told

    def saw(self, loop):
        kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
        self.in_test.add(kind)
        if loop not in self.loops:
            self.loops.add(loop)
            self.kinds[kind] = self.kinds.get(kind, 0) + 1

    def write(self, **line):
        if os.getpid() == self.process:  # a fork's session is not ours
            self.file.write(json.dumps(line) + "\n")

    # -- pytest's hooks

    def pytest_collectreport(self, report):
        if report.failed:
            self.write(test=report.nodeid, outcome="error", text=text_of(report))

    def pytest_runtest_logstart(self, nodeid):
        self.reports.clear()
        self.in_test.clear()
        self.write(test=nodeid)

    def pytest_runtest_logreport(self, report):
        self.reports.append(report)

    def pytest_runtest_logfinish(self, nodeid):
        failed = [report for report in self.reports if report.failed]
        self.write(
            test=nodeid,
            outcome=outcome_of(self.reports),
            text="\n".join(map(text_of, failed)),
            loops=sorted(self.in_test),
        )

    def pytest_unconfigure(self):
        self.write(loops=self.kinds)
        self.file.close()


def text_of(report):
    return "\n".join(str(report.longrepr).splitlines()[-TEXT_LINES:])


def outcome_of(reports):
    """One word for the reports of a test: its set-up, its call, its tear-down."""
    bad = [report.when for report in reports if report.failed]
    if bad:
        return "failed" if "call" in bad else "error"
    expected = any(hasattr(report, "wasxfail") for report in reports)
    if any(report.skipped for report in reports):
        return "xfailed" if expected else "skipped"
    return "xpassed" if expected else "passed"


def pytest_configure(config):
    path = os.environ.pop(VARIABLE, None)  # not for sessions that tests start
    if path is not None:
        config.pluginmanager.register(Recorder(path), "pyloop-compat-recorder")
