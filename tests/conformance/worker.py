"""Runs test classes on one kind of loop, each in a process of its own.

    python worker.py KIND SLOTS [accelerate] < names > results

Every line of names is "module.Class" or "module.Class.test"; every line of results is a
JSON object, a `Result`. This process imports the tests once and is forked for each
class: so a process costs milliseconds. It runs no loop itself.
"""

import dataclasses
import faulthandler
import json
import os
import selectors
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unittest

from expectations import is_left_out
from substitutes import Substitute

PACKAGE = "test.test_asyncio."

# Without a word for so many seconds, a test hangs; CPython's slowest takes three. Where
# nobody is judged by it, some slowness of the machine does not matter as much.
PATIENCE = {"asyncio": 30, "pyloop": 30, "uvloop": 15}
PATIENCE_LEFT_OUT = 1

# After so many such tests a class is not gone on with, so that it ends in bounded time:
# the rest of it hangs too.
MAX_HANGS = 6


@dataclasses.dataclass
class Result:
    test: str  # module.Class.test
    outcome: str  # pass, fail, skip, crash, hang
    seconds: float = 0
    loops: int = 0  # how many loops of the kind it made, its setUp() and its forks too
    text: str = ""  # what there is to say about another outcome than pass

    def dump(self):
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def load(cls, line):
        return cls(**json.loads(line))


class Reporter(unittest.TestResult):
    """In the child: says which test starts, and how each ends, as it does."""

    def __init__(self, name, substitute, out):
        super().__init__()
        self.name = name
        self.substitute = substitute
        self.out = out
        self.result = None  # of the test that has started

    def say(self, *words):
        self.out.write(json.dumps(words) + "\n")
        self.out.flush()

    def startTest(self, test):
        super().startTest(test)
        self.say("start", test._testMethodName)
        self.result = Result(f"{self.name}.{test._testMethodName}", "pass")
        self.began = time.monotonic()

    def stopTest(self, test):
        super().stopTest(test)
        if self.result is None:  # skipped without a start (3.12.1)
            return
        self.result.seconds = round(time.monotonic() - self.began, 3)
        # Not since the start: 3.10 makes a loop before it says that a test starts.
        self.result.loops = self.substitute.made.value
        self.substitute.made.value = 0
        self.say("end", test._testMethodName, self.result.dump())
        self.result = None

    def tell(self, test, outcome, text):
        if self.result is not None:
            self.result.outcome, self.result.text = outcome, text
        elif isinstance(test, unittest.TestCase):  # skipped without a start
            name = test._testMethodName
            result = Result(f"{self.name}.{name}", outcome, text=text)
            self.say("end", name, result.dump())
        else:  # of setUpClass and its like: every test's
            self.say("all", outcome, text)

    def addSkip(self, test, reason):
        self.tell(test, "skip", reason)

    def addError(self, test, err):
        self.tell(test, "fail", "".join(traceback.format_exception(*err)))

    addFailure = addError

    def addSubTest(self, test, subtest, err):
        if err is not None:
            text = "".join(traceback.format_exception(*err))
            self.tell(test, "fail", f"{subtest}\n{text}")

    def addExpectedFailure(self, test, err):
        self.tell(test, "skip", "an expected failure")

    def addUnexpectedSuccess(self, test):
        self.tell(test, "fail", "an unexpected success")


class Job:
    """Tests of one class, and the process that runs them, or what is left of them."""

    def __init__(self, name, tests):
        self.name = name
        self.left = tests
        self.current = None
        self.hangs = 0

    def start(self, substitute):
        self.kind = substitute.kind
        self.heard = time.monotonic()
        self.buffer = b""
        self.all = None
        self.folder = tempfile.mkdtemp(prefix="conformance-")
        self.output = tempfile.TemporaryFile()
        self.pipe, write_end = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self.pipe)
                self.run(substitute, write_end)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        os.close(write_end)

    def run(self, substitute, write_end):
        """In the child."""
        os.setsid()  # what it starts is killed with it
        # A shell's background job is started with interrupts ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        substitute.made.begin()
        os.chdir(self.folder)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(self.output.fileno(), 1)
        os.dup2(self.output.fileno(), 2)
        faulthandler.enable(2)
        module, _, case = self.name.partition(".")
        suite = unittest.TestSuite(
            map(getattr(sys.modules[PACKAGE + module], case), self.left)
        )
        with open(write_end, "w") as out, substitute.lend_base_loop(module):
            suite.run(Reporter(self.name, substitute, out))

    def is_at_one_left_out(self):
        return bool(self.current) and is_left_out(f"{self.name}.{self.current}")

    def patience(self):
        return PATIENCE_LEFT_OUT if self.is_at_one_left_out() else PATIENCE[self.kind]

    def hear(self):
        """Take what the child says; yield results. self.buffer is None at its end."""
        self.heard = time.monotonic()
        data = os.read(self.pipe, 65536)
        if not data:
            self.buffer = None
            return
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            what, *said = json.loads(line)
            if what == "start":
                self.current = said[0]
            elif what == "end":
                self.left.remove(said[0])
                self.current = None
                yield said[1]
            else:
                self.all = said

    def finish(self, hung):
        """End the child; yield results of what it did not end itself."""
        if hung:
            self.hangs += not self.is_at_one_left_out()
            os.kill(self.pid, signal.SIGABRT)  # faulthandler says where it was
            time.sleep(0.2)
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pipe)
        self.output.seek(0)
        text = self.output.read().decode(errors="replace")[-4000:]
        self.output.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.all is not None:
            undone, (outcome, text) = self.left, self.all
        else:
            # What it was at; a class that cannot even start has no such test.
            undone = [self.current] if self.current else self.left
            outcome = "hang" if hung else "crash"
            text = f"{text}\nwait status {status}"
            if self.hangs == MAX_HANGS:
                undone = self.left
        self.left = [test for test in self.left if test not in undone]
        self.current = None
        for test in undone:
            yield Result(f"{self.name}.{test}", outcome, text=text).dump()


def run_all(substitute, jobs, slots):
    """Run the jobs, so many side by side, on behind a crash too; yield results."""
    jobs = jobs[::-1]
    with selectors.DefaultSelector() as selector:
        while jobs or selector.get_map():
            while jobs and len(selector.get_map()) < slots:
                job = jobs.pop()
                job.start(substitute)
                selector.register(job.pipe, selectors.EVENT_READ, job)
            running = [key.data for key in selector.get_map().values()]
            for key, _ in selector.select(1):
                yield from key.data.hear()
            for job in running:
                hung = time.monotonic() - job.heard > job.patience()
                if hung or job.buffer is None:
                    selector.unregister(job.pipe)
                    yield from job.finish(hung)
                    if job.left:
                        jobs.append(job)


def make_jobs(names):
    """A Job for each class that is named, in the order of the names."""
    tests = {}
    for name in names:
        module, case, *test = name.split(".")
        __import__(PACKAGE + module)
        known = unittest.defaultTestLoader.getTestCaseNames(
            getattr(sys.modules[PACKAGE + module], case)
        )
        tests.setdefault(f"{module}.{case}", []).extend(test or known)
    return [Job(name, left) for name, left in tests.items()]


def main():
    kind, slots = sys.argv[1], int(sys.argv[2])
    substitute = Substitute(kind, accelerate="accelerate" in sys.argv[3:])
    substitute.install()
    for result in run_all(substitute, make_jobs(sys.stdin.read().split()), slots):
        print(result, flush=True)


if __name__ == "__main__":
    main()
