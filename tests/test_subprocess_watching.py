"""How a loop learns that a child has ended, and children that end half way."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import warnings

import pytest
import streamkit
import support
from streamkit import on_loop
from test_subprocess import PIPE, assert_reaped, plain, sh

THREADS = sys.version_info < (3, 12)  # what asyncio waits with by default


@pytest.fixture
def no_pidfd(monkeypatch):
    def refuse(pid, flags=0):
        raise OSError(errno.ENOSYS, "no such system call")

    monkeypatch.setattr(os, "pidfd_open", refuse)


def waiting_threads():
    return [t for t in threading.enumerate() if t.name.startswith("pyloop-waitpid")]


def wait_until_ended(pid):
    """Block until a child has ended, and leave it to be waited for."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


# --- pidfd, or a thread -----------------------------------------------------------


@pytest.mark.pyloop_only
@on_loop
async def test_no_thread_where_there_are_pidfds(loop):
    process = await sh("read line", stdin=PIPE)
    assert not waiting_threads()
    assert len(loop._children) == 1
    await process.communicate(b"")
    assert not loop._children


@pytest.mark.pyloop_only
@on_loop
async def test_a_thread_waits_where_there_is_no_pidfd(loop, no_pidfd):
    process = await sh("read line; exit 3", stdin=PIPE)
    assert len(waiting_threads()) == 1
    await process.communicate(b"")
    assert process.returncode == 3
    assert_reaped(process.pid)


