"""asyncio.timeout() and timeout_at() in C do what asyncio's do; see acceleratekit.

A time-out is made to expire by `reschedule()` to a time that is over: then it does so
in the next iteration, on every loop.
"""

import asyncio
import copy
import fractions
import functools
import gc
import random
import sys
import types
import weakref
from unittest import mock

import pytest
import support
from acceleratekit import accelerated, assert_same, told, trace, turn

from pyloop import _core

if sys.version_info < (3, 11):
    pytest.skip("asyncio.timeout() is new in Python 3.11", allow_module_level=True)

PROGRAMS = {}


def program(steps, workers):
    """Register a program by its name."""

    def register(function):
        PROGRAMS[function.__name__] = (function, steps, workers)
        return function

    return register


class Broken(Exception):
    pass


def about(timeout):
    """All there is to see of a time-out, but for when."""
    handler = timeout._timeout_handler
    return (
        timeout._state.name,
        repr(timeout).partition("when")[0],
        timeout.expired(),
        timeout.when() is None,
        handler is None or handler.cancelled(),
        timeout._task is None,
        getattr(timeout, "_cancelling", "not entered"),
    )


def chain(exc):
    """What an exception, its causes and its contexts are."""
    if exc is None:
        return None
    inner = [chain(each) for each in getattr(exc, "exceptions", ())]
    return (*told(exc), chain(exc.__cause__), chain(exc.__context__), inner)


async def inside(log, name, timeout, body):
    """Run body in a time-out; say what came of it. An Exception ends here."""
    try:
        async with timeout as entered:
            log(name, "entered", entered is timeout, *about(timeout))
            log(name, "returned", await body(timeout))
        log(name, "left", *about(timeout))
    except BaseException as exc:
        cancelling = asyncio.current_task().cancelling()
        log(name, "raised", chain(exc), cancelling, *about(timeout))
        if not isinstance(exc, Exception):
            raise


def looking_at(log, bodies):
    """The workers of a program, one for each body, and its state."""
    timeouts = {name: asyncio.timeout(1000) for name in bodies}
    workers = [inside(log, name, timeouts[name], body) for name, body in bodies.items()]
    return workers, lambda: [about(timeout) for timeout in timeouts.values()]


async def expire(timeout):
    timeout.reschedule(asyncio.get_running_loop().time() - 1)
    await turn()


@program(6, 3)
def in_time(log):
    async def result(timeout):
        await turn(2)
        return "result"

    async def error(timeout):
        await turn(3)
        raise Broken("inside")

    async def at_once(timeout):
        return "at once"

    bodies = {"result": result, "error": error, "at once": at_once}
    return looking_at(log, bodies)


@program(8, 4)
def expiring(log):
    async def waiting(timeout):
        await turn()
        await expire(timeout)
        await turn(3)

    async def replacing(timeout):
        try:
            await expire(timeout)
            await turn()
        except asyncio.CancelledError:
            raise Broken("instead")  # noqa: B904  # the context is looked at

    async def grouping(timeout):
        try:
            await expire(timeout)
            await turn()
        except asyncio.CancelledError as exc:
            try:
                raise Broken("one of them")
            except Broken as broken:
                raise ExceptionGroup("group", [broken, ValueError()]) from exc  # noqa: F821

    async def swallowing(timeout):
        try:
            await expire(timeout)
            await turn()
        except asyncio.CancelledError as exc:
            return chain(exc)

    return looking_at(
        log,
        {
            "waiting": waiting,
            "replacing": replacing,
            "grouping": grouping,
            "swallowing": swallowing,
        },
    )


@program(9, 2)
def expiring_and_cancelled(log):
    async def cancelled_as_well(timeout):
        timeout.reschedule(asyncio.get_running_loop().time() - 1)
        asyncio.current_task().cancel("as well")
        await turn(2)

    async def cancelled_after(timeout):
        try:
            await expire(timeout)
            await turn()
        finally:
            asyncio.current_task().cancel("after")
            await turn()

    return looking_at(log, {"as well": cancelled_as_well, "after": cancelled_after})


