"""The programs of examples/broken: the report has the line that is at fault."""

import sys

import brokenkit
import pytest

pytestmark = pytest.mark.pyloop_only


def test_fd_leak():
    report = brokenkit.run_broken("fd_leak", "--debug", "--report")
    brokenkit.assert_named(report, "fd_leak")
    path, line = brokenkit.culprit("fd_leak")
    left = [text for text in report.splitlines() if text.startswith("  TCP fd=")]
    assert sum(text.endswith(f" created at {path}:{line}") for text in left) == 5


def test_fd_leak_without_debug_mode():
    report = brokenkit.run_broken("fd_leak", "--report")
    assert report.count("\n  TCP fd=") >= 5 and "created at" not in report
    assert "(with --debug, where each transport was made)" in report


def test_thread_calls_call_soon():
    report = brokenkit.run_broken("thread_calls_call_soon", "--debug", hangs=True)
    brokenkit.assert_named(report, "thread_calls_call_soon")
    assert "Non-thread-safe operation" in report


REGEX = pytest.param(
    "regex",
    marks=pytest.mark.skipif(
        not getattr(sys, "_is_gil_enabled", lambda: True)(),
        reason="without a GIL the call cannot be stopped to be looked at, and has "
        "returned when its frames are read",
    ),
)


@pytest.mark.parametrize("name", ["blocking_call", "cpu_loop", "slow_dns", REGEX])
def test_what_blocks_the_loop(name):
    report = brokenkit.run_broken(name, "--watchdog", "0.05")
    brokenkit.assert_named(report, name)
    assert "has blocked the event loop of thread 'MainThread'" in report
    assert "seconds so far" in report
