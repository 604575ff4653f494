"""What pyloop promises of each row, as ratios within one run, and whether it is so."""

from __future__ import annotations

from dataclasses import dataclass

import loops
from results import Result, with_parts

SUBJECT = "pyloop"

#: Not a loop's name: the best of all the loops but pyloop in that row of that run.
BEST_PEER = "the best peer"


@dataclass(frozen=True)
class Bar:
    """A limit for the figure of *subject*, which is pyloop, in the row *key*.

    The figure is divided by that of *against*: a loop's name, loops.RAW, BEST_PEER, or
    "" for no division. With *row* it is divided by the subject's own in that other row,
    to which *plus* is added.
    """

    key: str
    limit: float
    at_least: bool
    against: str = BEST_PEER
    row: str = ""
    plus: float = 0.0
    subject: str = SUBJECT

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        text = f"{'>=' if self.at_least else '<='} {self.limit:.3g}"
        if self.row:
            more = f" + {self.plus:g}" if self.plus else ""
            return f"{text}x its {self.row}{more}"
        return f"{text}x {self.against}" if self.against else text

    def value(self, measured: dict[str, Result]) -> float | None:
        """What is to be compared with the limit; None if it was not measured."""
        result = measured[self.key]
        if self.row:
            other = measured.get(self.row)
            mine = result.median(self.subject)
            base = other and other.median(self.subject)
            return mine / (base + self.plus) if mine and base else None
        if not self.against:
            return result.median(self.subject)
        against = self.against
        if against == BEST_PEER:
            against = result.best_peer() or self.subject  # no peer can do it
        return result.ratio(self.subject, against)


def at_most(key: str, limit: float, against: str = BEST_PEER, **more) -> Bar:
    return Bar(key, limit, False, against, **more)


def at_least(key: str, limit: float, against: str = BEST_PEER, **more) -> Bar:
    return Bar(key, limit, True, against, **more)


#: What docs/performance.md promises on every Python.
PROMISES = (
    at_least("call_soon_one", 3.0, "uvloop"),
    at_least("call_later_cancel", 2.0, "uvloop"),
    at_least("create_task", 2.0, "uvloop"),
    at_most("echo_1k", 1.0, "uvloop"),
    at_most("echo_udp", 0.8, "uvloop"),
    at_most("uvicorn", 0.95, "uvloop"),
)

#: Rows in which no peer is better.
IN_PROCESS = (
    "call_soon_one",
    "call_soon_batch",
    "call_soon_args",
    "call_soon_threadsafe",
    "call_later_cancel",
    "sleep0_one",
    "sleep0_100",
    "gather_sleep",
    "create_task",
    "wait_for",
    "timeout",
    "queue",
    "future",
    "run_in_executor",
    "getaddrinfo",
    "sock_ping_pong",
    "streams_ping_pong",
)

#: Lateness: the rows of sleep, in milliseconds.
SLEEPS = ("0.1", "0.3", "1", "2.5", "10")

#: The bars on Python 3.14 and later, where all peers are.
GOALS = (
    *(at_least(key, 1.0) for key in IN_PROCESS),
    *(
        at_least(key, 2.0, subject=loops.ACCELERATED)
        for key in ("gather_sleep", "wait_for", "timeout", "queue")
    ),
    at_most("echo_1k", 1.08, loops.RAW),
    at_most("echo_1k", 1.0),
    at_most("echo_100k", 1.08, loops.RAW),
    at_most("echo_100k", 1.0),
    at_most("echo_streams", 5.8 / 7.0, "uvloop"),
    at_most("echo_sock", 9 / 16, "uvloop"),
    at_most("echo_udp", 0.8, "uvloop"),
    at_most("uvicorn", 0.65, "uvloop"),
    at_most("uvicorn_syscalls", 2.05, ""),
    at_most("tls", 0.82, "uvloop"),
    at_most("tls", 1.0, "", row="uvicorn_32", plus=3.0),
    at_most("fastapi", 0.8, "uvloop"),
    at_most("aiohttp", 0.8, "uvloop"),
    at_most("idle_rss", 950, ""),
    at_least("connect", 1.0, "uvloop"),
    at_least("spawn", 1.0, "asyncio"),
    at_least("communicate", 1.0, "asyncio"),
    *(at_most(f"answers_{us}us", 1.05, "uvloop") for us in (100, 300, 1000, 3000)),
    *(at_most(f"sleep_{ms}ms", 60, "") for ms in SLEEPS),
    *(at_least(f"sleep_{ms}ms", 0, "") for ms in SLEEPS),
    at_most("echo_conns_5000", 1.3, "", row="echo_1k"),
    at_least("timers_1000000", 0.5, "", row="timers_1000"),
)


def everywhere(results: list[Result]) -> list[Bar]:
    """Before Python 3.14: no peer is better, in any row."""
    return [
        Bar(result.key, 1.0, result.more_is_better)
        for result in results
        if result.unit != "us late"
    ]


def chosen(results: list[Result], python: str) -> list[Bar]:
    """The bars of that Python, as in "3.14.2"."""
    if tuple(map(int, python.split(".")[:2])) >= (3, 14):
        return [*PROMISES, *GOALS]
    return [*PROMISES, *everywhere(results)]


def applies(bar: Bar, measured: dict[str, Result]) -> bool:
    """Whether the rows of *bar* were measured, on the loop that it is about."""
    row = measured.get(bar.key)
    other = measured.get(bar.row) if bar.row else row
    return row is not None and other is not None and bar.subject in row.samples


@dataclass(frozen=True)
class Verdict:
    """One bar of a row that was measured."""

    title: str
    bar: Bar
    figure: str
    met: bool


def judge(results: list[Result], python: str) -> list[Verdict]:
    """Each bar of that Python whose row was measured; those that are missed first."""
    measured = {r.key: r for r in with_parts(results) if r.unit != "instructions"}
    verdicts = []
    for bar in chosen([r for r in results if r.key in measured], python):
        if applies(bar, measured):
            value = bar.value(measured)
            met = value is not None and bar.met(value)
            figure = "not measured" if value is None else f"{value:.3g}"
            verdicts.append(Verdict(measured[bar.key].title, bar, figure, met))
    return sorted(verdicts, key=lambda verdict: verdict.met)


def print_bars(results: list[Result], python: str) -> bool:
    """Each bar of a row that was measured, met or not; False if one is not met."""
    verdicts = judge(results, python)
    if verdicts:
        print(f"\nbars of {SUBJECT}:")
    for verdict in verdicts:
        word = "pass" if verdict.met else "FAIL"
        print(f"  {word} {verdict.figure:<13} {verdict.bar!s:<28} {verdict.title}")
    return all(verdict.met for verdict in verdicts)
