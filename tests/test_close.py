"""close(): with everything half done, in wrong states, twice; and what works after."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
import warnings
import weakref

import pytest
import support
from support import run_once


class Token:
    """Something a weak reference can point at."""


CLOSED = "^Event loop is closed$"


# --- states -------------------------------------------------------------------


def test_close_is_idempotent(loop):
    assert not loop.is_closed()
    assert loop.close() is None
    assert loop.is_closed()
    assert loop.close() is None
    assert loop.is_closed()


def test_close_a_loop_that_never_ran(new_loop):
    for _ in range(50):
        new_loop().close()


def test_close_refused_while_running(loop):
    async def main():
        with pytest.raises(RuntimeError, match="^Cannot close a running event loop$"):
            loop.close()
        assert not loop.is_closed()
        await asyncio.sleep(0.001)
        return "still runs"

    assert support.run(loop, main()) == "still runs"


def test_close_refused_from_another_thread_while_running(loop):
    async def main():
        with pytest.raises(RuntimeError, match="^Cannot close a running event loop$"):
            await loop.run_in_executor(None, loop.close)
        return "still runs"

    assert support.run(loop, main()) == "still runs"


def test_close_in_another_thread(loop):
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.call_later(1000, print)
    support.run_in_thread(loop.close)
    assert loop.is_closed()


@pytest.mark.pyloop_only
@pytest.mark.parametrize("debug", [False, True])
def test_close_in_a_callback_that_has_the_loop_not_running(loop, debug):
    """As tools that nest runs may leave it; asyncio's run ends by an AttributeError."""

    def close():
        loop._thread_id = None
        loop.close()

    loop.set_debug(debug)
    loop.call_soon(close)
    loop.call_soon(pytest.fail)
    with pytest.raises(RuntimeError, match=CLOSED):
        loop.run_forever()
    assert loop.is_closed()


@pytest.mark.pyloop_only
def test_a_run_that_begins_in_another_thread_during_close(loop):
    """It is told; asyncio's would wait for ever."""
    errors = []

    def run():
        with pytest.raises(RuntimeError, match=CLOSED) as caught:
            loop.run_forever()
        errors.append(str(caught.value))

    def begin(record):
        # close() has found that nobody runs it, and has not yet marked it as closed.
        if record.getMessage().startswith("Close <"):
            thread.start()
            support.wait_for_condition(loop.is_running)
            support.wait_until_asleep(thread.native_id)
        return False

    thread = threading.Thread(target=run)
    loop.set_debug(True)
    logger = logging.getLogger("asyncio")
    logger.addFilter(begin)
    logger.setLevel(logging.DEBUG)
    try:
        loop.close()
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeFilter(begin)
    thread.join()
    assert len(errors) == 1


def test_closed_flag(loop):
    assert loop._closed is False
    loop.close()
    assert loop._closed is True


# --- what a closed loop refuses, and what it does not -------------------------


def test_scheduling(loop):
    loop.close()
    for call in (
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.run_in_executor(None, print),
        lambda: loop.run_forever(),
        lambda: loop.add_signal_handler(signal.SIGUSR1, print),
    ):
        with pytest.raises(RuntimeError, match=CLOSED):
            call()


def test_descriptors(loop):
    with support.socket_pair() as (left, _):
        loop.close()
        with pytest.raises(RuntimeError, match=CLOSED):
            loop.add_reader(left, print)
        with pytest.raises(RuntimeError, match=CLOSED):
            loop.add_writer(left, print)
        assert loop.remove_reader(left) is False
        assert loop.remove_writer(left) is False


def test_coroutines_on_a_closed_loop(loop):
    loop.close()
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match=CLOSED):
        loop.create_task(coroutine)
    with pytest.raises(RuntimeError, match=CLOSED):
        loop.run_until_complete(coroutine)
    coroutine.close()


def test_what_still_works(loop):
    handle = loop.call_soon(print)
    loop.close()
    assert loop.time() > 0
    assert loop.get_debug() is False
    loop.set_debug(True)
    loop.set_debug(False)
    loop.stop()
    assert loop.is_running() is False
    assert "closed=True" in repr(loop)
    assert loop.get_exception_handler() is None
    assert loop.get_task_factory() is None
    assert len(loop._ready) == 0
    assert len(loop._scheduled) == 0
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    handle.cancel()
    future = loop.create_future()
    future.cancel()
    assert future.cancelled()


