"""What sock_recv() and its kin return: full coroutines, whatever they are made of.

Programs drive them by hand, wrap them in tasks, throw into them, close them and
inspect them.  Source: the language reference on coroutine objects, PEP 492.
"""

import asyncio
import collections.abc
import contextlib
import gc
import inspect
import os
import socket
import tempfile
import types
import warnings
import weakref

import pytest
import support
from streamkit import PY, listening, on_loop, oracle_bug, settle

NAMES = [
    "sock_recv",
    "sock_recv_into",
    "sock_sendall",
    "sock_accept",
    "sock_connect",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendto",
]
DATAGRAM = NAMES[5:]


class Case:
    """One sock_ method on sockets on which it has to wait, until `let_go` is called."""

    def __init__(self, name, directory):
        self.name = name
        self.buffer = bytearray(10)
        if name == "sock_accept":
            self.near, self.far = listening(), socket.socket()
        elif name == "sock_connect":
            self.near, self.far = socket.socket(), listening()
        elif name == "sock_sendto":
            self.near = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.far = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.far.bind(os.path.join(directory, "socket"))
        else:
            self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while name == "sock_sendall":
                self.near.send(b"f" * 65536)
            while name == "sock_sendto":
                self.near.sendto(b"f" * 100, self.far.getsockname())

    def arguments(self):
        return {
            "sock_recv": lambda: (10,),
            "sock_recv_into": lambda: (self.buffer,),
            "sock_sendall": lambda: (b"x",),
            "sock_accept": lambda: (),
            "sock_connect": lambda: (self.far.getsockname(),),
            "sock_recvfrom": lambda: (10,),
            "sock_recvfrom_into": lambda: (self.buffer,),
            "sock_sendto": lambda: (b"x", self.far.getsockname()),
        }[self.name]()

    def make(self, loop):
        """A fresh awaitable."""
        return getattr(loop, self.name)(self.near, *self.arguments())

    def let_go(self):
        """Let what waits go on."""
        if self.name == "sock_accept":
            self.far.connect_ex(self.near.getsockname())
        elif self.name in ("sock_sendall", "sock_sendto"):
            support.drain(self.far)
        elif self.name != "sock_connect":
            self.far.send(b"data")

    def check(self, result):
        if self.name == "sock_accept":
            conn, address = result
            assert conn.getpeername() == address
            conn.close()
        else:
            data, address = b"data", None
            expected = {
                "sock_recv": data,
                "sock_recv_into": 4,
                "sock_sendall": None,
                "sock_connect": None,
                "sock_sendto": 1,
            }
            if self.name in expected:
                assert result == expected[self.name]
            else:
                assert result[0] in (data, 4)

    def close(self):
        self.near.close()
        self.far.close()


@pytest.fixture(params=NAMES)
def case(request, loop_kind):
    if request.param in DATAGRAM:
        oracle_bug(loop_kind, PY < (3, 11), f"has no {request.param}")
    with tempfile.TemporaryDirectory(prefix="pl") as directory:
        case = Case(request.param, directory)
        yield case
        case.close()


def waits(case):
    """Whether the method waits at all (a loopback connect may be done at once)."""
    return case.name != "sock_connect"


# -- what it is ----------------------------------------------------------------------


@on_loop
async def test_types(loop, case):
    coro = case.make(loop)
    assert inspect.isawaitable(coro)
    assert asyncio.iscoroutine(coro)
    assert isinstance(coro, collections.abc.Coroutine)
    assert isinstance(coro, collections.abc.Awaitable)
    assert not isinstance(coro, asyncio.Future)
    for method in ("send", "throw", "close", "__await__"):
        assert callable(getattr(coro, method))
    coro.close()


@on_loop
async def test_the_iterator_of_await(loop, case):
    coro = case.make(loop)
    iterator = coro.__await__()
    assert iter(iterator) is iterator
    for method in ("send", "throw", "close", "__next__"):
        assert callable(getattr(iterator, method))
    iterator.close()
    coro.close()


@on_loop
async def test_names_for_people(loop, case):
    coro = case.make(loop)
    assert coro.__name__ == case.name
    assert coro.__qualname__.endswith("." + case.name)
    assert case.name in repr(coro)
    task = asyncio.ensure_future(coro)
    assert case.name in repr(task)
    task.cancel()
    await asyncio.wait([task])


@on_loop
async def test_weak_references(loop, case):
    coro = case.make(loop)
    reference = weakref.ref(coro)
    assert reference() is coro
    coro.close()
    del coro
    gc.collect()
    assert reference() is None


# -- how it is used ------------------------------------------------------------------


async def let_go_soon(loop, case):
    await settle(loop)
    case.let_go()


@pytest.mark.parametrize(
    "use",
    [
        "await",
        "create_task",
        "ensure_future",
        "gather",
        "wait_for",
        "yield from",
        "run",
    ],
)
@on_loop
async def test_uses(loop, case, use):
    helper = asyncio.create_task(let_go_soon(loop, case))
    coro = case.make(loop)
    if use == "await":
        result = await coro
    elif use == "create_task":
        result = await loop.create_task(coro)
    elif use == "ensure_future":
        result = await asyncio.ensure_future(coro)
    elif use == "gather":
        result = (await asyncio.gather(coro, asyncio.sleep(0)))[0]
    elif use == "wait_for":
        result = await asyncio.wait_for(coro, 20)
    elif use == "yield from":

        @types.coroutine
        def old_style():
            return (yield from coro.__await__())

        result = await old_style()
    else:

        class Awaitable:
            def __await__(self):
                return coro.__await__()

        result = await Awaitable()
    case.check(result)
    await helper


