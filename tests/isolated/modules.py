"""The C module imported again, and dropped while its objects live.

Argument: the kind of loop (pyloop; nothing else has the module).
"""

import asyncio
import gc
import sys
import warnings
import weakref

import support


def fresh_import():
    """Import pyloop as if for the first time; return the package."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "pyloop"]:
        del sys.modules[name]
    import pyloop

    return pyloop


def use(pyloop):
    loop = pyloop.new_event_loop()
    loop.call_later(1000, print)
    assert loop.run_until_complete(asyncio.sleep(0.001, "used")) == "used"
    return loop


def two_copies():
    first = fresh_import()
    second = fresh_import()
    assert first is not second
    loops = [use(first), use(second), use(first)]
    assert type(loops[0]) is not type(loops[1])
    for loop in loops:
        assert loop.run_until_complete(asyncio.sleep(0, "again")) == "again"
        loop.close()


def instance_outlives_module():
    loop = use(fresh_import())
    fresh_import()
    gc.collect()
    assert loop.run_until_complete(asyncio.sleep(0, "orphan")) == "orphan"
    loop.close()
    del loop
    gc.collect()


def everything_dies_in_one_collection(closed):
    """A cycle of loop, type and module: whichever is cleared first."""
    pyloop = fresh_import()
    loop = use(pyloop)
    handles = [loop.call_soon(print), loop.call_later(1000, print)]
    loop.cycle = [loop, type(loop), sys.modules["pyloop._core"], pyloop, handles]
    sys.modules["pyloop._core"].cycle = loop.cycle
    watch = weakref.ref(loop)
    if closed:
        loop.close()
    for name in [n for n in sys.modules if n.partition(".")[0] == "pyloop"]:
        del sys.modules[name]
    del loop, pyloop, handles
    for _ in range(3):
        gc.collect()
    assert watch() is None


if __name__ == "__main__":
    warnings.simplefilter("ignore", ResourceWarning)
    fresh_import().new_event_loop().close()  # opens what is opened once per process
    before = support.open_descriptors()
    two_copies()
    instance_outlives_module()
    for closed in (True, False, True, False):
        everything_dies_in_one_collection(closed)
    fresh_import()
    gc.collect()
    assert support.open_descriptors() == before
