"""A child that closes every descriptor, as one does that becomes a daemon.

The loop that its parent made has none left then, or what is another file's by now.
Nothing crashes.

Arguments: the kind of loop, what the child does, "reused" if it opens files first.
"""

import asyncio
import contextlib
import gc
import os
import sys

import support

KIND, ACTION, REUSED = sys.argv[1:]


def drop(loops):
    loops.clear()
    gc.collect()


def close(loops):
    with contextlib.suppress(OSError):
        loops.pop().close()
    gc.collect()


def use(loops):
    with contextlib.suppress(OSError):
        loops[0].run_until_complete(asyncio.sleep(0.001))


def use_another(loops):
    loop = support.make_loop(KIND)
    assert loop.run_until_complete(asyncio.sleep(0.001, 1)) == 1
    loop.close()


def leave(loops):
    """The interpreter's end drops it."""


loops = [support.make_loop(KIND)]
loops[0].run_until_complete(asyncio.sleep(0.001))
child = os.fork()
if child:
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    assert loops[0].run_until_complete(asyncio.sleep(0.001, 1)) == 1
    loops.pop().close()
else:
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)  # what close() raises in __del__
    os.closerange(3, 256)
    if REUSED:
        files = [os.open(os.devnull, os.O_RDWR) for _ in range(20)]
    actions = [drop, close, use, use_another, leave]
    {action.__name__: action for action in actions}[ACTION](loops)