@on_loop
async def test_lazy(loop, case):
    """Nothing happens before the first step."""
    case.let_go()
    coro = case.make(loop)
    await settle(loop)
    if case.name in ("sock_recv", "sock_recv_into"):
        assert case.near.recv(10, socket.MSG_PEEK) == b"data"
    if case.name == "sock_sendall":
        with pytest.raises(BlockingIOError):
            case.far.recv(1)
    if case.name == "sock_connect":
        with pytest.raises(OSError):
            case.near.getpeername()
    case.check(await coro)


@on_loop
async def test_errors_come_at_the_first_step(loop, case):
    """A bad argument is no error of the call itself."""
    coro = getattr(loop, case.name)(object(), *case.arguments())
    with pytest.raises((AttributeError, TypeError)):
        await coro


@on_loop
async def test_a_missing_argument_is_an_error_of_the_call(loop, case):
    with pytest.raises(TypeError):
        getattr(loop, case.name)()
    with pytest.raises(TypeError):
        getattr(loop, case.name)(case.near, *case.arguments(), 1, 2, 3)


@on_loop
async def test_keywords(loop, case):
    names = {
        "sock_recv": ["sock", "n"],
        "sock_recv_into": ["sock", "buf"],
        "sock_sendall": ["sock", "data"],
        "sock_accept": ["sock"],
        "sock_connect": ["sock", "address"],
        "sock_recvfrom": ["sock", "bufsize"],
        "sock_recvfrom_into": ["sock", "buf"],
        "sock_sendto": ["sock", "data", "address"],
    }[case.name]
    given = dict(zip(names, (case.near, *case.arguments()), strict=True))
    case.let_go()
    case.check(await getattr(loop, case.name)(**given))


# -- driven by hand ------------------------------------------------------------------


@on_loop
async def test_send_steps(loop, case):
    if not waits(case):
        return
    coro = case.make(loop)
    with pytest.raises(TypeError):
        coro.send("a value before the start")
    future = coro.send(None)
    assert asyncio.isfuture(future)
    assert future.get_loop() is loop
    assert future._asyncio_future_blocking is True
    future._asyncio_future_blocking = False
    case.let_go()
    while not future.done():
        await asyncio.sleep(0)
    with pytest.raises(StopIteration) as caught:
        coro.send(None)
    case.check(caught.value.value)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        coro.send(None)


@on_loop
async def test_ready_results_need_one_step(loop, case):
    if case.name in ("sock_connect", "sock_accept"):
        return
    case.let_go()
    coro = case.make(loop)
    with pytest.raises(StopIteration) as caught:
        coro.send(None)
    case.check(caught.value.value)


@pytest.mark.parametrize("started", [False, True])
@on_loop
async def test_throw(loop, loop_kind, case, started):
    if started and not waits(case):
        return
    coro = case.make(loop)
    if started:
        coro.send(None)
    error = ZeroDivisionError("thrown")
    with pytest.raises(ZeroDivisionError) as caught:
        coro.throw(error)
    assert caught.value is error
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        coro.send(None)
    if started and loop_kind == "asyncio":
        return  # it goes on receiving and accepting for the coroutine that is no more
    case.let_go()
    await settle(loop)
    case.check(await case.make(loop))


@pytest.mark.parametrize("started", [False, True])
@on_loop
async def test_close(loop, loop_kind, case, started):
    if started and not waits(case):
        return
    coro = case.make(loop)
    if started:
        coro.send(None)
    assert coro.close() is None
    assert coro.close() is None
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        coro.send(None)
    if started and loop_kind == "asyncio":
        return  # it goes on receiving and accepting for the coroutine that is no more
    case.let_go()
    await settle(loop)
    case.check(await case.make(loop))


@on_loop
async def test_awaited_twice(loop, case):
    case.let_go()
    coro = case.make(loop)
    case.check(await coro)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await coro


@on_loop
async def test_two_tasks_cannot_await_one_coroutine(loop, case):
    if not waits(case):
        return
    coro = case.make(loop)

    async def wait():
        return await coro

    first = asyncio.create_task(wait())
    await settle(loop)
    with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
        await coro
    case.let_go()
    case.check(await first)


# -- dropped -------------------------------------------------------------------------


@on_loop
async def test_never_awaited(loop, case):
    """A warning, as for any coroutine; and nothing was done."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coro = case.make(loop)
        del coro
        gc.collect()
    texts = [str(w.message) for w in caught if w.category is RuntimeWarning]
    assert len(texts) == 1
    assert texts[0].startswith("coroutine '")
    assert texts[0].endswith(f".{case.name}' was never awaited")


@on_loop
async def test_closed_without_being_awaited_is_no_reason_to_warn(loop, case):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case.make(loop).close()
        gc.collect()
    assert [w for w in caught if w.category is RuntimeWarning] == []


@on_loop
async def test_dropped_halfway(loop, case):
    """An operation nobody holds any more ends, and its descriptor is free again."""
    if not waits(case):
        return
    coro = case.make(loop)
    future = coro.send(None)
    future.cancel()
    del coro, future
    gc.collect()
    await settle(loop)
    task = asyncio.ensure_future(case.make(loop))
    await settle(loop)
    case.let_go()
    case.check(await task)


async def half_done(loop, case):
    coro = case.make(loop)
    coro.send(None)
    return coro


def test_the_loop_closes_with_operations_waiting(new_loop, case):
    """A coroutine that outlives its loop can be closed."""
    if not waits(case):
        return
    loop = new_loop()

    coro = loop.run_until_complete(half_done(loop, case))
    loop.close()
    coro.close()
