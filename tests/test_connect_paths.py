"""create_connection() to an address: what programs replace, and what they cannot tell.

pyloop makes and connects the socket in C where nothing of what asyncio's method calls
was replaced, so each piece that a program may replace is replaced here.
"""

import asyncio
import contextlib
import errno
import inspect
import socket
import sys
import unittest.mock
from asyncio import base_events

import pytest
import support
from streamkit import (
    Recorder,
    listening,
    needs_ipv6,
    on_loop,
    oracle_bug,
    settle,
    until,
)
from test_connect import finish, info, refused, resolve_to

BASE = asyncio.BaseEventLoop


@contextlib.asynccontextmanager
async def connecting(loop, **arguments):
    """A listener's address; what the block connects to it is to be put in the list."""
    with listening() as listener:
        made = []
        yield listener.getsockname(), made
        for transport, protocol in made:
            await finish(loop, transport, protocol)


# --- what is replaced is asked -------------------------------------------------------

METHODS = [
    "_ensure_resolved",
    "_connect_sock",
    "sock_connect",
    "_create_connection_transport",
    "_make_socket_transport",
    "create_future",
    "call_soon",
]


@pytest.mark.parametrize("name", METHODS)
@on_loop
async def test_replaced_on_the_instance(loop, name):
    async with connecting(loop) as (address, made):
        with unittest.mock.patch.object(loop, name, wraps=getattr(loop, name)) as spy:
            made.append(await loop.create_connection(Recorder, *address))
            assert spy.called
        spy.reset_mock()
        made.append(await loop.create_connection(Recorder, *address))
        assert not spy.called


@pytest.mark.parametrize("name", METHODS)
def test_replaced_by_a_subclass(loop_kind, name):
    cls = support.loop_class(loop_kind)
    called = []

    def method(self, *args, **kwargs):
        called.append(name)
        return getattr(cls, name)(self, *args, **kwargs)

    async def main(loop):
        async with connecting(loop) as (address, made):
            called.clear()
            made.append(await loop.create_connection(Recorder, *address))
            assert called

    loop = type("Subclass", (cls,), {name: method})()
    try:
        support.run(loop, main(loop))
    finally:
        loop.close()


def test_a_subclass_with_a_create_connection_of_its_own(loop_kind):
    """It gets from asyncio's helpers what asyncio's gets: a socket."""

    class Loop(support.loop_class(loop_kind)):
        async def create_connection(self, protocol_factory, host, port):
            entry = info((host, port))
            sock = await self._connect_sock([], entry)
            assert sock.getpeername() == (host, port)
            return await super().create_connection(protocol_factory, sock=sock)

    async def main(loop):
        async with connecting(loop) as (address, made):
            made.append(await loop.create_connection(Recorder, *address))

    loop = Loop()
    try:
        support.run(loop, main(loop))
    finally:
        loop.close()


class Subsocket(socket.socket):
    """A socket of a class of the program's."""


@pytest.mark.parametrize(
    "where", [lambda: socket, lambda: base_events.socket], ids=["socket", "asyncio"]
)
@on_loop
async def test_a_replaced_socket_class_is_used(loop, where):
    async with connecting(loop) as (address, made):
        with unittest.mock.patch.object(where(), "socket", Subsocket):
            made.append(await loop.create_connection(Recorder, *address))
        sock = made[0][0].get_extra_info("socket")
        assert isinstance(sock._sock, Subsocket)


@on_loop
async def test_a_replaced_socket_module_is_used(loop):
    async with connecting(loop) as (address, made):
        with unittest.mock.patch("asyncio.base_events.socket", wraps=socket) as module:
            module.SOCK_STREAM = socket.SOCK_STREAM
            module.AF_UNSPEC, module.AF_INET = socket.AF_UNSPEC, socket.AF_INET
            module.AF_INET6 = socket.AF_INET6
            module.IPPROTO_TCP, module.IPPROTO_UDP = 6, 17
            made.append(await loop.create_connection(Recorder, *address))
        assert module.socket.called and module.inet_pton.called


@pytest.mark.parametrize(
    "name", ["_ensure_resolved", "_connect_sock", "_create_connection_transport"]
)
@on_loop
async def test_replaced_in_asyncio(loop, name):
    called = []
    original = getattr(BASE, name)

    def method(self, *args, **kwargs):
        called.append(name)
        return original(self, *args, **kwargs)

    async with connecting(loop) as (address, made):
        with unittest.mock.patch.object(BASE, name, method):
            made.append(await loop.create_connection(Recorder, *address))
        assert {*called} == {name}


@on_loop
async def test_a_replaced_literal_parser_is_asked(loop):
    async with connecting(loop) as (address, made):
        entry = info(address)
        with unittest.mock.patch.object(
            base_events, "_ipaddr_info", return_value=entry
        ) as spy:
            made.append(await loop.create_connection(Recorder, "127.0.0.9", 1))
        assert spy.called
        assert made[0][0].get_extra_info("peername") == address


