"""Handle and TimerHandle: attributes, representation, cancel, lifetime, arguments."""

import asyncio
import contextvars
import functools
import gc
import itertools
import sys
import unittest.mock
import weakref

import pytest
import support
from support import run_once

HERE = __file__


def target(*args):
    """A callback with a known name and place."""


class Token:
    def __repr__(self):
        return "<token>"


def soon(loop, *args, **kwargs):
    return loop.call_soon(*args, **kwargs)


def later(loop, *args, **kwargs):
    return loop.call_later(1000, *args, **kwargs)


def at(loop, *args, **kwargs):
    return loop.call_at(loop.time() + 1000, *args, **kwargs)


def threadsafe(loop, *args, **kwargs):
    return loop.call_soon_threadsafe(*args, **kwargs)


ALL = pytest.mark.parametrize("make", [soon, later, at, threadsafe])
TIMERS = pytest.mark.parametrize("make", [later, at])


# --- what a handle is ---------------------------------------------------------


@ALL
def test_a_handle_is_asyncios(loop, make):
    handle = make(loop, target)
    assert isinstance(handle, asyncio.Handle)
    assert isinstance(handle, asyncio.TimerHandle) == (make in (later, at))
    if make is threadsafe and sys.version_info >= (3, 14):
        assert isinstance(handle, asyncio.events._ThreadSafeHandle)
        assert type(handle).__name__ == "_ThreadSafeHandle"
    else:
        assert type(handle).__name__ in ("Handle", "TimerHandle")


@ALL
def test_attributes(loop, make):
    first, second = Token(), Token()
    handle = make(loop, target, first, second)
    assert handle._callback is target
    assert handle._args == (first, second)
    assert handle._args[0] is first
    assert handle._loop is loop
    assert handle._cancelled is False
    assert handle.cancelled() is False
    assert handle._source_traceback is None
    assert handle._repr is None
    assert isinstance(handle._context, contextvars.Context)
    if sys.version_info >= (3, 12):
        assert handle.get_context() is handle._context


@ALL
def test_context_argument(loop, make):
    context = contextvars.copy_context()
    assert make(loop, target, context=context)._context is context
    other = make(loop, target, context=None)._context
    assert isinstance(other, contextvars.Context)
    assert other is not context


@ALL
def test_no_other_keyword(loop, make):
    with pytest.raises(TypeError):
        make(loop, target, name="x")
    with pytest.raises(TypeError):
        make(loop)


def test_missing_arguments_of_timers(loop):
    with pytest.raises(TypeError):
        loop.call_later(1)
    with pytest.raises(TypeError):
        loop.call_at(1)
    with pytest.raises(TypeError):
        loop.call_later()
    with pytest.raises(TypeError):
        loop.call_at()


@pytest.mark.parametrize("name", ["delay", "when"])
def test_the_time_may_be_given_by_name(loop, name):
    method = loop.call_later if name == "delay" else loop.call_at
    handle = method(**{name: 10_000}, callback=target)
    assert handle._callback is target
    handle.cancel()


def test_the_callback_may_be_given_by_name(loop):
    seen = []
    loop.call_soon(callback=functools.partial(seen.append, "soon"))
    loop.call_soon_threadsafe(callback=functools.partial(seen.append, "threadsafe"))
    support.spin(loop, 2)
    assert seen == ["soon", "threadsafe"]


@ALL
def test_weak_references(loop, make):
    handle = make(loop, target)
    watch = weakref.ref(handle)
    assert watch() is handle
    handle.cancel()
    support.spin(loop)
    del handle
    loop.close()
    gc.collect()
    assert watch() is None


@ALL
def test_handles_can_be_in_sets_and_compared(loop, make):
    first, second = make(loop, target, 1), make(loop, target, 2)
    assert len({first, second, first}) == 2
    assert first == first
    assert first != second
    assert not first == second
    assert first != object()
    assert first in [second, first]


@ALL
def test_a_handle_runs_when_asked_to(loop, make):
    seen = []
    handle = make(loop, seen.append, "ran")
    assert handle._run() is None
    assert seen == ["ran"]
    handle.cancel()


