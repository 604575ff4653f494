"""Watchdogs and the ends of processes and interpreters: exits, forks, signals.

Arguments: the kind of loop (pyloop), the scenario. Each ends with status 0 and nothing
to say, but for what gil_alarm says on stderr.
"""

import atexit
import ctypes
import gc
import logging
import math
import os
import signal
import sys
import threading
import time
import warnings

import support

import pyloop.watchdog

KIND = sys.argv[1]
THRESHOLD = 0.05


class Reports(list):
    """A watchdog's callback, which keeps what it is told."""

    def __call__(self, block):
        self.append(block)

    def wait_for(self, count=1):
        support.wait_for_condition(lambda: len(self) >= count, what="reports")


def start(**keywords):
    reports = Reports()
    keywords = {"threshold": THRESHOLD, "callback": reports} | keywords
    reports.dog = pyloop.watchdog.start(**keywords)
    return reports


def block(loop, reports, count=1):
    loop.call_soon(reports.wait_for, count)
    support.run_once(loop)


# --- exits ----------------------------------------------------------------------------


def never_stopped():
    reports = start()
    loop = support.make_loop(KIND)
    block(loop, reports)
    loop.close()


def exit_in_a_blocked_callback():
    reports = start()
    loop = support.make_loop(KIND)

    def leave():
        reports.wait_for()
        sys.exit(0)

    loop.call_soon(leave)
    try:
        loop.run_forever()
    finally:
        loop.close()


def exit_while_a_daemon_thread_is_blocked():
    reports = start()
    loop = support.make_loop(KIND)
    loop.call_soon(time.sleep, 1000)
    threading.Thread(target=loop.run_forever, daemon=True).start()
    reports.wait_for()


def exit_before_another_thread_ends():
    """What the rest of the program does is watched, too."""
    reports = start()
    loop = support.make_loop(KIND)
    exiting = threading.Event()

    def rest():
        assert exiting.wait(support.PATIENCE)
        block(loop, reports)
        loop.close()

    threading.Thread(target=rest).start()
    threading._register_atexit(exiting.set)


def started_at_exit():
    @atexit.register
    def late():
        try:
            reports = start()
        except RuntimeError as exc:
            assert sys.version_info[:2] == (3, 12) and "at interpreter" in str(exc)
            return
        loop = support.make_loop(KIND)
        block(loop, reports)
        reports.dog.stop()
        loop.close()


def exit_in_the_report():
    """The callback never returns."""
    entered = threading.Event()
    pyloop.watchdog._PATIENCE = 0.1

    def callback(report):
        entered.set()
        time.sleep(1000)

    start(callback=callback)
    loop = support.make_loop(KIND)
    loop.call_soon(entered.wait, support.PATIENCE)
    support.run_once(loop)
    loop.close()


def many_at_once():
    for _ in range(20):
        start()
    reports = start()
    loop = support.make_loop(KIND)
    block(loop, reports)
    reports.dog.stop()
    loop.close()
    gc.collect()


def an_interpreter_of_its_own():
    """One that is stopped, and one that is not, in an interpreter with its own GIL."""
    import _interpreters

    for end in ("reports.dog.stop()", ""):
        interpreter = _interpreters.create("isolated")
        error = _interpreters.exec(
            interpreter,
            f"""
import sys, logging
sys.path[:0] = {sys.path!r}
sys.argv = {sys.argv!r}
sys.path[:0] = [{os.path.dirname(os.path.abspath(__file__))!r}]
import watchdog, support
logging.getLogger("pyloop.watchdog").disabled = True
reports = watchdog.start()
loop = support.make_loop({KIND!r})
watchdog.block(loop, reports)
watchdog.block(loop, reports, len(reports) + 1)
assert reports[0].thread == "MainThread", reports[0]
{end}
loop.close()
""",
        )
        assert error is None, error.formatted
        _interpreters.destroy(interpreter)
    reports = start()
    loop = support.make_loop(KIND)
    block(loop, reports)
    loop.close()


# --- forks ----------------------------------------------------------------------------