# --- what cannot be told apart -------------------------------------------------------


@on_loop
async def test_it_is_a_coroutine_function(loop):
    assert inspect.iscoroutinefunction(loop.create_connection)
    coroutine = loop.create_connection(Recorder, "127.0.0.1", 1)
    assert inspect.iscoroutine(coroutine)
    coroutine.close()


ADDRESSES = [
    (("127.0.0.1", 80), {}),
    (("127.0.0.1", 80), {"family": socket.AF_INET}),
    (("127.0.0.1", 80), {"family": 2, "type": socket.SOCK_DGRAM}),
    (("127.0.0.1", 80), {"type": 1, "proto": 6, "flags": socket.AI_PASSIVE}),
    (("127.0.0.1", 80), {"type": socket.SOCK_DGRAM, "proto": socket.IPPROTO_UDP}),
    (("127.0.0.1", 80), {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_UDP}),
    (("127.0.0.1", 70000), {}),
    (("127.0.0.1", -1), {}),
    (("127.0.0.1", "80"), {}),
    (("127.0.0.1", None), {}),
    (("127.0.0.1", True), {}),
    ((b"127.0.0.1", 80), {}),
    (["127.0.0.1", 80], {}),
    (("127.0.0.1", 80, 0, 0), {}),
    (("::1", 80), {}),
    (("::1", 80), {"family": socket.AF_INET6}),
    (("::1", 80, 1, 2), {"family": socket.AF_INET6}),
    (("0:0::1", 80, 1, 2), {}),
    (("::ffff:1.2.3.4", 80), {}),
]


@pytest.mark.parametrize(("address", "given"), ADDRESSES)
@on_loop
async def test_literals_are_resolved_as_by_asyncio(loop, address, given):
    known = await BASE._ensure_resolved(loop, address, loop=loop, **given)
    found = await loop._ensure_resolved(address, loop=loop, **given)
    assert found == known
    assert [*map(type, found[0])] == [*map(type, known[0])]
    assert [*map(type, found[0][4])] == [*map(type, known[0][4])]


@pytest.mark.parametrize(
    ("address", "given"),
    [
        (("127.0.0.1",), {}),
        (("127.0.0.1\0", 80), {}),
        (("127.0.0.1", 80, 0, 0, 0), {}),
        (None, {}),
        (("127.0.0.1", 80), {"spelling": 1}),
    ],
)
@on_loop
async def test_no_address(loop, address, given):
    errors = []
    for method in (BASE._ensure_resolved.__get__(loop), loop._ensure_resolved):
        with pytest.raises(Exception) as caught:
            await method(address, loop=loop, **given)
        errors.append(type(caught.value))
    assert errors[0] is errors[1]


@needs_ipv6
@on_loop
async def test_ipv6(loop):
    with listening(socket.AF_INET6) as listener:
        address = listener.getsockname()
        transport, protocol = await loop.create_connection(Recorder, *address[:2])
        assert transport.get_extra_info("peername") == address
        assert transport.get_extra_info("sockname")[0] == "::1"
        assert transport.get_extra_info("socket").family is socket.AF_INET6
        await finish(loop, transport, protocol)


@on_loop
async def test_the_socket_of_the_connection(loop):
    async with connecting(loop) as (address, made):
        made.append(await loop.create_connection(Recorder, *address))
        sock = made[0][0].get_extra_info("socket")
        assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert sock.proto == socket.IPPROTO_TCP
        assert sock.gettimeout() == 0
        assert sock.getpeername() == address
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert not sock.get_inheritable()


async def order_of_events(loop, address):
    """What is called when a connection is made, in order."""
    events = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            events.append("connection_made")
            super().connection_made(transport)
            loop.call_soon(events.append, "soon")

    def factory():
        events.append("factory")
        loop.call_soon(events.append, "before")
        return Protocol()

    connection = await loop.create_connection(factory, *address)
    events.append("connected")
    await settle(loop)
    return events, connection


@on_loop
async def test_the_order_of_events(loop):
    async with connecting(loop) as (address, made):
        events, connection = await order_of_events(loop, address)
        made.append(connection)
        assert events == ["factory", "before", "connection_made", "soon", "connected"]


@on_loop
async def test_the_listener_of_the_same_loop_has_accepted_by_then(loop):
    """Both ends are made in one loop: tests of programs rely on it."""
    accepted = []
    server = await loop.create_server(
        lambda: accepted.append(Recorder()) or accepted[-1], "127.0.0.1", 0
    )
    address = server.sockets[0].getsockname()
    for count in range(1, 4):
        transport, protocol = await loop.create_connection(Recorder, *address)
        assert len(accepted) == count
        await finish(loop, transport, protocol)
        await until(lambda n=count: accepted[n - 1].lost.done(), "the other end")
    server.close()
    await server.wait_closed()


