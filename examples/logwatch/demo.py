"""What `logwatch.py --demo` watches: six logs that it writes, rotates and truncates.

And it kills some of the tails. Each writer knows how many lines of each kind it has
written; the watch has to have found as many.
"""

import asyncio
import collections
import contextlib
import os
import re
import signal
import tempfile

import logwatch

PATTERNS = {
    "error": re.compile(r"\b(ERROR|CRITICAL)\b"),
    "slow": re.compile(r"took \d{4,} ms"),
}
LINES = 2000  # of each log
LOGS = ("grows", "late", "rotates", "rotates-often", "truncated", "dies")


class Writer:
    """Writes one log, in blocks, as its name says."""

    def __init__(self, folder, kind, log):
        self.path = os.path.join(folder, f"{kind}.log")
        self.kind = kind
        self.log = log
        self.written = 0
        self.alerts = collections.Counter()

    def line(self):
        """The next line."""
        number = self.written
        self.written += 1
        self.alerts["error"] += number % 50 == 0
        self.alerts["slow"] += number % 100 == 25
        level = "ERROR" if number % 50 == 0 else "INFO"
        return f"{level} request {number} took {1025 if number % 100 == 25 else 7} ms\n"

    def write(self, count):
        """Append so many lines, by one write for every seven and a half."""
        text = "".join(self.line() for _ in range(count)).encode()
        with open(self.path, "ab", buffering=0) as file:
            for start in range(0, len(text), 250):
                file.write(text[start : start + 250])

    async def caught_up(self):
        """Wait until all that was written was read, as a real log has time for."""
        while self.log.lines < self.written:
            await asyncio.sleep(0.005)

    async def run(self):
        """Write the whole log."""
        block = LINES // 10
        for number in range(10):
            if self.kind == "rotates-often" or self.kind == "rotates" and number == 5:
                await self.caught_up()
                os.rename(self.path, f"{self.path}.{number}")
            elif self.kind == "truncated" and number == 6:
                await self.caught_up()  # what follows is shorter than what was
                os.truncate(self.path, 0)
            elif self.kind == "dies" and number in (3, 6):
                await self.caught_up()  # so it lives
                os.kill(self.log.process.pid, signal.SIGKILL)
            self.write(block)
            await asyncio.sleep(0.01)
        await self.caught_up()


async def work(watch, folder):
    """Write all logs; return the writers."""
    writers = [
        Writer(folder, kind, log) for kind, log in zip(LOGS, watch.logs, strict=True)
    ]
    for writer in writers:
        if writer.kind != "late":  # that one is not there at first
            while writer.log.process is None:
                await asyncio.sleep(0.005)
    await asyncio.gather(*(writer.run() for writer in writers))
    return writers


async def run():
    """Watch what is written; return the exit status."""
    told = collections.Counter()

    async def tell(log, name, line):
        told[log, name] += 1

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        paths = [os.path.join(folder, f"{kind}.log") for kind in LOGS]
        for path in paths:
            if "late" not in path:
                open(path, "w").close()
        stopped = asyncio.Event()
        stack.enter_context(logwatch.signals_set(stopped))
        watch = logwatch.Watch(paths, PATTERNS, tell)
        watching = asyncio.create_task(watch.run(until=stopped), name="watch")
        working = asyncio.create_task(work(watch, folder), name="write")
        await asyncio.wait([watching, working], return_when=asyncio.FIRST_COMPLETED)
        finished = working.done()
        working.cancel()
        stopped.set()
        await watching
        await asyncio.wait([working])
        watch.show()
        if not finished:
            print("stopped before the end")
            return 0
        return check(working.result(), told)


def check(writers, told):
    """Compare what was told with what was written; return the exit status."""
    wrong = [
        f"{writer.log.name}: {name} is told {told[writer.log.name, name]} times"
        for writer in writers
        for name in PATTERNS
        if told[writer.log.name, name] != writer.alerts[name]
    ]
    print(*wrong or ["every line of every log was found once"], sep="\n")
    return 1 if wrong else 0
