"""Read many log files, work on their lines in a pool, write what came of it.

    python pipeline.py access-*.log --output requests.jsonl
    python pipeline.py --demo

Readers take the files in turn and put blocks of lines in a queue; workers parse a block
in a process or thread of a pool; one writer appends the records, as JSON lines, to the
output. Both queues are bounded, so memory does not depend on how much is read. Lines
that cannot be parsed go to OUTPUT.rejected, with the reason. Until all is written the
output is named OUTPUT.part: a file named OUTPUT is complete. SIGINT or SIGTERM ends the
program early, without an output, and with status 130 or 143.
"""

import argparse
import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import re
import signal
import sys

import aiofiles

BLOCK = 500  # lines
QUEUED = 8  # blocks that wait for a worker, and for the writer
LINE = re.compile(
    r'(?P<host>\S+) \S+ \S+ \[(?P<time>[^]]+)\] "(?P<method>[A-Z]+) (?P<path>\S+) '
    r'[^"]*" (?P<status>\d{3}) (?P<size>\d+|-)'
)


@dataclasses.dataclass
class Block:
    """Some lines of a file; `first` is the first one's number, from 1."""

    name: str
    first: int
    lines: list


@dataclasses.dataclass
class Parsed:
    """What a worker made of a block: JSON lines, and how many of each there are."""

    records: str
    rejected: str
    counts: collections.Counter


def parse(block):
    """Make records of a block's lines; runs in the pool."""
    records, rejected, counts = [], [], collections.Counter()
    for number, line in enumerate(block.lines, block.first):
        match = LINE.match(line)
        if match is None:
            wrong = {"file": block.name, "line": number, "reason": "not a request"}
            rejected.append(json.dumps({**wrong, "text": line}))
            counts["rejected"] += 1
            continue
        record = match.groupdict()
        record["status"] = int(record["status"])
        record["size"] = 0 if record["size"] == "-" else int(record["size"])
        records.append(json.dumps(record))
        counts["records"] += 1
        counts["bytes"] += record["size"]
        counts[f"status {record['status'] // 100}xx"] += 1
    return Parsed(
        "".join(f"{record}\n" for record in records),
        "".join(f"{reject}\n" for reject in rejected),
        counts,
    )


@contextlib.asynccontextmanager
async def opened(path, mode="r"):
    """A text file that is open inside the block.

    open() runs in a thread, where it goes on when we are cancelled: what it opens then
    has to be closed as well.
    """
    opening = asyncio.ensure_future(open_file(path, mode))
    try:
        file = await asyncio.shield(opening)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await (await opening).close()
        raise
    try:
        yield file
    finally:
        await file.close()


async def open_file(path, mode):
    """Open a text file, whatever bytes are in it."""
    return await aiofiles.open(path, mode, encoding="utf-8", errors="replace")


