"""asyncio's functions in C: what ``pyloop.install(accelerate=True)`` puts in place.

A C function takes the place of asyncio's own in every module of asyncio that has it, or
in asyncio's class. It does what it does on loops of pyloop, and calls the function that
it replaced for all the rest: other loops, debug mode, unusual arguments. What is seldom
has a helper here. The C code is in csrc/accel/.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import types
from asyncio import locks, tasks
from typing import TYPE_CHECKING, Any

from pyloop import _core
from pyloop._replaced import Replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["accelerate", "restore"]


def _expire(task: Any, cancelling: int, error: BaseException) -> None:
    """Do what the end of an expired asyncio.timeout() does with an exception.

    Raises TimeoutError in its place; returns if it is to be raised on.
    """
    from_311: Any = asyncio
    timeout = from_311.Timeout(None)
    timeout._state = type(timeout._state).EXPIRING
    timeout._task = task
    timeout._cancelling = cancelling
    leaving = timeout.__aexit__(type(error), error, error.__traceback__)
    try:
        leaving.send(None)
    except StopIteration:
        return


def _timeout_class() -> type | None:
    """Make the class of what timeout() returns: asyncio's, with slots for attributes.

    None where asyncio has no such class, or one with other attributes.
    """
    base: Any = getattr(asyncio, "Timeout", None)
    slots = {"_state", "_task", "_timeout_handler", "_when"}
    if base is None or vars(base(None)).keys() != slots:
        return None
    namespace = {
        "__slots__": (*slots, "_cancelling"),  # this one it has from __aenter__() on
        "__module__": base.__module__,
        "__doc__": base.__doc__,
    }
    return type(base.__name__, (base,), namespace)


_Timeout = _timeout_class()


def _gathering(children: tuple[Any, ...], loop: Any, task: Any) -> Any:
    """Make the future that gather() returns; task is who awaits, where asyncio asks."""
    internals: Any = tasks
    outer = internals._GatheringFuture(list(children), loop=loop)
    discard = getattr(tasks, "_discard_awaited_by", None)
    if task is not None and discard is not None:
        outer.add_done_callback(functools.partial(discard, outer._children, task))
    return outer


def _get_interrupted(
    queue: Any, getter: asyncio.Future[Any], error: BaseException
) -> None:
    """Do what Queue.get() does with an exception that ends its wait."""
    getter.cancel()
    with contextlib.suppress(ValueError):  # a put() or a shutdown() was faster
        queue._getters.remove(getter)
    if not queue.empty() and not getter.cancelled():
        queue._wakeup_next(queue._getters)


def _put_interrupted(
    queue: Any, putter: asyncio.Future[Any], error: BaseException
) -> None:
    """Do what Queue.put() does with an exception that ends its wait."""
    putter.cancel()
    with contextlib.suppress(ValueError):  # a get() or a shutdown() was faster
        queue._putters.remove(putter)
    if not queue.full() and not putter.cancelled():
        queue._wakeup_next(queue._putters)


def _acquire_interrupted(
    lock: Any, waiter: asyncio.Future[Any], error: BaseException
) -> None:
    """Do what Lock.acquire() does with an exception that ends its wait."""
    lock._waiters.remove(waiter)
    if isinstance(error, asyncio.CancelledError) and not lock._locked:
        lock._wake_up_first()


def _wait_interrupted(
    event: Any, waiter: asyncio.Future[Any], error: BaseException
) -> None:
    """Do what Event.wait() does with an exception that ends its wait."""
    event._waiters.remove(waiter)


def _down_interrupted(
    semaphore: Any, waiter: asyncio.Future[Any], error: BaseException
) -> None:
    """Do what Semaphore.acquire() does with an exception that ends its wait."""
    semaphore._waiters.remove(waiter)
    cancelled = isinstance(error, asyncio.CancelledError)
    if cancelled and waiter.done() and not waiter.cancelled():
        semaphore._value += 1
    while semaphore._value > 0:
        if not semaphore._wake_up_next():
            break


def _down_interrupted_once(
    semaphore: Any, waiter: asyncio.Future[Any], error: BaseException
) -> None:
    """The same before Python 3.12.3."""
    semaphore._waiters.remove(waiter)
    if isinstance(error, asyncio.CancelledError) and not waiter.cancelled():
        semaphore._value += 1
        semaphore._wake_up_next()


def _down() -> Callable[..., Any]:
    """The helper of this version's Semaphore.acquire()."""
    code = asyncio.Semaphore.acquire.__code__
    return _down_interrupted if "done" in code.co_names else _down_interrupted_once


def _table() -> Iterator[tuple[str, Any, str, Callable[..., Any] | None]]:
    """What is replaced, for this version: its name in C, its home, its name there."""
    yield "sleep", tasks, "sleep", None
    yield "gather", tasks, "gather", _gathering
    if sys.version_info >= (3, 12):  # before, it makes a task of its own
        yield "wait_for", tasks, "wait_for", _expire
    if _Timeout is not None:
        from_311: Any = asyncio
        yield "timeout", from_311.timeouts, "timeout", _Timeout
        yield "timeout_at", from_311.timeouts, "timeout_at", _Timeout
        yield "Timeout.__aenter__", from_311.Timeout, "__aenter__", _Timeout
        yield "Timeout.__aexit__", from_311.Timeout, "__aexit__", _Timeout
    yield "Queue.get", asyncio.Queue, "get", _get_interrupted
    yield "Queue.put", asyncio.Queue, "put", _put_interrupted
    yield "Lock.acquire", asyncio.Lock, "acquire", _acquire_interrupted
    yield "Event.wait", asyncio.Event, "wait", _wait_interrupted
    yield "Semaphore.acquire", asyncio.Semaphore, "acquire", _down()
    mixin = locks._ContextManagerMixin
    yield "_ContextManagerMixin.__aenter__", mixin, "__aenter__", None
    yield "_ContextManagerMixin.__aexit__", mixin, "__aexit__", None


def _is_asyncios(function: Any) -> bool:
    """Whether it is a function of asyncio's, and not what somebody put in its place."""
    return (
        isinstance(function, types.FunctionType)
        and function.__module__.partition(".")[0] == "asyncio"
    )


#: By their names in C, the functions that pyloop found at its import.
_originals = {key: vars(home).get(name) for key, home, name, _helper in _table()}

_replaced = Replaced()


def _homes(home: Any, name: str, original: Any) -> Iterator[Any]:
    """Every module of asyncio's that has the function, or its class."""
    if isinstance(home, type):
        yield home
        return
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "asyncio":
            if vars(module).get(name) is original:
                yield module


def accelerate() -> None:
    """Put the functions in C in the place of asyncio's; a second time does nothing.

    What somebody else has replaced already stays as it is.
    """
    if _replaced:
        return
    for key, home, name, helper in _table():
        original = vars(home).get(name)
        if original is not _originals[key] or not _is_asyncios(original):
            continue
        ours = _core.accelerated(key, original, helper)
        for place in _homes(home, name, original):
            _replaced.put(place, name, ours)


def restore() -> None:
    """Put asyncio's own functions back where ours still are."""
    _replaced.restore()
