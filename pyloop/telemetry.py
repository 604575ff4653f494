"""A loop's metrics as OpenTelemetry's: ``pyloop.telemetry.instrument(loop)``.

Needs opentelemetry-api (``pyloop-uv[telemetry]``). Nothing runs per callback: when the
SDK collects, from whatever thread, ``loop.metrics()`` is read once for each instrument.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from pyloop._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyloop._loop import Loop
    from pyloop.metrics import Metrics

__all__ = ["Instrumentation", "instrument"]

# Name, unit (UCUM), field of Metrics, what it is. Fields only grow: counters.
COUNTERS = (
    ("pyloop.ticks", "{tick}", "ticks", "Iterations"),
    ("pyloop.polls", "{poll}", "polls", "Times that the kernel was asked for events"),
    ("pyloop.callbacks", "{callback}", "callbacks", "Callbacks and events run"),
    ("pyloop.time.busy", "s", "busy_seconds", "Time not spent waiting"),
    ("pyloop.time.idle", "s", "idle_seconds", "Time spent waiting for events"),
    ("pyloop.network.io.received", "By", "bytes_in", "Bytes received"),
    ("pyloop.network.io.sent", "By", "bytes_out", "Bytes sent"),
    ("pyloop.network.messages.received", "{message}", "messages_in", "Receiving calls"),
    ("pyloop.network.messages.sent", "{message}", "messages_out", "Sending calls"),
    ("pyloop.threadsafe.calls", "{call}", "threadsafe_calls", "Calls by other threads"),
    ("pyloop.wakeups", "{wakeup}", "wakeups", "Times that others woke the loop"),
    ("pyloop.accept.pauses", "{pause}", "accept_pauses", "Servers out of descriptors"),
    ("pyloop.executor.jobs", "{job}", "executor_jobs", "Jobs of the default executor"),
    ("pyloop.executor.wait", "s", "executor_wait_seconds", "What its jobs waited"),
)
GAUGES = (
    ("pyloop.utilization", "1", "utilisation", "Share of its running time, busy"),
    ("pyloop.ready", "{callback}", "ready", "Callbacks in the ready queue"),
    ("pyloop.ready.max", "{callback}", "ready_max", "The most that ever were"),
    ("pyloop.timers", "{timer}", "timers", "Timers that wait"),
    ("pyloop.transports", "{transport}", "transports", "Transports that are open"),
    ("pyloop.descriptors", "{descriptor}", "descriptors", "Descriptors watched"),
    ("pyloop.executor.queue", "{job}", "executor_queue", "Jobs that wait"),
    ("pyloop.executor.running", "{job}", "executor_running", "Jobs that run"),
)
# Field of Lag, the quantile that is told as an attribute.
QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))


class Instrumentation:
    """What :func:`instrument` returns: the loop is exported until ``uninstrument()``.

    The loop is not kept alive by it: one that is gone is reported no more.
    """

    def __init__(self, loop: Loop, attributes: dict[str, Any]) -> None:
        self._loop: weakref.ref[Loop] | None = weakref.ref(loop)
        self._attributes = attributes

    def uninstrument(self) -> None:
        """Export nothing more. Idempotent, from any thread.

        OpenTelemetry's API has no way to take an instrument back: they stay, empty.
        """
        self._loop = None

    def _is_over(self) -> bool:
        reference = self._loop
        return reference is None or reference() is None

    def _read(self) -> Metrics | None:
        reference = self._loop
        loop = reference() if reference is not None else None
        return loop.metrics() if loop is not None else None

    def _observation(self, value: float, **attributes: Any) -> Any:
        from opentelemetry.metrics import Observation

        return Observation(value, {**self._attributes, **attributes})

    def _observe(self, field: str) -> Iterable[Any]:
        metrics = self._read()
        if metrics is not None:
            yield self._observation(getattr(metrics, field))

    def _observe_lag(self) -> Iterable[Any]:
        metrics = self._read()
        for field, quantile in QUANTILES if metrics is not None else ():
            value = getattr(metrics.lag, field) if metrics is not None else 0.0
            yield self._observation(value, quantile=quantile)

    def _observe_slowest(self) -> Iterable[Any]:
        metrics = self._read()
        for slow in metrics.slowest if metrics is not None else ():
            yield self._observation(
                slow.seconds,
                **{"code.function.name": slow.name, "code.where": slow.where},
            )


class _Instruments:
    """Those of one provider, and the loops that they tell of.

    There is one set of them, whatever number of loops: of instruments that are made
    twice under a name, OpenTelemetry's SDK asks the first alone.
    """

    def __init__(self, meter: Any) -> None:
        self._loops: tuple[Instrumentation, ...] = ()
        for name, unit, field, text in COUNTERS:
            meter.create_observable_counter(
                name, [self._asking(field)], unit=unit, description=text
            )
        for name, unit, field, text in GAUGES:
            meter.create_observable_gauge(
                name, [self._asking(field)], unit=unit, description=text
            )
        meter.create_observable_gauge(
            "pyloop.lag",
            [lambda options: self._each(Instrumentation._observe_lag)],
            unit="s",
            description="How long an event waits for the loop, by quantile",
        )
        meter.create_observable_gauge(
            "pyloop.callback.slowest",
            [lambda options: self._each(Instrumentation._observe_slowest)],
            unit="s",
            description="The longest run of the slowest callbacks",
        )

    def add(self, loop: Instrumentation) -> None:
        self._loops = (*(one for one in self._loops if not one._is_over()), loop)

    def _asking(self, field: str) -> Callable[[Any], Iterable[Any]]:
        return lambda options: self._each(lambda loop: loop._observe(field))

    def _each(
        self, observe: Callable[[Instrumentation], Iterable[Any]]
    ) -> Iterable[Any]:
        for loop in self._loops:
            yield from observe(loop)


_lock = threading.Lock()
_of_providers: weakref.WeakKeyDictionary[Any, _Instruments] = (
    weakref.WeakKeyDictionary()
)


class _Global:
    """Stands for OpenTelemetry's global provider, which may be set later."""


def instrument(
    loop: Loop, meter_provider: Any = None, *, name: str = "main"
) -> Instrumentation:
    """Export the metrics of a loop through OpenTelemetry; return the handle.

    meter_provider: where to; None is OpenTelemetry's global one. name: what tells this
    loop's figures from another's, as the attribute ``pyloop.loop``. Raises ImportError
    without opentelemetry-api, and TypeError for a loop that is not pyloop's.
    """
    from pyloop._loop import Loop as OwnLoop

    if not isinstance(loop, OwnLoop):
        raise TypeError(f"loop: a pyloop.Loop is required, not {type(loop).__name__}")
    try:
        from opentelemetry import metrics
    except ImportError as error:
        raise ImportError(
            "pyloop.telemetry needs opentelemetry-api, which is not installed: "
            "it comes with the extra `telemetry` of pyloop-uv"
        ) from error
    provider = _Global if meter_provider is None else meter_provider
    handle = Instrumentation(loop, {"pyloop.loop": name})
    with _lock:
        instruments = _of_providers.get(provider)
        if instruments is None:
            meter = metrics.get_meter(
                "pyloop", __version__, meter_provider=meter_provider
            )
            instruments = _of_providers[provider] = _Instruments(meter)
        instruments.add(handle)
    return handle
