"""What the drivers share: scenarios in processes of their own, findings, a summary."""

import argparse
import collections
import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE)]

import support  # noqa: E402  (from the folder above)

#: Seconds without a line from a process after which it is taken to hang.
PATIENCE = 30

CERTIFICATES = "PYLOOP_TEST_CERTIFICATES"


def options(text, **numbers):
    """The command line: scenarios, --loop, and options that are numbers."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", help="parts of names; default: all")
    parser.add_argument("--loop", default="pyloop", choices=support.LOOP_KINDS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=1, help=argparse.SUPPRESS)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


@contextlib.contextmanager
def folder():
    """A temporary folder, with certificates that the processes find."""
    with tempfile.TemporaryDirectory() as path:
        os.environ[CERTIFICATES] = path
        support.Certificates(path)
        yield path


def certificates():
    """Those that folder() made."""
    made = object.__new__(support.Certificates)
    path = os.environ[CERTIFICATES]
    made.ca_path = os.path.join(path, "ca.pem")
    made.chain_path = os.path.join(path, "chain.pem")
    made.key_path = os.path.join(path, "key.pem")
    return made


def say(**what):
    """Tell the driver, from a process that it started."""
    print(json.dumps(what), flush=True)


class Child:
    """A process that runs one scenario; it prints a line of JSON for each case."""

    def __init__(self, script, arguments, environment):
        import pyloop

        package = os.path.dirname(os.path.dirname(os.path.abspath(pyloop.__file__)))
        env = dict(os.environ, **environment)
        env["PYTHONPATH"] = os.pathsep.join([package, os.path.dirname(HERE), HERE])
        env["PYTHONHASHSEED"] = "0"
        self.process = subprocess.Popen(
            [sys.executable, script, "--child", *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = collections.deque(maxlen=40)
        self.lines = queue.Queue()
        self.threads = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def _read_output(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line)

    def results(self):
        """The decoded lines; at last {"died": why} if it did not say that it ended."""
        while True:
            try:
                line = self.lines.get(timeout=PATIENCE)
            except queue.Empty:
                self.process.kill()
                self.process.wait()
                yield {"died": f"hangs for {PATIENCE} s"}
                return
            if line is None:
                break
            try:
                result = json.loads(line)
            except ValueError:
                continue
            yield result
            if "end" in result:
                self.process.wait()
                self.close()
                return
        status = self.process.wait()
        self.threads[1].join(5)
        text = "".join(self.errors)
        self.close()
        yield {"died": f"exit status {status}\n{text}"}

    def close(self):
        for thread in self.threads:
            thread.join(5)
        self.process.stdout.close()
        self.process.stderr.close()


class Tally:
    """Counts of cases and the findings, from several threads."""

    def __init__(self, verbose, scenarios):
        self.lock = threading.Lock()
        self.verbose = verbose
        self.scenarios = scenarios
        self.ended = 0
        self.cases = 0
        self.outcomes = collections.Counter()
        self.owners = collections.Counter()
        self.findings = []

    def add(self, name, result):
        with self.lock:
            self.cases += 1
            self.owners[result.get("owner", "")] += 1
            self.outcomes[result.get("outcome", "?").partition(":")[0]] += 1
            if self.verbose:
                print(name, result, flush=True)
            for fault in result["faults"]:
                self._found(name, f"{result['n']} {result.get('owner', '')}", fault)
            for line in result.get("stack", []):
                print("   ", line, flush=True)

    def died(self, name, case, why):
        with self.lock:
            self.cases += 1
            self._found(name, case, why)

    def finished(self, name, cases, seconds):
        with self.lock:
            self.ended += 1
            progress = f"{self.ended}/{self.scenarios}"
            print(f"{progress} {name}: {cases} cases, {seconds:.1f} s", flush=True)

    def _found(self, name, case, what):
        self.findings.append((name, case, what))
        print(f"FOUND {name} {case}: {what}", flush=True)


def run_scenario(script, name, options, extra, environment, tally):
    """All cases of one scenario; a process that died is followed by another."""
    first = 1
    started = time.monotonic()
    cases = 0
    while first:
        arguments = ["--loop", options.loop, "--first", str(first), *extra, f"={name}"]
        case, owner, first = 0, "", None
        for result in Child(script, arguments, environment).results():
            if "begin" in result:
                case, owner = result["begin"], ""
            elif len(result) == 1 and "owner" in result:
                owner = result["owner"]
            elif "died" in result:
                cases += 1
                tally.died(name, f"{case} {owner}", result["died"])
                first = case + 1 if case else None
            elif "n" in result:
                cases += 1
                tally.add(name, result)
    tally.finished(name, cases, time.monotonic() - started)


def run_all(script, names, options, environment, extra=()):
    """Every scenario, as many at a time as --jobs says; the exit status."""
    tally = Tally(options.verbose, len(names))
    todo = queue.SimpleQueue()
    for name in names:
        todo.put(name)

    def work():
        while True:
            try:
                name = todo.get_nowait()
            except queue.Empty:
                return
            try:
                run_scenario(script, name, options, extra, environment, tally)
            except Exception:  # of the driver itself
                tally.died(name, "", traceback.format_exc())

    started = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(options.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"owners: {dict(tally.owners.most_common())}")
    print(f"outcomes: {dict(tally.outcomes.most_common())}")
    print(
        f"{len(names)} scenarios, {tally.cases} cases, {len(tally.findings)} findings, "
        f"{time.monotonic() - started:.0f} s"
    )
    return 1 if tally.findings else 0
