"""pyloop.open_transports(), and debug mode's places in what reports say."""

import asyncio
import contextlib
import gc
import inspect
import os
import re
import socket
import sys
import time
import warnings

import pytest
import support

import pyloop
from pyloop import _core, _transports

pytestmark = pytest.mark.pyloop_only

HERE = os.path.abspath(__file__)


@pytest.fixture
def debug_loop(loop):
    loop.set_debug(True)
    loop.slow_callback_duration = 60
    yield loop
    loop.set_debug(False)


def next_line():
    """The number of the caller's next line, on which something is made."""
    return inspect.currentframe().f_back.f_lineno + 1


def kinds(loop):
    return sorted(found.kind for found in pyloop.open_transports(loop))


def without_age(one):
    """The text of an OpenTransport that was made within the last seconds."""
    text, age = re.subn(r" age=\d+(\.\d)?s", "", str(one))
    assert age == 1
    return text


def pipe_files():
    """A pipe's reading and its writing end, as files."""
    reading, writing = os.pipe()
    return os.fdopen(reading, "rb", 0), os.fdopen(writing, "wb", 0)


async def until(predicate):
    while not predicate():
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def connected(tls=(None, None)):
    """A server, and a client's and the server's StreamWriter."""
    accepted = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(
        lambda reader, writer: accepted.set_result(writer),
        "127.0.0.1",
        0,
        ssl=tls[0],
    )
    port = server.sockets[0].getsockname()[1]
    name = "localhost" if tls[1] else None
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls[1], server_hostname=name
    )
    other = await accepted
    yield server, writer, other
    for one in (writer, other):
        one.close()
    for one in (writer, other):
        await one.wait_closed()
    server.close()


# --- what is open -------------------------------------------------------------------


def test_servers_and_connections(loop):
    async def main():
        async with connected() as (server, writer, other):
            found = {id(one.transport): one for one in pyloop.open_transports(loop)}
            assert set(found) == {id(server), id(writer.transport), id(other.transport)}
            one = found[id(writer.transport)]
            sock = writer.get_extra_info("socket")
            assert (one.kind, one.fd) == ("TCP", sock.fileno())
            assert one.address == sock.getsockname()
            assert one.peer == sock.getpeername()
            assert one.traceback is one.created_at is None
            host, port = one.address
            assert without_age(one) == (
                f"TCP fd={one.fd} {host}:{port} -> {host}:{one.peer[1]}"
            )
            listening = found[id(server)]
            assert listening.kind == "server"
            assert listening.address == server.sockets[0].getsockname()
            assert found[id(other.transport)].peer == one.address
        await until(lambda: not pyloop.open_transports(loop))

    support.run(loop, main())


def test_tls(loop, certificates):
    contexts = certificates.server_context(), certificates.client_context()

    async def main():
        async with connected(contexts) as (_, writer, other):
            found = pyloop.open_transports(loop)
            shown = [one.transport for one in found if one.kind == "TLS"]
            assert writer.transport in shown and other.transport in shown
            assert len(found) == 3

    support.run(loop, main())


def test_the_other_kinds(loop, tmp_path):
    async def main():
        path = str(tmp_path / "socket")
        server = await asyncio.start_unix_server(lambda *ends: ends[1].close(), path)
        _, writer = await asyncio.open_unix_connection(path)
        datagrams, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        unnamed, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, sock=left
        )
        await until(lambda: kinds(loop).count("Unix") == 1)
        assert kinds(loop) == ["UDP", "Unix", "Unix datagram", "server"]
        right.close()
        for one in (writer, datagrams, unnamed, server):
            one.close()
        await writer.wait_closed()
        await until(lambda: not pyloop.open_transports(loop))

    support.run(loop, main())


def test_pipes_that_nobody_reads_are_open_too(loop):
    async def main():
        ends = pipe_files()
        reader, _ = await loop.connect_read_pipe(asyncio.Protocol, ends[0])
        writer, _ = await loop.connect_write_pipe(asyncio.Protocol, ends[1])
        reader.pause_reading()
        assert kinds(loop) == ["read pipe", "write pipe"]
        numbers = {one.fd for one in pyloop.open_transports(loop)}
        assert numbers == {end.fileno() for end in ends}
        writer.close()
        reader.close()
        await until(lambda: not pyloop.open_transports(loop))

    support.run(loop, main())


