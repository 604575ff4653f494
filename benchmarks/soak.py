"""Load web servers for half a minute and look at what stays behind.

    python benchmarks/soak.py                   uvicorn and aiohttp on pyloop
    python benchmarks/soak.py --loop asyncio --seconds 12 --only aiohttp

For each server, wrk keeps 64 connections busy.  The run fails (exit status 1) when

- a request failed: a connection that could not be made, an error while reading or
  writing, a time-out, or an answer other than 2xx and 3xx;
- resident memory grew after the first 5 s by more than --slack;
- descriptors are open after the load that were not open before it;
- the server wrote to stderr, or did not end cleanly on SIGTERM.

Linux only; needs wrk.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import loops
from servers import harness

CONNECTIONS = 64

#: Memory is looked at from here on: free lists, arenas and caches have filled by then.
SETTLING_SECONDS = 5

#: Samples that are put together at either end, so that one garbage collection in the
#: wrong second is not taken for growth.
WINDOW = 3

#: How long the server has to notice that wrk's connections are closed.
CLOSING_SECONDS = 5


def idle_descriptors(server: harness.Server) -> int:
    """Open descriptors once a request has been answered and its connection is gone.

    What the server opens lazily is open then.
    """
    at_start = server.descriptors()
    request_once(server.port)
    # The connection's own descriptor goes within a tick or two of the server's loop;
    # what is still more than at the start after that is there to stay.
    return settled_descriptors(server, at_start, seconds=1)


def request_once(port: int) -> None:
    """One request on a connection of its own."""
    # No proxy: one from the environment would be asked for 127.0.0.1 otherwise.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/", headers={"Connection": "close"}
    )
    with opener.open(request, timeout=10) as response:
        response.read()


def sample_rss(server: harness.Server, load: subprocess.Popen[bytes]) -> Iterator[int]:
    """The server's resident memory in KiB, once a second until *load* has ended."""
    while True:
        try:
            load.wait(1)
            return
        except subprocess.TimeoutExpired:
            yield server.rss_kib()


def settled_descriptors(server: harness.Server, expected: int, seconds: float) -> int:
    """Open descriptors once there are *expected* of them, or *seconds* later."""
    deadline = time.monotonic() + seconds
    while (count := server.descriptors()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return count


def growth(samples: list[int]) -> int:
    """KiB that the last samples lie above the first ones after SETTLING_SECONDS."""
    settled = samples[SETTLING_SECONDS:]
    if len(settled) < 2 * WINDOW:
        raise ValueError(f"too short: {len(samples)} samples of the memory")
    return round(
        statistics.median(settled[-WINDOW:]) - statistics.median(settled[:WINDOW])
    )


def soak(loop: str, kind: str, seconds: int, slack: int) -> list[str]:
    """Load one server; what is wrong with it, in words."""
    problems = []
    with harness.running(loop, kind) as server:
        before = idle_descriptors(server)
        load = harness.start_wrk(server.port, CONNECTIONS, seconds)
        samples = []
        for rss in sample_rss(server, load):
            samples.append(rss)
            progress(f"{kind} on {loop}: {len(samples)} of {seconds} s, {rss} KiB")
        progress("")
        result = harness.parse_wrk(load.communicate()[0].decode())
        after = settled_descriptors(server, before, CLOSING_SECONDS)
        grown = growth(samples)
        log = server.log()
    if result.failures:
        problems.append(result.failures)
    if grown > slack:
        problems.append(f"memory grew by {grown} KiB after the first 5 s")
    if after != before:
        problems.append(f"{after} descriptors open after the load, {before} before it")
    if log:
        problems.append(f"stderr: {harness.last_line(log)}")
    print(
        f"{kind} on {loop}: {result.requests} requests, {result.rate:.0f}/s; "
        f"RSS {samples[0]} KiB at 1 s, {samples[SETTLING_SECONDS]} at "
        f"{SETTLING_SECONDS + 1} s, {samples[-1]} at the end (grown by {grown}); "
        f"descriptors {before} before, {after} after: "
        + ("FAILED" if problems else "passed")
    )
    return problems


def progress(text: str) -> None:
    """Show *text* on the last line of a terminal, in place of what was there."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loop", default="pyloop", choices=list(loops.LOOPS))
    parser.add_argument("--only", choices=["uvicorn", "aiohttp"])
    parser.add_argument(
        "--seconds", type=int, default=30, help="default: 30; at least 12"
    )
    parser.add_argument(
        "--slack", type=int, default=1024, metavar="KIB", help="default: 1024"
    )
    args = parser.parse_args()
    if args.seconds < SETTLING_SECONDS + 2 * WINDOW + 1:
        parser.error("--seconds: at least 12")
    reason = loops.missing(args.loop)
    if reason is not None:
        sys.exit(f"{args.loop}: {reason}")
    failed = False
    for kind in [args.only] if args.only else ["uvicorn", "aiohttp"]:
        try:
            problems = soak(args.loop, kind, args.seconds, args.slack)
        except harness.LoadError as exc:
            problems = [str(exc)]
        for problem in problems:
            print(f"  {kind} on {args.loop}: {problem}")
        failed = failed or bool(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
