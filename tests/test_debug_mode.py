"""Debug mode: slow callbacks, calls from the wrong thread, wrong callbacks, origins."""

import asyncio
import functools
import logging
import re
import sys
import threading

import pytest
import support
from support import run_once

WRONG_THREAD = (
    "Non-thread-safe operation invoked on an event loop other than the current one"
)


def target(*args):
    """A callback."""


async def coroutine_function():
    """Not a callback."""


@pytest.fixture
def debug_loop(loop):
    loop.set_debug(True)
    yield loop
    if not loop.is_closed():
        loop.set_debug(False)


# --- the switch ---------------------------------------------------------------


def test_off_by_default(loop):
    assert loop.get_debug() is False


def test_the_switch(loop):
    assert loop.set_debug(True) is None
    assert loop.get_debug() is True
    assert loop._debug is True
    loop.set_debug(False)
    assert loop.get_debug() is False
    loop.set_debug(1)
    assert loop.get_debug() == 1
    loop._debug = False
    assert loop.get_debug() is False


@pytest.mark.parametrize(
    ("flags", "variables", "expected"),
    [
        ((), {}, False),
        (("-X", "dev"), {}, True),
        ((), {"PYTHONASYNCIODEBUG": "1"}, True),
        (("-E",), {"PYTHONASYNCIODEBUG": "1"}, False),
    ],
)
def test_how_a_process_asks_for_it(loop_kind, flags, variables, expected):
    script = (
        "import sys; sys.path[:0] = sys.argv[2].split(':')\n"
        "import support\n"
        "loop = support.make_loop(sys.argv[1])\n"
        "print(loop.get_debug())\n"
        "loop.close()\n"
    )
    path = support.script_environment()["PYTHONPATH"]
    process = support.run_script(script, loop_kind, path, flags=flags, env=variables)
    assert process.stdout == f"{expected}\n"


# --- slow callbacks -----------------------------------------------------------


def test_the_default_threshold(loop):
    assert loop.slow_callback_duration == 0.1
    loop.slow_callback_duration = 5
    assert loop.slow_callback_duration == 5


def slow_lines(asyncio_log):
    return [text for text in asyncio_log.take_texts() if text.startswith("Executing ")]


def test_a_slow_callback_is_logged(debug_loop, asyncio_log):
    handle = debug_loop.call_soon(target, "argument")
    debug_loop.slow_callback_duration = 0  # everything is as slow as that
    run_once(debug_loop)
    lines = slow_lines(asyncio_log)
    expected = re.escape(f"Executing {handle!r} took ") + r"\d+\.\d{3} seconds"
    assert re.fullmatch(expected, lines[0])


def test_the_line_is_a_warning(debug_loop, caplog):
    debug_loop.slow_callback_duration = 0
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        debug_loop.call_soon(target)
        run_once(debug_loop)
    records = [r for r in caplog.records if r.getMessage().startswith("Executing ")]
    assert {record.levelno for record in records} == {logging.WARNING}
    assert {record.name for record in records} == {"asyncio"}


def test_the_time_is_that_of_the_callback(debug_loop, asyncio_log):
    clock = [1000.0]
    debug_loop.time = lambda: clock[0]

    def slow():
        clock[0] += 12.3456

    debug_loop.call_soon(slow)
    run_once(debug_loop)
    (line,) = slow_lines(asyncio_log)
    assert line.endswith(" took 12.346 seconds")
    del debug_loop.time


def test_the_threshold_counts_from_exactly_it(debug_loop, asyncio_log):
    clock = [1000.0]
    debug_loop.time = lambda: clock[0]
    debug_loop.slow_callback_duration = 2.0

    def takes(seconds):
        clock[0] += seconds

    for seconds in (1.5, 2.0, 2.5):
        debug_loop.call_soon(takes, seconds)
    run_once(debug_loop)
    lines = slow_lines(asyncio_log)
    assert [line.split()[-2] for line in lines] == ["2.000", "2.500"]
    del debug_loop.time


def test_nothing_is_logged_below_the_threshold(debug_loop, asyncio_log):
    debug_loop.slow_callback_duration = 1000
    debug_loop.call_soon(target)
    run_once(debug_loop)
    assert slow_lines(asyncio_log) == []


def test_nothing_is_logged_outside_debug_mode(loop, asyncio_log):
    loop.slow_callback_duration = 0
    loop.call_soon(target)
    run_once(loop)
    assert asyncio_log.take() == []


