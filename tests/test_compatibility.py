"""What docs/compatibility.md says is missing, or is not as on asyncio's loop.

What other files prove, poll skipping for one, is not repeated here.
"""

import asyncio
import collections.abc
import contextvars
import gc
import inspect
import pathlib
import re
import selectors
import signal
import socket
import types
import weakref

import pytest
import support
from streamkit import connected, on_loop, pending, record_errors, until

pytestmark = pytest.mark.pyloop_only

# --- held writes --------------------------------------------------------------------


AT_ONCE = (b"head", b"body")
TOGETHER = (b"", b"headbody")


async def teach(transport, peer, times):
    """Make two writes in each of several callbacks; what the peer had after each."""
    loop = asyncio.get_running_loop()
    seen = []

    def two_writes():
        transport.write(b"head")
        between = pending(peer)
        transport.write(b"body")
        seen.append((between, pending(peer)))

    for _ in range(times):
        loop.call_soon(two_writes)
        await asyncio.sleep(0)
    return seen


@on_loop
async def test_the_fourth_callback_of_two_writes_holds_the_first(loop):
    async with connected() as (transport, _, peer):
        seen = await teach(transport, peer, 5)
        assert seen == [AT_ONCE] * 3 + [TOGETHER] * 2


@on_loop
async def test_one_write_and_a_wait_for_the_peer_in_the_same_callback(loop):
    """The one program that can tell: the peer has it when the callback returns."""
    async with connected() as (transport, _, peer):
        await teach(transport, peer, 5)
        seen = []

        def one_write():
            transport.write(b"question")
            seen.append(pending(peer))

        for _ in range(2):
            loop.call_soon(one_write)
            loop.call_soon(lambda: seen.append(pending(peer)))
            await asyncio.sleep(0)
        assert seen == [b"", b"question", b"question", b""]


@pytest.mark.parametrize("way", ["environment", "debug mode"])
def test_nothing_is_held_when_switched_off(new_loop, monkeypatch, way):
    if way == "environment":
        monkeypatch.setenv("PYLOOP_HOLD_WRITES", "0")
    loop = new_loop()
    loop.set_debug(way == "debug mode")

    @on_loop
    async def body(loop):
        async with connected() as (transport, _, peer):
            assert await teach(transport, peer, 6) == [AT_ONCE] * 6

    body(loop=loop)


# --- timers -------------------------------------------------------------------------


class Thing:
    pass


def test_a_cancelled_timer_keeps_nothing(loop):
    """asyncio keeps up to 100 of them, and what their contexts hold."""
    variable = contextvars.ContextVar("variable")
    thing = Thing()
    context = contextvars.copy_context()
    context.run(variable.set, thing)
    gone = weakref.ref(thing)
    handle = loop.call_later(1000, print, context=context)
    assert loop._scheduled == [handle]
    assert handle._scheduled
    handle.cancel()
    assert loop._scheduled == []
    assert not handle._scheduled
    del handle, context, thing
    gc.collect()
    assert gone() is None


def test_the_queues_are_the_loops_own(loop):
    later, now = loop.call_later(1000, print), loop.call_soon(print, "")
    assert loop._ready == [now]
    assert loop._scheduled == [later]
    loop._scheduled.clear()
    assert loop._scheduled == [later]
    for name in ("_ready", "_scheduled"):
        with pytest.raises(AttributeError):
            setattr(loop, name, [now])
        setattr(loop, name, [])  # what asyncio's constructor does
        assert len(getattr(loop, name)) == 1
    later.cancel()
    now.cancel()


# --- servers ------------------------------------------------------------------------


