"""Watch many TCP services: which answer, which refuse, which say nothing.

    python monitor.py web=10.0.0.1:80 mail=mx.example.org:25 --expect 220
    python monitor.py --file targets.txt --rounds 0 --interval 30
    python monitor.py --demo

Each target is NAME=HOST:PORT, or HOST:PORT alone. A probe connects, sends what --send
says, and reads one line if --expect says how that has to begin. What became of it:

    up            it answered, as expected
    wrong         it answered something else, or hung up
    silent        it took the connection and did not answer in time
    unreachable   nothing came back in time, or there is no way to it
    refused       nothing listens on that port
    unknown       the name has no address

Ends with status 1 if a target was not up in the last round.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import errno
import signal
import socket
import sys
import time

STATUSES = ("up", "wrong", "silent", "unreachable", "refused", "unknown")
NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT)


@dataclasses.dataclass(frozen=True)
class Target:
    """What is probed."""

    name: str
    host: str
    port: int

    @classmethod
    def parse(cls, text):
        """Make one of "NAME=HOST:PORT"; a ValueError says what is wrong with it."""
        name, equals, address = text.rpartition("=")
        host, colon, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")  # an IPv6 address
        if not colon or not host or (equals and not name):
            raise ValueError(f"{text!r} is not NAME=HOST:PORT")
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r}: {port!r} is no port, which is 1 to 65535")
        return cls(name or address, host, int(port))


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a probe; seconds is how long it took."""

    status: str
    seconds: float
    detail: str = ""


class Monitor:
    """Probes targets, a bounded number at a time, and knows what changed."""

    def __init__(self, targets, options):
        self.targets = targets
        self.options = options
        self.results = {}  # name of a target: its last Result
        self.changes = []  # (name, status before, status now) of the last round

    async def probe(self, target):
        """Probe a target; no failure of its is an exception here."""
        started = time.perf_counter()
        status, detail = await self._ask(target)
        return Result(status, time.perf_counter() - started, detail)

    async def _ask(self, target):
        timeout = self.options.timeout
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(target.host, target.port), timeout
            )
        except asyncio.TimeoutError:
            return "unreachable", "no answer to the connection"
        except ConnectionRefusedError:
            return "refused", ""
        except socket.gaierror as error:
            return "unknown", error.strerror
        except OSError as error:
            return "unreachable" if error.errno in NO_WAY else "wrong", str(error)
        try:
            return await asyncio.wait_for(self._talk(reader, writer), timeout)
        except asyncio.TimeoutError:
            return "silent", ""
        except OSError as error:
            return "wrong", str(error)
        except ValueError:
            return "wrong", "a line that does not end"
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _talk(self, reader, writer):
        if self.options.send is not None:
            writer.write(self.options.send.encode() + b"\r\n")
            await writer.drain()
        if self.options.expect is None:
            return "up", ""
        line = (await reader.readline()).decode(errors="replace").rstrip("\r\n")
        if line.startswith(self.options.expect):
            return "up", line
        return "wrong", line or "it hung up"

    async def round(self):
        """Probe every target once; note what is not as it was the last time."""
        waiting = iter(self.targets)
        before = self.results
        self.results = {}

        async def work():
            # The workers share one iterator: no task exists for a probe that waits.
            for target in waiting:
                self.results[target.name] = await self.probe(target)

        workers = [
            asyncio.create_task(work(), name=f"worker {number}")
            for number in range(min(self.options.concurrency, len(self.targets)))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)
            self.changes = [
                (name, before[name].status, result.status)
                for name, result in sorted(self.results.items())
                if name in before and before[name].status != result.status
            ]

    def count(self):
        """How many targets have each status, as a Counter."""
        return collections.Counter(result.status for result in self.results.values())


