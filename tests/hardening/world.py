"""What a scenario lives in: a loop, its peers, and what was seen of errors.

A scenario is a function of a World (scenarios.py). It sets itself up, does what is to
be tested inside `with w.armed():`, and asserts that the outcome is right. The driver
that runs it decides what being armed means: allocations or system calls that fail, a
garbage collection in every callback, or nothing. `finish` ends it without faults.
"""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import struct
import sys
import threading
import time

import support

#: The cache of what types' attributes are keeps the names: blocks that are no leak.
clear_caches = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache

#: Where errors are told of: asyncio's, and that of executors' futures, whose callbacks
#: wake the loop.
LOGS = (logging.getLogger("asyncio"), logging.getLogger("concurrent.futures"))


class GaveUp(Exception):
    """Nothing happened for too long: what was awaited will not come."""


class Hooks:
    """What a driver does around the armed part; this one does nothing."""

    #: Seconds after which a scenario that waits is taken to wait for ever.
    patience = 20.0

    def arm(self, world):
        pass

    def disarm(self, world):
        pass

    def pretend_fork(self):
        """From here on, the loops are in a child of the process that made them."""

    def lost_a_step(self):
        """Whether what failed was a call of the loop by a C task or future of asyncio.
        It does not call again, whatever the loop, and the task never runs any more, not
        even to be cancelled."""
        return False

    def wrap(self, callback):
        """Return what is to be called instead of a callback of the scenario."""
        return callback


class Armed:
    """The armed part of a scenario; it may be entered once."""

    def __init__(self, world):
        self.world = world

    def __enter__(self):
        self.world.started = (time.monotonic(), time.process_time())
        self.world.hooks.arm(self.world)

    def __exit__(self, *exc_info):
        self.world.hooks.disarm(self.world)


class Seen(logging.Handler):
    """Names of the exceptions that were reported, logged or unraisable."""

    def __init__(self):
        super().__init__()
        self.names = []
        self.texts = []

    def add(self, exception, text=""):
        self.names += exception_names(exception)
        self.texts.append(f"{text} {exception!r}"[:300])

    def emit(self, record):
        if record.exc_info and record.exc_info[1] is not None:
            self.add(record.exc_info[1], record.getMessage())
        elif record.levelno >= logging.WARNING:
            self.texts.append(record.getMessage()[:300])

    def unraisable(self, args):
        self.add(args.exc_value or args.exc_type(), f"unraisable in {args.object!r}")


def exception_names(exception):
    """The type names and errnos of an exception and of all that it came from."""
    names, todo, seen = [], [exception], set()
    while todo:
        exc = todo.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        names.append(type(exc).__name__)
        if isinstance(exc, OSError):
            names.append(f"errno {exc.errno}")
        todo += [exc.__cause__, exc.__context__, *getattr(exc, "exceptions", ())]
    return names


