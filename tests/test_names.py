"""getaddrinfo() and getnameinfo(): what socket's functions answer, without blocking.

The tables ask for the same thing of the loop and of the socket module, and compare the
results, their types, and the errors.  No name is asked of the network.
"""

import asyncio
import collections.abc
import concurrent.futures
import contextlib
import inspect
import itertools
import socket
import threading
import unittest.mock

import pytest
from streamkit import listening, on_loop, settle

NUMERIC = socket.AI_NUMERICHOST

LITERALS = [
    "127.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "1.2.3.4",
    b"1.2.3.4",
    "::1",
    "::",
    b"::1",
    "2001:db8::8:800:200c:417a",
    "2001:DB8:0:0:8:800:200C:417A",
    "::ffff:1.2.3.4",
    "::1.2.3.4",
    "fe80::1",
    "fe80::1%lo",
    "fe80::1%1",
    "::1%0",
    "fe80::1%nosuch",
    "fe80::1%",
    "fe80::1%99999999999",
]

ODD = [
    None,
    "",
    b"",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "127.0.0.01",
    "1.2.3.4.5",
    "256.1.1.1",
    "1.2.3.-4",
    " 1.2.3.4",
    "1.2.3.4 ",
    "1.2.3.4\n",
    "1.2.3.4%lo",
    "\u0661.2.3.4",
    "\uff11.2.3.4",
    "[::1]",
    "1::2::3",
    ":::",
    "12345::",
    "1:2:3:4:5:6:7:8:9",
    "::1/64",
    "name.invalid",
    "n\xe4me.invalid",
    "a" * 300,
    "a..b",
    ".",
    "*",
    bytearray(b"1.2.3.4"),
    "nul\0.invalid",
    b"\xff\xfe",
    "\udc80",
    7,
    1.5,
    ["1.2.3.4"],
]

PORTS = [
    None,
    0,
    80,
    65535,
    65536,
    -1,
    1 << 40,
    True,
    "",
    "0",
    "80",
    b"80",
    "65535",
    "65536",
    "-1",
    " 80",
    "80 ",
    "0x50",
    "\u0668\u0660",
    "http",
    b"http",
    "HTTP",
    "domain",
    "no such service",
    "8\0",
    1.5,
    [80],
]

FAMILIES = [0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 9999, -1]
TYPES = [0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, 5, 99]
PROTOS = [0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP, 255]
FLAGS = [
    0,
    socket.AI_PASSIVE,
    socket.AI_CANONNAME,
    NUMERIC,
    socket.AI_NUMERICSERV,
    socket.AI_V4MAPPED,
    socket.AI_V4MAPPED | socket.AI_ALL,
    socket.AI_ADDRCONFIG,
    socket.AI_PASSIVE | socket.AI_CANONNAME | NUMERIC,
    1 << 20,
]


def described(value):
    """*value* with the types of everything in it."""
    if isinstance(value, (list, tuple)):
        return (type(value), [described(item) for item in value])
    return (type(value), value)


def outcome_of(call, *args, **kwargs):
    """The result of socket's function, or what it raised, comparable."""
    try:
        return described(call(*args, **kwargs))
    except Exception as exc:
        return (type(exc), str(exc))


async def outcome(awaitable):
    try:
        return described(await awaitable)
    except Exception as exc:
        return (type(exc), str(exc))


async def compare(loop, host, port, **kwargs):
    """The loop and the socket module give the same answer; returns it."""
    expected = outcome_of(socket.getaddrinfo, host, port, **kwargs)
    got = await outcome(loop.getaddrinfo(host, port, **kwargs))
    assert got == expected, (host, port, kwargs)
    return got


# -- getaddrinfo against socket.getaddrinfo ------------------------------------------