def percentile(values, share):
    """The value below which that share of the values is."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def show(number, monitor, seconds, verbose):
    """Print what a round has found."""
    print(f"round {number}: {len(monitor.results)} probes in {seconds:.2f} s")
    counts = monitor.count()
    for status in STATUSES:
        if counts[status]:
            times = [r.seconds for r in monitor.results.values() if r.status == status]
            middle, late = percentile(times, 0.5) * 1000, percentile(times, 0.99) * 1000
            line = f"{status:<12}{counts[status]:>6}"
            print(f"  {line}   p50 {middle:.1f} ms, p99 {late:.1f} ms")
    if verbose:
        for name, result in sorted(monitor.results.items()):
            if result.status != "up":
                print(f"  {name}: {result.status} {result.detail}".rstrip())
    for name, before, now in monitor.changes:
        print(f"  {name}: was {before}, is {now}")
    sys.stdout.flush()


async def watch(monitor, options, between=None):
    """Run the rounds; return True, or False if a signal ended them.

    between: called between two rounds.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    stopped_by = []

    def stop(number):
        stopped_by.append(number)
        task.cancel()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop, number)
    rounds = 0
    try:
        while True:
            started = time.perf_counter()
            await monitor.round()
            rounds += 1
            show(rounds, monitor, time.perf_counter() - started, options.verbose)
            if rounds == options.rounds:
                return True
            if between is not None:
                between()
            # The rounds begin at equal distances, however long one takes.
            spent = time.perf_counter() - started
            await asyncio.sleep(max(options.interval - spent, 0))
    except asyncio.CancelledError:
        if not stopped_by:
            raise
        name = signal.Signals(stopped_by[0]).name
        print(f"stopped by {name} after {rounds} rounds", flush=True)
        return False
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def run(targets, options):
    """Watch; return the exit status."""
    monitor = Monitor(targets, options)
    if not await watch(monitor, options):
        return 0
    return 0 if monitor.count()["up"] == len(targets) else 1


def positive(kind):
    """A type of argument: a number of that kind above 0."""

    def parse(text):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse.__name__ = kind.__name__
    return parse


def at_least_0(text):
    """A type of argument: a whole number from 0 on."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def read_targets(parser, options):
    """The targets that the arguments and the file name; errors end the program."""
    texts = list(options.targets)
    if options.file is not None:
        try:
            with open(options.file, encoding="utf-8") as file:
                lines = (line.partition("#")[0].strip() for line in file)
                texts += filter(None, lines)
        except (OSError, UnicodeDecodeError) as error:
            parser.error(f"--file: {error}")
    targets = {}
    for text in texts:
        try:
            target = Target.parse(text)
        except ValueError as error:
            parser.error(str(error))
        if targets.setdefault(target.name, target) is not target:
            parser.error(f"two targets are named {target.name!r}")
    if not targets:
        parser.error("there are no targets: NAME=HOST:PORT, --file or --demo")
    return list(targets.values())


def arguments():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("targets", nargs="*", metavar="NAME=HOST:PORT")
    add("--file", help="more targets, a line each; # begins a comment")
    add(
        "--timeout",
        type=positive(float),
        default=2.0,
        help="seconds, to connect and to answer each",
    )
    add("--concurrency", type=positive(int), default=200, help="probes at a time")
    add("--rounds", type=at_least_0, default=1, help="0 goes on until a signal")
    add("--interval", type=positive(float), default=10.0, help="seconds a round")
    add("--send", help="a line to send when connected")
    add("--expect", help="what the line that is answered begins with")
    add("--verbose", action="store_true", help="name every target that is not up")
    demo = "probe so many targets of its own (1000), then stop some, and again"
    add("--demo", type=positive(int), nargs="?", const=1000, metavar="N", help=demo)
    return parser


def main():
    """Read the arguments, watch, return the exit status."""
    parser = arguments()
    options = parser.parse_args()
    if options.demo is not None:
        if options.targets or options.file:
            parser.error("--demo has targets of its own")
        import demo

        return asyncio.run(demo.run(options))
    return asyncio.run(run(read_targets(parser, options), options))


if __name__ == "__main__":
    sys.exit(main())
