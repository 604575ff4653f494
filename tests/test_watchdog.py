"""pyloop.watchdog: what blocks a loop is told while it does.

Nothing here measures time: what blocks does so until it was reported, and PATIENCE is
when a test fails.
"""

import asyncio
import contextlib
import ctypes
import dataclasses
import gc
import inspect
import logging
import math
import os
import re
import sys
import threading
import time
import weakref

import pytest
import support

pyloop = pytest.importorskip("pyloop", reason="the extension is not built")

from pyloop import watchdog  # noqa: E402

pytestmark = pytest.mark.pyloop_only

THRESHOLD = 0.05


class Reports:
    """A watchdog's callback, which keeps what it is told."""

    def __init__(self):
        self.blocks = []

    def __call__(self, block):
        self.blocks.append(block)

    def begun(self):
        return [block for block in self.blocks if not block.ended]

    def of(self, function):
        """The block that began where a function has its guilty line."""
        return next(b for b in self.begun() if where(b.culprit) == LINES[function])

    def wait_for(self, count=1, ended=False):
        """Block this thread until so many blocks are told to have begun, or ended."""
        support.wait_for_condition(
            lambda: sum(block.ended == ended for block in self.blocks) >= count,
            what=f"{count} reports",
        )


@contextlib.contextmanager
def watching(**keywords):
    """The reports of a watchdog that is active inside the block."""
    reports = Reports()
    keywords = {
        "threshold": THRESHOLD,
        "callback": reports,
        "rate": math.inf,
    } | keywords
    with watchdog.start(**keywords) as dog:
        reports.dog = dog
        yield reports


def guilty_line(function, mark="culprit"):
    """The file and the line of a function that ends with a comment of that mark."""
    lines, first = inspect.getsourcelines(function)
    [at] = [i for i, line in enumerate(lines) if line.rstrip().endswith(f"# {mark}")]
    return inspect.getsourcefile(function), first + at


def where(frame):
    return frame.filename, frame.lineno


# --- what is seen ---------------------------------------------------------------------


def sleep(reports):
    all(time.sleep(0.001) or not reports.blocks for _ in iter(int, 1))  # culprit


def read_a_socket(reports):
    with support.socket_pair() as (left, right):
        left.setblocking(True)
        thread = threading.Thread(target=lambda: (reports.wait_for(), right.send(b"x")))
        thread.start()
        left.recv(1)  # culprit
        thread.join()


def compute(reports):
    all(not reports.blocks for _ in iter(int, 1))  # culprit


def hold_the_gil(reports):
    usleep = ctypes.PyDLL(None).usleep
    all(usleep(250_000) or not reports.blocks for _ in iter(int, 1))  # culprit


def wait_for_a_thread(reports):
    thread = threading.Thread(target=reports.wait_for)
    thread.start()
    thread.join()  # culprit


WAYS = [sleep, read_a_socket, compute, hold_the_gil, wait_for_a_thread]
LINES = {function: guilty_line(function) for function in WAYS}


@pytest.mark.parametrize("block", WAYS)
def test_a_block_is_told_while_it_lasts(loop, block):
    async def handler(reports):
        block(reports)

    async def main(reports):
        await asyncio.create_task(handler(reports), name="the guilty one")

    with watching() as reports:
        support.run(loop, main(reports))
        reports.wait_for(ended=True)
    told = reports.of(block)
    assert told.task == "the guilty one"
    assert not told.ended and told.seconds > 0
    assert [frame.name for frame in told.awaits] == ["handler"]
    assert [frame.name for frame in told.stack][:2] == ["handler", block.__name__]
    assert told.thread_id == threading.get_ident()
    assert told.thread == threading.current_thread().name


def test_the_chain_of_awaits(loop):
    async def inner(reports):
        sleep(reports)

    async def middle(reports):
        await inner(reports)

    async def outer(reports):
        await middle(reports)

    with watching() as reports:
        support.run(loop, outer(reports))
    told = reports.of(sleep)
    names = [frame.name for frame in told.awaits]
    assert names[-3:] == ["outer", "middle", "inner"]
    assert "outer() awaits middle() awaits inner()" in str(told)
    assert [frame.name for frame in told.stack][-5:-1] == [*names[-3:], "sleep"]


