"""asyncio's ``_ready`` and ``_selector``, for code that iterates a loop by itself.

asyncio's loop is such code, and so are tools that put an iteration of their own in the
place of its ``_run_once``: nest_asyncio. pyloop's iteration is in C and uses neither.
"""

from __future__ import annotations

import contextlib
import selectors
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from _typeshed import FileDescriptorLike

    from pyloop._loop import Loop

__all__ = ["Ready", "Selector"]


class Ready:
    """The queue of ready handles, oldest first: a view of the loop's own, in C.

    What it has of a deque is what an iteration needs. A ready descriptor counts, and
    becomes a handle as popleft() takes it; iterating and comparing leave it out.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def append(self, handle: asyncio.Handle) -> None:
        """Add a handle, unless it is cancelled; a queued timer leaves its queue."""
        self._loop._add_callback(handle)

    def popleft(self) -> asyncio.Handle:
        """Take the oldest handle out. Raises IndexError when there is none."""
        return self._given(self._loop._pop_ready())

    def clear(self) -> None:
        """Take all handles out."""
        count = len(self)  # what is added meanwhile stays
        if count == 0:  # as it mostly is when a loop closes
            return
        with contextlib.suppress(IndexError):
            for _ in range(count):
                self.popleft()

    def __len__(self) -> int:
        return self._loop._ready_count

    def __getitem__(self, index: int) -> asyncio.Handle:
        return self._handles()[index]

    def __iter__(self) -> Iterator[asyncio.Handle]:
        return iter(self._handles())

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, Ready):
            return self._loop is other._loop
        return bool(self._handles() == other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Ready {self._handles()!r}>"

    def _handles(self) -> list[asyncio.Handle]:
        return [self._given(handle) for handle in self._loop._ready_handles]

    def _given(self, handle: asyncio.Handle) -> asyncio.Handle:
        """What was added: one of asyncio's own handles is in one of the loop's."""
        callback, arguments = handle._callback, handle._args  # type: ignore[attr-defined]
        if getattr(callback, "__func__", None) is type(self._loop)._run_handle:
            given: asyncio.Handle = arguments[0]
            return given
        return handle


class Selector:
    """What waits for descriptors, as asyncio's ``loop._selector``: two methods."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        """Wait for timeout seconds at most, None: without a limit. Return no events.

        What is ready then, and what other threads scheduled, is in the loop's _ready.
        Does not wait while anything is there already. Raises what signal handlers do.
        """
        self._loop._poll(timeout)
        return []

    def get_key(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """What is watched of a descriptor, for the repr() of asyncio's transports.

        Its data is None. Raises KeyError when nothing is.
        """
        events = self._loop._watched(fileobj)
        if not events:
            raise KeyError(f"{fileobj!r} is not registered")
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        return selectors.SelectorKey(fileobj, fd, events, None)