@ALL
def test_a_replaced_callback_is_the_one_that_runs(loop, make):
    """Test tools store into handles, which asyncio's class allows."""
    seen = []
    handle = make(loop, target)
    handle._callback = seen.append
    handle._args = ("replaced",)
    assert handle._callback == seen.append
    assert handle._args == ("replaced",)
    handle._run()
    assert seen == ["replaced"]
    handle.cancel()


@pytest.mark.pyloop_only
@pytest.mark.parametrize("name", ["_callback", "_args"])
def test_a_handle_that_runs_keeps_what_it_calls(loop, name):
    """asyncio's handle holds both in the frame that calls."""
    seen = []

    def replace():
        with pytest.raises(RuntimeError, match=f"{name} of a handle that runs"):
            setattr(handle, name, (int,))
        seen.append(name)

    handle = loop.call_soon(replace)
    run_once(loop)
    setattr(handle, name, ())
    assert seen == [name]


# --- representation -----------------------------------------------------------


class CallableObject:
    def __call__(self, *args):
        pass

    def __repr__(self):
        return "CallableObject()"

    def method(self):
        pass


CALLBACKS = {
    "function": target,
    "lambda": lambda *args: None,
    "method": CallableObject().method,
    "object": CallableObject(),
    "builtin": print,
    "builtin method": [].append,
    "class": CallableObject,
    "partial": functools.partial(target, 1, key=2),
    "partial of partial": functools.partial(functools.partial(target, 1), key=2),
    "partial of builtin": functools.partial(print, "a", end=""),
}
EACH_CALLBACK = pytest.mark.parametrize(
    "callback", CALLBACKS.values(), ids=CALLBACKS.keys()
)


def oracle_repr(handle):
    """What asyncio's own class says of a handle with the same content."""
    if isinstance(handle, asyncio.TimerHandle):
        twin = asyncio.TimerHandle(handle.when(), target, (), handle._loop)
    else:
        kind = asyncio.Handle
        if type(handle).__name__ == "_ThreadSafeHandle":
            kind = asyncio.events._ThreadSafeHandle
        twin = kind(target, (), handle._loop)
    twin._callback = handle._callback
    twin._args = handle._args
    twin._cancelled = handle._cancelled
    twin._source_traceback = handle._source_traceback
    return repr(twin)


@EACH_CALLBACK
@ALL
@pytest.mark.parametrize("debug", [False, True])
def test_repr(loop, make, callback, debug):
    loop.set_debug(debug)
    handle = make(loop, callback, Token(), "text" * 100)
    assert repr(handle) == oracle_repr(handle)
    handle.cancel()
    loop.set_debug(False)


def test_repr_by_example(loop):
    line = target.__code__.co_firstlineno
    handle = loop.call_soon(target)
    assert repr(handle) == f"<Handle target() at {HERE}:{line}>"
    timer = loop.call_at(1.5, target)
    assert repr(timer) == f"<TimerHandle when=1.5 target() at {HERE}:{line}>"
    handle.cancel()
    timer.cancel()
    assert repr(handle) == "<Handle cancelled>"
    assert repr(timer) == "<TimerHandle cancelled when=1.5>"


def test_repr_by_example_in_debug_mode(loop):
    loop.set_debug(True)
    line = target.__code__.co_firstlineno
    timer = loop.call_at(1.5, target, 1, "x")
    created = sys._getframe().f_lineno - 1
    text = (
        f"<TimerHandle when=1.5 target(1, 'x') at {HERE}:{line}"
        f" created at {HERE}:{created}>"
    )
    assert repr(timer) == text
    timer.cancel()
    assert repr(timer) == text.replace("when", "cancelled when")
    assert timer._repr == repr(timer)


def test_repr_of_a_callback_whose_repr_fails(loop):
    class Broken:
        def __call__(self):
            pass

        def __repr__(self):
            raise LookupError("no repr")

    handle = loop.call_soon(Broken())
    with pytest.raises(LookupError, match="no repr"):
        repr(handle)
    run_once(loop)