def test_subprocesses(loop):
    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
        )
        assert kinds(loop) == ["subprocess", "write pipe"]
        by_kind = {one.kind: one for one in pyloop.open_transports(loop)}
        assert by_kind["subprocess"].peer == process.pid
        assert without_age(by_kind["subprocess"]) == f"subprocess pid={process.pid}"
        await process.communicate(b"\n")
        await until(lambda: not pyloop.open_transports(loop))

    support.run(loop, main())


def test_several_loops(new_loop):
    loops = [new_loop() for _ in range(3)]
    ends = []
    for loop in loops[:2]:
        ends.append(
            loop.run_until_complete(
                loop.create_datagram_endpoint(
                    asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
                )
            )[0]
        )
    assert [len(pyloop.open_transports(loop)) for loop in loops] == [1, 1, 0]
    everywhere = [one.transport for one in pyloop.open_transports()]
    assert all(end in everywhere for end in ends)
    assert pyloop.open_transports(loops[0])[0].transport is ends[0]
    for end, loop in zip(ends, loops[:2], strict=True):
        end.close()
        support.spin(loop)
    loops[2].close()
    assert pyloop.open_transports(loops[2]) == []


# --- for how long --------------------------------------------------------------------


def test_ages(loop, certificates, tmp_path):
    """Of every kind: from when it was made, by the clock that everybody has."""
    contexts = certificates.server_context(), certificates.client_context()
    path = str(tmp_path / "socket")

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            begin = time.monotonic()
            await stack.enter_async_context(connected())
            await stack.enter_async_context(connected(contexts))
            server = await asyncio.start_unix_server(lambda *ends: None, path)
            stack.callback(server.close)
            ends = pipe_files()
            left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            stack.callback(right.close)
            pairs = [
                await loop.create_datagram_endpoint(
                    asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
                ),
                await loop.create_datagram_endpoint(
                    asyncio.DatagramProtocol, sock=left
                ),
                await loop.connect_read_pipe(asyncio.Protocol, ends[0]),
                await loop.connect_write_pipe(asyncio.Protocol, ends[1]),
            ]
            for transport, _ in pairs:
                stack.callback(transport.close)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
            )
            made = time.monotonic()
            await asyncio.sleep(0.2)
            asked = time.monotonic()
            found = pyloop.open_transports(loop)
            end = time.monotonic()
            assert {one.kind for one in found} == KINDS - {"Unix", "socket", "datagram"}
            for one in found:
                # The two clocks are compared since the module was loaded.
                assert (asked - made) * 0.99 <= one.age <= (end - begin) * 1.01, one
            await process.communicate(b"\n")
        await until(lambda: not pyloop.open_transports(loop))

    support.run(loop, main())


KINDS = {
    *("TCP", "Unix", "TLS", "socket", "UDP", "Unix datagram", "datagram"),
    *("read pipe", "write pipe", "subprocess", "server"),
}


@pytest.mark.parametrize(
    "seconds, text",
    [
        *[(0.0, "0.0s"), (0.26, "0.3s"), (9.94, "9.9s"), (12.9, "12s"), (59.9, "59s")],
        *[(60.0, "1m00s"), (119.9, "1m59s"), (3599.0, "59m59s"), (3600.0, "1h00m")],
        *[(7507.0, "2h05m"), (360000.0, "100h00m")],
    ],
)
def test_how_ages_are_written(seconds, text):
    assert _transports._duration(seconds) == text


def test_seconds_since_ticks():
    begin = _core.ticks()
    assert _core.seconds_since(begin) >= 0
    assert _core.seconds_since(2**64 - 1) == 0  # yet to come: a counter stepped back
    for wrong, error in [("1", TypeError), (-1, OverflowError), (2**64, OverflowError)]:
        with pytest.raises(error):
            _core.seconds_since(wrong)