@program(7, 3)
def rescheduled(log):
    async def later(timeout):
        await turn()
        timeout.reschedule(timeout.when() + 1000)
        log("later", *about(timeout))
        await turn()

    async def never(timeout):
        timeout.reschedule(None)
        log("never", *about(timeout))
        await turn(2)
        timeout.reschedule(asyncio.get_running_loop().time() + 1000)
        await turn()
        timeout.reschedule(None)

    async def saved(timeout):
        timeout.reschedule(asyncio.get_running_loop().time() - 1)
        timeout.reschedule(None)
        await turn(2)
        return "saved"

    return looking_at(log, {"later": later, "never": never, "saved": saved})


@program(9, 2)
def nested(log):
    async def inner(outer, timeout):
        await turn()
        await expire(outer)
        await turn(2)

    async def outer_first(timeout):
        body = functools.partial(inner, timeout)
        await inside(log, "inner", asyncio.timeout(999), body)

    async def both(timeout):
        async def body(within):
            timeout.reschedule(asyncio.get_running_loop().time() - 1)
            await expire(within)
            await turn()

        await inside(log, "within", asyncio.timeout(None), body)
        await turn()

    return looking_at(log, {"outer first": outer_first, "both": both})


@program(6, 4)
def over_already(log):
    async def waiting(timeout):
        log("entered", *about(timeout))
        await turn(3)

    loop = asyncio.get_running_loop()
    timeouts = {
        "zero": asyncio.timeout(0),
        "before": asyncio.timeout(-1.5),
        "at": asyncio.timeout_at(loop.time() - 1),
        "long ago": asyncio.timeout_at(-1),
    }
    return [
        inside(log, name, timeout, waiting) for name, timeout in timeouts.items()
    ], lambda: [about(timeout) for timeout in timeouts.values()]


@program(5, 1)
def misused(log):
    async def attempt(what, function):
        try:
            result = function()
            log(what, "returned", await result if what[:2] == "__" else result)
        except (RuntimeError, AssertionError, TypeError) as exc:
            log(what, "raised", *told(exc))

    async def worker():
        timeout = asyncio.timeout(1000)
        await attempt("reschedule", lambda: timeout.reschedule(1))
        await attempt("__aexit__", lambda: timeout.__aexit__(None, None, None))
        async with timeout:
            await attempt("__aenter__", timeout.__aenter__)
            await turn()
            log("inside", *about(timeout))
        await attempt("__aenter__", timeout.__aenter__)
        await attempt("__aexit__", lambda: timeout.__aexit__(None, None, None))
        await attempt("reschedule", lambda: timeout.reschedule(None))
        await attempt("__aenter__ of two", lambda: timeout.__aenter__(1))
        await attempt("__aexit__ of one", timeout.__aexit__)
        log("outside", *about(timeout))

    return [worker()], tuple


@program(5, 2)
def with_its_own_methods(log):
    async def body(timeout):
        await turn()
        await expire(timeout)
        await turn()

    def wrap(timeout, name):
        method = getattr(timeout, name)

        def own(*args):
            log(name, len(args))
            return method(*args)

        setattr(timeout, name, own)
        return timeout

    timeouts = [
        wrap(asyncio.timeout(1000), "reschedule"),
        wrap(asyncio.timeout(1000), "_on_timeout"),
    ]
    return [inside(log, "own", timeout, body) for timeout in timeouts], lambda: [
        about(timeout) for timeout in timeouts
    ]


