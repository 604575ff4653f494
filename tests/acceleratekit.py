"""Programs that run on asyncio's own functions and on pyloop's, and what they say.

A program makes a few workers, coroutines that write down what happens to them, and a
function that tells the state of what they share. `trace` runs them beside a stepper
that notes the state at every iteration, and cancels one of them at one of those: two
traces are equal only if every wait of the one takes as many iterations as the other's,
and everything comes in the same order.
"""

import asyncio
import contextlib
import types

import pytest
import support

from pyloop import _accelerate


@contextlib.contextmanager
def accelerated():
    """While this lasts, pyloop's functions are in the place of asyncio's."""
    _accelerate.accelerate()
    try:
        yield
    finally:
        _accelerate.restore()


@pytest.fixture(params=["asyncio", "accelerated"])
def functions(request):
    """asyncio's functions as they are, and pyloop's in their place."""
    if request.param == "asyncio":
        yield
        return
    with accelerated():
        yield


@types.coroutine
def turn(times=1):
    """Let the loop make a turn, by nothing that is accelerated."""
    for _ in range(times):
        yield


def told(error):
    """What there is to say about an exception."""
    context = error.__context__
    return (
        type(error).__name__,
        repr(error.args),
        type(error.__cause__).__name__,
        type(context).__name__,
        error.__suppress_context__,
    )


def plain(result):
    """A result in which an exception is what there is to say about it."""
    if isinstance(result, list):
        return [plain(item) for item in result]
    return told(result) if isinstance(result, BaseException) else result


class Log:
    """What a program's workers say, in order."""

    def __init__(self):
        self.lines = []

    def __call__(self, *line):
        self.lines.append(line)

    async def watch(self, name, make):
        """Await what make() returns; say what came of it. An Exception ends here."""
        try:
            result = await make()
        except BaseException as exc:
            self(name, "raised", *told(exc))
            if not isinstance(exc, Exception):
                raise
            return None
        self(name, "got", plain(result))
        return result


async def staged(program, steps, cancel_at, victim, log):
    loop = asyncio.get_running_loop()
    workers, state = program(log)
    tasks = [loop.create_task(worker) for worker in workers]
    for step in range(steps):
        if step == cancel_at:
            log("stepper", "cancels", tasks[victim].cancel("stop"))
        log("state", step, *state(), [task.done() for task in tasks])
        await turn()
    for number, task in enumerate(tasks):
        if not task.done():
            task.cancel("end")
        try:
            log("worker", number, "returned", plain(await task))
        except BaseException as exc:
            log("worker", number, "raised", type(exc).__name__, exc.args)
    await turn(3)
    log("state", "at the end", *state())


def trace(kind, program, steps, cancel_at=None, victim=0):
    """Run a program on a loop of that kind; return what was said."""
    log = Log()
    loop = support.make_loop(kind)
    try:
        support.run(loop, staged(program, steps, cancel_at, victim, log))
    finally:
        loop.close()
    return log.lines


def assert_same(kind, program, steps, workers):
    """Compare all of a program's traces, one for each place of a cancellation."""
    places = [(None, 0)]
    places += [(at, victim) for at in range(steps) for victim in range(workers)]
    for cancel_at, victim in places:
        expected = trace("asyncio", program, steps, cancel_at, victim)
        with accelerated():
            found = trace(kind, program, steps, cancel_at, victim)
        assert found == expected, f"worker {victim} cancelled at {cancel_at}"