@pytest.mark.parametrize("wrong", [1, "loop", asyncio.SelectorEventLoop])
def test_loops_that_are_not_pyloops(wrong):
    with pytest.raises(TypeError, match="pyloop.Loop"):
        pyloop.open_transports(wrong)


# --- where it was made ----------------------------------------------------------------


def test_places(debug_loop):
    async def main():
        line, streams = next_line(), []
        server = await asyncio.start_server(
            lambda *ends: streams.append(ends), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: len(pyloop.open_transports(debug_loop)) == 3)
        places = {}
        for one in pyloop.open_transports(debug_loop):
            mine = one.transport is writer.transport
            key = one.kind if one.kind == "server" or mine else "accepted"
            frame = one.created_at
            assert frame.filename == HERE and frame.name == "main"
            assert str(one).endswith(f" created at {HERE}:{frame.lineno}")
            places[key] = frame.lineno
            if key == "accepted":
                one.transport.abort()
        assert places == {"server": line, "TCP": line + 4, "accepted": line}
        writer.close()
        await writer.wait_closed()
        server.close()

    support.run(debug_loop, main())


def test_places_of_children(debug_loop):
    async def main():
        line = next_line()
        process = await asyncio.create_subprocess_exec("true", stdout=-1)
        for one in pyloop.open_transports(debug_loop):
            assert (one.created_at.filename, one.created_at.lineno) == (HERE, line)
        transport = process._transport
        assert repr(transport).endswith(f" created at {HERE}:{line}>")
        await process.communicate()

    support.run(debug_loop, main())


MAKERS = {}


def maker(function):
    MAKERS[function.__name__] = function
    return function


@maker
async def stream(loop):
    left, right = socket.socketpair()
    line = next_line()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
    return transport, line, right


@maker
async def datagram(loop):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    line = next_line()
    transport, _ = await loop.create_datagram_endpoint(asyncio.Protocol, sock=left)
    return transport, line, right


@maker
async def read_pipe(loop):
    left, right = pipe_files()
    line = next_line()
    transport, _ = await loop.connect_read_pipe(asyncio.Protocol, left)
    return transport, line, right


@maker
async def write_pipe(loop):
    right, left = pipe_files()
    line = next_line()
    transport, _ = await loop.connect_write_pipe(asyncio.Protocol, left)
    return transport, line, right


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("debug", [True, False])
def test_the_warning_of_an_unclosed_transport(loop, kind, debug):
    """asyncio's words; in debug mode the transport's repr() says the place."""
    loop.set_debug(debug)
    loop.slow_callback_duration = 60
    transport, line, other = loop.run_until_complete(MAKERS[kind](loop))
    text = repr(transport)
    assert text.endswith(f" created at {HERE}:{line}>") == debug
    assert ("created" in text) == debug
    loop.set_debug(False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.close()  # it watches the descriptor no more
        del transport
        gc.collect()
    other.close()
    (warning,) = (one for one in caught if "unclosed transport" in str(one.message))
    assert str(warning.message).startswith("unclosed transport <")
    assert (f"{HERE}:{line}" in str(warning.message)) == debug
    assert warning.category is ResourceWarning


def test_a_closed_transport_still_says_where_it_was_made(debug_loop):
    transport, line, other = debug_loop.run_until_complete(stream(debug_loop))
    transport.abort()
    support.spin(debug_loop)
    assert "closed" in repr(transport)
    assert f"created at {HERE}:{line}" in repr(transport)
    other.close()


IMPORTS_OF_A_REPR = """
import asyncio, socket, sys, pyloop

async def main():
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
    before = set(sys.modules)
    assert " created at " in repr(transport)
    print(sorted(set(sys.modules) - before))
    transport.abort()
    right.close()

loop = pyloop.new_event_loop()
loop.set_debug(True)
loop.slow_callback_duration = 60
loop.run_until_complete(main())
loop.close()
"""


def test_a_transport_says_its_place_without_an_import():
    """Debug mode logs it while the loop runs, where an import would block."""
    assert support.run_script(IMPORTS_OF_A_REPR).stdout == "[]\n"
