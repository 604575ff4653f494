"""pyloop: an asyncio event loop in C over libuv.

::

    import pyloop
    pyloop.run(main())

or, without a change to the program, ``asyncio.run(main(),
loop_factory=pyloop.new_event_loop)``. The documentation is in docs/.
"""

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