# --- cancel -------------------------------------------------------------------


@ALL
def test_cancel_prevents_the_call_and_drops_everything(loop, make):
    token = Token()
    watch = weakref.ref(token)
    handle = make(loop, lambda argument: pytest.fail("was called"), token)
    del token
    assert handle.cancel() is None
    assert handle.cancelled() is True
    assert handle._cancelled is True
    assert watch() is None
    assert handle._callback is None
    assert handle._args is None
    support.spin(loop)
    handle.cancel()
    assert handle.cancelled() is True


@ALL
def test_cancel_from_an_earlier_callback_of_the_batch(loop, make):
    seen = []
    loop.call_soon(lambda: handle.cancel())
    handle = loop.call_soon(seen.append, "cancelled")
    loop.call_soon(seen.append, "other")
    run_once(loop)
    assert seen == ["other"]


def test_cancel_in_its_own_callback(loop):
    seen = []

    def callback(name):
        handles[name].cancel()
        gc.collect()
        seen.append(name)

    handles = {
        "soon": loop.call_soon(callback, "soon"),
        "threadsafe": loop.call_soon_threadsafe(callback, "threadsafe"),
        "timer": loop.call_at(loop.time() - 1, callback, "timer"),
    }
    support.spin(loop, 2)
    assert sorted(seen) == ["soon", "threadsafe", "timer"]
    for handle in handles.values():
        assert handle.cancelled()
        assert handle._callback is None


def test_cancel_in_its_own_callback_that_raises(loop):
    def callback(argument):
        handle.cancel()
        raise LookupError(argument)

    with support.ErrorRecorder(loop) as errors:
        handle = loop.call_soon(callback, "failed")
        run_once(loop)
        context = errors.only()
        assert str(context["exception"]) == "failed"
        assert context["handle"] is handle
        assert context["message"].startswith("Exception in callback ")


def test_a_handle_that_has_run_can_be_cancelled(loop):
    handle = loop.call_soon(target)
    timer = loop.call_at(loop.time() - 1, target)
    run_once(loop)
    for done in (handle, timer):
        assert not done.cancelled()
        done.cancel()
        assert done.cancelled()
    support.spin(loop)


@ALL
def test_a_handle_outlives_its_loop(loop, make):
    handle = make(loop, target, 1)
    other = make(loop, target, 2)
    loop.close()
    assert "target" in repr(handle)
    assert handle._loop is loop
    handle.cancel()
    assert handle.cancelled()
    assert not other.cancelled()


def test_cancelling_in_debug_mode_keeps_the_repr(loop):
    loop.set_debug(True)
    handle = loop.call_soon(target, "argument")
    handle.cancel()
    assert "'argument'" in repr(handle)
    assert repr(handle).startswith("<Handle cancelled target('argument') at ")
    loop.set_debug(False)
    assert "'argument'" in repr(handle)


# --- timers -------------------------------------------------------------------


def test_when(loop):
    before = loop.time()
    handle = loop.call_later(10, target)
    after = loop.time()
    assert before + 10 <= handle.when() <= after + 10
    assert isinstance(handle.when(), float)
    assert handle._when == handle.when()
    assert loop.call_at(123.25, target).when() == 123.25
    assert loop.call_at(5, target).when() == 5


@TIMERS
def test_scheduled_flag(loop, make):
    handle = make(loop, target)
    assert handle._scheduled is True
    handle.cancel()
    due = loop.call_at(loop.time() - 1, target)
    assert due._scheduled is True
    support.spin(loop, 2)
    assert due._scheduled is False
    assert handle._scheduled is False  # dropped from the queue's head by now


def test_order(loop):
    one = loop.call_at(1, target)
    two = loop.call_at(2, target)
    assert one < two
    assert one <= two
    assert two > one
    assert two >= one
    assert not one > two
    assert not one >= two
    assert sorted([two, one]) == [one, two]
    assert min(two, one) is one