@program(6, 2)
def of_other_classes(log):
    class Own(asyncio.Timeout):
        def reschedule(self, when):
            log("reschedule")
            super().reschedule(when)

        async def __aexit__(self, *args):
            log("exit")
            return await super().__aexit__(*args)

    async def body(timeout):
        await turn()
        await expire(timeout)
        await turn()

    when = asyncio.get_running_loop().time() + 1000
    timeouts = [Own(when), asyncio.Timeout(when), Own(None)]
    return [inside(log, "own", timeout, body) for timeout in timeouts], lambda: [
        about(timeout) for timeout in timeouts
    ]


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_does_what_asyncio_does(loop_kind, name):
    function, steps, workers = PROGRAMS[name]
    assert_same(loop_kind, function, steps, workers)


# --- at random --------------------------------------------------------------------


async def at_random(log, chance, depth, outer):
    """Do a few things in a time-out, and in others inside of it."""
    loop = asyncio.get_running_loop()
    timeout = chance.choice([asyncio.timeout, asyncio.timeout_at])(
        chance.choice([None, loop.time() + 1000, 10**6])
    )
    around = [*outer, timeout]
    async with timeout:
        for _ in range(chance.randrange(4)):
            what = chance.randrange(9)
            log(depth, what, *about(timeout))
            try:
                if what < 2:
                    await turn(what + 1)
                elif what < 4 and depth < 3:
                    await at_random(log, chance, depth + 1, around)
                elif what == 4:
                    chance.choice(around).reschedule(loop.time() - 1)
                elif what == 5:
                    chance.choice(around).reschedule(chance.choice([None, 10**7]))
                elif what == 6:
                    asyncio.current_task().cancel(f"at {depth}")
                elif what == 7:
                    raise Broken(depth)
            except (Exception, asyncio.CancelledError) as exc:
                log(depth, chain(exc))
                if chance.randrange(2):
                    raise
    log(depth, *about(timeout))


def program_at_random(seed, log):
    async def worker(number):
        chance = random.Random(f"{seed} {number}")
        for _ in range(3):
            await log.watch(number, lambda: at_random(log, chance, 0, []))

    return [worker(number) for number in range(2)], tuple


@pytest.mark.parametrize("seed", range(40))
def test_at_random(loop_kind, seed):
    function = functools.partial(program_at_random, seed)
    expected = trace("asyncio", function, 60)
    with accelerated():
        assert trace(loop_kind, function, 60) == expected


# --- what is called and what comes of it ----------------------------------------------


ORIGINALS = (asyncio.timeout, asyncio.timeout_at) if sys.version_info >= (3, 11) else ()


@pytest.fixture
def fast():
    """pyloop's functions in place, for one test."""
    with accelerated():
        yield


def kind_of(timeout):
    """Whether it was made in C."""
    return "asyncio's" if type(timeout) is asyncio.Timeout else "ours"


def test_it_is_a_timeout(loop, loop_kind, fast):
    async def main():
        return asyncio.timeout(1), asyncio.timeout_at(None), asyncio.timeout(delay=2)

    for timeout in support.run(loop, main()):
        assert isinstance(timeout, asyncio.Timeout)
        assert kind_of(timeout) == ("ours" if loop_kind == "pyloop" else "asyncio's")
        assert type(timeout).__module__ == "asyncio.timeouts"
        assert type(timeout).__qualname__ == type(timeout).__name__ == "Timeout"
        assert type(timeout).__doc__ == asyncio.Timeout.__doc__
        assert repr(timeout) == "<Timeout [created]>"
        assert weakref.ref(timeout)() is timeout
        assert copy.copy(timeout).when() == timeout.when()
        timeout.mark = "set"
        assert vars(timeout)["mark"] == "set"


@pytest.mark.parametrize(
    "arguments", [(), (1, 2), ("a",), (1j,), ([],), (fractions.Fraction(1, 2),)]
)
@pytest.mark.parametrize("index", [0, 1])
def test_arguments(loop, fast, arguments, index):
    ours = [asyncio.timeout, asyncio.timeout_at][index]

    async def outcome(function):
        try:
            timeout = function(*arguments)
            async with timeout:
                await turn()
            return type(timeout.when())
        except Exception as exc:
            return told(exc)

    async def main():
        return await outcome(ours), await outcome(ORIGINALS[index])

    found, expected = support.run(loop, main())
    assert found == expected