@pytest.mark.parametrize("port", [0, 80, "80", "http", None], ids=repr)
@pytest.mark.parametrize("host", LITERALS, ids=ascii)
@on_loop
async def test_literals(loop, host, port):
    for kind in (0, socket.SOCK_STREAM, socket.SOCK_DGRAM):
        await compare(loop, host, port, type=kind)
        for family in (socket.AF_INET, socket.AF_INET6):
            # A literal of the other family is a name, to be asked of nobody.
            await compare(loop, host, port, type=kind, family=family, flags=NUMERIC)


@pytest.mark.parametrize("host", ODD, ids=ascii)
@on_loop
async def test_odd_hosts(loop, host):
    for port in (0, 80, "http", None):
        await compare(loop, host, port, type=socket.SOCK_STREAM, flags=NUMERIC)
        await compare(loop, host, port, flags=NUMERIC | socket.AI_PASSIVE)


@pytest.mark.parametrize("port", PORTS, ids=ascii)
@on_loop
async def test_ports(loop, port):
    for host in ("127.0.0.1", "::1", None):
        for kind in (0, socket.SOCK_STREAM, socket.SOCK_DGRAM):
            await compare(loop, host, port, type=kind)
        await compare(loop, host, port, flags=socket.AI_NUMERICSERV)


@pytest.mark.parametrize("flags", FLAGS, ids=hex)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", None])
@on_loop
async def test_families_types_and_protocols(loop, host, flags):
    for family, kind, proto in itertools.product(FAMILIES, TYPES, PROTOS):
        if family in (socket.AF_INET, socket.AF_INET6) and host:
            literal = socket.AF_INET6 if ":" in host else socket.AF_INET
            if family != literal and not flags & NUMERIC:
                continue  # asked of the network
        await compare(
            loop, host, 80, family=family, type=kind, proto=proto, flags=flags
        )


@pytest.mark.parametrize("family", [0, socket.AF_INET])
@on_loop
async def test_localhost(loop, family):
    answer = await compare(loop, "localhost", 80, family=family)
    assert answer[0] is list
    await compare(loop, b"localhost", "http", type=socket.SOCK_STREAM)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"family": "x"},
        {"type": None},
        {"proto": 1.5},
        {"flags": b""},
        {"type": 1 << 40},
    ],
)
@on_loop
async def test_bad_numbers(loop, kwargs):
    await compare(loop, "127.0.0.1", 80, **kwargs)


@on_loop
async def test_the_result_is_a_list_of_its_own(loop):
    first = await loop.getaddrinfo("127.0.0.1", 80)
    first.clear()
    assert await loop.getaddrinfo("127.0.0.1", 80)


@on_loop
async def test_signature(loop):
    with pytest.raises(TypeError):
        loop.getaddrinfo("127.0.0.1")
    with pytest.raises(TypeError):
        loop.getaddrinfo("127.0.0.1", 80, socket.AF_INET)
    with pytest.raises(TypeError):
        loop.getaddrinfo("127.0.0.1", 80, unknown=1)
    assert await loop.getaddrinfo(host="127.0.0.1", port=80)


@on_loop
async def test_debug_mode(loop):
    loop.set_debug(True)
    for host in ("127.0.0.1", "::1", "localhost"):
        await compare(loop, host, 80, type=socket.SOCK_STREAM)
    await compare(loop, "no literal", 80, flags=NUMERIC)


# -- getnameinfo against socket.getnameinfo ------------------------------------------

BOTH = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