def test_equality(loop):
    one = loop.call_at(1, target, "same")
    twin = loop.call_at(1, target, "same")
    assert one == twin
    assert one <= twin
    assert one >= twin
    assert not one < twin
    assert not one != twin
    assert hash(one) == hash(twin) == hash(one.when())
    assert one != loop.call_at(1, target, "other")
    assert one != loop.call_at(1, print, "same")
    twin.cancel()
    assert one != twin


def test_comparison_with_others(loop):
    timer = loop.call_at(1, target)
    handle = loop.call_soon(target)
    for other in (handle, 1, None, "x"):
        assert timer != other
        assert not timer == other
        with pytest.raises(TypeError):
            assert timer < other
        with pytest.raises(TypeError):
            assert timer >= other
    assert timer == unittest.mock.ANY


def test_comparison_with_asyncios_own_object(loop):
    timer = loop.call_at(1, target, "same")
    twin = asyncio.TimerHandle(1, target, ("same",), loop)
    assert timer == twin
    assert twin == timer
    assert hash(timer) == hash(twin)
    later_twin = asyncio.TimerHandle(2, target, ("same",), loop)
    assert timer < later_twin
    assert later_twin > timer


# --- where it was made --------------------------------------------------------


@ALL
def test_source_traceback_ends_at_the_caller(loop, make):
    loop.set_debug(True)
    handle = make(loop, target)
    frames = handle._source_traceback
    assert frames[-1].filename == HERE
    assert frames[-1].name == make.__name__
    assert frames[-2].name == "test_source_traceback_ends_at_the_caller"
    assert f"created at {HERE}:{frames[-1].lineno}" in repr(handle)
    handle.cancel()
    loop.set_debug(False)
    assert handle._source_traceback is frames


def test_source_traceback_can_be_stored(loop):
    handle = loop.call_soon(target)
    handle._source_traceback = [("file.py", 12, "name", "text")]
    assert "created at file.py:12" in repr(handle)
    handle._source_traceback = None


# --- lifetime -----------------------------------------------------------------


@ALL
def test_a_cycle_through_a_handle_is_collected(new_loop, make):
    class Node:
        def method(self):
            pass

    loop = new_loop()
    node = Node()
    watch = weakref.ref(node)
    node.handle = make(loop, node.method)
    loop.close()
    del node, loop
    gc.collect()
    assert watch() is None


@pytest.mark.pyloop_only
def test_a_cycle_through_the_base_class_slots_is_collected(loop_kind):
    """asyncio's class has slots of its own, which can be stored into through it."""

    class Node:
        pass

    loop = support.make_loop(loop_kind)
    watches = []
    for handle in (loop.call_soon(target), loop.call_later(1000, target)):
        for base in (asyncio.Handle, asyncio.TimerHandle):
            for name in base.__slots__:
                if name == "__weakref__" or not isinstance(handle, base):
                    continue
                node = Node()
                node.handle = handle
                watches.append(weakref.ref(node))
                vars(base)[name].__set__(handle, node)
        handle.cancel()
    loop.close()
    del node, loop, handle
    gc.collect()
    assert [watch() for watch in watches] == [None] * len(watches)


@ALL
def test_a_handle_made_of_a_spent_one_knows_nothing_of_it(loop, make):
    """pyloop uses spent handles again: cancelled ones, those of debug mode, any."""
    for debug, cancelled, arguments in itertools.product(
        (False, True), (False, True), ((), (1, 2), (1, 2, 3, 4))
    ):
        loop.set_debug(debug)
        handle = make(loop, target, *arguments)
        watch = weakref.ref(handle)
        if cancelled:
            handle.cancel()
        handle._source_traceback = [("place", 1, "name", "line")]
        handle.cancel()
        del handle, watch
        run_once(loop)
        loop.set_debug(False)
        fresh = make(loop, target, "new")
        assert (fresh._args, fresh._callback) == (("new",), target)
        assert not fresh.cancelled() and not fresh._source_traceback
        assert repr(fresh) == oracle_repr(fresh)
        assert not isinstance(fresh, asyncio.TimerHandle) or fresh._scheduled
        fresh.cancel()
        run_once(loop)


