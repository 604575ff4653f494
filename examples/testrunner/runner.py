"""Run the test files of a project, so many at a time, each in a process of its own.

    python runner.py tests --jobs 4
    python runner.py tests/test_a.py tests/test_b.py --with pytest --report report.json
    python runner.py --demo

A file is run by `python -m unittest -v` or `python -m pytest`. One that crashes or
hangs takes no other with it. What a file printed is shown, with --verbose, if it did
not end well; the counts of all files are added up. Ends with status 1 if anything
failed, with 130 or 143 if SIGINT or SIGTERM has ended it: no test is left running.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
import time

KEPT = 256 * 1024  # bytes of what a file prints that are kept, from its end
END = 5.0  # seconds, for what is left in the pipe of a process that was killed
OUTCOMES = ("passed", "failed", "errors", "skipped", "expected failures")
COMMANDS = {
    "unittest": ["-m", "unittest", "-v"],
    "pytest": ["-m", "pytest", "-p", "no:cacheprovider"],
}


@dataclasses.dataclass
class Result:
    """What became of a file; status: "ok", "failed", "crashed", "hung", "no tests"."""

    path: str
    status: str
    seconds: float
    counts: dict
    output: str


# -- what the test programs say ----------------------------------------------------


def counts_of_unittest(output):
    """How many tests had which outcome, by the last lines of unittest; None if none."""
    found = re.findall(r"^Ran (\d+) tests? in .*\n\n.*?(?:\((.*)\))?$", output, re.M)
    if not found:
        return None
    total, details = found[-1]
    names = {"failures": "failed", "unexpected successes": "failed"}
    counts = collections.Counter()
    for name, number in re.findall(r"([a-z ]+)=(\d+)", details):
        counts[names.get(name.strip(), name.strip())] += int(number)
    counts["passed"] = int(total) - sum(counts.values())
    return dict(counts)


def counts_of_pytest(output):
    """The same, by the last line of pytest."""
    found = re.findall(r"^=* ?(.*) in \d[\d.]*s(?: \(.*\))? ?=*$", output, re.M)
    if not found:
        return None
    names = {"error": "errors", "xfailed": "expected failures", "xpassed": "passed"}
    counts = collections.Counter()
    for number, name in re.findall(r"(\d+) ([a-z]+)", found[-1]):
        name = names.get(name, name)
        if name in OUTCOMES:
            counts[name] += int(number)
    return dict(counts)


READERS = {"unittest": counts_of_unittest, "pytest": counts_of_pytest}


# -- running them ------------------------------------------------------------------


class Runner:
    """Runs test files; `results` has what became of each, as they end."""

    def __init__(self, paths, options, tell):
        self.paths = paths
        self.options = options
        self.tell = tell  # called with each result
        self.results = []

    async def run(self):
        """Run every file, --jobs at a time."""
        waiting = iter(self.paths)

        async def work():
            # The workers share one iterator: no task exists for a file that waits.
            for path in waiting:
                result = await self.run_file(path)
                self.results.append(result)
                self.tell(result)

        workers = [
            asyncio.ensure_future(work())
            for _ in range(min(self.options.jobs, len(self.paths)))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def run_file(self, path):
        """Run one file to its end, or to its --timeout."""
        started = time.perf_counter()
        # A session of its own: what the tests start can be ended with them.
        process = await asyncio.create_subprocess_exec(
            sys.executable, *COMMANDS[self.options.program], os.path.basename(path),
            cwd=os.path.dirname(path) or ".",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        kept = bytearray()
        hung = False
        try:
            await asyncio.wait_for(self.follow(process, kept), self.options.timeout)
        except asyncio.TimeoutError:
            hung = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # To the pipe's end, so that it is closed; what has left the session may
            # hold it open.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.follow(process, kept), END)
        output = kept.decode(errors="replace")
        counts = READERS[self.options.program](output)
        status = self.status(process.returncode, counts, hung)
        return Result(path, status, time.perf_counter() - started, counts or {}, output)

    async def follow(self, process, kept):
        """Keep the end of what a process prints; return when it has ended."""
        while data := await process.stdout.read(65536):
            kept += data
            del kept[:-KEPT]
        await process.wait()

    def status(self, returncode, counts, hung):
        """Say in a word how a file ended."""
        if hung:
            return "hung"
        if returncode < 0 or counts is None:
            return "crashed"
        if not sum(counts.values()):
            return "no tests"
        return "failed" if returncode else "ok"


class Report:
    """What all files came to."""

    def __init__(self, total, verbose):
        self.total = total
        self.verbose = verbose
        self.done = 0

    def tell(self, result):
        """Print a line for a file, and what it printed if it is not well."""
        self.done += 1
        counts = ", ".join(
            f"{result.counts[name]} {name}"
            for name in OUTCOMES
            if result.counts.get(name)
        )
        of = f"[{self.done:>{len(str(self.total))}}/{self.total}]"
        print(f"{of} {result.status:<8} {result.path}: {counts or 'no counts'}")
        if result.status != "ok" and self.verbose:
            for line in result.output.rstrip().splitlines():
                print(f"    | {line}")
        sys.stdout.flush()

    def finish(self, results):
        """Print the sums; return whether all is well."""
        files = collections.Counter(result.status for result in results)
        counts = collections.Counter()
        for result in results:
            counts.update(result.counts)
        print(
            "files:", ", ".join(f"{n} {status}" for status, n in sorted(files.items()))
        )
        print("tests:", ", ".join(f"{counts[o]} {o}" for o in OUTCOMES if counts[o]))
        sys.stdout.flush()
        return len(results) == self.total and set(files) <= {"ok", "no tests"}


async def run(paths, options):
    """Run the files and report; return the exit status."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    stopped_by = []

    def stop(number):
        stopped_by.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    report = Report(len(paths), options.verbose)
    runner = Runner(paths, options, report.tell)
    try:
        await runner.run()
    except asyncio.CancelledError:
        if not stopped_by:
            raise
    well = report.finish(runner.results)
    if options.report is not None:
        with open(options.report, "w", encoding="utf-8") as file:
            json.dump([dataclasses.asdict(r) for r in runner.results], file, indent=1)
    if stopped_by:
        left = len(paths) - len(runner.results)
        print(f"stopped by {signal.Signals(stopped_by[0]).name}, {left} files left out")
        return 128 + stopped_by[0]
    return 0 if well else 1


