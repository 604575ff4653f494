"""pyloop.telemetry against OpenTelemetry's SDK, and the example for Prometheus."""

import asyncio
import importlib.util
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import support

pytestmark = pytest.mark.pyloop_only

needs_sdk = pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry") is None
    or importlib.util.find_spec("opentelemetry.sdk") is None,
    reason="opentelemetry-sdk is not installed",
)


@pytest.fixture
def collected(loop):
    """(instrumentation, a function that collects: {name: [(value, attributes)]})."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from pyloop import telemetry

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)

    def collect():
        data = reader.get_metrics_data()
        return {
            metric.name: [
                (p.value, dict(p.attributes)) for p in metric.data.data_points
            ]
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    yield telemetry.instrument(loop, provider, name="first"), collect
    provider.shutdown()


@needs_sdk
def test_what_is_exported(loop, collected):
    from pyloop import telemetry

    _, collect = collected
    loop.call_later(3600, print)
    loop.call_soon(time.sleep, 0.05)
    support.spin(loop)
    metrics = loop.metrics()
    exported = collect()
    names = {entry[0] for entry in telemetry.COUNTERS + telemetry.GAUGES}
    assert set(exported) == names | {"pyloop.lag", "pyloop.callback.slowest"}
    own = {"pyloop.loop": "first"}
    assert exported["pyloop.callbacks"] == [(metrics.callbacks, own)]
    assert exported["pyloop.timers"] == [(1, own)]
    assert exported["pyloop.time.busy"][0][0] == pytest.approx(metrics.busy_seconds)
    quantiles = [attributes["quantile"] for _, attributes in exported["pyloop.lag"]]
    assert quantiles == [0.5, 0.9, 0.99, 0.999, 1.0]
    assert exported["pyloop.callback.slowest"][0][1]["code.function.name"] == "sleep"


@needs_sdk
def test_every_number_is_exported():
    import dataclasses

    from pyloop import metrics, telemetry

    exported = {entry[2] for entry in telemetry.COUNTERS + telemetry.GAUGES}
    fields = {field.name for field in dataclasses.fields(metrics.Metrics)}
    assert exported - fields == {"utilisation"}
    assert fields - exported == {"lag", "slowest", "executor_wait_max_seconds"}


@needs_sdk
def test_uninstrument(loop, collected):
    handle, collect = collected
    assert collect()
    handle.uninstrument()
    handle.uninstrument()
    assert not any(collect().values())


@needs_sdk
def test_a_loop_is_not_kept(loop_kind):
    from opentelemetry.sdk.metrics import MeterProvider

    from pyloop import telemetry

    provider = MeterProvider(shutdown_on_exit=False)
    loop = support.make_loop(loop_kind)
    handle = telemetry.instrument(loop, provider)
    loop.close()
    del loop
    support.collect()
    assert handle._read() is None
    provider.shutdown()


def test_without_opentelemetry(loop, monkeypatch):
    from pyloop import telemetry

    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ImportError, match="needs opentelemetry-api"):
        telemetry.instrument(loop)


def test_of_another_loop():
    from pyloop import telemetry

    other = asyncio.SelectorEventLoop()
    try:
        with pytest.raises(TypeError, match="a pyloop.Loop is required"):
            telemetry.instrument(other)
    finally:
        other.close()


def test_the_example_for_prometheus():
    program = os.path.join(support.PROJECT_DIR, "examples", "prometheus.py")
    with subprocess.Popen(
        [sys.executable, program, "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=support.script_environment(),
    ) as process:
        try:
            url = process.stdout.readline().strip()
            with urllib.request.urlopen(url, timeout=support.PATIENCE) as response:
                assert response.headers["Content-Type"] == "text/plain; version=0.0.4"
                lines = response.read().decode().splitlines()
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(url + "2", timeout=support.PATIENCE)
            caught.value.close()
        finally:
            process.terminate()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values["pyloop_callbacks_total"]) > 0
    assert float(values["pyloop_bytes_in_total"]) > 0
    assert int(values["pyloop_transports"]) == 1
    assert float(values['pyloop_lag_seconds{quantile="1"}']) > 0
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE ")}
    assert {name.partition("{")[0] for name in values} == typed
