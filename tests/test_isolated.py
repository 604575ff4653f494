"""Runs the scripts under isolated/, each in a process of its own."""

import os
import re
import sys

import pytest
import support

ISOLATED = os.path.join(support.TESTS_DIR, "isolated")


def run(script, *args, status=0, **kwargs):
    """Run a script of isolated/: it exits with status and has nothing to say."""
    path = os.path.join(ISOLATED, script)
    process = support.run_script(path, *args, check=False, **kwargs)
    assert (process.returncode, process.stdout, process.stderr) == (status, "", "")


def names_in(script, pattern):
    """The names that a script's tables list, read without importing it."""
    with open(os.path.join(ISOLATED, script)) as file:
        return re.findall(pattern, file.read(), re.MULTILINE)


@pytest.mark.parametrize("work", names_in("leaks.py", r"^def (\w+)\(loop\):"))
def test_leaks(loop_kind, work):
    if (loop_kind, work) == ("asyncio", "datagrams") and sys.version_info >= (3, 14):
        pytest.skip("asyncio of this Python version: its datagrams leave C memory")
    run("leaks.py", loop_kind, work)


def test_abandoned_loops(loop_kind):
    support.oracle_bug(
        loop_kind,
        support.FREE_THREADED,
        "its finalizer fails aloud when the collector ends its sockets first",
    )
    run("abandoned.py", loop_kind)


POINTS = names_in("shutdown.py", r"^    (\w+),$")
STATUS = {"exit_in_a_task": 7}


@pytest.mark.parametrize("point", POINTS)
def test_shutdown(loop_kind, point):
    status = STATUS.get(point, 0)
    if loop_kind == "asyncio":
        # its finalizers fail aloud when its sockets happen to be collected first
        path = os.path.join(ISOLATED, "shutdown.py")
        process = support.run_script(path, loop_kind, point, check=False)
        assert process.returncode == status, process.stderr
    else:
        run("shutdown.py", loop_kind, point, status=status)


def test_a_child_with_a_loop_of_its_own(loop_kind):
    run("fork.py", loop_kind, "make_another")


@pytest.mark.pyloop_only
@pytest.mark.parametrize(
    "action",
    ["close", "close_and_make_another", "watch_and_unwatch", "drop", "use_everything"],
)
@pytest.mark.parametrize("poller", ["", "uv_poll"])
def test_a_child_with_the_parent_s_loop(loop_kind, action, poller):
    """asyncio's child shares the parent's epoll descriptor, and unregisters in it."""
    run("fork.py", loop_kind, action, env={"PYLOOP_POLLER": poller} if poller else None)


FORKS = names_in("fork_running.py", r"^def (\w+)\((?:fork=os.fork)?\):")


@pytest.mark.parametrize("program", FORKS)
def test_a_fork_of_a_running_loop(loop_kind, program):
    support.oracle_bug(
        loop_kind,
        program == "a_signal_to_the_child" and sys.version_info < (3, 12),
        "tells the parent of the child's signals",
    )
    support.oracle_bug(
        loop_kind,
        program == "both_run_on",
        "shares its epoll descriptor, so that either process may take what is for both",
    )
    run("fork_running.py", loop_kind, program)


@pytest.mark.pyloop_only
@pytest.mark.parametrize("program", FORKS)
def test_a_fork_of_a_running_loop_that_watches_with_uv_poll(loop_kind, program):
    run("fork_running.py", loop_kind, program, env={"PYLOOP_POLLER": "uv_poll"})


def test_a_fork_beside_threads_in_a_loop(loop_kind):
    run("fork_threads.py", loop_kind, "make_another")


@pytest.mark.pyloop_only
@pytest.mark.parametrize("action", ["make_another", "use", "drop"])
@pytest.mark.parametrize("poller", ["", "uv_poll"])
def test_a_child_with_a_loop_that_threads_were_in(loop_kind, action, poller):
    """asyncio's child shares the parent's epoll descriptor."""
    env = {"PYLOOP_POLLER": poller} if poller else None
    run("fork_threads.py", loop_kind, action, env=env)


def test_threads(loop_kind):
    run("threads.py", loop_kind)


@pytest.mark.pyloop_only
def test_the_module_imported_again_and_dropped(loop_kind):
    run("modules.py", loop_kind)


@pytest.mark.skipif(
    sys.version_info < (3, 13),
    reason="asyncio itself works in interpreters with their own GIL from 3.13 on",
)
@pytest.mark.parametrize("scenario", ["one_after_another", "side_by_side", "destroyed"])
def test_subinterpreters(loop_kind, scenario):
    run("subinterpreters.py", loop_kind, scenario)


@pytest.mark.parametrize("action", names_in("daemon.py", r"^def (\w+)\(loops\):"))
@pytest.mark.parametrize("reused", ["", "reused"])
def test_a_child_that_closes_every_descriptor(loop_kind, action, reused):
    run("daemon.py", loop_kind, action, reused)
