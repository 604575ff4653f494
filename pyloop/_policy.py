"""Ways to make asyncio use pyloop: run(), install(), EventLoopPolicy."""

from __future__ import annotations

import asyncio
import sys
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from pyloop import _accelerate
from pyloop._loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["EventLoopPolicy", "install", "new_event_loop", "run"]

_T = TypeVar("_T")


def new_event_loop() -> Loop:
    """Return a new, open loop; usable wherever asyncio takes a ``loop_factory``.

    Raises OSError when the system refuses the loop's descriptors.
    """
    return Loop()


def run(
    main: Coroutine[Any, Any, _T],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = new_event_loop,
    debug: bool | None = None,
) -> _T:
    """Run a coroutine on a new pyloop loop and return its result; as ``asyncio.run()``.

    loop_factory: what makes the loop, on every version of Python, if not pyloop; None
    leaves it to asyncio. debug: the loop's debug mode; None leaves it to
    PYTHONASYNCIODEBUG and ``-X dev``. Raises what main raises, ValueError when main is
    no coroutine, and RuntimeError when a loop runs in this thread already.
    """
    if sys.version_info >= (3, 12):
        return asyncio.run(main, debug=debug, loop_factory=loop_factory)
    if sys.version_info >= (3, 11):
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "asyncio.run() cannot be called from a running event loop"
            )
        with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
            return runner.run(main)
    if loop_factory is None:
        return asyncio.run(main, debug=debug)
    return _run_310(main, loop_factory, debug)


def _run_310(
    main: Coroutine[Any, Any, _T],
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    debug: bool | None,
) -> _T:
    """asyncio.run() of Python 3.10, whose loop comes from the policy: lend it ours."""
    old = asyncio.get_event_loop_policy()
    ours: Any = EventLoopPolicy()
    ours._loop_factory = loop_factory
    asyncio.set_event_loop_policy(ours)
    try:
        return asyncio.run(main, debug=debug)
    finally:
        asyncio.set_event_loop_policy(old)


def _policy_base() -> Any:
    """asyncio's default policy class, without the warning that 3.14 gives for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if sys.version_info >= (3, 14):
            return asyncio.events._BaseDefaultEventLoopPolicy
        return asyncio.DefaultEventLoopPolicy


if TYPE_CHECKING:
    _Base = asyncio.DefaultEventLoopPolicy
else:
    _Base = _policy_base()


class EventLoopPolicy(_Base):
    """An event loop policy whose loops are pyloop's.

    asyncio deprecates policies from 3.14 on and removes them in 3.16; prefer
    ``loop_factory=pyloop.new_event_loop``. Using this one gives no warning by itself.
    The child watchers of asyncio's policy, up to 3.13, can be got and set; pyloop's
    loops do not use them.
    """

    def _loop_factory(self) -> Loop:
        return new_event_loop()


def install(*, accelerate: bool = False) -> None:
    """Make pyloop the loop of asyncio.run(), new_event_loop() and what builds on them.

    Call it once, before a loop is made. It sets the event loop policy, as long as
    Python has policies (up to 3.15).

    accelerate: whether asyncio's own sleep(), gather(), ... are replaced by versions in
    C, for loops of pyloop; on other loops they do what they did. False, the default,
    puts asyncio's back. docs/usage.md says what is replaced, and what differs.
    """
    if accelerate:
        _accelerate.accelerate()
    else:
        _accelerate.restore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(EventLoopPolicy())
