"""What a loop has counted of itself: ``loop.metrics()`` returns a :class:`Metrics`.

Everything is counted all the time, in C, where it happens (docs/internals/metrics.md
says how, and what it costs). Counters begin at 0 when the loop is made, and in a forked
child when it first uses the loop; they never decrease. docs/how-busy.md is about
reading them.
"""

from __future__ import annotations

import inspect
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyloop._loop import Loop, counts_jobs

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Lag", "Metrics", "SlowCallback"]


@dataclass(frozen=True)
class Lag:
    """How long a loop does not look at what has become ready, in seconds.

    From one look at the kernel to the next, the loop runs callbacks; a message that
    comes meanwhile waits until the next look, and then for the callbacks before its
    own. ``p99`` is the time that 99 of 100 events wait at most for that look, if they
    come at random moments of the time in which the loop ran: so one callback of 100 ms
    counts as the 100 ms of arrivals that it delays, not as one in a million callbacks,
    and an event that finds the loop idle waits for 0. Accurate to 4 %.
    """

    p50: float
    """Seconds that half of all events wait at most."""
    p90: float
    """Seconds that 90 of 100 events wait at most."""
    p99: float
    """Seconds that 99 of 100 events wait at most."""
    p999: float
    """Seconds that 999 of 1000 events wait at most."""
    max: float
    """The longest time in seconds from one look to the next."""


@dataclass(frozen=True)
class SlowCallback:
    """One of the callbacks that took longest."""

    name: str
    """The function's qualified name; for a step of a task its coroutine function's, for
    an event of a transport its protocol class's."""
    where: str
    """``file:line`` where that is defined; empty for what is made in C."""
    seconds: float
    """Its longest run, in seconds of elapsed time."""


@dataclass(frozen=True)
class Metrics:
    """A moment's reading of what a loop counts; ``loop.metrics()`` makes it.

    Frozen, of plain numbers, strings and such dataclasses: it can be pickled, compared,
    and given to ``dataclasses.asdict()``.
    """

    ticks: int
    """Iterations."""
    polls: int
    """Times that the kernel was asked for events."""
    callbacks: int
    """Callbacks and events of descriptors taken from the ready queue, cancelled ones
    included."""

    busy_seconds: float
    """Seconds in which the loop ran and did not wait for events."""
    idle_seconds: float
    """Seconds in which the loop ran and waited for events, or to get the GIL back after
    that. The time between two runs is in neither."""

    ready: int
    """Callbacks and descriptors in the ready queue now, calls from other threads
    included."""
    ready_max: int
    """The most that ever were there when an iteration began."""
    timers: int
    """Timers that wait now."""

    lag: Lag
    """How long events wait for the loop, in seconds."""
    slowest: tuple[SlowCallback, ...]
    """Up to 8 callbacks that took longest, of those that took about 100 us or more,
    slowest first; each function once. In a busy loop, one among many short callbacks of
    an iteration may be left out the first time."""

    transports: int
    """Stream, datagram and pipe transports that are open now; one with TLS counts once,
    a subprocess by its pipes."""
    descriptors: int
    """Descriptors that are watched now: for transports that read or wait to write, for
    servers, add_reader(), sock_*. The loop's own are left out."""

    bytes_in: int
    """Bytes received: by transports and sock_*; of TLS, the encrypted ones. Here and
    below, without those of transports over sockets with methods of their own."""
    bytes_out: int
    """Bytes that the kernel took, likewise, sendfile() included."""
    messages_in: int
    """Receiving calls that brought data; of datagrams, datagrams."""
    messages_out: int
    """Sending calls that the kernel took something of; of datagrams, datagrams."""

    threadsafe_calls: int
    """Calls of call_soon_threadsafe() by other threads while the loop ran."""
    wakeups: int
    """Times that the loop was woken for such calls, which come in batches, or otherwise
    from outside."""
    accept_pauses: int
    """Times that a server paused accepting for a second because descriptors or memory
    were used up."""

    executor_jobs: int
    """Jobs given to the default executor, if that is a plain ThreadPoolExecutor."""
    executor_queue: int
    """Jobs that wait for one of its threads now."""
    executor_running: int
    """Jobs that it runs now."""
    executor_wait_seconds: float
    """Seconds that jobs have waited for a thread, all together."""
    executor_wait_max_seconds: float
    """The longest such wait, in seconds."""

    @property
    def utilisation(self) -> float:
        """The share of its running time in which the loop was busy, from 0 to 1."""
        total = self.busy_seconds + self.idle_seconds
        return self.busy_seconds / total if total > 0 else 0.0

    def utilisation_since(self, earlier: Metrics) -> float:
        """The same of the time since ``earlier``, a reading of the same loop."""
        busy = self.busy_seconds - earlier.busy_seconds
        total = busy + (self.idle_seconds - earlier.idle_seconds)
        return busy / total if total > 0 else 0.0


def read(loop: Loop) -> Metrics:
    """A reading of the loop's counters."""
    figures: dict[str, Any] = loop._read_metrics()
    lag = _lag(
        figures.pop("stretches"),
        figures.pop("stretch"),
        figures.pop("stretch_max"),
        figures["busy_seconds"] + figures["idle_seconds"],
    )
    slowest = sorted(figures.pop("slowest"), key=lambda pair: -pair[1])
    figures["transports"] += len(loop._selector_transports())
    figures["descriptors"] = max(figures["descriptors"] - loop._internal_fds, 0)
    executor = loop._default_executor
    queue = getattr(executor, "_work_queue", None) if executor is not None else None
    waiting = queue.qsize() if queue is not None and counts_jobs(executor) else 0
    return Metrics(
        lag=lag,
        slowest=tuple(SlowCallback(*_name(key), seconds) for key, seconds in slowest),
        executor_queue=waiting,
        **figures,
    )


def _lag(
    stretches: Sequence[tuple[float, int]], now: float, longest: float, total: float
) -> Lag:
    """The percentiles of how long the rest of a stretch is at a random moment.

    stretches: (seconds, how often), shortest first; now: the one that has begun; total:
    all the time that these are part of.
    """
    counted = sorted([*stretches, (now, 1)])
    longest = max(longest, now)
    total = max(total, sum(seconds * count for seconds, count in counted))

    def percentile(share: float) -> float:
        # At more than x seconds before its end is a stretch of s for s - x.
        allowed = total * (1 - share)
        time = 0.0
        number = 0
        for index in range(len(counted) - 1, -1, -1):
            seconds, count = counted[index]
            time += seconds * count
            number += count
            below = counted[index - 1][0] if index > 0 else 0.0
            if time - number * below >= allowed:
                return min(max((time - allowed) / number, below), longest)
        return 0.0

    return Lag(
        percentile(0.5), percentile(0.9), percentile(0.99), percentile(0.999), longest
    )


def _name(key: Any) -> tuple[str, str]:
    """The name and the file:line of what a slow callback is told apart by."""
    if isinstance(key, types.CodeType):
        name = getattr(key, "co_qualname", key.co_name)  # from Python 3.11 on
        return name, f"{key.co_filename}:{key.co_firstlineno}"
    if isinstance(key, str):
        return key, ""
    return f"{key.__module__}.{key.__qualname__}", _where_received(key)


def _where_received(cls: type) -> str:
    """Where a protocol's class takes data."""
    for method in ("data_received", "buffer_updated", "datagram_received", "__call__"):
        function = inspect.getattr_static(cls, method, None)
        if isinstance(function, types.FunctionType):
            code = function.__code__
            return f"{code.co_filename}:{code.co_firstlineno}"
    return ""
