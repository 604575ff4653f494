"""Runs the programs of this experiment in turn and prints its tables.

Rounds are interleaved: each round runs every way once, in rotating order, so that a
slow moment of the machine falls on all ways.  The server is on core 0, its load on
core 1.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

WAYS = ["uv_poll", "nested", "nested_first", "inverted", "uv_tcp"]

# Name, work, connections, bytes of a message.
ECHO_ROWS = [
    ("1 connection, 1 KiB, ping-pong", "echo", 1, 1024),
    ("10 connections, 1 KiB", "echo", 10, 1024),
    ("50 connections, 1 KiB", "echo", 50, 1024),
    ("500 connections, 1 KiB", "echo", 500, 1024),
    ("10 connections, 100 KiB", "echo", 10, 102400),
    ("50 connections, write interest per message", "mask", 50, 1024),
    ("a connection per message", "churn", 1, 1024),
]

WAKE_WAYS = [
    "uv_poll",
    "nested",
    "nested_first",
    "inverted",
    "inverted_eventfd",
    "inverted_eventfd_edge",
]

TIMER_WAYS = ["epoll_wait", "uv_timer", "pwait2", "pwait2_slack", "timerfd", "nested"]

# Microseconds to wait, how often in one round.
TIMER_WAITS = [(100, 400), (300, 300), (1000, 150), (2500, 80), (10000, 25)]


def run(build, program, *args):
    """Returns what the program printed, one JSON object.  Fails as the program does."""
    done = subprocess.run(
        [build / program, *map(str, args)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
        text=True,
    )
    return json.loads(done.stdout)


def rotated(items, by):
    by %= len(items)
    return items[by:] + items[:by]


def ways_of(work):
    """The reference has no mask to change."""
    return [way for way in WAYS if work != "mask" or way != "uv_tcp"]


def print_table(title, columns, rows):
    cells = [["", *columns]] + rows
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    print(f"\n{title}\n")
    for number, row in enumerate(cells):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("| " + " | ".join(padded) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def median_and_best(values, digits=2):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f})"


def measure_echo(build, rounds, seconds):
    results = {}
    for number in range(rounds):
        for row in ECHO_ROWS:
            for way in rotated(ways_of(row[1]), number):
                result = run(build, "echo", way, *row[1:], seconds)
                results.setdefault((row, way), []).append(result)
    return results


def print_echo(results):
    def table(title, cell):
        rows = []
        for row in ECHO_ROWS:
            cells = [cell(row, way) if (row, way) in results else "" for way in WAYS]
            rows.append([row[0], *cells])
        print_table(title, WAYS, rows)

    def figures(row, way, name):
        return [result[name] for result in results[row, way]]

    def difference(row, way):
        # Within a round, so that what disturbs a whole round falls out.
        mine = figures(row, way, "cpu_us")
        other = figures(row, "inverted", "cpu_us")
        percent = [(a / b - 1) * 100 for a, b in zip(mine, other, strict=True)]
        return f"{statistics.median(percent):+.1f}%"

    table(
        "Server CPU (user + system), us per message: median (best)",
        lambda row, way: median_and_best(figures(row, way, "cpu_us")),
    )
    table("The same against inverted: median of the rounds' differences", difference)
    table(
        "Thousand messages per second: median",
        lambda row, way: (
            f"{statistics.median(figures(row, way, 'per_second')) / 1000:.1f}"
        ),
    )
    table(
        "Waits per message: median",
        lambda row, way: f"{statistics.median(figures(row, way, 'waits')):.3f}",
    )


def print_counts(build, seconds):
    rows = []
    for row in ECHO_ROWS:
        cells = [row[0]]
        for way in WAYS:
            if way not in ways_of(row[1]):
                cells.append("")
                continue
            result = run(build, "echo-count", way, *row[1:], seconds)
            cells.append(f"{result['syscalls']:.2f} ({result['epoll_ctls']:.2f})")
        rows.append(cells)
    print_table(
        "System calls of the server per message (of which epoll_ctl)", WAYS, rows
    )


def print_wakes(build, rounds, count):
    results = {}
    for number in range(rounds):
        for way in rotated(WAKE_WAYS, number):
            results.setdefault(way, []).append(run(build, "wake", way, count))
    rows = []
    for name, title in [
        ("cpu_us", "CPU of the loop's thread"),
        ("send_us", "the waking call, for its caller"),
        ("latency_us", "from that call to the loop's return"),
    ]:
        rows.append(
            [title]
            + [median_and_best([r[name] for r in results[w]], 1) for w in WAKE_WAYS]
        )
    print_table("A wake from another thread, us: median (best)", WAKE_WAYS, rows)


def print_timers(build, rounds, share):
    results = {}
    for number in range(rounds):
        for wait, count in TIMER_WAITS:
            for way in rotated(TIMER_WAYS, number):
                result = run(build, "timers", way, wait, max(10, int(count * share)))
                results.setdefault((wait, way), []).append(result)

    def table(title, cell):
        print_table(
            title,
            TIMER_WAYS,
            [
                [
                    f"{wait / 1000:g} ms",
                    *(cell(results[wait, way]) for way in TIMER_WAYS),
                ]
                for wait, _ in TIMER_WAITS
            ],
        )

    def lateness(runs):
        median = statistics.median(r["median_us"] for r in runs)
        p99 = statistics.median(r["p99_us"] for r in runs)
        return f"{median:.0f} / {p99:.0f}"

    table("Lateness of a deadline, us: median / 99th percentile", lateness)
    table("Early returns", lambda runs: str(sum(r["early"] for r in runs)))
    table(
        "CPU of a wait, us: median (best)",
        lambda runs: median_and_best([r["cpu_us"] for r in runs], 1),
    )


def print_clocks(build, rounds):
    results = [run(build, "clocks") for _ in range(rounds)]
    rows = [
        [name, median_and_best([r[name]["median_ns"] for r in results], 1)]
        for name in results[0]
    ]
    print_table("Clocks and polls, ns per call", ["median (best)"], rows)


def print_traps(build):
    result = run(build, "traps")
    ways = list(next(iter(result.values())))
    rows = [[case, *(outcome[way] for way in ways)] for case, outcome in result.items()]
    print_table("What users do to watched descriptors", ways, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    args = parser.parse_args()
    quick = args.quick
    versions = run(args.build, "clocks", "--version")
    print(f"libuv {versions['libuv']}, Linux {versions['linux']}")
    print_traps(args.build)
    print_echo(measure_echo(args.build, 3 if quick else 15, 0.1 if quick else 0.12))
    print_counts(args.build, 0.15)
    print_wakes(args.build, 2 if quick else 5, 2000)
    print_timers(args.build, 1 if quick else 3, 0.3 if quick else 1)
    print_clocks(args.build, 1 if quick else 7)
    return 0


if __name__ == "__main__":
    sys.exit(main())
