"""Puts a kind of loop in the place of asyncio's own, for this whole process.

CPython's tests get their loops in four ways, and each is covered:

- from the policy or a Runner: the default policy's factory is replaced;
- by name (`asyncio.SelectorEventLoop`, with a selector or without, and
  `asyncio.EventLoop`): the names are replaced;
- as `asyncio.BaseEventLoop`, with mocks for what that class lacks: `lend_base_loop`;
- as `test_asyncio.utils.TestLoop`, which derives from it: the same, while that module
  is imported.
"""

import asyncio
import contextlib
import functools
import importlib
import mmap
import os
import selectors
import warnings
from asyncio import base_events, unix_events

KINDS = ("asyncio", "pyloop", "uvloop")

# Where BaseEventLoop means asyncio's class itself: its methods are called unbound.
THE_CLASS_ITSELF = {"test_sendfile"}


class Counter:
    """A number that is shared with forked children, until they begin their own."""

    def __init__(self):
        self.begin()

    def begin(self):
        self.memory = mmap.mmap(-1, 8)

    @property
    def value(self):
        return int.from_bytes(self.memory[:8], "little")

    @value.setter
    def value(self, number):
        self.memory[:8] = number.to_bytes(8, "little")


class Substitute:
    """A kind of loop, and how many of its loops the tests have made."""

    def __init__(self, kind, accelerate=False):
        self.kind = kind
        self.made = Counter()
        self.native = self.loop = None
        if kind != "asyncio":
            self.native = importlib.import_module(kind).Loop
            self.loop = self.counting(self.native)
        if accelerate:
            importlib.import_module(f"{kind}._accelerate").accelerate()

    def counting(self, native):
        """A class of native loops that, as asyncio's, may be given a selector.

        pyloop has two ways to watch descriptors: where a test chooses another selector
        than epoll's, it gets the portable one.
        """
        made = self.made

        class Loop(native):
            def __init__(self, selector=None):
                made.value += 1
                if selector is not None:
                    selector.close()
                super().__init__()

            def __new__(cls, selector=None):
                others = (selectors.SelectSelector, selectors.PollSelector)
                with poller("uv_poll" if isinstance(selector, others) else None):
                    return super().__new__(cls)

        Loop.__qualname__ = "Loop"
        if not hasattr(native, "_default_executor"):
            # What the tests' utils.close_loop looks for: without it, nearly every test
            # of a loop that is no BaseEventLoop would fail as it is torn down.
            Loop._default_executor = None
        return Loop

    def count_asyncios(self):
        """Count asyncio's own loops."""
        made, init = self.made, base_events.BaseEventLoop.__init__

        @functools.wraps(init)
        def counting_init(loop, *args, **kwargs):
            made.value += 1
            init(loop, *args, **kwargs)

        base_events.BaseEventLoop.__init__ = counting_init

    def install(self):
        """Make asyncio's names and its default policy give loops of this kind."""
        if self.native is None:
            self.count_asyncios()
            return
        for module in (asyncio, unix_events):
            for name in ("SelectorEventLoop", "EventLoop"):
                if hasattr(module, name):
                    setattr(module, name, self.loop)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            policy = asyncio.DefaultEventLoopPolicy
        policy._loop_factory = self.loop
        with self.lend_base_loop("utils"):
            importlib.import_module("test.test_asyncio.utils")

    @contextlib.contextmanager
    def lend_base_loop(self, module):
        """While this lasts, BaseEventLoop is this kind of loop for that test module."""
        own = base_events.BaseEventLoop
        if (
            self.native is None
            or not issubclass(self.native, own)
            or module in THE_CLASS_ITSELF
        ):
            yield
            return
        asyncio.BaseEventLoop = base_events.BaseEventLoop = self.loop
        try:
            yield
        finally:
            asyncio.BaseEventLoop = base_events.BaseEventLoop = own


@contextlib.contextmanager
def poller(name):
    """While this lasts, pyloop's loops are made with that way of watching."""
    old = os.environ.get("PYLOOP_POLLER")
    if name is not None:
        os.environ["PYLOOP_POLLER"] = name
    try:
        yield
    finally:
        if name is not None:
            del os.environ["PYLOOP_POLLER"]
            if old is not None:
                os.environ["PYLOOP_POLLER"] = old
