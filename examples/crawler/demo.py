"""The demo: a site on pyloop, and a crawler that visits it on asyncio and on pyloop.

    python demo.py

website.py and crawler.py are ordinary aiohttp programs that do not know of pyloop;
run_on.py starts them on one loop or the other, each in a process of its own. Ends
with an error unless both runs found the same, and found what the site is made of.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys

import website

HERE = pathlib.Path(__file__).resolve().parent
CRAWL_SECONDS = 50  # a crawl that takes longer than this is stuck


class DemoError(Exception):
    """Something is not as it should be; the message is for the user."""


def command(loop, program, *arguments):
    """The command line that runs one of our programs on a loop."""
    return [
        sys.executable,
        str(HERE / "run_on.py"),
        loop,
        str(HERE / program),
        *map(str, arguments),
    ]


@contextlib.contextmanager
def serving(loop, seed):
    """Run the site; yields its address and the name of its loop's class."""
    site = subprocess.Popen(
        command(loop, "website.py", "--seed", seed), stdout=subprocess.PIPE, text=True
    )
    try:
        line = site.stdout.readline()
        if not line:
            raise DemoError(f"the site did not start (status {site.wait()})")
        yield line.split()
        site.terminate()
        if site.wait(timeout=10) != 0:
            raise DemoError(f"the site ended with status {site.returncode}")
    finally:
        site.kill()
        site.wait()
        site.stdout.close()


def crawl(loop, address):
    """Run the crawler; return its results."""
    done = subprocess.run(
        command(loop, "crawler.py", address, "--label", loop),
        stdout=subprocess.PIPE,
        text=True,
        timeout=CRAWL_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise DemoError(f"the crawler ended with status {done.returncode} on {loop}")
    return json.loads(done.stdout)


def expected(plan):
    """What a crawl of the planned site has to find."""
    return {
        "pages": {
            path: hashlib.sha256(plan.body(path).encode()).hexdigest()
            for path in plan.links
            if path not in plan.late
        },
        "missing": sorted(plan.missing),
        "redirects": {"/": "/page/0", **plan.redirects},
        "timed out": sorted(plan.late),
        "timed out twice": sorted(plan.late),
        "errors": {},
    }


def differences(results, plan):
    """The lines that say how a crawl's results differ from the plan."""
    for name, wanted in expected(plan).items():
        found = results[name]
        if found != wanted:
            paths = ", ".join(sorted(set(found) ^ set(wanted))[:8])
            yield f"{name}: {len(found)} where {len(wanted)} were expected: {paths}"


def print_table(rows):
    """Print rows of a label and two values."""
    for label, *values in rows:
        print(f"  {label:<28}" + "".join(f"{value:>32}" for value in values))


def short_name(loop):
    """The package and the class of a loop, "asyncio._UnixSelectorEventLoop"."""
    parts = loop.split(".")
    return f"{parts[0]}.{parts[-1]}"


def show(names, runs):
    """Print what was fetched and how fast, one column a loop."""
    print_table(
        [
            ("", *names),
            ("event loop", *(short_name(run["event loop"]) for run in runs)),
            ("pages fetched", *(len(run["pages"]) for run in runs)),
            ("redirects followed", *(len(run["redirects"]) for run in runs)),
            ("missing (404)", *(len(run["missing"]) for run in runs)),
            ("timed out", *(len(run["timed out"]) for run in runs)),
            ("timed out again on a retry", *(len(r["timed out twice"]) for r in runs)),
            ("other errors", *(len(run["errors"]) for run in runs)),
            (
                "crawl, timeouts included",
                *(f"{r['crawl seconds']:.1f} s" for r in runs),
            ),
            ("pages per second", *(f"{run['pages per second']:.0f}" for run in runs)),
            ("CPU per page", *(f"{r['CPU per page'] * 1e6:.0f} us" for r in runs)),
        ]
    )


def check(names, runs, plan):
    """Raise unless every run found what the site is made of, and so the same."""
    for name, run in zip(names, runs, strict=True):
        if not run["event loop"].startswith(f"{name}."):
            raise DemoError(f"the crawl on {name} ran on {run['event loop']}")
        if found := list(differences(run, plan)):
            raise DemoError(f"the crawl on {name} went wrong:\n  " + "\n  ".join(found))


def main():
    """Serve, crawl twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of the site")
    parser.add_argument("--site-loop", default="pyloop", help="the loop of the site")
    parser.add_argument(
        "--loops", nargs="+", default=["asyncio", "pyloop"], help="those of the crawls"
    )
    options = parser.parse_args()
    plan = website.Plan.make(options.seed)
    print(
        f"CPython {platform.python_version()}, "
        f"aiohttp {importlib.metadata.version('aiohttp')}"
    )
    with serving(options.site_loop, options.seed) as (address, loop):
        print(f"A site of {len(plan.links)} pages is on {address}, served by {loop}.")
        runs = [crawl(name, address) for name in options.loops]
    print()
    show(options.loops, runs)
    print("\n  timed out:", *(path.split("/")[-1] for path in runs[0]["timed out"]))
    check(options.loops, runs, plan)
    first, last = runs[0], runs[-1]
    rate = last["pages per second"] / first["pages per second"]
    cost = last["CPU per page"] / first["CPU per page"]
    print(
        "\nAll runs agree with each other and with the site, page by page.\n"
        f"{options.loops[-1]} against {options.loops[0]}: {rate:.2f} times the pages"
        f" per second, {cost:.2f} times the CPU time per page."
    )


if __name__ == "__main__":
    try:
        main()
    except (DemoError, subprocess.TimeoutExpired) as error:
        sys.exit(f"demo: {error}")