class Pipeline:
    """One run over some files."""

    def __init__(self, paths, output, options, pool):
        self.paths = paths
        self.output = output
        self.options = options
        self.pool = pool
        self.blocks = asyncio.Queue(QUEUED)  # from the readers to the workers
        self.parsed = asyncio.Queue(QUEUED)  # from the workers to the writer
        self.counts = collections.Counter()
        self.held = 0  # blocks that are read and not yet written
        self.most_held = 0

    async def read(self, paths):
        """A reader: put the lines of the files that are left in `paths`, in blocks."""
        for path in paths:
            name, first = os.path.basename(path), 1
            async with opened(path) as file:
                # One call of a thread for a block, and not one for each line.
                while lines := await file.readlines(BLOCK * 100):
                    self.held += 1
                    self.most_held = max(self.held, self.most_held)
                    await self.blocks.put(Block(name, first, lines))
                    first += len(lines)
            self.counts["files"] += 1

    async def work(self):
        """A worker: have blocks parsed, one at a time."""
        loop = asyncio.get_running_loop()
        while True:
            block = await self.blocks.get()
            await self.parsed.put(await loop.run_in_executor(self.pool, parse, block))
            self.blocks.task_done()

    async def write(self, output, rejected):
        """The writer: append what the workers made."""
        while True:
            parsed = await self.parsed.get()
            await output.write(parsed.records)
            await rejected.write(parsed.rejected)
            self.counts.update(parsed.counts)
            self.held -= 1
            self.parsed.task_done()

    async def run(self):
        """Read, parse and write everything; an error of any part ends all of them."""
        part, rejects = f"{self.output}.part", f"{self.output}.rejected"
        try:
            async with opened(part, "w") as output, opened(rejects, "w") as rejected:
                await self._run_stages(output, rejected)
            os.replace(part, self.output)
        except BaseException:
            for path in (part, rejects):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)
            raise

    async def _run_stages(self, output, rejected):
        paths = iter(self.paths)  # which the readers share
        readers = start("reader", self.options.readers, lambda: self.read(paths))
        others = start("worker", self.options.workers, self.work)
        others += start("writer", 1, lambda: self.write(output, rejected))
        finished = asyncio.create_task(self._finish(readers), name="finish")
        tasks = [*readers, *others, finished]
        try:
            # Workers and the writer do not end, unless by an error, as readers may.
            waiting = set(tasks)
            while not finished.done():
                done, waiting = await asyncio.wait(
                    waiting, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _finish(self, readers):
        """Wait until each stage has taken all that the one before has made."""
        await asyncio.wait(readers)
        await self.blocks.join()
        await self.parsed.join()


def start(name, count, function):
    """Start so many tasks of a coroutine function."""
    return [
        asyncio.create_task(function(), name=f"{name} {number}")
        for number in range(count)
    ]


def make_pool(options):
    """The pool in which blocks are parsed."""
    if options.pool == "threads":
        return concurrent.futures.ThreadPoolExecutor(options.workers)
    return concurrent.futures.ProcessPoolExecutor(
        options.workers, initializer=leave_signals_to_the_parent
    )


def leave_signals_to_the_parent():
    """In a process of the pool: Ctrl-C reaches it too, and is the parent's affair."""
    signal.set_wakeup_fd(-1)  # a forked process has its parent's
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


async def run(paths, output, options):
    """Run a pipeline to its end, or to a signal; return (status, its counts)."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    stopped_by = []

    def stop(number):
        name = signal.Signals(number).name
        print(f"stopped by {name}: there is no output", flush=True)
        stopped_by.append(number)
        task.cancel()

    with make_pool(options) as pool:
        # Processes are made here, before this process has threads and handlers.
        await asyncio.gather(
            *(loop.run_in_executor(pool, os.getpid) for _ in range(options.workers))
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        pipeline = Pipeline(paths, output, options, pool)
        try:
            print(f"reading {len(paths)} files", flush=True)
            await pipeline.run()
        except asyncio.CancelledError:
            if not stopped_by:
                raise
            return 128 + stopped_by[0], pipeline
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
    return 0, pipeline


def show(pipeline):
    """Print what a pipeline has done."""
    for name, number in sorted(pipeline.counts.items()):
        print(f"{name}: {number}")
    print(f"blocks in memory: {pipeline.most_held} at most")


def count(text):
    """A type of argument: a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def arguments():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE")
    add("--output", metavar="OUTPUT")
    add("--readers", type=count, default=4, help="files that are read at a time")
    add("--workers", type=count, default=os.cpu_count() or 1, help="size of the pool")
    add("--pool", choices=("processes", "threads"), default="processes")
    add("--demo", action="store_true", help="work on files that it writes itself")
    return parser


def main():
    """Read the arguments, run, return the exit status."""
    parser = arguments()
    options = parser.parse_args()
    if options.demo:
        if options.files or options.output:
            parser.error("--demo has files of its own")
        import demo

        return demo.main(options)
    if not options.files:
        parser.error("there are no files to read")
    if not options.output:
        parser.error("--output says where the records go")
    try:
        status, pipeline = asyncio.run(run(options.files, options.output, options))
    except (OSError, concurrent.futures.BrokenExecutor) as error:
        print(f"pipeline: {error}", file=sys.stderr)
        return 1
    if status == 0:
        show(pipeline)
    return status


if __name__ == "__main__":
    sys.exit(main())
