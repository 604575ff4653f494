"""Watch growing logs, and print an alert for each line that a pattern is found in.

    python logwatch.py --alert error='ERROR|CRITICAL' /var/log/app.log /var/log/db.log
    python logwatch.py --demo

Each log is followed by a `tail -F` of its own, through rotation and truncation, also
if it does not exist yet. A tail that dies is started again where it stopped, after a
pause that doubles each time; lines written meanwhile are not lost. The first lines that
are looked at are those written after the start. SIGINT or SIGTERM ends it.
"""

import argparse
import asyncio
import collections
import contextlib
import os
import re
import signal
import sys

CHUNK = 1 << 16  # bytes that are read at a time
LONGEST_LINE = 1 << 20  # of a longer line only so many bytes are looked at
PAUSES = (0.1, 5.0)  # seconds before a tail is started again: at first, at most
PATIENCE = 2.0  # seconds that a tail gets to end


class Lines:
    """Cuts what arrives in pieces into lines, which may be longer than any piece."""

    def __init__(self):
        self.rest = b""

    def feed(self, data):
        """Return the lines that are complete now."""
        *lines, rest = (self.rest + data).split(b"\n")
        self.rest = rest[:LONGEST_LINE]
        return lines


class Log:
    """One log: the `tail` that follows it, what was read, and what was found in it."""

    def __init__(self, path, patterns, alerts):
        self.path = path
        self.name = os.path.basename(path)
        self.patterns = patterns  # name: compiled pattern
        self.alerts = alerts  # the queue that takes (log's name, pattern's name, line)
        self.process = None
        self.restarts = 0
        self.lines = 0
        self.found = collections.Counter()  # name of a pattern: lines
        self._file = None  # which file was there when the tail was started
        self._offset = 0  # of that, the bytes that were read
        self._cut = Lines()

    def _stat(self):
        """Which file has the log's name now, and how long it is."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None, 0
        return (status.st_dev, status.st_ino), status.st_size

    def look(self):
        """Begin at the log's present end."""
        self._file, self._offset = self._stat()

    def _resume(self):
        """Return where a new tail is to begin, in bytes.

        If the log was rotated while the last one lived, what that had read of the new
        file is not known: all of it is read again, so an alert may come twice rather
        than never.
        """
        file, size = self._stat()
        if file != self._file or size < self._offset:
            self._file, self._offset = file, 0
            self._cut = Lines()
        return self._offset

    async def follow(self):
        """Follow the log until cancelled."""
        pause = PAUSES[0]
        while True:
            before = self.lines
            await self._follow_once()
            status = self.process.returncode
            pause = PAUSES[0] if self.lines > before else pause
            print(
                f"{self.name}: tail {end_of(status)}; again in {pause:g} s", flush=True
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSES[1])
            self.restarts += 1

    async def _follow_once(self):
        """Start a tail, and read what it writes until it has ended."""
        # A session of its own: Ctrl-C is for us, and we end it in order. --pid ends it
        # when we are killed.
        self.process = await asyncio.create_subprocess_exec(
            "tail",
            f"--bytes=+{self._resume() + 1}",
            f"--pid={os.getpid()}",
            "-F",
            "--",
            self.path,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while data := await self.process.stdout.read(CHUNK):
                self._offset += len(data)
                for line in self._cut.feed(data):
                    await self._look_at(line.decode(errors="replace"))
            await self.process.wait()
        finally:
            await self._end()

    async def _end(self):
        """End the tail, if it has not ended, and take the rest of what it wrote."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.communicate(), PATIENCE)
        except asyncio.TimeoutError:
            self.process.kill()
            await self.process.communicate()

    async def _look_at(self, line):
        self.lines += 1
        for name, pattern in self.patterns.items():
            if pattern.search(line):
                self.found[name] += 1
                # A full queue stops the reading, and so the tail, which waits to write.
                await self.alerts.put((self.name, name, line))


def end_of(status):
    """What an exit status says, in words."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


class Watch:
    """All the logs, and what becomes of their alerts."""

    def __init__(self, paths, patterns, tell):
        self.alerts = asyncio.Queue(maxsize=100)
        self.logs = [Log(path, patterns, self.alerts) for path in paths]
        self.tell = tell  # a coroutine function of (log, pattern, line)

    async def _tell_all(self):
        while True:
            await self.tell(*await self.alerts.get())
            self.alerts.task_done()

    async def run(self, until):
        """Follow the logs until the event `until` is set; or raise what went wrong."""
        for log in self.logs:
            log.look()
        names = [f"follow {log.name}" for log in self.logs]
        tasks = [
            asyncio.create_task(self._tell_all(), name="alerts"),
            asyncio.create_task(until.wait(), name="end"),
            *(
                asyncio.create_task(log.follow(), name=name)
                for log, name in zip(self.logs, names, strict=True)
            ),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # which raises, except that of `until`
        finally:
            for task in tasks[1:]:
                task.cancel()
            await asyncio.wait(tasks[1:])
            if not tasks[0].done():  # what was found is told
                await self.alerts.join()
                tasks[0].cancel()
            await asyncio.wait(tasks[:1])

    def show(self):
        """Print what was found in each log."""
        for log in self.logs:
            found = ", ".join(f"{name} {log.found[name]}" for name in log.patterns)
            print(f"{log.name}: {log.lines} lines; {found}; {log.restarts} restarts")


async def print_alert(log, name, line):
    """Tell of an alert by printing it."""
    print(f"{name} {log}: {line}", flush=True)


@contextlib.contextmanager
def signals_set(event):
    """SIGINT and SIGTERM set the event, inside the block."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, event.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def run(options):
    """Watch until a signal comes; return the exit status."""
    stopped = asyncio.Event()
    watch = Watch(options.logs, dict(options.alert), print_alert)
    with signals_set(stopped):
        print(f"watching {len(watch.logs)} logs", flush=True)
        await watch.run(until=stopped)
    watch.show()
    return 0


def named_pattern(text):
    """A type of argument: NAME=REGULAR EXPRESSION, as (name, compiled pattern)."""
    name, equals, pattern = text.partition("=")
    if not equals or not name or not pattern:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATTERN")
    try:
        return name, re.compile(pattern)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{pattern!r}: {error}") from None


def main():
    """Read the arguments, watch, return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("logs", nargs="*", metavar="LOG")
    add("--alert", action="append", type=named_pattern, metavar="NAME=PATTERN")
    add("--demo", action="store_true", help="watch logs that it writes itself")
    options = parser.parse_args()
    if options.demo:
        if options.logs or options.alert:
            parser.error("--demo has logs and alerts of its own")
        import demo

        program = demo.run()
    else:
        if not options.logs:
            parser.error("there are no logs to watch")
        if not options.alert:
            parser.error("there is nothing to look for: --alert NAME=PATTERN")
        if len(set(options.logs)) != len(options.logs):
            parser.error("a log is named twice")
        program = run(options)
    try:
        return asyncio.run(program)
    except OSError as error:
        print(f"logwatch: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