def test_its_end_is_told(loop):
    with watching() as reports:
        loop.call_soon(sleep, reports)
        support.run_once(loop)
        reports.wait_for(ended=True)
    begin, end = reports.blocks
    assert end == dataclasses.replace(begin, ended=True, seconds=end.seconds)
    assert end.seconds >= begin.seconds - THRESHOLD


def test_a_callback_that_is_no_task(loop):
    with watching() as reports:
        loop.call_soon(sleep, reports)
        support.run_once(loop)
    told = reports.blocks[0]
    assert told.task is None
    assert told.awaits == ()
    assert [frame.name for frame in told.stack][0] == "sleep"
    assert str(told).startswith("A callback has blocked the event loop of thread")


def test_a_c_function_that_the_loop_calls(loop):
    lock = threading.Lock()
    with watching() as reports:
        lock.acquire()
        thread = threading.Thread(target=lambda: (reports.wait_for(), lock.release()))
        thread.start()
        loop.call_soon(lock.acquire)
        support.run_once(loop)
        thread.join()
    told = reports.blocks[0]
    assert told.stack == () and told.culprit is None
    assert "in a C function" in str(told)


def test_a_look_that_found_no_frames_is_repeated(loop, monkeypatch):
    # So it is where there is no GIL: what is looked at returns meanwhile.
    looks = []
    look = watchdog._below_the_loop

    def below_the_loop(thread_id):
        looks.append(thread_id)
        return [] if len(looks) < 3 else look(thread_id)

    monkeypatch.setattr(watchdog, "_HAS_GIL", False)
    monkeypatch.setattr(watchdog, "_below_the_loop", below_the_loop)
    with watching() as reports:
        loop.call_soon(reports.wait_for)
        support.run_once(loop)
    assert reports.blocks[0].stack
    assert looks == [threading.get_ident()] * 3


def test_awaiting_is_no_block(loop):
    async def awaiting():
        await asyncio.sleep(20 * THRESHOLD)
        await asyncio.to_thread(time.sleep, 10 * THRESHOLD)
        async with asyncio.Lock():
            await asyncio.sleep(0)

    async def main(reports):
        await asyncio.create_task(awaiting(), name="waits")
        sleep(reports)
        await asyncio.get_running_loop().shutdown_default_executor()

    with watching() as reports:
        support.run(loop, main(reports))
    assert "waits" not in [block.task for block in reports.blocks]


def test_a_protocol_s_method(loop):
    class Protocol(asyncio.Protocol):
        def data_received(self, data):
            sleep(reports)
            loop.stop()

    with watching() as reports, support.socket_pair() as (left, right):
        connecting = loop.create_connection(Protocol, sock=left)
        transport, _ = loop.run_until_complete(connecting)
        right.send(b"x")
        loop.run_forever()
        transport.close()
        support.run_once(loop)
    assert reports.of(sleep)


def test_a_timer_a_reader_and_a_signal_handler(new_loop):
    def run_and_stop(loop, reports):
        sleep(reports)
        loop.stop()

    def timer(loop, reports, fd):
        loop.call_later(0.001, run_and_stop, loop, reports)

    def reader(loop, reports, fd):
        loop.add_reader(fd, run_and_stop, loop, reports)

    def threadsafe(loop, reports, fd):
        call = (loop.call_soon_threadsafe, run_and_stop, loop, reports)
        loop.call_soon(support.run_in_thread, *call)

    with support.socket_pair() as (left, right):
        right.send(b"x")
        for schedule in (timer, reader, threadsafe):
            loop = new_loop()
            with watching() as reports:
                schedule(loop, reports, left)
                loop.run_forever()
                loop.remove_reader(left)
            assert reports.of(sleep).stack[0].name == "run_and_stop"


def test_debug_mode(loop, asyncio_log):
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    with watching() as reports:
        loop.call_soon(sleep, reports)
        support.run_once(loop)
    assert reports.of(sleep)
    assert any("sleep(" in text for text in asyncio_log.take_texts())


# --- which loops ----------------------------------------------------------------------


def test_it_begins_while_a_loop_runs(loop):
    async def main():
        with watching() as reports:
            await asyncio.sleep(0)
            sleep(reports)
        assert reports.of(sleep)

    support.run(loop, main())