def test_a_future_of_a_closed_loop_without_callbacks(loop):
    future = loop.create_future()
    waiting = loop.create_future()
    waiting.add_done_callback(print)
    loop.close()
    future.set_result(1)
    assert future.result() == 1
    with pytest.raises(RuntimeError, match=CLOSED):
        waiting.set_result(1)


# --- what is dropped ----------------------------------------------------------


def test_everything_scheduled_is_dropped(loop):
    with support.socket_pair() as (left, right):
        names = "soon later due threadsafe reader writer signal"
        tokens = {name: Token() for name in names.split()}
        watches = {name: weakref.ref(token) for name, token in tokens.items()}
        loop.call_soon(print, tokens["soon"])
        loop.call_later(1000, print, tokens["later"])
        loop.call_at(0, print, tokens["due"])
        loop.call_soon_threadsafe(print, tokens["threadsafe"])
        loop.add_reader(left, print, tokens["reader"])
        loop.add_writer(left, print, tokens["writer"])
        loop.add_signal_handler(signal.SIGUSR1, print, tokens["signal"])
        tokens.clear()
        loop.close()
        gc.collect()
        alive = [name for name, watch in watches.items() if watch() is not None]
    # asyncio's closed loop keeps what its closed selector and its own maps hold
    assert set(alive) <= {"reader", "writer"}


@pytest.mark.pyloop_only
def test_descriptors_callbacks_are_dropped(loop):
    with support.socket_pair() as (left, right):
        tokens = [Token(), Token()]
        watches = [weakref.ref(token) for token in tokens]
        loop.add_reader(left, print, tokens.pop())
        loop.add_writer(left, print, tokens.pop())
        loop.close()
        gc.collect()
        assert [watch() for watch in watches] == [None, None]


def test_close_drops_callbacks_unrun(loop):
    loop.call_soon(pytest.fail)
    loop.call_at(0, pytest.fail)
    loop.call_soon_threadsafe(pytest.fail)
    loop.close()