@on_loop
async def test_a_connection_is_made_inside_the_accepting_callback(loop):
    """asyncio makes a task for it and calls connection_made an iteration later."""
    seen = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            seen.append(("made", asyncio.current_task()))
            transport.abort()

    def factory():
        loop.call_soon(seen.append, "the next callback")
        seen.append(("factory", asyncio.current_task()))
        return Protocol()

    server = await loop.create_server(factory, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        await until(lambda: len(seen) == 3)
    server.close()
    assert seen == [("factory", None), ("made", None), "the next callback"]


@on_loop
async def test_a_failing_factory_is_reported_without_debug_mode(loop):
    """asyncio says nothing then, so that a server seems to hang up on its clients."""

    def factory():
        raise ZeroDivisionError("in the factory")

    errors = record_errors(loop)
    server = await loop.create_server(factory, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        await until(lambda: errors.contexts)
    server.close()
    context = errors.only()
    assert context["message"] == "Error on transport creation for incoming connection"
    assert isinstance(context["exception"], ZeroDivisionError)
    errors.contexts.clear()


# --- transports ---------------------------------------------------------------------


async def offer_at_the_end(transport, protocol):
    transport.close()
    transport.set_protocol(protocol)
    assert transport.get_protocol() is protocol  # connection_lost() is to come
    await until(lambda: transport.get_protocol() is None)
    transport.set_protocol(protocol)
    assert transport.get_protocol() is None


@on_loop
async def test_a_closed_transport_takes_no_protocol(loop):
    """It calls nobody, and keeps nobody alive: asyncio's keeps what it was given."""
    async with connected() as (transport, _, _):
        await offer_at_the_end(transport, asyncio.Protocol())
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, ("127.0.0.1", 0)
    )
    await offer_at_the_end(transport, asyncio.DatagramProtocol())


# --- objects ------------------------------------------------------------------------


@on_loop
async def test_coroutines_made_in_c(loop):
    with support.socket_pair() as (left, _):
        for coroutine in (loop.sock_recv(left, 1), loop.getaddrinfo("::1", 1)):
            assert isinstance(coroutine, collections.abc.Coroutine)
            assert asyncio.iscoroutine(coroutine)
            assert inspect.isawaitable(coroutine)
            assert not isinstance(coroutine, types.CoroutineType)
            assert not inspect.iscoroutine(coroutine)
            assert coroutine.cr_frame is None
            coroutine.close()
    assert not inspect.iscoroutinefunction(loop.sock_recv)


@on_loop
async def test_repr_names(loop):
    async with connected() as (transport, _, _):
        assert repr(transport).startswith(f"<SocketTransport fd={transport._sock_fd} ")
        assert repr(loop).startswith("<Loop running=True ")


@on_loop
async def test_the_selector_has_select_and_get_key_only(loop):
    async with connected() as (transport, _, _):
        assert not hasattr(loop._selector, "get_map")
        key = loop._selector.get_key(transport._sock_fd)
        assert key.events == selectors.EVENT_READ and key.data is None
        transport.pause_reading()
        with pytest.raises(KeyError, match="is not registered"):
            loop._selector.get_key(transport.get_extra_info("socket"))
        assert not loop._transports
        for name in ("_buffer", "_read_ready", "_write_ready"):
            assert not hasattr(transport, name)


def test_the_wakeup_descriptor_is_the_loop_s_during_a_run(loop):
    seen = []

    def look():
        seen.append(signal.set_wakeup_fd(-1))
        signal.set_wakeup_fd(seen[0])

    loop.call_soon(look)
    support.run_once(loop)
    assert seen == [loop._csock.fileno()]
    assert signal.set_wakeup_fd(-1) == -1


# --- the page itself ----------------------------------------------------------------


def test_the_tests_that_the_page_names_are_there():
    tests = pathlib.Path(__file__).parent
    page = (tests.parent / "docs/compatibility.md").read_text()
    missing, source = [], ""
    for module, test in re.findall(r"`((?:compat/)?test_\w+)(?:::(\w+))?`", page):
        if module == "test_x":  # the page's example
            continue
        path = tests / f"{module}.py"
        if path.exists():
            source = path.read_text()
        else:  # a test of the file that was named last
            test = test or module
        if test and f"def {test}(" not in source:
            missing.append(test)
    assert not missing