@pytest.mark.parametrize(
    "address",
    [
        ("127.0.0.1", 80),
        ("127.0.0.1", 0),
        ("127.0.0.1", 65535),
        ("0.0.0.0", 53),
        ("::1", 80),
        ("::1", 80, 0, 0),
        ("::1", 80, 5, 0),
        ("::ffff:1.2.3.4", 80),
        ("fe80::1", 80, 0, 1),
        ("fe80::1%lo", 80),
        ("127.0.0.1", 65536),
        ("127.0.0.1", -1),
        ("127.0.0.1",),
        ("127.0.0.1", "80"),
        ("127.0.0.1", "http"),
        ("127.0.0.1", 80, 1 << 20),
        ("::1", 80, 1 << 20),
        ("::1", 80, -1, 0),
        ("::1", 80, 0, 0, 0),
        ("no literal", 80),
        ("", 80),
        (None, 80),
        (b"127.0.0.1", 80),
        ("127.0.0.1", None),
        ["127.0.0.1", 80],
        "127.0.0.1",
        None,
        (),
    ],
    ids=repr,
)
@on_loop
async def test_getnameinfo(loop, address):
    for flags in (
        BOTH,
        BOTH | socket.NI_DGRAM,
        socket.NI_NUMERICHOST,
        socket.NI_NUMERICHOST | socket.NI_DGRAM,
        BOTH | socket.NI_NAMEREQD,
        BOTH | 1 << 20,
    ):
        expected = outcome_of(socket.getnameinfo, address, flags)
        assert await outcome(loop.getnameinfo(address, flags)) == expected, flags


@on_loop
async def test_getnameinfo_of_loopback(loop):
    for flags in (0, socket.NI_NAMEREQD, socket.NI_NOFQDN, socket.NI_NUMERICSERV):
        expected = outcome_of(socket.getnameinfo, ("127.0.0.1", 80), flags)
        assert await outcome(loop.getnameinfo(("127.0.0.1", 80), flags)) == expected
    assert await loop.getnameinfo(("127.0.0.1", 80)) == socket.getnameinfo(
        ("127.0.0.1", 80), 0
    )
    with pytest.raises(TypeError):
        await loop.getnameinfo(("127.0.0.1", 80), "flags")


# -- replaced functions --------------------------------------------------------------

FAKE = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 4242))]


@pytest.mark.parametrize("host", ["name.test", "127.0.0.1", "::1", None])
@on_loop
async def test_a_replaced_getaddrinfo_is_called(loop, host):
    """Even for what could be answered without it; in asyncio's way of calling."""
    fake = unittest.mock.Mock(return_value=FAKE)
    with unittest.mock.patch("socket.getaddrinfo", fake):
        assert await loop.getaddrinfo(host, 80, type=1, flags=4) is FAKE
        fake.assert_called_once_with(host, 80, 0, 1, 0, 4)
        fake.side_effect = ZeroDivisionError("in the fake")
        with pytest.raises(ZeroDivisionError, match="in the fake"):
            await loop.getaddrinfo(host, 80)
    assert await loop.getaddrinfo("127.0.0.1", 80) != FAKE


@on_loop
async def test_a_replaced_getnameinfo_is_called(loop):
    fake = unittest.mock.Mock(return_value=("host", "service"))
    with unittest.mock.patch("socket.getnameinfo", fake):
        assert await loop.getnameinfo(("127.0.0.1", 80), 3) == ("host", "service")
    fake.assert_called_once_with(("127.0.0.1", 80), 3)
    assert await loop.getnameinfo(("127.0.0.1", 80), BOTH) == ("127.0.0.1", "80")


@on_loop
async def test_create_connection_uses_a_replaced_getaddrinfo(loop):
    with listening() as listener:
        infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", listener.getsockname())]
        with unittest.mock.patch("socket.getaddrinfo", return_value=infos):
            transport, _ = await loop.create_connection(
                asyncio.Protocol, "name.test", 80
            )
        assert transport.get_extra_info("peername") == listener.getsockname()
        transport.abort()
        await settle(loop)


@on_loop
async def test_a_loops_own_getaddrinfo_is_used(loop):
    """Programs replace the method on the loop, too."""
    with listening() as listener:
        infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", listener.getsockname())]
        loop.getaddrinfo = unittest.mock.AsyncMock(return_value=infos)
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, ("name.test", 80))
            assert sock.getpeername() == listener.getsockname()
        loop.getaddrinfo.assert_awaited_once()


# -- where the work is done ----------------------------------------------------------