@pytest.mark.pyloop_only
@on_loop
async def test_threads_where_python_has_no_pidfd_open(loop, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    processes = await asyncio.gather(*(sh(f"exit {i}") for i in range(10)))
    codes = await asyncio.gather(*(process.wait() for process in processes))
    assert codes == list(range(10))


@pytest.mark.pyloop_only
@on_loop
async def test_signals_and_a_thread(loop, no_pidfd):
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    process.terminate()
    assert await process.wait() == -signal.SIGTERM


@pytest.mark.pyloop_only
@on_loop
async def test_a_pidfd_that_cannot_be_watched(loop, monkeypatch):
    """It is closed, and a thread waits."""
    add_reader = loop._add_reader

    def refuse(fd, callback, *args):
        if getattr(callback, "__name__", "") == "_on_pidfd":
            raise OSError(errno.ENOSPC, "too many watches")
        return add_reader(fd, callback, *args)

    monkeypatch.setattr(loop, "_add_reader", refuse, raising=False)
    process = await sh("exit 3")
    assert await process.wait() == 3


@pytest.mark.pyloop_only
@on_loop
async def test_no_pidfd_and_no_thread(loop, no_pidfd, monkeypatch):
    """The child is killed, and the caller is told."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    children = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda *a, **k: children.append(popen(*a, **k)) or children[-1],
    )
    with pytest.raises(RuntimeError, match="new thread"):
        await plain(loop, "sleep", "1000", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert children.pop().wait() == -signal.SIGKILL


@pytest.mark.pyloop_only
@on_loop
async def test_killed_although_a_pipe_cannot_be_closed(loop):
    """As when memory is short for connection_lost()."""

    class Unclosable:
        def close(self):
            raise MemoryError

    transport, protocol = await plain(
        loop, "sleep", "1000", stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    pipe = transport._pipes[0].pipe
    transport._pipes[0].pipe = Unclosable()
    with pytest.raises(MemoryError):
        transport.close()
    for left in (pipe, *(transport.get_pipe_transport(n) for n in (1, 2))):
        left.close()
    assert await transport._wait() == -signal.SIGKILL


@pytest.mark.pyloop_only
@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="Python 3.14 removed child watchers"
)
@on_loop
async def test_the_policy_s_child_watcher_is_not_asked(loop, monkeypatch):
    def refuse():
        raise AssertionError("asked for a child watcher")

    monkeypatch.setattr(asyncio.get_event_loop_policy(), "get_child_watcher", refuse)
    process = await sh("exit 3")
    assert await process.wait() == 3


@pytest.mark.pyloop_only
@pytest.mark.filterwarnings("ignore:.*child_watcher.*:DeprecationWarning")
@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="Python 3.14 removed child watchers"
)
def test_the_policy_has_asyncio_s_child_watchers(loop):
    import pyloop

    policy = pyloop.EventLoopPolicy()
    assert isinstance(policy, asyncio.DefaultEventLoopPolicy)
    assert policy.get_child_watcher().is_active()
    watcher = asyncio.unix_events.PidfdChildWatcher()
    policy.set_child_watcher(watcher)
    assert policy.get_child_watcher() is watcher
    policy.set_event_loop(loop)
    policy.set_child_watcher(None)
    policy.set_event_loop(None)


# --- who waits first --------------------------------------------------------------


@pytest.mark.pyloop_only
@on_loop
async def test_a_child_that_has_ended_before_it_is_watched(loop, monkeypatch):
    pidfd_open = os.pidfd_open

    def late(pid, flags=0):
        wait_until_ended(pid)
        return pidfd_open(pid, flags)

    monkeypatch.setattr(os, "pidfd_open", late)
    process = await sh("exit 3")
    assert await process.wait() == 3


@pytest.mark.pyloop_only
@on_loop
async def test_a_child_that_is_gone_before_it_is_watched(
    loop, monkeypatch, asyncio_log
):
    pidfd_open = os.pidfd_open

    def late(pid, flags=0):
        os.waitpid(pid, 0)
        return pidfd_open(pid, flags)

    monkeypatch.setattr(os, "pidfd_open", late)
    process = await sh("exit 3")
    assert await process.wait() == 255
    (text,) = asyncio_log.take_texts()
    assert (
        text == f"Unknown child process pid {process.pid}, will report returncode 255"
    )


@on_loop
async def test_somebody_else_waits(loop, loop_kind, asyncio_log):
    streamkit.oracle_bug(loop_kind, THREADS, "has a thread that is faster")
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    process.kill()
    os.waitpid(process.pid, 0)
    assert await process.wait() == 255
    (text,) = asyncio_log.take_texts()
    assert f"pid {process.pid} exit status already read" in text
    assert "255" in text


@on_loop
async def test_popen_has_waited(loop, loop_kind, asyncio_log):
    """Then it knows the exit code. Its poll() is called by transport.close(), too."""
    streamkit.oracle_bug(loop_kind, True, "warns, and says 255 (threads: a race)")
    transport, protocol = await plain(loop, "sleep", "1000")
    transport.terminate()
    wait_until_ended(transport.get_pid())
    assert transport.get_extra_info("subprocess").poll() == -signal.SIGTERM
    await protocol.lost
    assert transport.get_returncode() == -signal.SIGTERM
    assert asyncio_log.take() == []
    transport.close()


@on_loop
async def test_close_after_the_end_and_before_the_loop_knows(loop, loop_kind):
    streamkit.oracle_bug(loop_kind, True, "warns, and says 255 (threads: a race)")
    transport, protocol = await plain(loop, "sleep", "1000")
    transport.terminate()
    wait_until_ended(transport.get_pid())
    transport.close()
    await protocol.lost
    assert transport.get_returncode() == -signal.SIGTERM


@pytest.mark.pyloop_only
@on_loop
async def test_no_signal_to_a_number_that_may_be_another_s(loop, monkeypatch):
    """From the moment that the child has been waited for."""
    sent = []
    transport, protocol = await plain(loop, "sleep", "1000")
    transport.terminate()
    wait_until_ended(transport.get_pid())
    monkeypatch.setattr(os, "kill", lambda *args: sent.append(args))
    while transport.get_extra_info("subprocess").returncode is None:
        await asyncio.sleep(0)
    transport.kill()
    transport.terminate()
    transport.send_signal(signal.SIGUSR1)
    assert sent == []
    await protocol.lost
    with pytest.raises(ProcessLookupError):
        transport.kill()
    transport.close()


@pytest.mark.pyloop_only
@on_loop
async def test_a_thread_only_looks(loop, no_pidfd):
    """The process's number stays its own until the loop knows."""
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    (thread,) = waiting_threads()
    process.kill()
    thread.join(support.PATIENCE)
    assert process.returncode is None
    wait_until_ended(process.pid)  # there still is something to wait for
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    assert_reaped(process.pid)


@pytest.mark.pyloop_only
@on_loop
async def test_a_thread_without_waitid(loop, no_pidfd, monkeypatch):
    monkeypatch.delattr(os, "waitid")
    process = await sh("exit 3")
    assert await process.wait() == 3
    assert_reaped(process.pid)


@on_loop
async def test_ignored_sigchld(loop, loop_kind, asyncio_log):
    """The kernel waits for children itself then: nobody learns of the exit code."""
    streamkit.oracle_bug(loop_kind, not THREADS, "may find no process to watch")
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = await sh("exit 3")
        assert await process.wait() == 255
    finally:
        signal.signal(signal.SIGCHLD, old)
    (text,) = asyncio_log.take_texts()
    assert "will report returncode 255" in text


# --- ends half way ----------------------------------------------------------------


class PopenRecorder(subprocess.Popen):
    made = []

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.made.append(self)


@pytest.fixture
def made(monkeypatch):
    """The Popen objects that the test makes."""
    monkeypatch.setattr(subprocess, "Popen", PopenRecorder)
    PopenRecorder.made.clear()
    yield PopenRecorder.made
    PopenRecorder.made.clear()


@pytest.mark.parametrize("iterations", range(6))
@on_loop
async def test_cancelled_half_way(loop, made, iterations):
    """No child is left, and no descriptor: the suite looks after each test."""
    starting = loop.create_task(
        asyncio.create_subprocess_exec(
            "sleep", "1000", stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
    )
    for _ in range(iterations):
        await asyncio.sleep(0)
    starting.cancel()
    try:
        process = await starting
    except asyncio.CancelledError:
        pass
    else:
        process.kill()
        await process.communicate()
    for child in made:
        assert child.returncode == -signal.SIGKILL
        assert_reaped(child.pid)


@on_loop
async def test_cancelled_with_all_other_tasks(loop, loop_kind, made):
    """As asyncio.run() ends: the task that connects the pipes is cancelled as well."""
    streamkit.oracle_bug(loop_kind, True, "leaves pipes open")
    before = asyncio.all_tasks(loop)
    starting = loop.create_task(plain(loop, "sleep", "1000", stdin=PIPE, stdout=PIPE))
    await asyncio.sleep(0)
    for task in asyncio.all_tasks(loop) - before:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    (child,) = made
    assert child.returncode == -signal.SIGKILL
    assert_reaped(child.pid)


@pytest.mark.pyloop_only
@on_loop
async def test_cancelled_twice(loop, made):
    before = asyncio.all_tasks(loop)
    starting = loop.create_task(plain(loop, "sleep", "1000", stdin=PIPE, stdout=PIPE))
    for _ in range(2):
        await asyncio.sleep(0)
        starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    (child,) = made
    await streamkit.until(lambda: child.returncode is not None, "its end")
    assert child.returncode == -signal.SIGKILL
    # asyncio's task that connects the pipes may have an iteration to go
    await streamkit.until(lambda: asyncio.all_tasks(loop) == before, "the pipes")


@pytest.mark.parametrize("number", [0, 1, 2])
@on_loop
async def test_a_pipe_that_cannot_be_connected(
    loop, loop_kind, made, monkeypatch, number
):
    streamkit.oracle_bug(loop_kind, True, "waits for ever, or leaves pipes open")
    numbers = []
    for name in ("connect_write_pipe", "connect_read_pipe"):
        connect = getattr(loop, name)

        async def fail(factory, pipe, connect=connect):
            if len(numbers) == number:
                raise OSError(errno.ENOMEM, "no memory for a pipe")
            numbers.append(1)
            return await connect(factory, pipe)

        monkeypatch.setattr(loop, name, fail, raising=False)
    with pytest.raises(OSError, match="no memory for a pipe"):
        await plain(loop, "sleep", "1000", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    (child,) = made
    assert child.returncode == -signal.SIGKILL
    assert_reaped(child.pid)


@on_loop
async def test_cancelled_communicate(loop):
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    talking = loop.create_task(process.communicate(b"x" * 100))
    await asyncio.sleep(0)
    talking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await talking
    process.kill()
    assert await process.wait() in (0, -signal.SIGKILL)


@pytest.mark.pyloop_only  # asyncio leaves the pidfd open
def test_the_loop_is_closed_before_the_child_ends(new_loop):
    """As on asyncio: the transport that is dropped warns, and kills."""
    loop = new_loop()
    transport, _ = support.run(loop, plain(loop, "sleep", "1000"))
    process = transport.get_extra_info("subprocess")
    loop.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport, loop, _
        support.collect()
    texts = [str(warning.message) for warning in caught]
    assert any("unclosed transport" in text for text in texts), texts
    assert process.wait() == -signal.SIGKILL


@pytest.mark.pyloop_only
def test_the_loop_is_closed_before_the_thread_knows(new_loop, no_pidfd, asyncio_log):
    loop = new_loop()
    transport, _ = support.run(loop, plain(loop, "sleep", "1000"))
    process = transport.get_extra_info("subprocess")
    (thread,) = waiting_threads()
    loop.close()
    transport.close()
    thread.join(support.PATIENCE)
    assert process.returncode == -signal.SIGKILL
    (text,) = asyncio_log.take_texts()
    assert text == f"Loop {loop!r} that handles pid {process.pid!r} is closed"
