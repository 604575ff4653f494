"""The tests of CPython's that are left out, and why.

They are run all the same: one that passes has to be taken off the list. A name stands
for itself, or, with `*` in it, for all that it matches. "3.12" behind a name means from
that version on, "-3.12" up to it, "3.11-3.12" from one to the other; with a "?" behind
them, not every release of those versions has the test.
"""

import fnmatch
import functools
import sys

# ruff: noqa: E501  # the names are CPython's
LEFT_OUT = {
    "it adds to the private list _scheduled, or looks for cancelled timers there": """
        test_base_events.BaseEventLoopTests.test__run_once
        test_base_events.BaseEventLoopTests.test__run_once_schedule_handle
        test_base_events.BaseEventLoopTests.test__run_once_cancelled_event_cleanup
    """,
    "it puts a mock in the place of the selector, and waits for calls of it": """
        test_base_events.BaseEventLoopTests.test_custom_run_forever_integration  3.13
        test_base_events.BaseEventLoopTests.test_run_forever_pre_stopped
        test_base_events.BaseEventLoopTests.test_single_selecter_event_callback_after_stopping
    """,
    "it asserts that BaseEventLoop itself makes no transports": """
        test_base_events.BaseEventLoopTests.test_not_implemented
    """,
    "it calls private parts of the selector loop's sock_sendfile": """
        test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_blocking_error
        test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_cancel1
        test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_cancel2
        test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_exception
        test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_os_error_first_call
        test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_os_error_next_call
    """,
    "it replaces the modules os and sys that asyncio.unix_events has imported": """
        test_unix_events.SelectorEventLoopSignalTests.test_close_on_finalizing
        test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_not_available
    """,
    "it looks for private parts of a transport of a socket": """
        test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket  3.12-3.13?
        test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket  3.14
    """,
    "it looks for the loop's _watcher, or for each call that asyncio's loop makes of one": """
        test_subprocess.SubprocessPidfdWatcherTests.test_watcher_implementation  3.14
        test_subprocess.SubprocessThreadedWatcherTests.test_watcher_implementation  3.14
        test_subprocess.SubprocessThreadedWatcherTests.test_pid_not_reaped_before_exit_published  3.14
        test_subprocess.GenericWatcherTests.test_create_subprocess_fails_with_inactive_watcher  3.11-3.13
    """,
    "it skips itself if the loop is not asyncio's BaseSelectorEventLoop": """
        test_events.*EventLoopTests.test_internal_fds
    """,
}


def names_of(text, certain=False):
    """The names in a text like those above that are for this version.

    certain: only those that every release of it has.
    """
    for line in text.split("\n"):
        name, _, versions = line.strip().partition(" ")
        since, _, until = versions.strip("? ").partition("-")
        wanted = name and not (certain and versions.endswith("?"))
        if wanted and is_within(since, until):
            yield name


def is_within(since, until):
    """Whether this version is, both ends included; an empty one is no end."""
    here = sys.version_info[:2]
    first, last = (
        tuple(map(int, end.split("."))) if end else here for end in (since, until)
    )
    return first <= here <= last


@functools.lru_cache(None)
def patterns():
    return [name for text in LEFT_OUT.values() for name in names_of(text)]


@functools.lru_cache(None)
def is_left_out(test):
    """Whether the test "module.Class.test" is on the list for this version."""
    return any(fnmatch.fnmatchcase(test, pattern) for pattern in patterns())


def stale(outcomes):
    """Of what was run, a dict of outcomes, what is on the list and passes."""
    return [
        t for t, outcome in outcomes.items() if outcome == "pass" and is_left_out(t)
    ]


def without_a_test(outcomes):
    """The patterns of this version that match nothing of what was run."""
    certain = [n for text in LEFT_OUT.values() for n in names_of(text, certain=True)]
    return [p for p in certain if not fnmatch.filter(outcomes, p)]
