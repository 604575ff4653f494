"""find_deadlocks(), and what pyloop.tasks traces: loops that hang, lost tasks."""

import asyncio
import gc
import logging
import re
import signal
import socket
import sys
import threading
import time

import acceleratekit
import brokenkit
import pytest
import support

from pyloop import _stalls, tasks

GLOBAL = []

functions = acceleratekit.functions


@pytest.fixture
def traced():
    tasks.trace_deadlocks()
    yield
    tasks.trace_deadlocks(False)


async def settle():
    for _ in range(6):
        await asyncio.sleep(0)


def judge(loop, *makers):
    """Start what the makers return as t0, t1, ...; return what is found."""

    async def main():
        made = []
        for number, maker in enumerate(makers):
            made.append(loop.create_task(maker()))
            made[-1].set_name(f"t{number}")
        await settle()
        found = tasks.find_deadlocks()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        return found

    found = loop.run_until_complete(main())
    return [(each.kind, sorted(node.name for node in each.tasks)) for each in found]


async def nested(outer, inner):
    async with outer:
        await asyncio.sleep(0)
        async with inner:
            pass


def locks(loop, kind=asyncio.Lock, count=2):
    async def make():
        return [kind() for _ in range(count)]

    return loop.run_until_complete(make())


# -- circles -----------------------------------------------------------------------


def test_two_locks(loop, functions):
    a, b = locks(loop)
    found = judge(loop, lambda: nested(a, b), lambda: nested(b, a))
    assert found == [("cycle", ["t0", "t1"])]


def test_a_lock_twice(loop, functions):
    (a,) = locks(loop, count=1)
    assert judge(loop, lambda: nested(a, a)) == [("cycle", ["t0"])]


def test_bounded_semaphores(loop, functions):
    a, b = locks(loop, asyncio.BoundedSemaphore)
    found = judge(loop, lambda: nested(a, b), lambda: nested(b, a))
    assert found == [("cycle", ["t0", "t1"])]


def test_a_holder_that_awaits_who_waits(loop, functions):
    (a,) = locks(loop, count=1)

    async def enters():
        async with a:
            pass

    async def holds():
        async with a:
            await asyncio.gather(loop.create_task(enters()))

    ((kind, names),) = judge(loop, holds)
    assert kind == "cycle" and len(names) == 2 and "t0" in names


def test_a_holder_that_can_go_on_is_no_deadlock(loop, functions):
    a, b = locks(loop)

    async def holds():
        async with b:
            await asyncio.sleep(600)

    assert judge(loop, holds, lambda: nested(a, b), lambda: nested(a, b)) == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="came with Python 3.11")
def test_a_time_limit_ends_a_circle(loop, functions):
    a, b = locks(loop)

    async def limited():
        async with asyncio.timeout(600):
            await nested(a, b)

    assert judge(loop, limited, lambda: nested(b, a)) == []


def test_wait_for_ends_a_circle(loop, functions):
    a, b = locks(loop)

    async def limited():
        await asyncio.wait_for(nested(a, b), 600)

    assert judge(loop, limited, lambda: nested(b, a)) == []


@pytest.mark.pyloop_only
def test_locks_that_were_acquired_otherwise(loop, traced):
    a, b = locks(loop)

    async def takes(first, second):
        await first.acquire()
        await asyncio.sleep(0)
        await second.acquire()

    found = judge(loop, lambda: takes(a, b), lambda: takes(b, a))
    assert found == [("cycle", ["t0", "t1"])]


# -- what nothing can bring about ------------------------------------------------------


async def waits_for_nobodys_future():
    await asyncio.get_running_loop().create_future()


async def waits_for_nobodys_event():
    await asyncio.Event().wait()


async def waits_for_nobodys_queue():
    await asyncio.Queue().get()


@pytest.mark.parametrize(
    "maker",
    [waits_for_nobodys_future, waits_for_nobodys_event, waits_for_nobodys_queue],
)
def test_an_orphan(loop, functions, maker):
    assert judge(loop, maker) == [("orphan", ["t0"])]


def test_what_a_live_task_has_is_no_orphan(loop, functions):
    async def shares():
        event = asyncio.Event()
        waiting = loop.create_task(event.wait())
        await asyncio.sleep(600)
        return waiting

    assert judge(loop, shares) == []


def test_what_a_stuck_task_has_is_an_orphan(loop, functions):
    async def shares():
        event = asyncio.Event()
        waiting = loop.create_task(event.wait())
        waiting.set_name("inner")
        await waiting
        return event

    assert judge(loop, shares) == [("orphan", ["inner"])]


def test_what_a_module_has_is_no_orphan(loop, functions):
    async def waits():
        GLOBAL.append(asyncio.Event())
        await GLOBAL[-1].wait()

    try:
        assert judge(loop, waits) == []
    finally:
        GLOBAL.clear()


