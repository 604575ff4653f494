"""Signal handlers of the loop, KeyboardInterrupt, and what is left after a run."""

import asyncio
import contextvars
import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading

import pytest
import support
from support import run_once

SIGNALS = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM]


@pytest.fixture(autouse=True)
def handlers_restored():
    """Every test leaves the process's handlers as they were."""
    watched = [*SIGNALS, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE]
    before = {number: signal.getsignal(number) for number in watched}
    yield
    after = {number: signal.getsignal(number) for number in watched}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


def send(number):
    """Send this process a signal; it has arrived in C when the call returns."""
    signal.raise_signal(number)


# --- add_signal_handler -------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_a_handler_is_called_by_the_loop(loop, number):
    seen = []
    assert loop.add_signal_handler(number, seen.append, "handled") is None
    send(number)
    support.run_until(loop, lambda: seen)
    assert seen == ["handled"]
    assert loop.remove_signal_handler(number) is True
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_signal_wakes_a_loop_that_waits_for_nothing(loop):
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    thread = threading.Thread(
        target=signal.pthread_kill, args=(threading.get_ident(), signal.SIGUSR1)
    )
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_signal_sent_to_the_process_by_another_thread(loop):
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    thread = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1))
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_signal_before_the_run_is_handled_in_it(loop):
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    send(signal.SIGUSR1)
    loop.run_forever()
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_handler_runs_in_a_callback_not_where_the_signal_arrives(loop):
    order = []
    loop.add_signal_handler(signal.SIGUSR1, order.append, "handler")

    def callback():
        send(signal.SIGUSR1)
        order.append("callback")

    loop.call_soon(callback)
    support.run_until(loop, lambda: len(order) == 2)
    assert order == ["callback", "handler"]
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_handler_has_the_context_of_its_registration(loop):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []
    reset = variable.set("registered")
    loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(variable.get()))
    variable.reset(reset)
    send(signal.SIGUSR1)
    support.run_until(loop, lambda: seen)
    assert seen == ["registered"]
    loop.remove_signal_handler(signal.SIGUSR1)


def test_several_signals_each_to_its_own_handler(loop):
    seen = []
    for number in SIGNALS:
        loop.add_signal_handler(number, seen.append, number)
    for number in SIGNALS:
        send(number)
    support.run_until(loop, lambda: len(seen) == len(SIGNALS))
    assert sorted(seen) == sorted(SIGNALS)
    for number in SIGNALS:
        assert loop.remove_signal_handler(number) is True


def test_every_signal_counts(loop):
    """Python's wake-up descriptor carries each one, and asyncio calls for each."""
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "x")
    for _ in range(100):
        send(signal.SIGUSR1)
    support.run_until(loop, lambda: len(seen) >= 100)
    support.spin(loop)
    assert len(seen) == 100
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_second_handler_replaces_the_first(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "first")
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "second")
    send(signal.SIGUSR1)
    support.run_until(loop, lambda: seen)
    support.spin(loop)
    assert seen == ["second"]
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


def test_a_handler_that_raises(loop):
    with support.ErrorRecorder(loop) as errors:
        loop.add_signal_handler(signal.SIGUSR1, lambda: 1 / 0)
        send(signal.SIGUSR1)
        support.run_until(loop, lambda: errors.contexts)
        context = errors.only()
        assert isinstance(context["exception"], ZeroDivisionError)
        assert context["message"].startswith("Exception in callback ")
        assert isinstance(context["handle"], asyncio.Handle)
        loop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.parametrize("exception_type", [SystemExit, KeyboardInterrupt])
def test_a_handler_that_ends_the_run(loop, exception_type):
    def leave():
        raise exception_type("from the handler")

    loop.add_signal_handler(signal.SIGUSR1, leave)
    send(signal.SIGUSR1)
    with pytest.raises(exception_type, match="from the handler"):
        loop.run_forever()
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_handler_that_removes_itself(loop):
    seen = []

    def once():
        seen.append(loop.remove_signal_handler(signal.SIGUSR1))

    loop.add_signal_handler(signal.SIGUSR1, once)
    send(signal.SIGUSR1)
    support.run_until(loop, lambda: seen)
    assert seen == [True]
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_handler_removed_between_the_signal_and_its_call(loop):
    loop.add_signal_handler(signal.SIGUSR1, pytest.fail, "was called")
    send(signal.SIGUSR1)
    loop.remove_signal_handler(signal.SIGUSR1)
    support.spin(loop)