@contextlib.contextmanager
def slow_names(parties=1):
    """socket.getaddrinfo waits until *parties* calls are in it, then for `go`."""
    barrier = threading.Barrier(parties)
    entered, go = threading.Event(), threading.Event()

    def slow(*args):
        barrier.wait(20)
        entered.set()
        assert go.wait(20)
        return [threading.current_thread().name]

    with unittest.mock.patch("socket.getaddrinfo", slow):
        yield entered, go
    go.set()


@on_loop
async def test_the_loop_runs_while_a_name_is_looked_up(loop):
    with slow_names() as (entered, go):
        task = asyncio.create_task(loop.getaddrinfo("name.test", 80))
        while not entered.is_set():
            await asyncio.sleep(0.001)
        assert not task.done()
        go.set()
        (name,) = await task
        assert name != threading.current_thread().name


@on_loop
async def test_names_are_looked_up_side_by_side(loop):
    with slow_names(parties=4) as (_, go):
        go.set()
        await asyncio.gather(*(loop.getaddrinfo("name.test", n) for n in range(4)))


@on_loop
async def test_the_default_executor_does_the_work(loop):
    with concurrent.futures.ThreadPoolExecutor(1, "mine") as executor:
        loop.set_default_executor(executor)
        with slow_names() as (_, go):
            go.set()
            (name,) = await loop.getaddrinfo("name.test", 80)
            assert name.startswith("mine")
        await loop.shutdown_default_executor()


@on_loop
async def test_run_in_executor_is_what_is_called(loop):
    """A loop whose executor is mocked looks names up with the mock."""
    loop.set_debug(False)  # debug mode puts a function of its own in between
    done = loop.create_future()
    done.set_result(FAKE)
    loop.run_in_executor = unittest.mock.Mock(return_value=done)
    assert await loop.getaddrinfo("name.test", 80) is FAKE
    executor, function, *arguments = loop.run_in_executor.call_args.args
    assert executor is None
    assert function is socket.getaddrinfo
    assert arguments == ["name.test", 80, 0, 0, 0, 0]


@pytest.mark.pyloop_only
@on_loop
async def test_literals_need_no_thread(loop):
    loop.set_debug(False)
    loop.run_in_executor = unittest.mock.Mock(side_effect=AssertionError)
    for host in ("127.0.0.1", "::1", b"1.2.3.4"):
        for port in (80, "80", None):
            assert await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await loop.getnameinfo(("127.0.0.1", 80), flags) == ("127.0.0.1", "80")


@on_loop
async def test_cancel(loop):
    with slow_names() as (entered, go):
        task = asyncio.create_task(loop.getaddrinfo("name.test", 80))
        while not entered.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
    await loop.shutdown_default_executor()


def test_close_does_not_wait_for_a_name(new_loop):
    loop = new_loop()
    with slow_names() as (entered, go):
        task = loop.create_task(loop.getaddrinfo("name.test", 80))
        while not entered.is_set():
            loop.run_until_complete(asyncio.sleep(0.001))
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()
        assert not go.is_set()


# -- coroutines ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda loop: loop.getaddrinfo("127.0.0.1", 80),
        lambda loop: loop.getaddrinfo("localhost", 80),
        lambda loop: loop.getnameinfo(("127.0.0.1", 80), BOTH),
    ],
    ids=["literal", "name", "getnameinfo"],
)
@on_loop
async def test_they_are_coroutines(loop, make):
    coro = make(loop)
    assert asyncio.iscoroutine(coro)
    assert inspect.isawaitable(coro)
    assert isinstance(coro, collections.abc.Coroutine)
    coro.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await coro
    result = await make(loop)
    assert await loop.create_task(make(loop)) == result
    assert await asyncio.gather(make(loop), make(loop)) == [result, result]
    assert await asyncio.wait_for(make(loop), 10) == result
    with pytest.warns(RuntimeWarning, match="was never awaited"):
        make(loop)