# --- errors --------------------------------------------------------------------------


@on_loop
async def test_refused(loop):
    host, port = refused()
    with pytest.raises(ConnectionRefusedError) as caught:
        await loop.create_connection(Recorder, host, port)
    text = f"Connect call failed ('127.0.0.1', {port})"
    assert caught.value.args == (errno.ECONNREFUSED, text)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


@on_loop
async def test_refused_at_once(loop):
    """By connect(2): a broadcast address is no peer for TCP."""
    with socket.socket() as sock, pytest.raises(OSError) as known:
        sock.connect(("255.255.255.255", 1))
    with pytest.raises(OSError) as caught:
        await loop.create_connection(Recorder, "255.255.255.255", 1)
    assert type(caught.value) is type(known.value)
    assert caught.value.args == known.value.args


@on_loop
async def test_a_port_out_of_range(loop):
    with pytest.raises(OverflowError, match="port must be 0-65535"):
        await loop.create_connection(Recorder, "127.0.0.1", 65536)


@on_loop
async def test_several_errors(loop):
    addresses = [refused(), refused("127.0.0.2")]
    resolve_to(loop, *map(info, addresses))
    texts = [f"[Errno {errno.ECONNREFUSED}] Connect call failed {a}" for a in addresses]
    with pytest.raises(OSError) as caught:
        await loop.create_connection(Recorder, "name.test", 80)
    assert str(caught.value) == "Multiple exceptions: " + ", ".join(texts)
    if sys.version_info >= (3, 12):
        with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
            await loop.create_connection(Recorder, "name.test", 80, all_errors=True)
        assert [*map(str, caught.value.exceptions)] == texts
        assert caught.value.message == "create_connection failed"


@on_loop
async def test_no_descriptors(loop):
    """socket(2) fails: an error like any other, of the attempt."""
    resource = pytest.importorskip("resource", reason="there are no limits to set")
    host, port = refused()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The standard streams are open, and the loop has its own: there is none to be had.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            await loop.create_connection(Recorder, host, port)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.errno == errno.EMFILE


@on_loop
async def test_an_error_thrown_in_is_one_of_the_attempt(loop):
    """What a task's coroutine is given by hand."""
    coroutine = loop.create_connection(Recorder, *refused())
    coroutine.send(None)
    with pytest.raises(OSError, match="thrown in"):
        coroutine.throw(OSError("thrown in"))


@on_loop
async def test_a_coroutine_that_is_given_up(loop):
    """The suite counts descriptors after each test."""
    async with connecting(loop) as (address, _):
        for end in ("close", "drop", "throw"):
            coroutine = loop.create_connection(Recorder, *address)
            coroutine.send(None)
            if end == "close":
                coroutine.close()
            elif end == "throw":
                with pytest.raises(ZeroDivisionError):
                    coroutine.throw(ZeroDivisionError())
            del coroutine


@pytest.mark.parametrize("rounds", range(6))
@on_loop
async def test_cancelled_at_each_step(loop, rounds):
    """The suite counts descriptors and transports after each test."""
    async with connecting(loop) as (address, made):
        task = asyncio.create_task(loop.create_connection(Recorder, *address))
        await settle(loop, rounds)
        if task.cancel():
            with contextlib.suppress(asyncio.CancelledError):
                made.append(await task)
        else:
            made.append(await task)
        await settle(loop)


@on_loop
async def test_the_factory_fails(loop, loop_kind):
    oracle_bug(loop_kind, True, "leaves the socket to the collector, with a warning")
    async with connecting(loop) as (address, _):
        with pytest.raises(ZeroDivisionError):
            await loop.create_connection(lambda: 1 // 0, *address)


# --- audit events --------------------------------------------------------------------

AUDIT = """
import asyncio, socket, sys
import support

seen = []

def hook(event, args):
    if event in ("socket.__new__", "socket.connect"):
        seen.append((event, type(args[0]).__name__, *args[1:]))

async def main():
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        seen.clear()
        transport, _ = await loop.create_connection(asyncio.Protocol, *address)
        assert [event[:2] for event in seen] == [
            ("socket.__new__", "socket"), ("socket.connect", "socket"),
        ], seen
        assert seen[1][2] == address
        assert transport.get_extra_info("peername") == address
        transport.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

def refuse(event, args):
    if event == refused:
        raise ZeroDivisionError(event)

sys.addaudithook(hook)
loop = support.make_loop(sys.argv[1])
support.run(loop, main())
sys.addaudithook(refuse)
for refused in ("socket.__new__", "socket.connect"):
    try:
        support.run(loop, loop.create_connection(asyncio.Protocol, "127.0.0.1", 1))
    except ZeroDivisionError as exc:
        assert str(exc) == refused
    else:
        raise AssertionError(refused)
refused = None
loop.close()
"""


def test_audit_events(loop_kind):
    support.run_script(AUDIT, loop_kind, flags=["-W", "error"])