def test_loops_in_several_threads(new_loop):
    with watching() as reports:

        def body():
            loop = new_loop()
            loop.call_soon(reports.wait_for, 3)
            support.run_once(loop)

        threads = [threading.Thread(target=body, name=f"loop {i}") for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reports.wait_for(3, ended=True)
        told = {block.thread: block.thread_id for block in reports.begun()}
        assert told == {thread.name: thread.ident for thread in threads}
        assert len(reports.blocks) == 6


def test_several_watchdogs(loop):
    with watching() as first, watching(threshold=2 * THRESHOLD) as second:
        loop.call_soon(lambda: (first.wait_for(), second.wait_for()))
        support.run_once(loop)
        first.wait_for(ended=True)
        first.dog.stop()
        second.wait_for(ended=True)


def test_a_loop_run_inside_a_callback_of_another(new_loop):
    outer, inner = new_loop(), new_loop()

    def run_inner(reports):
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            # Its own callbacks are short; it is the outer loop that does not go on.
            support.run_until(inner, reports.begun)
        finally:
            asyncio._set_running_loop(running)

    with watching() as reports:
        outer.call_soon(run_inner, reports)
        support.run_once(outer)
    told = reports.begun()[0]
    assert told.stack[0].name == "run_inner"


def test_a_run_inside_a_callback_of_the_same_loop(loop):
    """The loop goes on, so nothing is blocked, until the inner run's callback is."""

    def iterate(reports):
        deadline = time.monotonic() + 10 * THRESHOLD
        while time.monotonic() < deadline:
            loop.call_later(0.001, int)
            loop._run_once()
        loop.call_soon(sleep, reports)
        loop._run_once()

    with watching() as reports:
        loop.call_soon(iterate, reports)
        support.run_once(loop)
    told = reports.begun()[0]
    assert [frame.name for frame in told.stack][:2] == ["iterate", "sleep"]


def test_somebody_else_s_iteration(loop_kind):
    class Loop(pyloop.Loop):
        def _run_once(self):
            self._process_events(self._selector.select(0.001))
            for _ in range(len(self._ready)):
                self._ready.popleft()._run()

    loop = Loop()
    with watching() as reports:
        loop.call_soon(sleep, reports)
        support.run_once(loop)
    loop.close()
    assert reports.of(sleep)


def test_the_run_ends_with_the_block(loop):
    def leave(reports):
        sleep(reports)
        raise KeyboardInterrupt

    with watching() as reports:
        loop.call_soon(leave, reports)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        loop.close()
        reports.wait_for(ended=True)
    assert [block.ended for block in reports.blocks] == [False, True]


def test_loops_come_and_go(loop_kind):
    """Closed, left open and collected, and with a _thread_id that was set by hand."""
    with watching() as reports:
        for i in range(50):
            loop = support.make_loop(loop_kind)
            support.run_once(loop)
            assert loop._run_number == 0
            if i % 10 == 0:
                loop._thread_id = threading.get_ident()
                assert loop._run_number > 0
                loop._thread_id = None
            loop.close()
        forged = support.make_loop(loop_kind)
        forged.close()
        forged._thread_id = threading.get_ident()
        gone = weakref.ref(forged)
        del forged, loop
        gc.collect()
        assert gone() is None
        loop = support.make_loop(loop_kind)
        loop.call_soon(sleep, reports)
        support.run_once(loop)
        loop.close()


def test_it_keeps_no_loop(loop_kind):
    loop = support.make_loop(loop_kind)
    with watching() as reports:
        loop.call_soon(sleep, reports)
        support.run_once(loop)
        loop.close()
        gone = weakref.ref(loop)
        del loop

        def is_gone():  # the watchdog's thread may be making the last report
            gc.collect()
            return gone() is None

        support.wait_for_condition(is_gone, what="the end of the loop")


def test_it_sleeps_while_no_loop_runs(loop, monkeypatch):
    with watching() as reports:
        native = reports.dog._thread.native_id
        support.wait_until_asleep(native)
        loop.call_soon(sleep, reports)
        support.run_once(loop)


# --- reports --------------------------------------------------------------------------


def test_the_log(loop, caplog):
    with watching(callback=None) as reports, caplog.at_level(logging.WARNING):

        def block():
            support.wait_for_condition(lambda: caplog.records)  # culprit

        loop.call_soon(block)
        support.run_once(loop)
        support.wait_for_condition(lambda: len(caplog.records) == 2)
        assert not reports.blocks
    begin, end = caplog.records
    assert {begin.name, end.name} == {"pyloop.watchdog"}
    file, line = guilty_line(block)
    assert f'File "{file}", line {line}, in block' in begin.getMessage()
    assert "so far" in begin.getMessage() and "so far" not in end.getMessage()
    assert "\n" not in end.getMessage()


def test_too_many_are_left_out_and_counted(loop):
    with watching(rate=1) as reports:
        dog = reports.dog
        loop.call_soon(reports.wait_for)
        support.run_once(loop)
        loop.call_soon(support.wait_for_condition, lambda: dog._left_out == 1)
        support.run_once(loop)
        reports.wait_for(ended=True)
        dog._told_at.clear()  # as a minute later
        loop.call_soon(reports.wait_for, 2)
        support.run_once(loop)
        reports.wait_for(2, ended=True)
    first, second = reports.begun()
    assert (first.left_out, second.left_out) == (0, 1)
    assert "1 blocks before this were not reported" in str(second)


def test_a_callback_that_fails(loop, caplog):
    calls = []

    def callback(block):
        calls.append(block)
        raise SystemExit

    with watching(callback=callback), caplog.at_level(logging.ERROR):
        for count in (1, 3):
            loop.call_soon(support.wait_for_condition, lambda n=count: len(calls) >= n)
            support.run_once(loop)
        support.wait_for_condition(lambda: len(calls) == 4)
        support.wait_for_condition(lambda: len(caplog.records) == 4)
    assert {record.getMessage() for record in caplog.records} == {
        "The watchdog's callback failed"
    }
    caplog.clear()


def test_the_wait_for_the_gil_is_told():
    frame = watchdog.Block(
        number=1,
        ended=False,
        seconds=2.0,
        thread="MainThread",
        thread_id=1,
        task="name",
        stack=(),
        awaits=(),
        gil_seconds=1.5,
        left_out=0,
    )
    assert "1.50 seconds to get the GIL" in str(frame)
    assert "GIL" not in str(dataclasses.replace(frame, gil_seconds=0.001))
    assert "GIL" not in str(dataclasses.replace(frame, ended=True))


def test_a_debugger_is_no_block(loop, monkeypatch):
    looked = threading.Event()
    known = watchdog._is_debugged

    def is_debugged(frames):
        answer = known(frames)
        if answer:
            looked.set()
        return answer

    monkeypatch.setattr(watchdog, "_is_debugged", is_debugged)
    names = {"__name__": "pdb", "looked": looked, "limit": support.PATIENCE}
    exec("def prompt():\n    assert looked.wait(limit)", names)
    with watching() as reports:
        loop.call_soon(names["prompt"])
        support.run_once(loop)
        loop.call_soon(reports.wait_for)
        support.run_once(loop)
    assert "prompt" not in [frame.name for frame in reports.blocks[0].stack]


def test_the_culprit_is_the_program_s_own():
    def frame(filename):
        return watchdog.traceback.FrameSummary(filename, 1, "f", lookup_line=False)

    own = frame("/srv/app.py")
    library = frame(watchdog._STANDARD[0] + "site-packages/requests/api.py")
    standard = frame(watchdog._STANDARD[0] + "socket.py")
    blank = dict.fromkeys(
        (field.name for field in dataclasses.fields(watchdog.Block)), None
    )

    def culprit(*stack):
        return watchdog.Block(**{**blank, "stack": stack}).culprit

    assert culprit(standard, own, library, standard) is own
    assert culprit(standard, library, standard) is library
    assert culprit(standard) is standard
    assert culprit() is None


# --- starting and stopping ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("threshold", "1", TypeError),
        ("threshold", None, TypeError),
        ("threshold", True, TypeError),
        ("threshold", 0, ValueError),
        ("threshold", -1, ValueError),
        ("threshold", math.nan, ValueError),
        ("threshold", math.inf, ValueError),
        ("callback", 1, TypeError),
        ("rate", "many", TypeError),
        ("rate", 0, ValueError),
        ("gil_threshold", [], TypeError),
        ("gil_threshold", -0.5, ValueError),
    ],
)
def test_wrong_arguments(name, value, error):
    with pytest.raises(error, match=name):
        watchdog.start(**{name: value})


