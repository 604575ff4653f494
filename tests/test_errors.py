"""The exception handler: what it is told, how it may fail, and what gets past it."""

import asyncio
import contextvars
import logging
import sys
import weakref

import pytest
import support
from support import run_once


def fails():
    raise LookupError("in the callback")


# --- the handler --------------------------------------------------------------


def test_no_handler_by_default(loop):
    assert loop.get_exception_handler() is None


def test_setting_and_unsetting(loop):
    def handler(loop, context):
        pass

    assert loop.set_exception_handler(handler) is None
    assert loop.get_exception_handler() is handler
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None


@pytest.mark.parametrize("handler", [1, "x", []], ids=repr)
def test_a_handler_must_be_callable(loop, handler):
    with pytest.raises(TypeError) as caught:
        loop.set_exception_handler(handler)
    assert str(caught.value) == (
        f"A callable object or None is expected, got {handler!r}"
    )


def test_the_context_of_a_failed_callback(loop):
    calls = []
    loop.set_exception_handler(lambda *args: calls.append(args))
    handle = loop.call_soon(fails)
    run_once(loop)
    ((the_loop, context),) = calls
    assert the_loop is loop
    assert set(context) == {"message", "exception", "handle"}
    line = fails.__code__.co_firstlineno
    assert context["message"] == f"Exception in callback fails() at {__file__}:{line}"
    assert type(context["exception"]) is LookupError
    assert context["handle"] is handle
    names = []
    traceback = context["exception"].__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[-1] == "fails"
    assert context["exception"].__context__ is None


def test_what_is_logged_by_default(loop, asyncio_log):
    handle = loop.call_soon(fails)
    text = repr(handle)
    run_once(loop)
    (line,) = asyncio_log.take()
    assert line.level == logging.ERROR
    place = f"{__file__}:{fails.__code__.co_firstlineno}"
    assert line.text == f"Exception in callback fails() at {place}\nhandle: {text}"
    assert line.exception_type is LookupError
    assert line.exception_text == "in the callback"


SOURCES = {
    "soon": lambda loop, callback, sock: loop.call_soon(callback),
    "timer": lambda loop, callback, sock: loop.call_at(0, callback),
    "threadsafe": lambda loop, callback, sock: loop.call_soon_threadsafe(callback),
    "writer": lambda loop, callback, sock: loop.add_writer(sock, callback),
}
EACH_SOURCE = pytest.mark.parametrize("source", SOURCES)


class BaseExceptionSubclass(BaseException):
    """Neither an Exception nor one of the two that leave."""


@EACH_SOURCE
@pytest.mark.parametrize(
    "exception_type",
    [
        ValueError,
        BaseExceptionSubclass,
        GeneratorExit,
        StopIteration,
        asyncio.CancelledError,
        MemoryError,
        OSError,
    ],
)
def test_every_exception_but_two_is_reported(loop, source, exception_type):
    order = []

    def callback():
        order.append("failed")
        loop.remove_writer(right)
        raise exception_type("reported")

    with support.ErrorRecorder(loop) as errors, support.socket_pair() as (_, right):
        SOURCES[source](loop, callback, right)
        loop.call_soon(order.append, "other")
        support.spin(loop, 2)
        assert type(errors.only()["exception"]) is exception_type
    assert sorted(order) == ["failed", "other"]


@EACH_SOURCE
@pytest.mark.parametrize("exception_type", [SystemExit, KeyboardInterrupt])
def test_the_two_that_leave(loop, source, exception_type):
    def callback():
        loop.remove_writer(right)
        raise exception_type("leaves")

    with support.ErrorRecorder(loop) as errors, support.socket_pair() as (_, right):
        SOURCES[source](loop, callback, right)
        with pytest.raises(exception_type, match="leaves"):
            loop.run_forever()
        assert errors.contexts == []
    assert not loop.is_running()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert loop.run_until_complete(asyncio.sleep(0, "usable")) == "usable"


@pytest.mark.parametrize("exception_type", [SystemExit, KeyboardInterrupt])
def test_subclasses_leave_too(loop, exception_type):
    class Subclass(exception_type):
        pass

    def leave():
        raise Subclass

    loop.call_soon(leave)
    with pytest.raises(Subclass):
        loop.run_forever()


def test_infinite_recursion_in_a_callback(loop):
    def recurse():
        recurse()

    with support.ErrorRecorder(loop) as errors:
        loop.call_soon(recurse)
        run_once(loop)
        assert isinstance(errors.only()["exception"], RecursionError)


def test_failures_one_after_another(loop):
    with support.ErrorRecorder(loop) as errors:
        for i in range(100):
            loop.call_soon(lambda i=i: {}[i])
        run_once(loop)
        assert [exc.args[0] for exc in errors.exceptions] == list(range(100))