def test_removing_one_leaves_the_others(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    loop.add_signal_handler(signal.SIGUSR2, seen.append, 2)
    loop.remove_signal_handler(signal.SIGUSR1)
    send(signal.SIGUSR2)
    support.run_until(loop, lambda: seen)
    assert seen == [2]
    loop.remove_signal_handler(signal.SIGUSR2)


def test_a_handler_while_the_loop_is_busy(loop):
    """No idle poll ever comes: the signal has to be looked for between callbacks."""
    seen = []
    count = 0

    def busy():
        nonlocal count
        count += 1
        if count == 100:
            send(signal.SIGUSR1)
        if seen:
            loop.stop()
        else:
            loop.call_soon(busy)

    loop.add_signal_handler(signal.SIGUSR1, seen.append, "handled")
    loop.call_soon(busy)
    loop.run_forever()
    loop.remove_signal_handler(signal.SIGUSR1)


# --- what is refused ----------------------------------------------------------


@pytest.mark.parametrize("number", ["SIGINT", 1.5, None, b"x", [2]], ids=repr)
def test_not_a_signal_number(loop, number):
    for method, args in (
        (loop.add_signal_handler, (number, print)),
        (loop.remove_signal_handler, (number,)),
    ):
        with pytest.raises(TypeError, match="sig must be an int, not "):
            method(*args)


@pytest.mark.parametrize("number", [0, -1, signal.NSIG, signal.NSIG + 1000])
def test_no_such_signal(loop, number):
    for method, args in (
        (loop.add_signal_handler, (number, print)),
        (loop.remove_signal_handler, (number,)),
    ):
        with pytest.raises(ValueError, match=f"^invalid signal number {number}$"):
            method(*args)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_signals_that_cannot_be_caught(loop, number):
    before = signal.set_wakeup_fd(-1)
    with pytest.raises(RuntimeError, match=f"^sig {int(number)} cannot be caught$"):
        loop.add_signal_handler(number, print)
    assert signal.set_wakeup_fd(before) == -1
    assert loop.remove_signal_handler(number) is False


def test_coroutines_are_refused(loop):
    async def handler():
        pass

    coroutine = handler()
    for callback in (handler, coroutine):
        with pytest.raises(
            TypeError, match=r"coroutines cannot be used with add_signal_handler\(\)"
        ):
            loop.add_signal_handler(signal.SIGUSR1, callback)
    coroutine.close()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_only_the_main_thread_may_add(loop):
    with pytest.raises(RuntimeError, match="set_wakeup_fd only works in main thread"):
        support.run_in_thread(loop.add_signal_handler, signal.SIGUSR1, print)
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


def test_a_closed_loop_refuses(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.add_signal_handler(signal.SIGUSR1, print)
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


def test_removing_what_was_never_added(loop):
    def handler(number, frame):
        pass

    before = signal.signal(signal.SIGUSR2, handler)
    try:
        assert loop.remove_signal_handler(signal.SIGUSR2) is False
        assert signal.getsignal(signal.SIGUSR2) is handler
    finally:
        signal.signal(signal.SIGUSR2, before)


# --- what is put back ---------------------------------------------------------


def test_sigint_goes_back_to_keyboard_interrupt(loop):
    loop.add_signal_handler(signal.SIGINT, print)
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    loop.remove_signal_handler(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_close_removes_the_handlers(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1


def test_wakeup_descriptor_between_and_after_runs(loop):
    assert signal.set_wakeup_fd(-1) == -1
    loop.add_signal_handler(signal.SIGUSR1, print)
    run_once(loop)
    loop.remove_signal_handler(signal.SIGUSR1)
    run_once(loop)
    assert signal.set_wakeup_fd(-1) == -1


def test_a_user_s_wakeup_descriptor_gets_its_bytes(loop):
    """A run in which the loop has no handlers leaves a program's own tools working."""
    with support.socket_pair() as (left, right):
        before_handler = signal.signal(signal.SIGUSR1, lambda number, frame: None)
        before = signal.set_wakeup_fd(right.fileno())
        try:
            send(signal.SIGUSR1)
            assert support.drain(left) == bytes([signal.SIGUSR1])
            loop.run_until_complete(asyncio.sleep(0.001))
            assert signal.set_wakeup_fd(right.fileno()) == right.fileno()
            send(signal.SIGUSR1)
            assert support.drain(left) == bytes([signal.SIGUSR1])
        finally:
            signal.set_wakeup_fd(before)
            signal.signal(signal.SIGUSR1, before_handler)


def test_a_program_s_own_handler_is_called_during_a_run(loop):
    """signal.signal works as ever; the handler may talk to the loop."""
    seen = []

    def handler(number, frame):
        seen.append(number)
        loop.call_soon_threadsafe(loop.stop)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        thread = signal_when_asleep(loop, signal.SIGUSR1)
        loop.run_forever()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def spawn(command):
    # Not os.fork(): with other threads alive, as some test may leave, it warns.
    return os.posix_spawn("/bin/sh", ["sh", "-c", command], os.environ)


def test_sigchld_is_not_touched(loop):
    """Nothing about children has been asked for: the program's handler stays."""
    seen = []
    before = signal.signal(signal.SIGCHLD, lambda number, frame: seen.append(number))
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        child = spawn("exit 0")
        support.run_until(loop, lambda: seen)
        assert signal.getsignal(signal.SIGCHLD) is handler
        assert os.waitpid(child, 0)[0] == child
        loop.close()
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert set(seen) == {signal.SIGCHLD}


def test_a_handler_for_sigchld(loop):
    seen = []
    loop.add_signal_handler(signal.SIGCHLD, seen.append, "child")
    child = spawn("exit 7")
    support.run_until(loop, lambda: seen)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    loop.remove_signal_handler(signal.SIGCHLD)


def test_two_loops_in_turn(new_loop):
    """asyncio's rule: the last one to add a handler has the wake-up descriptor."""
    first, second = new_loop(), new_loop()
    seen = []
    first.add_signal_handler(signal.SIGUSR1, seen.append, "first")
    first.remove_signal_handler(signal.SIGUSR1)
    second.add_signal_handler(signal.SIGUSR1, seen.append, "second")
    send(signal.SIGUSR1)
    support.run_until(second, lambda: seen)
    first.close()
    send(signal.SIGUSR1)
    support.run_until(second, lambda: len(seen) == 2)
    assert seen == ["second", "second"]
    second.remove_signal_handler(signal.SIGUSR1)


def test_a_loop_in_another_thread_leaves_signals_alone(loop, new_loop):
    other = new_loop()
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "main")
    support.run_in_thread(other.run_until_complete, asyncio.sleep(0.001))
    send(signal.SIGUSR1)
    support.run_until(loop, lambda: seen)
    assert seen == ["main"]
    loop.remove_signal_handler(signal.SIGUSR1)


# --- KeyboardInterrupt --------------------------------------------------------


def interrupt_at_once(loop):
    """Interrupt the main thread from another one, as soon as the loop runs.

    What the loop calls for it is C: Thread.start() does not survive an interrupt.
    """
    main_thread, go = threading.get_ident(), threading.Lock()
    go.acquire()

    def body():
        go.acquire()
        signal.pthread_kill(main_thread, signal.SIGINT)

    thread = threading.Thread(target=body)
    thread.start()
    loop.call_soon(go.release)
    return thread


def signal_when_asleep(loop, number=signal.SIGINT):
    """Signal the main thread from another one, when the loop waits in the kernel."""
    main_thread, native_id = threading.get_ident(), threading.get_native_id()

    def body():
        support.wait_until_asleep(native_id)
        signal.pthread_kill(main_thread, number)

    thread = threading.Thread(target=body)
    loop.call_soon(thread.start)
    return thread


def test_ctrl_c_breaks_a_poll_that_waits_for_nothing(loop):
    thread = signal_when_asleep(loop)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    thread.join()
    assert not loop.is_running()
    assert loop.run_until_complete(asyncio.sleep(0.001, "ran on")) == "ran on"


def test_ctrl_c_breaks_a_poll_that_waits_for_a_timer(loop):
    handle = loop.call_later(10_000, pytest.fail)
    thread = signal_when_asleep(loop)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    thread.join()
    handle.cancel()


def test_ctrl_c_breaks_a_loop_that_is_busy(loop):
    def busy():
        loop.call_soon(busy)

    thread = interrupt_at_once(loop)
    loop.call_soon(busy)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    thread.join()


def test_ctrl_c_out_of_run_until_complete(loop):
    async def main():
        threads.append(signal_when_asleep(loop))
        await asyncio.sleep(10_000)

    threads = []
    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    threads[0].join()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


@pytest.mark.pyloop_only
def test_ctrl_c_at_any_moment(loop):
    """asyncio can lose an interrupt that comes just before its system call."""
    for _ in range(200):
        thread = interrupt_at_once(loop)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        thread.join()


def test_ctrl_c_between_runs_is_python_s(loop):
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1


def test_an_exception_from_a_program_s_own_handler_ends_the_run(loop):
    """As with an alarm that raises, to bound how long a run may take."""

    def handler(number, frame):
        raise LookupError("from the signal handler")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        thread = signal_when_asleep(loop, signal.SIGUSR1)
        with pytest.raises(LookupError, match="from the signal handler"):
            loop.run_forever()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not loop.is_running()
    assert loop.run_until_complete(asyncio.sleep(0.001, "ran on")) == "ran on"


#: Calls of C that send this process SIGUSR1; not all of them see to it themselves.
SENDERS = {
    "os.kill": (os.kill, os.getpid(), signal.SIGUSR1),
    "raise_signal": (signal.raise_signal, signal.SIGUSR1),
    "partial": (functools.partial(os.kill, os.getpid(), signal.SIGUSR1),),
    "a library's": (getattr(ctypes.CDLL(None), "raise"), int(signal.SIGUSR1)),
}


@pytest.mark.parametrize("name", SENDERS)
@pytest.mark.parametrize("how", ["soon", "timer", "reader", "last"])
def test_an_exception_from_a_program_s_handler_in_a_callback_of_c(loop, name, how):
    """It is an exception of the callback: the run goes on."""

    def handler(number, frame):
        raise LookupError("from the signal handler")

    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with support.socket_pair() as (left, right):
            if how == "reader":
                right.send(b"x")
                loop.add_reader(left, *SENDERS[name])
            elif how == "timer":
                loop.call_at(loop.time(), *SENDERS[name])
            else:
                loop.call_soon(*SENDERS[name])
            if how == "last":
                loop.call_soon(loop.stop)
                loop.run_forever()
            else:
                run_once(loop)
                run_once(loop)
            loop.remove_reader(left)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert {type(context["exception"]) for context in contexts} == {LookupError}


def test_a_wakeup_descriptor_set_during_the_run_stays(loop):
    with support.socket_pair() as (left, right):
        before = signal.set_wakeup_fd(-1)
        try:
            loop.call_soon(signal.set_wakeup_fd, right.fileno())
            loop.run_until_complete(asyncio.sleep(0.001))
            assert signal.set_wakeup_fd(before) == right.fileno()
        finally:
            signal.set_wakeup_fd(before)


def test_ctrl_c_with_a_replaced_wakeup_descriptor_is_not_lost(loop):
    """Whoever takes the descriptor takes the immediate wake-up; the next one comes."""
    with support.socket_pair() as (left, right):
        before = signal.set_wakeup_fd(-1)
        try:

            def wake():
                timers.append(loop.call_later(0.05, wake))

            timers = []
            wake()
            loop.call_soon(signal.set_wakeup_fd, right.fileno())
            thread = signal_when_asleep(loop)
            with pytest.raises(KeyboardInterrupt):
                loop.run_forever()
            thread.join()
            timers[-1].cancel()
            assert signal.SIGINT in support.drain(left)
        finally:
            signal.set_wakeup_fd(before)


def test_ctrl_c_with_a_handler_is_the_handler_s(loop):
    loop.add_signal_handler(signal.SIGINT, loop.stop)
    thread = signal_when_asleep(loop)
    loop.run_forever()
    thread.join()
    loop.remove_signal_handler(signal.SIGINT)


def interrupt_script(script, *args):
    """Run a script until it waits, interrupt it; return the process and its output."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=support.script_environment(),
    )
    with process:
        assert process.stdout.readline() == "waiting\n"
        support.wait_until_asleep(process.pid, process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=support.PATIENCE)
    return process, out, err


CTRL_C_SCRIPT = """
import asyncio, os, signal, sys, support

async def main():
    print("waiting", flush=True)
    try:
        await asyncio.sleep(10_000)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise

loop = support.make_loop(sys.argv[1])
if sys.argv[2] == "runner":
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
else:
    task = loop.create_task(main())
    try:
        loop.run_until_complete(task)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    task.cancel()
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    loop.close()
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
print(signal.set_wakeup_fd(-1), flush=True)
"""


@pytest.mark.parametrize(
    "how",
    [
        "loop",
        pytest.param(
            "runner",
            marks=pytest.mark.skipif(
                sys.version_info < (3, 11), reason="asyncio.Runner came with 3.11"
            ),
        ),
    ],
)
def test_ctrl_c_in_a_process_of_its_own(loop_kind, how):
    """The signal comes from outside, after the program has said that it waits."""
    process, out, err = interrupt_script(CTRL_C_SCRIPT, loop_kind, how)
    assert err == ""
    assert process.returncode == 0
    lines = out.splitlines()
    order = ["interrupted", "cancelled"]
    if how == "runner":
        order.reverse()
    assert lines == [*order, "True", "-1"]


EXIT_STATUS_SCRIPT = """
import asyncio, signal, sys, support

async def main():
    print("waiting", flush=True)
    await asyncio.sleep(10_000)

loop = support.make_loop(sys.argv[1])
loop.run_until_complete(main())
"""


def test_an_interrupt_that_nobody_catches_ends_the_process_by_sigint(loop_kind):
    process, _, err = interrupt_script(EXIT_STATUS_SCRIPT, loop_kind)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err