@pytest.mark.parametrize("keywords", [{}, {"gil_threshold": None}, {"threshold": 1e-9}])
def test_other_arguments(loop, keywords):
    with watching(**keywords) as reports:
        loop.call_soon(reports.wait_for)
        support.run_once(loop)


def test_what_the_core_s_part_refuses():
    Watcher = pyloop._core.Watcher
    for wrong in [(), (0.0, 1.0, 0), (math.nan, 1.0, 0), (1.0, -1.0, 0), (1, 1, -1)]:
        with pytest.raises((TypeError, ValueError)):
            Watcher(*wrong)
    watcher = Watcher(1e300, 0.0, 10**6)
    watcher.wake()
    assert watcher.next(True) is None
    assert watcher.goes_on(0) is watcher.goes_on(1) is False
    for method in (watcher.goes_on, Watcher.frame):
        for wrong in (-1, 2**64, "1"):
            with pytest.raises((TypeError, OverflowError)):
                method(wrong)
    assert Watcher.frame(threading.get_ident()) is inspect.currentframe()
    assert Watcher.frame(1) is None


def test_stopping(loop):
    with watching() as reports:
        dog = reports.dog
        assert "active" in repr(dog)
        thread = dog._thread
        dog.stop()
        dog.stop()
        assert not thread.is_alive()
        assert "stopped" in repr(dog)
    assert not reports.blocks