def test_what_failed_is_freed(loop):
    class Token:
        pass

    token = Token()
    watch = weakref.ref(token)
    loop.set_exception_handler(lambda loop, context: None)

    def callback(argument):
        raise LookupError(argument)

    loop.call_soon(callback, token)
    del token
    run_once(loop)
    support.collect()
    assert watch() is None


# --- as in an except clause ---------------------------------------------------


class Failing(asyncio.Protocol):
    """Fails in the method of this name."""

    def __init__(self, name):
        setattr(self, name, lambda *args: fails())


def failing_callback(loop, sock, peer):
    loop.call_soon(fails)


def failing_reader(loop, sock, peer):
    def ready():
        loop.remove_reader(sock)
        fails()

    loop.add_reader(sock, ready)
    peer.send(b"x")


def failing_protocol(name):
    def start(loop, sock, peer):
        loop._make_socket_transport(sock, Failing(name))
        peer.close()

    return start


@pytest.mark.parametrize(
    "start",
    [
        failing_callback,
        failing_reader,
        failing_protocol("connection_made"),
        failing_protocol("eof_received"),
        failing_protocol("connection_lost"),
    ],
)
def test_the_error_is_being_handled(loop, start):
    """`traceback.print_exc()` in a handler prints it."""
    seen = []

    def handler(loop, context):
        seen.append((sys.exc_info()[1], context["exception"]))

    loop.set_exception_handler(handler)
    with support.socket_pair() as (sock, peer):
        start(loop, sock, peer)
        support.run_until(loop, lambda: seen)
        support.spin(loop)
    ((handled, reported),) = seen
    assert handled is reported
    assert type(reported) is LookupError
    assert sys.exc_info()[1] is None


def test_what_a_handler_raises_has_the_error_as_its_context(loop):
    def handler(loop, context):
        raise SystemExit("from the handler")

    loop.set_exception_handler(handler)
    loop.call_soon(fails)
    with pytest.raises(SystemExit) as caught:
        loop.run_forever()
    assert type(caught.value.__context__) is LookupError


# --- a handler that fails -----------------------------------------------------


def test_a_handler_that_raises(loop, asyncio_log):
    def handler(loop, context):
        raise ValueError("in the handler")

    loop.set_exception_handler(handler)
    order = []
    loop.call_soon(fails)
    loop.call_soon(order.append, "other")
    run_once(loop)
    assert order == ["other"]
    (line,) = asyncio_log.take()
    assert line.text.startswith("Unhandled error in exception handler\ncontext: {")
    assert "LookupError('in the callback')" in line.text
    assert line.exception_type is ValueError


def test_a_handler_that_takes_the_wrong_arguments(loop, asyncio_log):
    loop.set_exception_handler(lambda: None)
    loop.call_soon(fails)
    run_once(loop)
    (line,) = asyncio_log.take()
    assert line.text.startswith("Unhandled error in exception handler")
    assert line.exception_type is TypeError


@pytest.mark.parametrize("exception_type", [SystemExit, KeyboardInterrupt])
def test_a_handler_that_leaves(loop, exception_type):
    def handler(loop, context):
        raise exception_type("from the handler")

    loop.set_exception_handler(handler)
    order = []
    loop.call_soon(fails)
    loop.call_soon(order.append, "other")
    with pytest.raises(exception_type, match="from the handler"):
        loop.run_forever()
    assert order == []
    run_once(loop)
    assert order == ["other"]


def test_a_handler_that_stops_the_loop(loop):
    calls = []

    def handler(loop, context):
        calls.append(context)
        loop.stop()

    loop.set_exception_handler(handler)
    loop.call_soon(fails)
    loop.run_forever()
    assert len(calls) == 1


def test_a_handler_that_fails_to_close_the_loop(loop, asyncio_log):
    loop.set_exception_handler(lambda loop, context: loop.close())
    loop.call_soon(fails)
    run_once(loop)
    (line,) = asyncio_log.take()
    assert line.exception_text == "Cannot close a running event loop"
    assert not loop.is_closed()


def test_a_handler_that_replaces_itself(loop):
    calls = []

    def first(loop, context):
        loop.set_exception_handler(lambda loop, context: calls.append("second"))
        support.collect()
        calls.append("first")

    loop.set_exception_handler(first)
    del first
    loop.call_soon(fails)
    loop.call_soon(fails)
    run_once(loop)
    assert calls == ["first", "second"]


def test_a_handler_that_reports_again(loop):
    calls = []

    def handler(loop, context):
        calls.append(context["message"])
        if len(calls) < 5:
            loop.call_exception_handler({"message": str(len(calls))})

    loop.set_exception_handler(handler)
    loop.call_exception_handler({"message": "0"})
    assert calls == ["0", "1", "2", "3", "4"]


# --- the default handler, and subclasses --------------------------------------


def test_calling_the_handler_directly(loop, asyncio_log):
    loop.call_exception_handler({"message": "the message", "key": [1, 2], "a": "b"})
    (line,) = asyncio_log.take()
    assert line.text == "the message\na: 'b'\nkey: [1, 2]"
    assert line.exception_type is None