def test_a_slow_timer_and_a_slow_reader(debug_loop, asyncio_log):
    debug_loop.slow_callback_duration = 0
    with support.socket_pair() as (left, right):
        right.send(b"x")
        debug_loop.add_reader(left, target, "reader")
        debug_loop.call_at(debug_loop.time() - 1, target, "timer")
        run_once(debug_loop)
        debug_loop.remove_reader(left)
    text = "\n".join(slow_lines(asyncio_log))
    assert re.search(r"Executing <TimerHandle when=.*target\('timer'\)", text)
    assert re.search(r"Executing <Handle target\('reader'\)", text)


def test_a_slow_step_of_a_task_names_the_task(debug_loop, asyncio_log):
    async def slow():
        pass

    async def main():
        await asyncio.create_task(slow(), name="the slow one")

    task = debug_loop.create_task(main(), name="main")
    debug_loop.slow_callback_duration = 0
    debug_loop.run_until_complete(task)
    debug_loop.slow_callback_duration = 1000
    text = "\n".join(slow_lines(asyncio_log))
    assert re.search(
        r"Executing <Task finished name='the slow one' coro=<.*slow\(\)", text
    )
    assert re.search(r"Executing <Task pending name='main' coro=<.*main\(\)", text)


def test_a_slow_callback_that_fails_is_logged_too(debug_loop, asyncio_log):
    debug_loop.slow_callback_duration = 0
    debug_loop.call_soon(functools.partial(int, "x"))
    run_once(debug_loop)
    texts = asyncio_log.take_texts()
    assert any(text.startswith("Exception in callback") for text in texts)
    assert any(re.match(r"Executing <Handle .*int", text) for text in texts)


def test_a_cancelled_handle_keeps_its_name_in_the_log(debug_loop, asyncio_log):
    debug_loop.slow_callback_duration = 0
    handle = debug_loop.call_soon(lambda: handle.cancel())
    run_once(debug_loop)
    lines = slow_lines(asyncio_log)
    assert re.match(r"Executing <Handle cancelled .*lambda", lines[0])


def test_the_handle_that_runs_is_known(debug_loop):
    seen = []
    handle = debug_loop.call_soon(lambda: seen.append(debug_loop._current_handle))
    run_once(debug_loop)
    assert seen == [handle]
    assert debug_loop._current_handle is None


def test_the_handle_is_forgotten_when_it_ends_the_run(debug_loop):
    def leave():
        raise KeyboardInterrupt

    debug_loop.call_soon(leave)
    with pytest.raises(KeyboardInterrupt):
        debug_loop.run_forever()
    assert debug_loop._current_handle is None


# --- threads ------------------------------------------------------------------