def test_arguments_that_talk_back_while_they_are_dropped(loop):
    """close() frees them, and their code uses the loop that closes."""

    class Talkative:
        def __init__(self, action):
            self.action = action

        def __del__(self):
            try:
                self.action()
            except Exception as exc:
                errors.append(exc)
            else:
                errors.append(None)

    errors = []
    actions = [
        lambda: loop.call_soon(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.close(),
        lambda: loop.is_closed(),
        lambda: len(loop._ready),
        lambda: len(loop._scheduled),
        lambda: loop.stop(),
        lambda: gc.collect(),
    ]
    for action in actions:
        loop.call_soon(print, Talkative(action))
        loop.call_later(1000, print, Talkative(action))
        loop.call_soon_threadsafe(print, Talkative(action))
    loop.close()
    gc.collect()
    assert loop.is_closed()
    assert len(errors) == 3 * len(actions)
    assert not loop._ready
    assert not loop._scheduled


def test_close_inside_a_finalizer(loop):
    """A last reference closes the loop, in the middle of a collection."""

    class Closer:
        def __del__(self):
            loop.close()

    loop.call_later(1000, print)
    cycle = [Closer()]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert loop.is_closed()


# --- half done ----------------------------------------------------------------


def test_close_with_pending_tasks(new_loop):
    loop = new_loop()
    task = loop.create_task(asyncio.sleep(1000))
    run_once(loop)
    loop.close()
    with support.ErrorRecorder(loop) as errors:
        del task
        support.collect()
        assert errors.messages == ["Task was destroyed but it is pending!"]


def test_close_with_a_task_that_has_not_started(new_loop):
    loop = new_loop()
    task = loop.create_task(asyncio.sleep(1000))
    loop.close()
    with warnings.catch_warnings(), support.ErrorRecorder(loop) as errors:
        warnings.simplefilter("ignore", RuntimeWarning)  # "was never awaited"
        del task
        support.collect()
        assert errors.messages == ["Task was destroyed but it is pending!"]


def test_close_after_an_interrupted_run(loop):
    def interrupt():
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    loop.call_soon(pytest.fail)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.close()


def test_close_with_ready_descriptors(loop):
    with support.socket_pair() as (left, right):
        right.send(b"x")
        loop.add_reader(left, int)
        run_once(loop)
        loop.close()
        assert left.recv(10) == b"x"


def test_close_with_closed_descriptors(loop):
    left, right = socket.socketpair()
    loop.add_reader(left, int)
    loop.add_writer(right, int)
    run_once(loop)
    left.close()
    right.close()
    loop.close()


def test_close_with_sock_operations_in_flight(new_loop):
    loop = new_loop()
    with support.socket_pair() as (left, right):
        support.fill(right)
        tasks = [
            loop.create_task(loop.sock_recv(left, 0 or 10)),
            loop.create_task(loop.sock_sendall(right, b"x" * 10_000_000)),
        ]
        support.drain(left)
        support.spin(loop, 3)
        loop.close()
        with support.ErrorRecorder(loop) as errors:
            pending = sum(not task.done() for task in tasks)
            del tasks
            support.collect()
            assert errors.messages == (
                ["Task was destroyed but it is pending!"] * pending
            )


def test_close_with_a_server_and_connections(new_loop, asyncio_log):
    """Nothing is closed properly: warnings, but no descriptor left and no crash."""
    loop = new_loop()

    async def main():
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(asyncio.Protocol, *address)
        transport.write(b"x" * 1_000_000)
        return server, transport

    kept = list(loop.run_until_complete(main()))
    support.spin(loop)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop.close()
        kept.clear()
        support.collect()
    asyncio_log.take()


def test_close_with_executor_calls_running(loop):
    release, started = threading.Event(), threading.Event()

    def body():
        started.set()
        release.wait(support.PATIENCE)

    loop.run_in_executor(None, body)
    started.wait(support.PATIENCE)
    loop.close()
    release.set()


def test_close_with_a_name_being_looked_up(loop):
    """A thread may be in getaddrinfo for long; close does not wait for it."""
    release, started = threading.Event(), threading.Event()

    def slow(*args, **kwargs):
        started.set()
        release.wait(support.PATIENCE)
        raise socket.gaierror("too late")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", slow)
        task = loop.create_task(loop.getaddrinfo("host.invalid", 80))
        support.spin(loop)
        assert started.wait(support.PATIENCE)
        task.cancel()
        support.spin(loop)
        assert task.cancelled()
        loop.close()
    release.set()


def test_close_with_open_asynchronous_generators(loop):
    async def generator():
        yield 1
        yield 2

    agens = [generator()]

    async def main():
        return await agens[0].__anext__()

    assert loop.run_until_complete(main()) == 1
    loop.close()
    agens.clear()
    support.collect()


def test_close_with_signal_handlers(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    signal.raise_signal(signal.SIGUSR1)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


def test_all_of_it_at_once(new_loop, asyncio_log):
    for _ in range(5):
        loop = new_loop()
        with support.socket_pair() as (left, right), contextlib.ExitStack() as stack:
            release = threading.Event()
            stack.callback(release.set)
            loop.add_signal_handler(signal.SIGUSR2, print)
            loop.add_reader(left, print)
            loop.add_writer(right, int)
            loop.call_later(1000, print)
            loop.call_later(0, loop.call_soon, int)
            loop.run_in_executor(None, release.wait, support.PATIENCE)
            tasks = [loop.create_task(asyncio.sleep(i)) for i in range(5)]
            run_once(loop)
            tasks.append(loop.create_task(loop.sock_recv(left, 1)))
            run_once(loop)
            loop.call_soon_threadsafe(print)
            loop.call_soon(print)
            loop.close()
            loop.close()
            del tasks
        del loop
        support.collect()
    lines = asyncio_log.take()
    assert {line.text.partition("\n")[0] for line in lines} == {
        "Task was destroyed but it is pending!"
    }


# --- descriptors and memory ---------------------------------------------------


def test_no_descriptor_is_left_and_none_of_others_closed(loop_kind):
    before = support.open_descriptors()
    loop = support.make_loop(loop_kind)
    loop.run_until_complete(asyncio.sleep(0.001))
    during = support.open_descriptors()
    assert set(during) > set(before)
    loop.close()
    assert support.open_descriptors() == before


@pytest.mark.pyloop_only
@pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")
def test_what_a_loop_opens(loop_kind, monkeypatch):
    """No loop of libuv's: one epoll, a timer, a waker, and the sockets for signals."""
    monkeypatch.setenv("PYLOOP_POLLER", "epoll")
    before = support.open_descriptors()
    loop = support.make_loop(loop_kind)
    opened = support.open_descriptors()
    loop.close()
    kinds = [
        text.removeprefix("anon_inode:").split(":")[0]
        for number, text in opened.items()
        if number not in before
    ]
    assert sorted(kinds) == ["[eventfd]", "[eventpoll]", "[timerfd]"] + ["socket"] * 2


def test_close_does_not_close_a_number_twice(loop_kind):
    """Numbers that the first close() gave back belong to others at the second."""
    loop = support.make_loop(loop_kind)
    loop.close()
    pipes = [os.pipe() for _ in range(10)]
    loop.close()
    del loop
    support.collect()
    for read_end, write_end in pipes:
        os.close(read_end)
        os.close(write_end)


def test_a_closed_loop_is_freed(loop_kind):
    loop = support.make_loop(loop_kind)
    loop.run_until_complete(asyncio.sleep(0))
    watch = weakref.ref(loop)
    loop.close()
    del loop
    support.collect()
    assert watch() is None


def test_an_open_loop_that_is_dropped_warns_and_is_closed(loop_kind):
    before = support.open_descriptors()
    loop = support.make_loop(loop_kind)
    loop.call_later(1000, print)
    loop.call_soon(print)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del loop
        support.collect()
    texts = [str(warning.message) for warning in caught]
    assert any(text.startswith("unclosed event loop <") for text in texts)
    assert {warning.category for warning in caught} == {ResourceWarning}
    assert support.open_descriptors() == before


def test_many_loops(loop_kind):
    loops = [support.make_loop(loop_kind) for _ in range(50)]
    for loop in loops:
        loop.call_later(1000, print)
        assert loop.run_until_complete(asyncio.sleep(0, "ok")) == "ok"
    for loop in loops[::2]:
        loop.close()
    for loop in loops[1::2]:
        assert loop.run_until_complete(asyncio.sleep(0.0001, "ok")) == "ok"
        loop.close()


def test_no_descriptors_left_for_a_loop(loop_kind):
    """OSError, nothing leaked, and the next loop works."""
    before = support.open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcomes = []
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        # asyncio's half-made loop warns, and then fails in its finalizer
        warnings.simplefilter("ignore", ResourceWarning)
        patch.setattr(sys, "unraisablehook", lambda details: None)
        for free in range(16):  # libuv 1.53 takes four more than 1.44
            taken = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(before) + 30, hard))
            try:
                with contextlib.suppress(OSError):
                    while True:
                        taken.append(os.open("/dev/null", os.O_RDONLY))
                for _ in range(free):
                    os.close(taken.pop())
                outcomes.append(try_to_make(loop_kind))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for fd in taken:
                    os.close(fd)
            support.collect()
            assert support.open_descriptors() == before
    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert outcomes == sorted(outcomes)


def try_to_make(kind):
    """Make a loop and close it; return whether the system let us."""
    try:
        loop = support.make_loop(kind)
    except OSError:
        return False
    loop.close()
    return True


WITHOUT_STREAMS = """
import os
import sys
import threading

import support

for fd in range(3):
    os.close(fd)
loop = support.make_loop(sys.argv[1])
loop.run_until_complete(loop.run_in_executor(None, str))
loop.call_soon_threadsafe(loop.stop)
loop.run_forever()
child = os.fork()
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
"""


@pytest.mark.parametrize("poller", ["epoll", "uv_poll"])
def test_the_standard_streams_are_closed(loop_kind, poller, tmp_path):
    """A loop's own descriptors may have the numbers of stdin, stdout and stderr."""
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_STREAMS)
    support.run_script(str(script), loop_kind, env={"PYLOOP_POLLER": poller})