def test_what_a_callback_has_is_no_orphan(loop, functions):
    async def waits():
        future = loop.create_future()
        handle = loop.call_later(600, future.set_result, None)
        try:
            await future
        finally:
            handle.cancel()

    assert judge(loop, waits) == []


def test_what_runs_has_is_no_orphan(loop, functions):
    async def main():
        event = asyncio.Event()
        waiting = loop.create_task(event.wait())
        await settle()
        found = tasks.find_deadlocks()
        event.set()
        await waiting
        return found

    assert loop.run_until_complete(main()) == ()


def test_what_a_frozen_object_has_is_no_orphan(loop, functions):
    """The collector does not tell of it; the reference count does."""

    async def main():
        event = asyncio.Event()
        holder = [event]
        waiting = loop.create_task(event.wait())
        del event
        gc.freeze()
        await settle()
        found = tasks.find_deadlocks()
        holder[0].set()
        await waiting
        return found

    try:
        assert loop.run_until_complete(main()) == ()
    finally:
        gc.unfreeze()


def test_a_limited_wait_is_no_orphan(loop, functions):
    async def limited():
        await asyncio.wait_for(asyncio.Event().wait(), 600)

    assert judge(loop, limited) == []


def test_sleepers_and_readers_are_no_orphans(loop, functions):
    async def executes():
        await loop.run_in_executor(None, time.sleep, 0.01)

    assert judge(loop, lambda: asyncio.sleep(600), executes) == []


# -- a loop that is about to wait for ever -------------------------------------------


@pytest.fixture
def hang(loop, traced, monkeypatch, caplog):
    """Run a coroutine until the loop has nothing to do, twice; what was logged then."""
    monkeypatch.setattr(_stalls, "_SIGNALS", [])  # the suite's own alarm
    calls = []

    def about_to_block():
        type(loop)._about_to_block(loop)
        calls.append(1)
        loop.call_soon(loop.stop if len(calls) > 1 else int)

    loop._about_to_block = about_to_block

    def run(coro):
        task = loop.create_task(coro)
        task.set_name("main")
        with caplog.at_level(logging.WARNING, "pyloop.tasks"):
            loop.run_forever()
        texts = [each for each in caplog.records if each.name == "pyloop.tasks"]
        others = asyncio.all_tasks(loop)
        for each in others:
            each.cancel()
        support.spin(loop)
        return [each.getMessage() for each in texts]

    yield run
    del loop._about_to_block


@pytest.mark.pyloop_only
def test_a_thread_that_called_the_loop_and_is_gone(hang, loop, monkeypatch, caplog):
    """It ended between the loop's last look at its inbox and that at the threads."""
    threads = [threading.Thread(target=loop.call_soon_threadsafe, args=(int,))]
    others_live = _stalls._others_live
    told = []

    def ends_first():
        told.append(len(caplog.records))
        while threads:
            thread = threads.pop()
            thread.start()
            thread.join()
        return others_live()

    monkeypatch.setattr(_stalls, "_others_live", ends_first)
    assert len(hang(waits_for_nobodys_future())) == 1  # by the second look
    assert told == [0, 0]


@pytest.mark.pyloop_only
def test_a_hang_is_told_once(hang, functions):
    (text,) = hang(waits_for_nobodys_future())
    assert text.startswith("the loop will wait for ever: ")
    assert re.search(r"waiting at .*test_deadlocks.py:\d+ in waits_for_nobodys", text)
    assert "this task waits for what nothing can bring about" in text
    assert "created at " in text


@pytest.mark.pyloop_only
def test_a_new_hang_is_told_again(loop, hang):
    events = []

    async def waits_twice():
        for _ in range(2):
            events.append(asyncio.Event())
            await events[-1].wait()

    about_to_block = loop._about_to_block

    def set_after():
        about_to_block()
        if len(events) == 1:
            events[0].set()

    loop._about_to_block = set_after
    assert len(hang(waits_twice())) == 2


def quiet_reasons(loop):
    """What keeps a loop from being told to hang: made, and taken away again."""
    near, far = socket.socketpair()
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)

    def stop_thread():
        gate.set()
        thread.join()

    def close():
        loop.remove_reader(near)
        near.close()
        far.close()

    return {
        "descriptor": (lambda: loop.add_reader(near, int), close),
        "thread": (thread.start, lambda: (stop_thread(), close())),
        "signal": (
            lambda: loop.add_signal_handler(signal.SIGUSR2, int),
            lambda: (loop.remove_signal_handler(signal.SIGUSR2), close()),
        ),
    }


@pytest.mark.pyloop_only
@pytest.mark.parametrize("reason", ["descriptor", "thread", "signal"])
def test_who_could_end_it_keeps_it_quiet(loop, hang, reason):
    begin, end = quiet_reasons(loop)[reason]
    begin()
    try:
        loop.call_later(0.01, loop.stop)  # with a descriptor it is not asked at all
        assert hang(waits_for_nobodys_future()) == []
    finally:
        end()