@pytest.mark.pyloop_only
@pytest.mark.skipif(support.FREE_THREADED, reason="free-threaded builds keep no spares")
@pytest.mark.parametrize("make", [soon, later, at])
def test_spent_handles_are_used_again(loop, make):
    """The collector is not asked to count them: programs make and cancel many."""
    handle = make(loop, target)
    run_once(loop)
    handle.cancel()
    before = id(handle)
    del handle
    assert id(make(loop, target)) == before


def test_many_handles_kept_and_dropped_in_any_order(loop):
    kept = []
    for i in range(3000):
        handle = loop.call_soon(target, i)
        if i % 3 == 0:
            kept.append(handle)
        if i % 5 == 0:
            handle.cancel()
    run_once(loop)
    for i, handle in enumerate(kept):
        assert handle.cancelled() == (i * 3 % 5 == 0)
    del kept[::2]
    again = [loop.call_soon(target, i) for i in range(3000)]
    assert all(not handle.cancelled() for handle in again)
    assert len({id(handle) for handle in again} & {id(handle) for handle in kept}) == 0
    run_once(loop)


def test_a_handle_dropped_by_its_own_argument(loop):
    """The last reference to a handle's argument runs code that drops the handle."""

    class Dropper:
        def __del__(self):
            handles.clear()
            order.append("dropped")

    handles, order = [], []
    handles.append(loop.call_soon(lambda argument: None, Dropper()))
    handles.append(loop.call_later(1000, lambda argument: None, Dropper()))
    handles[1].cancel()
    assert order == ["dropped"]
    run_once(loop)
    assert order == ["dropped", "dropped"]


# --- contexts -----------------------------------------------------------------


VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_the_context_is_the_one_of_the_call(loop, method):
    seen = []

    def look():
        seen.append(VARIABLE.get())
        VARIABLE.set("inner")

    reset = VARIABLE.set("first")
    getattr(loop, method)(look)
    VARIABLE.set("second")
    getattr(loop, method)(look)
    support.spin(loop, 2)
    assert seen == ["first", "second"]
    assert VARIABLE.get() == "second"
    VARIABLE.reset(reset)


def test_the_context_of_timers_and_readers(loop):
    seen = []

    def look(where):
        seen.append((where, VARIABLE.get()))

    with support.socket_pair() as (left, right):
        reset = VARIABLE.set("timer")
        loop.call_at(loop.time() - 1, look, "timer")
        VARIABLE.set("writer")
        loop.add_writer(left, look, "writer")
        VARIABLE.set("later")
        run_once(loop)
        loop.remove_writer(left)
        VARIABLE.reset(reset)
    assert set(seen) == {("timer", "timer"), ("writer", "writer")}


def test_a_given_context_keeps_what_callbacks_set(loop):
    context = contextvars.Context()
    context.run(VARIABLE.set, "given")
    seen = []
    loop.call_soon(lambda: seen.append(VARIABLE.get()), context=context)
    loop.call_soon(VARIABLE.set, "changed", context=context)
    loop.call_at(0, lambda: seen.append(VARIABLE.get()), context=context)
    support.spin(loop, 2)
    assert seen == ["given", "changed"]
    assert context[VARIABLE] == "changed"
    assert VARIABLE.get() == "unset"


def test_a_context_that_is_entered_already(loop, asyncio_log):
    context = contextvars.Context()
    loop.call_soon(target, context=context)
    context.run(run_once, loop)
    (line,) = asyncio_log.take()
    assert line.text.startswith("Exception in callback target() at ")
    assert line.exception_type is RuntimeError
    assert "already entered" in line.exception_text


@pytest.mark.parametrize("context", [1, "x", {}, object()])
def test_not_a_context(loop, asyncio_log, context):
    """asyncio finds out when it runs the handle; saying so at once is as good."""
    try:
        loop.call_soon(target, context=context)
    except TypeError:
        return
    run_once(loop)
    texts = asyncio_log.take_texts()
    assert any("Exception in callback target()" in text for text in texts)