class World:
    """One run of one scenario."""

    def __init__(self, kind="pyloop", hooks=None, certificates=None):
        self.kind = kind
        self.hooks = hooks or Hooks()
        self.certificates = certificates
        self.seen = Seen()
        self.loops = []
        self.closables = []
        self.protocols = []
        self.transports = []  # others, whose protocols' calls are not counted
        self.gave_up = False
        self.started = (time.monotonic(), time.process_time())
        self.faults = []
        self.dogs = []
        self._loop = None
        for log in LOGS:
            log.addHandler(self.seen)
            log.propagate = False
        self._hook = sys.unraisablehook
        sys.unraisablehook = self.seen.unraisable

    # -- making -----------------------------------------------------------------

    @property
    def loop(self):
        """The scenario's loop, made at first use."""
        if self._loop is None:
            self._loop = self.watched(self.new_loop())
        return self._loop

    def new_loop(self):
        loop = support.make_loop(self.kind)
        self.loops.append(loop)
        loop.set_exception_handler(self.on_error)
        return loop

    def watched(self, loop):
        """The loop, which stops when nothing has come of it for too long."""
        self.dogs.append(loop.call_later(self.hooks.patience, self._give_up, loop))
        return loop

    def armed(self):
        return Armed(self)

    def call(self, callback):
        """A callback as the driver wants it to be called."""
        return self.hooks.wrap(callback)

    def close_later(self, closable):
        """Close it when the world ends; return it."""
        self.closables.append(closable)
        return closable

    def pair(self, family=socket.AF_UNIX, kind=socket.SOCK_STREAM):
        """Two connected non-blocking sockets."""
        if family == socket.AF_UNIX:
            left, right = socket.socketpair(family, kind)
        else:
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                listener.listen(1)
                left = socket.create_connection(listener.getsockname())
                right, _ = listener.accept()
        for sock in (left, right):
            sock.setblocking(False)
            self.close_later(sock)
        return left, right

    def listener(self, backlog=10):
        sock = self.close_later(socket.socket())
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        sock.listen(backlog)
        return sock

    def reset(self, sock):
        """Close a TCP socket so that its peer sees a reset."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    # -- running ------------------------------------------------------------------

    def on_error(self, loop, context):
        exception = context.get("exception")
        if exception is None:
            self.seen.texts.append(context["message"][:300])
        else:
            self.seen.add(exception, context["message"])

    def _give_up(self, loop):
        self.gave_up = True
        loop.stop()
        self.watched(loop)  # what ends it may wait as well

    def check_gave_up(self):
        if self.gave_up:
            wall = time.monotonic() - self.started[0]
            cpu = time.process_time() - self.started[1]
            raise GaveUp("spins" if cpu > 0.6 * wall > 0.1 else "waits")

    def run(self, awaitable):
        """Run it to its result on the scenario's loop."""
        try:
            return self.loop.run_until_complete(awaitable)
        except RuntimeError:
            self.check_gave_up()
            raise

    def run_once(self):
        loop = self.loop
        loop.call_soon(loop.stop)
        loop.run_forever()
        self.check_gave_up()

    # -- ending --------------------------------------------------------------------

    def finish(self):
        """End everything, with no faults any more; `faults` says what was wrong."""
        for loop in self.loops:
            try:
                self._end(loop)
            except BaseException as exc:
                self.faults.append(f"the end of the loop: {exc!r}")
        for protocol in self.protocols:
            if protocol.made != protocol.lost:
                self.faults.append(
                    f"connection_made {protocol.made} times, "
                    f"connection_lost {protocol.lost} times"
                )
            protocol.transport = None
        for closable in self.closables:
            with contextlib.suppress(OSError):
                closable.close()
        self.loops.clear()
        self.protocols.clear()
        self.transports.clear()
        self.closables.clear()
        self.dogs.clear()
        self._loop = None
        gc.collect()
        for log in LOGS:
            log.removeHandler(self.seen)
        sys.unraisablehook = self._hook
        if "SystemError" in self.seen.names:
            self.faults.append(f"SystemError: {self.seen.texts}")

    def _end(self, loop):
        if loop.is_closed():
            return
        for dog in self.dogs:
            dog.cancel()
        for transport in [*(p.transport for p in self.protocols), *self.transports]:
            if transport is not None:
                getattr(transport, "abort", transport.close)()  # readers of pipes
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        for closable in self.closables:
            if isinstance(closable, asyncio.AbstractServer):
                closable.close()
        for _ in range(6):
            loop.call_soon(loop.stop)
            loop.run_forever()
        self._end_children_and_threads(loop)
        if not all(task.done() for task in tasks) and not self._is_lost(loop, tasks):
            self.faults.append("a task does not end although it was cancelled")
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # seen
        loop.close()

    def _is_lost(self, loop, tasks):
        """Whether asyncio lost a step, and with it a task: what that one waits for is
        done, but nothing is to be run. Others may wait for it."""
        return (
            self.hooks.lost_a_step()
            and not loop._ready
            and any(not task.done() and has_come(task._fut_waiter) for task in tasks)
        )

    def _end_children_and_threads(self, loop):
        """Wait for children, which were killed, their tasks, the executor's threads."""
        processes = [getattr(transport, "_proc", None) for transport in self.transports]
        processes = [process for process in processes if process is not None]
        until = time.monotonic() + 5
        while time.monotonic() < until:
            tasks = asyncio.all_tasks(loop)
            if all(process.returncode is not None for process in processes) and (
                not tasks or self._is_lost(loop, tasks)
            ):
                break
            loop.call_later(0.001, loop.stop)
            loop.run_forever()
        else:
            if any(process.returncode is None for process in processes):
                self.faults.append("a child that was killed is not waited for")
        for thread in threading.enumerate():
            if thread.name.startswith("pyloop-waitpid"):
                thread.join(5)
        if loop._default_executor is not None:
            loop.run_until_complete(loop.shutdown_default_executor())


def has_come(future):
    """Whether a future, or all that one of asyncio.gather()'s waits for, is done."""
    return (
        future is None
        or future.done()
        or all(child.done() for child in getattr(future, "_children", [future]))
    )


async def until(condition):
    """Let the loop run until condition() is true; the world's patience ends it."""
    while not condition():
        await asyncio.sleep(0.001)


class Recorder(asyncio.Protocol):
    """A protocol that counts its calls and keeps the data."""

    def __init__(self, world, echo=False, close_on_eof=True):
        world.protocols.append(self)
        self.world = world
        self.echo = echo
        self.close_on_eof = close_on_eof
        self.transport = None
        self.made = self.lost = self.eof = self.paused = self.resumed = 0
        self.data = bytearray()
        self.error = None

    def connection_made(self, transport):
        self.made += 1
        self.transport = transport

    def data_received(self, data):
        self.data += data
        if self.echo:
            self.transport.write(data)

    def eof_received(self):
        self.eof += 1
        return not self.close_on_eof

    def pause_writing(self):
        self.paused += 1

    def resume_writing(self):
        self.resumed += 1

    def connection_lost(self, exc):
        self.lost += 1
        self.error = exc
        if exc is not None:
            self.world.seen.add(exc, "connection_lost")


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same for a buffer that the protocol owns."""

    def __init__(self, world, size=100, **options):
        super().__init__(world, **options)
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.data_received(bytes(self.buffer[:count]))


def descriptors():
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