def test_keywords(loop, fast):
    async def main():
        assert asyncio.timeout(delay=None).when() is None
        assert asyncio.timeout_at(when=5).when() == 5
        with pytest.raises(TypeError, match="unexpected keyword argument 'when'"):
            asyncio.timeout(when=1)
        with pytest.raises(TypeError, match="unexpected keyword argument 'delay'"):
            asyncio.timeout_at(delay=1)

    support.run(loop, main())


@pytest.mark.parametrize(
    "delay", [5, 0.5, True, -3, 2**40, 10**400, float("inf"), float("-inf")]
)
def test_when_it_is(loop, fast, delay):
    async def main():
        before = loop.time()
        try:
            when = asyncio.timeout(delay).when()
        except OverflowError:
            assert delay == 10**400
            return
        assert type(when) is float
        assert before + delay <= when <= loop.time() + delay

    support.run(loop, main())


def test_without_a_running_loop(loop_kind, fast):
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.timeout(1)
    assert asyncio.timeout_at(1).when() == 1


def test_without_a_task(loop, fast):
    async def main():
        return asyncio.timeout(1000)

    timeout = support.run(loop, main())
    outcomes = []

    def enter():
        try:
            timeout.__aenter__().send(None)
        except RuntimeError as exc:
            outcomes.append(str(exc))

    loop.call_soon(enter)
    support.run(loop, turn_once())
    assert outcomes == ["Timeout should be used inside a task"]
    assert about(timeout)[0] == "CREATED"


async def turn_once():
    await turn()


def test_in_another_loop_than_it_was_made_in(new_loop, fast):
    async def make():
        return asyncio.timeout(1000)

    async def use(timeout):
        async with timeout:
            await turn()
        return timeout.expired()

    timeout = support.run(new_loop(), make())
    assert support.run(new_loop(), use(timeout)) is False


@pytest.mark.pyloop_only
def test_in_debug_mode_it_is_asyncios(loop, fast):
    async def main():
        made = asyncio.timeout(1000)
        loop.set_debug(True)
        entering = made.__aenter__()
        assert type(entering) is types.CoroutineType
        await entering
        loop.set_debug(False)
        await made.__aexit__(None, None, None)
        loop.set_debug(True)
        return made, asyncio.timeout(1000)

    made, later = support.run(loop, main())
    assert (kind_of(made), kind_of(later)) == ("ours", "asyncio's")
    assert about(made)[0] == "EXITED"


@pytest.mark.pyloop_only
def test_entering_and_leaving_is_done_in_c(loop, fast):
    async def main():
        timeout = asyncio.timeout(1000)
        entering = timeout.__aenter__()
        assert await entering is timeout
        leaving = timeout.__aexit__(None, None, None)
        assert await leaving is None
        return {type(entering), type(leaving)}

    assert support.run(loop, main()) == {_core.AccelCoro}


def test_what_was_made_before_and_is_used_after(loop):
    """Each of asyncio's methods goes on with what ours did, and the reverse."""

    async def main():
        plain = asyncio.timeout(1000)
        entered = await asyncio.timeout(1000).__aenter__()
        with accelerated():
            async with plain:
                ours = await asyncio.timeout(1000).__aenter__()
                await entered.__aexit__(None, None, None)
            late = asyncio.timeout(1000)
        await ours.__aexit__(None, None, None)
        with pytest.raises(TimeoutError):
            async with late:
                await expire(late)
                await turn()
        return [about(timeout)[0] for timeout in (plain, entered, ours, late)]

    found = support.run(loop, main())
    assert found == ["EXITED", "EXITED", "EXITED", "EXPIRED"]