def in_child(function, *args):
    """Fork; call the function in the child; return when it has ended well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(int(support.PATIENCE))
            function(*args)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def forks():
    """The child has a watchdog of its own, and the parent keeps its; no warning of
    threads beside the fork."""
    reports = start()
    loop = support.make_loop(KIND)
    block(loop, reports)
    for _ in range(3):
        reports.clear()
        in_child(lambda: block(support.make_loop(KIND), reports))
        in_child(lambda: block(loop, reports))
        assert not reports or reports[0].ended
        reports.clear()
        block(loop, reports)
    reports.dog.stop()
    in_child(reports.dog.stop)
    loop.close()


def forks_in_a_callback():
    """Both processes run on, and the block that goes on in the parent gets its end."""
    reports = start()
    loop = support.make_loop(KIND)

    def callback():
        reports.wait_for()
        in_child(lambda: (reports.clear(), reports.wait_for()))

    loop.call_soon(callback)
    support.run_once(loop)
    support.wait_for_condition(lambda: any(told.ended for told in reports))
    loop.close()


def forks_in_the_report():
    """In the watchdog's thread, which is the child's only one then."""
    warnings.filterwarnings("ignore", message=".* multi-threaded, use of fork")
    statuses = []
    seen = Reports()

    def callback(report):
        if not statuses and not report.ended:
            child = os.fork()
            if child == 0:
                os._exit(0)
            statuses.append(os.waitpid(child, 0)[1])
        seen(report)

    start(callback=callback)
    loop = support.make_loop(KIND)
    block(loop, seen)
    block(loop, seen, 3)
    assert statuses == [0]
    loop.close()


def forks_beside_a_blocked_loop():
    """The block of another thread's loop is not in the child."""
    warnings.filterwarnings("ignore", message=".* multi-threaded, use of fork")
    reports = start()
    done = threading.Event()
    loop = support.make_loop(KIND)
    loop.call_soon(done.wait, support.PATIENCE)
    loop.call_soon(loop.stop)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    reports.wait_for()

    def child():
        reports.clear()
        mine = support.make_loop(KIND)
        block(mine, reports)
        assert {told.thread for told in reports} == {threading.current_thread().name}

    in_child(child)
    done.set()
    thread.join()
    support.wait_for_condition(lambda: any(told.ended for told in reports))
    loop.close()


# --- signals and the GIL --------------------------------------------------------------


def stopped_process():
    """What runs when SIGSTOP comes is not slow because of that."""
    reports = start(threshold=0.4)
    loop = support.make_loop(KIND)

    def stop_here():
        os.kill(os.getpid(), signal.SIGSTOP)

    child = os.fork()
    if child == 0:
        loop.call_soon(stop_here)
        support.run_once(loop)
        block(loop, reports)
        names = [frame.name for frame in reports[0].stack]
        os._exit("stop_here" in names)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    time.sleep(1)  # how long it is stopped: more than the threshold
    os.kill(child, signal.SIGCONT)
    assert os.waitpid(child, 0)[1] == 0
    loop.close()


def signals_are_the_program_s():
    """They come to its own threads, whose handlers run although a loop is blocked."""
    reports = start()
    loop = support.make_loop(KIND)
    got = []
    signal.signal(signal.SIGUSR1, lambda *args: got.append(args))

    def wait():
        reports.wait_for()
        os.kill(os.getpid(), signal.SIGUSR1)
        support.wait_for_condition(lambda: got)

    loop.call_soon(wait)
    support.run_once(loop)
    loop.close()


def gil_alarm():
    """Prints all stacks while a C function has the GIL."""
    reports = start(gil_threshold=THRESHOLD)
    loop = support.make_loop(KIND)
    usleep = ctypes.PyDLL(None).usleep

    def hold_the_gil():
        usleep(900_000)
        reports.wait_for()

    loop.call_soon(hold_the_gil)
    support.run_once(loop)
    loop.close()


def gil_alarm_whose_signal_was_taken():
    """Nothing is sent to whoever has it now."""
    reports = start(gil_threshold=THRESHOLD / 2, rate=math.inf)
    got = []
    signal.signal(reports.dog._signum, lambda *args: got.append(args))
    loop = support.make_loop(KIND)
    usleep = ctypes.PyDLL(None).usleep
    for count in (1, 3):
        loop.call_soon(lambda n=count: (usleep(300_000), reports.wait_for(n)))
        support.run_once(loop)
    assert not got
    signal.signal(reports.dog._signum, signal.SIG_DFL)
    loop.close()


def main():
    logging.getLogger("pyloop.watchdog").disabled = True
    globals()[sys.argv[2]]()


if __name__ == "__main__":
    main()