METHODS = {
    "call_soon": lambda loop: loop.call_soon(target),
    "call_later": lambda loop: loop.call_later(1000, target),
    "call_at": lambda loop: loop.call_at(loop.time() + 1000, target),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_call_from_the_wrong_thread_is_refused(debug_loop, method):
    errors = []

    def body():
        try:
            METHODS[method](debug_loop)
        except RuntimeError as exc:
            errors.append(str(exc))

    debug_loop.call_soon(support.run_in_thread, body)
    run_once(debug_loop)
    assert errors == [WRONG_THREAD]


@pytest.mark.parametrize("method", METHODS)
def test_a_call_from_another_loop_s_thread_is_refused(debug_loop, new_loop, method):
    other = new_loop()
    errors = []

    async def body():
        try:
            METHODS[method](debug_loop)
        except RuntimeError as exc:
            errors.append(str(exc))

    def in_thread():
        support.run_in_thread(other.run_until_complete, body())

    debug_loop.call_soon(in_thread)
    run_once(debug_loop)
    assert errors == [WRONG_THREAD]


@pytest.mark.parametrize("method", METHODS)
def test_a_loop_that_does_not_run_belongs_to_nobody(debug_loop, method):
    handle = support.run_in_thread(METHODS[method], debug_loop)
    assert handle._callback is target
    handle.cancel()


def test_threadsafe_calls_are_not_refused(debug_loop):
    seen = []

    def body():
        debug_loop.call_soon_threadsafe(seen.append, "called")

    debug_loop.call_soon(support.run_in_thread, body)
    support.spin(debug_loop, 2)
    assert seen == ["called"]


def test_outside_debug_mode_nothing_is_checked(loop):
    def body():
        for method in METHODS.values():
            handles.append(method(loop))

    handles = []
    loop.call_soon(support.run_in_thread, body)
    run_once(loop)
    for handle in handles:
        handle.cancel()
    assert len(handles) == 3


# --- callbacks ----------------------------------------------------------------


CALLS = {
    "call_soon": lambda loop, callback: loop.call_soon(callback),
    "call_later": lambda loop, callback: loop.call_later(1, callback),
    "call_at": lambda loop, callback: loop.call_at(1, callback),
    "call_soon_threadsafe": lambda loop, callback: loop.call_soon_threadsafe(callback),
    "run_in_executor": lambda loop, callback: loop.run_in_executor(None, callback),
}
#: call_later says the name of what it calls.
NAMES = {name: name.replace("call_later", "call_at") for name in CALLS}


@pytest.mark.parametrize("method", CALLS)
def test_coroutine_functions_are_refused(debug_loop, method):
    with pytest.raises(TypeError) as caught:
        CALLS[method](debug_loop, coroutine_function)
    assert str(caught.value) == f"coroutines cannot be used with {NAMES[method]}()"


@pytest.mark.parametrize("method", CALLS)
def test_coroutines_are_refused(debug_loop, method):
    coroutine = coroutine_function()
    with pytest.raises(TypeError) as caught:
        CALLS[method](debug_loop, coroutine)
    assert str(caught.value) == f"coroutines cannot be used with {NAMES[method]}()"
    coroutine.close()


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("callback", [None, 1, "x", b"x", []], ids=repr)
def test_what_cannot_be_called_is_refused(debug_loop, method, callback):
    with pytest.raises(TypeError) as caught:
        CALLS[method](debug_loop, callback)
    assert str(caught.value) == (
        f"a callable object was expected by {NAMES[method]}(), got {callback!r}"
    )


def test_nothing_is_left_of_a_refused_call(debug_loop):
    for call in CALLS.values():
        with pytest.raises(TypeError):
            call(debug_loop, None)
    assert not debug_loop._ready
    assert not debug_loop._scheduled


@pytest.mark.parametrize("callback", [None, 1, "x"], ids=repr)
@pytest.mark.parametrize("method", ["call_soon", "call_at", "call_soon_threadsafe"])
def test_outside_debug_mode_it_is_an_error_of_the_callback(loop, method, callback):
    with support.ErrorRecorder(loop) as errors:
        CALLS[method](loop, callback)
        run_once(loop)
        context = errors.only()
        assert isinstance(context["exception"], TypeError)
        assert context["message"].startswith(f"Exception in callback {callback!r}()")


# --- where things were made ---------------------------------------------------


def test_errors_say_where_the_handle_was_made(debug_loop):
    with support.ErrorRecorder(debug_loop) as errors:
        handle = debug_loop.call_soon(lambda: 1 / 0)
        run_once(debug_loop)
        context = errors.only()
        assert context["handle"] is handle
        assert context["source_traceback"] is handle._source_traceback
        assert context["source_traceback"][-1].filename == __file__


def test_the_log_says_where_the_handle_was_made(debug_loop, asyncio_log):
    debug_loop.slow_callback_duration = 1000
    debug_loop.call_soon(lambda: 1 / 0)
    run_once(debug_loop)
    (line,) = asyncio_log.take()
    assert "Object created at (most recent call last):" in line.text
    assert "test_the_log_says_where_the_handle_was_made" in line.text
    assert line.exception_type is ZeroDivisionError


def test_the_log_of_an_error_in_a_callback_names_the_callback_s_origin(
    debug_loop, asyncio_log
):
    debug_loop.slow_callback_duration = 1000
    debug_loop.call_soon(debug_loop.call_exception_handler, {"message": "the message"})
    run_once(debug_loop)
    (line,) = asyncio_log.take()
    assert line.text.startswith(
        "the message\nhandle_traceback: Handle created at (most"
    )
    assert "test_the_log_of_an_error_in_a_callback" in line.text


def test_futures_and_tasks_know_their_origin(debug_loop):
    future = debug_loop.create_future()
    assert __file__ in [frame.filename for frame in future._source_traceback[-2:]]

    async def main():
        return asyncio.current_task()._source_traceback[-1].filename

    task = debug_loop.create_task(main())
    assert debug_loop.run_until_complete(task) == __file__


def test_a_coroutine_that_is_never_awaited_tells_its_origin(debug_loop):
    async def main():
        coroutine_function()
        support.collect()

    with pytest.warns(RuntimeWarning) as caught:
        debug_loop.run_until_complete(main())
    text = str(caught[0].message)
    assert "coroutine 'coroutine_function' was never awaited" in text
    assert "Coroutine created at (most recent call last)" in text


def test_a_program_runs_in_debug_mode(debug_loop):
    debug_loop.slow_callback_duration = 1000

    async def worker(queue):
        while (item := await queue.get()) is not None:
            await asyncio.sleep(0.0001 * item)

    async def main():
        queue = asyncio.Queue(2)
        workers = [asyncio.create_task(worker(queue)) for _ in range(3)]
        for i in range(20):
            await queue.put(i % 3)
        for _ in workers:
            await queue.put(None)
        await asyncio.gather(*workers)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        return await debug_loop.run_in_executor(None, threading.get_ident)

    assert support.run(debug_loop, main()) != threading.get_ident()
    assert sys.get_coroutine_origin_tracking_depth() == 0