@pytest.mark.parametrize("name", ["__init__", "__aenter__", "__aexit__", "reschedule"])
def test_a_patched_method_is_called(loop, fast, name):
    original = getattr(asyncio.Timeout, name)
    calls = []

    def patched(self, *args):
        calls.append(len(args))
        return original(self, *args)

    async def main():
        calls.clear()
        async with asyncio.timeout(1000):
            await turn()
        return calls.copy()

    expected = {"__aenter__": 0, "__aexit__": 3}.get(name, 1)
    with mock.patch.object(asyncio.Timeout, name, patched):
        assert support.run(loop, main()) == [expected]
    assert support.run(loop, main()) == []


def test_a_patched_class_is_used(loop, fast):
    async def main():
        with mock.patch.object(asyncio.timeouts, "Timeout", lambda when: "theirs"):
            return asyncio.timeout(1), asyncio.timeout_at(None)

    assert support.run(loop, main()) == ("theirs", "theirs")


def test_an_overridden_clock_is_asked(loop, fast):
    async def main():
        times, real = [], loop.time
        loop.time = lambda: times.append(0) or real() + 500
        try:
            timeout = asyncio.timeout(1000)
            asked = len(times)
            async with timeout:
                await turn()
        finally:
            del loop.time
        return asked, len(times) > asked, timeout.when() - loop.time() > 1400

    assert support.run(loop, main()) == (1, True, True)


def test_an_overridden_call_at_is_called(loop, fast):
    async def main():
        called, call_at = [], loop.call_at
        loop.call_at = lambda *args: called.append(args[0]) or call_at(*args)
        try:
            async with asyncio.timeout(1000) as timeout:
                await turn()
        finally:
            del loop.call_at
        return called == [timeout.when()]

    assert support.run(loop, main())


def test_attributes_can_be_deleted(loop, fast):
    async def outcome(name):
        timeout = asyncio.timeout(1000)
        if name != "_timeout_handler":
            delattr(timeout, name)
        try:
            async with timeout:
                handler = timeout._timeout_handler
                if name == "_timeout_handler":
                    delattr(timeout, name)
        except AttributeError as exc:
            return str(exc)
        finally:
            if name == "_timeout_handler":
                handler.cancel()
        return about(timeout)[0]

    async def main():
        names = ["_state", "_task", "_when", "_timeout_handler"]
        return [await outcome(name) for name in names]

    def missing(name):
        return f"'Timeout' object has no attribute '{name}'"

    found = support.run(loop, main())
    assert found[1] == "EXITED"
    assert [text.rpartition("'_")[2] for text in found[:1] + found[2:]] == [
        "state'",
        "when'",
        "timeout_handler'",
    ]


def test_it_goes_with_what_refers_to_it(loop, fast):
    class Mark:
        pass

    async def main():
        timeout = asyncio.timeout(1000)
        timeout.mark, timeout.itself = Mark(), timeout
        entered = asyncio.timeout(1000)
        await entered.__aenter__()
        entered.mark = Mark()
        entered._timeout_handler.cancel()
        return weakref.ref(timeout.mark), weakref.ref(entered.mark)

    marks = support.run(loop, main())
    gc.collect()
    assert [mark() for mark in marks] == [None, None]


def test_it_expires_by_the_clock(loop, fast):
    async def main():
        found = []
        for delay in (0.001, 0.0001):
            timeout = asyncio.timeout(delay)
            with pytest.raises(TimeoutError) as caught:
                async with timeout:
                    await loop.create_future()
            assert loop.time() >= timeout.when()
            found.append((*about(timeout)[:3], told(caught.value)[2:]))
            found.append(asyncio.current_task().cancelling())
        return found

    cause = ("CancelledError", "CancelledError", True)
    expired = ("EXPIRED", "<Timeout [expired]>", True, cause)
    assert support.run(loop, main()) == [expired, 0] * 2