@pytest.mark.pyloop_only
def test_an_idle_executor_is_nobody(loop, hang):
    async def hangs():
        await loop.run_in_executor(None, int)
        await waits_for_nobodys_future()

    texts = []
    while not texts:  # its thread may still be on its way to the queue
        loop.__dict__.pop("_pyloop_told", None)
        texts = hang(hangs())
    assert len(texts) == 1


@pytest.mark.pyloop_only
@pytest.mark.parametrize("together", [False, True])
def test_an_asked_executor_is_somebody(loop, traced, caplog, monkeypatch, together):
    """Its thread looks idle from when it is handed the work to when it has the GIL."""

    async def main():
        for _ in range(50):
            asked = loop.run_in_executor(None, int)
            await (asyncio.gather(asked) if together else asked)

    monkeypatch.setattr(_stalls, "_SIGNALS", [])  # the suite's own alarm
    loop.run_until_complete(main())
    assert not [each for each in caplog.records if each.name == "pyloop.tasks"]


@pytest.mark.pyloop_only
def test_a_handler_that_is_the_users_keeps_it_quiet(loop, hang, monkeypatch):
    monkeypatch.setattr(_stalls, "_SIGNALS", [signal.SIGUSR2])
    before = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    try:
        assert hang(waits_for_nobodys_future()) == []
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.pyloop_only
def test_an_error_in_the_trace_is_reported(loop, traced):
    contexts = []

    def fails():
        loop.stop()
        raise ZeroDivisionError

    loop._about_to_block = fails
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    loop.run_forever()
    assert type(contexts[0]["exception"]) is ZeroDivisionError
    del loop._about_to_block


# -- where tasks were made ------------------------------------------------------------


async def fails():
    raise LookupError("nobody looks")


@pytest.mark.pyloop_only
def test_a_lost_exception_has_its_place(loop, traced, asyncio_log):
    async def main():
        task = loop.create_task(fails())
        await settle()
        del task

    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    loop.run_until_complete(main())
    support.collect()
    (context,) = contexts
    (entry,) = context["source_traceback"]
    assert entry.name.endswith("main") and entry.line == (
        "task = loop.create_task(fails())"
    )


@pytest.mark.pyloop_only
def test_nothing_is_noted_unless_asked_for(loop):
    async def main():
        assert tasks.tree().roots[0].created is None

    loop.run_until_complete(main())


@pytest.mark.pyloop_only
def test_the_place_is_in_the_tree(loop, traced):
    async def main():
        inner = loop.create_task(asyncio.sleep(600), name="inner")
        await asyncio.sleep(0)
        (found,) = [each for each in tasks.tree().nodes() if each.name == "inner"]
        inner.cancel()
        return found

    created = loop.run_until_complete(main()).created
    assert created.file == __file__ and created.function.endswith("main")


@pytest.mark.pyloop_only
def test_too_many_tasks_of_one_place(loop, caplog):
    tasks.trace_creation(warn_at=50)
    try:

        async def main():
            some = [loop.create_task(asyncio.sleep(600)) for _ in range(120)]
            for task in some:
                task.cancel()
            await asyncio.wait(some)
            for _ in range(200):  # never many at once
                await loop.create_task(asyncio.sleep(0))

        with caplog.at_level(logging.WARNING, "pyloop.tasks"):
            loop.run_until_complete(main())
    finally:
        tasks.trace_creation(False)
    numbers = [
        re.match(r"(\d+) tasks made at", each.message) for each in caplog.records
    ]
    assert [int(each[1]) for each in numbers] == [50, 100]


def test_bad_arguments():
    with pytest.raises(ValueError, match="warn_at"):
        tasks.trace_creation(warn_at=-1)


def test_tracing_puts_asyncios_functions_back():
    before = asyncio.Lock.acquire, asyncio.Semaphore.release
    tasks.trace_deadlocks()
    tasks.trace_deadlocks()
    assert asyncio.Lock.acquire is not before[0]
    tasks.trace_deadlocks(False)
    assert (asyncio.Lock.acquire, asyncio.Semaphore.release) == before
    assert sys.get_coroutine_origin_tracking_depth() == 0


# -- programs ------------------------------------------------------------------------

HANGS = ["lock_cycle", "queue_nobody_fills", "semaphore_exhausted", "swallowed_cancel"]
ENDS = ["forgotten_await", "lost_exception", "unbounded_tasks"]


@pytest.mark.pyloop_only
@pytest.mark.parametrize("options", [(), ("--accelerate",)])
@pytest.mark.parametrize("name", HANGS)
def test_a_program_that_hangs(loop_kind, name, options):
    text = brokenkit.run_broken(name, "--trace-deadlocks", *options, hangs=True)
    assert "the loop will wait for ever" in text
    brokenkit.assert_named(text, name)


@pytest.mark.pyloop_only
@pytest.mark.parametrize("name", ENDS)
def test_a_program_that_goes_wrong(loop_kind, name):
    text = brokenkit.run_broken(name, "--trace-deadlocks")
    brokenkit.assert_named(text, name)