def test_stopping_in_its_own_callback(loop):
    stopped = threading.Event()

    def callback(block):
        dog.stop()
        stopped.set()

    with watching(callback=callback) as reports:
        dog = reports.dog
        thread = dog._thread
        loop.call_soon(stopped.wait, support.PATIENCE)
        support.run_once(loop)
    assert stopped.is_set()
    thread.join(support.PATIENCE)
    assert not thread.is_alive()


def test_stopping_while_a_loop_is_blocked(loop):
    with watching() as reports:
        loop.call_soon(lambda: (sleep(reports), reports.dog.stop()))
        support.run_once(loop)
    assert len(reports.begun()) == 1


def test_signals_are_given_back():
    free = pyloop._core.Watcher.free_signal()
    with watching() as reports:
        assert reports.dog._signum == free
        assert pyloop._core.Watcher.free_signal() != free or free == 0
    assert pyloop._core.Watcher.free_signal() == free


def test_no_thread_to_be_had(loop, monkeypatch):
    free = pyloop._core.Watcher.free_signal()

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        watchdog.start()
    assert pyloop._core.Watcher.free_signal() == free


# --- processes ------------------------------------------------------------------------

SCRIPT = os.path.join(support.TESTS_DIR, "isolated", "watchdog.py")
with open(SCRIPT) as file:
    SCENARIOS = re.findall(r"^def (\w+)\(\):", file.read(), re.MULTILINE)


def own_interpreter(scenario):
    return scenario == "an_interpreter_of_its_own" and sys.version_info < (3, 13)


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(
            scenario,
            marks=pytest.mark.skipif(
                own_interpreter(scenario),
                reason="asyncio itself works in such an interpreter from 3.13 on",
            ),
        )
        for scenario in SCENARIOS
        if scenario not in ("main", "gil_alarm")
    ],
)
def test_processes(loop_kind, scenario):
    process = support.run_script(SCRIPT, loop_kind, scenario)
    assert process.stdout == ""


@pytest.mark.skipif(support.FREE_THREADED, reason="there is no GIL that may be held")
def test_the_gil_alarm(loop_kind):
    process = support.run_script(SCRIPT, loop_kind, "gil_alarm", check=False)
    assert process.returncode == 0
    with open(SCRIPT) as source:
        lines = source.read().splitlines()
    [line] = [i for i, text in enumerate(lines, 1) if "usleep(900_000)" in text]
    assert f'File "{SCRIPT}", line {line} in hold_the_gil' in process.stderr