def test_a_context_without_a_message(loop, asyncio_log):
    loop.call_exception_handler({})
    (line,) = asyncio_log.take()
    assert line.text == "Unhandled exception in event loop"


def test_the_default_handler_may_be_called_by_ones_own(loop, asyncio_log):
    def handler(loop, context):
        loop.default_exception_handler(dict(context, message="amended"))

    loop.set_exception_handler(handler)
    loop.call_soon(fails)
    run_once(loop)
    (line,) = asyncio_log.take()
    assert line.text.startswith("amended\nhandle: <Handle fails()")


def test_an_overridden_default_handler(loop_kind):
    class Subclass(support.loop_class(loop_kind)):
        def default_exception_handler(self, context):
            contexts.append(context)

    contexts = []
    loop = Subclass()
    loop.call_soon(fails)
    run_once(loop)
    loop.close()
    assert [type(context["exception"]) for context in contexts] == [LookupError]


def test_an_overridden_default_handler_that_raises(loop_kind, asyncio_log):
    class Subclass(support.loop_class(loop_kind)):
        def default_exception_handler(self, context):
            raise ValueError("in the default handler")

    loop = Subclass()
    loop.call_soon(fails)
    run_once(loop)
    (line,) = asyncio_log.take()
    assert line.text == "Exception in default exception handler"
    assert line.exception_type is ValueError

    def handler(loop, context):
        raise TypeError("in the handler")

    loop.set_exception_handler(handler)
    loop.call_soon(fails)
    run_once(loop)
    (line,) = asyncio_log.take()
    assert line.text == (
        "Exception in default exception handler while handling "
        "an unexpected error in custom exception handler"
    )
    loop.close()


def test_a_subclass_s_call_exception_handler(loop_kind):
    """asyncio asks not to override it, and looks it up on the loop all the same."""

    class Subclass(support.loop_class(loop_kind)):
        def call_exception_handler(self, context):
            contexts.append(context)

    contexts = []
    loop = Subclass()
    loop.call_soon(fails)
    loop.call_at(0, fails)
    run_once(loop)
    loop.close()
    assert len(contexts) == 2


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="asyncio enters the context from 3.12 on"
)
def test_the_handler_runs_in_the_context_of_what_failed(loop):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(variable.get()))
    context = contextvars.Context()
    context.run(variable.set, "of the callback")
    loop.call_soon(fails, context=context)
    run_once(loop)
    assert seen == ["of the callback"]
    assert variable.get() == "unset"


# --- tasks and futures --------------------------------------------------------


def test_a_task_s_exception_that_nobody_looks_at(loop):
    async def failing():
        raise LookupError("in the task")

    with support.ErrorRecorder(loop) as errors:
        task = loop.create_task(failing())
        support.spin(loop)
        del task
        support.collect()
        context = errors.only()
        assert context["message"] == "Task exception was never retrieved"
        assert type(context["exception"]) is LookupError
        assert isinstance(context["future"], asyncio.Task)


def test_a_pending_task_that_is_destroyed(loop_kind):
    loop = support.make_loop(loop_kind)
    with support.ErrorRecorder(loop) as errors:
        task = loop.create_task(asyncio.sleep(1000))
        run_once(loop)
        loop.close()
        del task
        support.collect()
        assert errors.messages == ["Task was destroyed but it is pending!"]
        errors.contexts.clear()


def test_a_failing_done_callback(loop):
    future = loop.create_future()
    future.add_done_callback(lambda future: {}["missing"])
    order = []
    future.add_done_callback(order.append)
    with support.ErrorRecorder(loop) as errors:
        future.set_result(None)
        run_once(loop)
        assert type(errors.only()["exception"]) is KeyError
    assert order == [future]


@pytest.mark.parametrize("exception_type", [SystemExit, KeyboardInterrupt])
def test_leaving_out_of_a_task_beside_others(loop, exception_type):
    async def leave():
        await asyncio.sleep(0)
        raise exception_type("leaves")

    async def other():
        for _ in range(10):
            await asyncio.sleep(0)
        return "went on"

    leaving = loop.create_task(leave())
    staying = loop.create_task(other())
    with pytest.raises(exception_type, match="leaves"):
        loop.run_until_complete(staying)
    assert isinstance(leaving.exception(), exception_type)
    assert loop.run_until_complete(staying) == "went on"


def test_exceptions_of_generators_reach_their_coroutines(loop):
    async def main():
        async def inner():
            await asyncio.sleep(0)
            raise StopIteration("turned into RuntimeError")

        with pytest.raises(RuntimeError, match="raised StopIteration"):
            await inner()
        with pytest.raises(asyncio.CancelledError):
            raise asyncio.CancelledError
        return "done"

    assert support.run(loop, main()) == "done"