# -- the program -------------------------------------------------------------------


def find_files(parser, places):
    """The files that are named, and test_*.py of folders; errors end the program."""
    found = {}
    for place in places:
        if os.path.isdir(place):
            for folder, _, names in sorted(os.walk(place)):
                for name in sorted(names):
                    if re.fullmatch(r"test_.*\.py", name):
                        found[os.path.join(folder, name)] = None
        elif os.path.isfile(place):
            found[place] = None
        else:
            parser.error(f"{place!r} is no file and no folder")
    if not found:
        parser.error("no test_*.py was found")
    return list(found)


def above_0(convert):
    """A type of argument: a number of that kind above 0."""

    def parse(text):
        number = convert(text)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return number

    parse.__name__ = convert.__name__
    return parse


def arguments():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("places", nargs="*", metavar="PLACE", help="test files, and folders of them")
    add(
        "--jobs", type=above_0(int), default=os.cpu_count() or 1, help="files at a time"
    )
    add("--with", dest="program", choices=sorted(COMMANDS), default="unittest")
    add("--timeout", type=above_0(float), default=600.0, help="seconds for a file")
    add("--report", metavar="FILE", help="write all results there, as JSON")
    add("--verbose", action="store_true", help="show what a file printed that failed")
    add("--demo", action="store_true", help="run files of its own, good and bad ones")
    return parser


def main():
    """Read the arguments and run the tests."""
    parser = arguments()
    options = parser.parse_args()
    if options.demo:
        if options.places:
            parser.error("--demo has files of its own")
        import demo

        return asyncio.run(demo.run(options))
    if not options.places:
        parser.error("nothing to run: files, folders or --demo")
    return asyncio.run(run(find_files(parser, options.places), options))


if __name__ == "__main__":
    sys.exit(main())
