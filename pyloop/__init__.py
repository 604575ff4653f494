"""pyloop: an asyncio event loop in C over libuv.

::

    import pyloop
    pyloop.run(main())

or, without a change to the program, ``asyncio.run(main(),
loop_factory=pyloop.new_event_loop)``. The documentation is in docs/.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pyloop._core import libuv_version
from pyloop._loop import Loop
from pyloop._policy import EventLoopPolicy, install, new_event_loop, run
from pyloop._transports import OpenTransport, open_transports
from pyloop._version import __version__

__all__ = [
    "EventLoopPolicy",
    "Loop",
    "OpenTransport",
    "__version__",
    "install",
    "libuv_version",
    "new_event_loop",
    "open_transports",
    "run",
]

if TYPE_CHECKING:
    from pyloop import loop as loop
else:

    def __getattr__(name: str) -> Any:
        """Import pyloop.loop, which only programs written for uvloop ask for."""
        if name != "loop":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module("pyloop.loop")
