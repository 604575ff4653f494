"""create_connection() with each of its arguments, and connect_accepted_socket().

Source: asyncio's documentation; RFC 8305 for "happy eyeballs".
"""

import asyncio
import contextlib
import errno
import socket
import ssl
import unittest.mock

import pytest
import support
from streamkit import (
    PY,
    Recorder,
    TlsRecorder,
    listening,
    needs_ipv6,
    on_loop,
    pending,
    read_all,
    settle,
    socket_pair,
)

STREAM = socket.SOCK_STREAM


def info(address, family=socket.AF_INET):
    """An entry as getaddrinfo() returns them."""
    return (family, STREAM, socket.IPPROTO_TCP, "", address)


def resolve_to(loop, *infos):
    """Make the loop resolve every name to *infos*; returns the mock."""
    loop.getaddrinfo = unittest.mock.AsyncMock(return_value=list(infos))
    return loop.getaddrinfo


def refused(host="127.0.0.1"):
    return (host, support.free_port(host))


async def finish(loop, transport, protocol):
    transport.close()
    assert await protocol.lost is None
    await settle(loop)


@contextlib.contextmanager
def deaf():
    """The address of a listener whose backlog is full: a connect hangs (Linux)."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


# -- the plain case ------------------------------------------------------------------


@pytest.mark.parametrize("form", ["int", "str", "host bytes", "localhost"])
@on_loop
async def test_host_and_port(loop, form):
    with listening() as listener:
        host, port = listener.getsockname()
        if form == "str":
            port = str(port)
        elif form == "host bytes":
            host = host.encode()
        elif form == "localhost":
            host = "localhost"
        transport, protocol = await loop.create_connection(Recorder, host, port)
        with listener.accept()[0] as peer:
            transport.write(b"hello")
            peer.settimeout(5)
            assert peer.recv(10) == b"hello"
            peer.send(b"answer")
            assert await protocol.received(6) == b"answer"
            assert protocol.transport is transport
            await finish(loop, transport, protocol)


@needs_ipv6
@on_loop
async def test_ipv6_literal(loop):
    with listening(socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        transport, protocol = await loop.create_connection(Recorder, "::1", port)
        assert transport.get_extra_info("peername")[:2] == ("::1", port)
        await finish(loop, transport, protocol)


@on_loop
async def test_refused(loop):
    host, port = refused()
    with pytest.raises(ConnectionRefusedError) as caught:
        await loop.create_connection(Recorder, host, port)
    assert caught.value.errno == errno.ECONNREFUSED
    assert f"Connect call failed ('127.0.0.1', {port})" in str(caught.value)


@on_loop
async def test_no_host_means_loopback(loop):
    with listening() as listener:
        port = listener.getsockname()[1]
        transport, protocol = await loop.create_connection(
            Recorder, None, port, family=socket.AF_INET
        )
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        await finish(loop, transport, protocol)


@on_loop
async def test_the_factory_is_called_once_and_after_connecting(loop):
    made = []
    host, port = refused()

    def factory():
        made.append(Recorder())
        return made[-1]

    with pytest.raises(ConnectionRefusedError):
        await loop.create_connection(factory, host, port)
    assert made == []
    with listening() as listener:
        transport, protocol = await loop.create_connection(
            factory, *listener.getsockname()
        )
        assert made == [protocol]
        await finish(loop, transport, protocol)


# -- names ---------------------------------------------------------------------------


@on_loop
async def test_what_getaddrinfo_is_asked(loop):
    with listening() as listener:
        asked = resolve_to(loop, info(listener.getsockname()))
        transport, protocol = await loop.create_connection(
            Recorder,
            "name.test",
            "http",
            family=socket.AF_INET,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_ADDRCONFIG,
        )
        asked.assert_awaited_once_with(
            "name.test",
            "http",
            family=socket.AF_INET,
            type=STREAM,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_ADDRCONFIG,
        )
        await finish(loop, transport, protocol)


@on_loop
async def test_a_literal_address_is_not_resolved(loop):
    with listening() as listener:
        asked = resolve_to(loop)
        transport, protocol = await loop.create_connection(
            Recorder, *listener.getsockname()
        )
        asked.assert_not_awaited()
        await finish(loop, transport, protocol)


@on_loop
async def test_a_name_without_addresses(loop):
    resolve_to(loop)
    with pytest.raises(OSError, match=r"getaddrinfo\(\) returned empty list"):
        await loop.create_connection(Recorder, "name.test", 80)


@on_loop
async def test_an_error_of_the_resolver(loop):
    resolve_to(loop).side_effect = socket.gaierror(socket.EAI_NONAME, "no such name")
    with pytest.raises(socket.gaierror, match="no such name"):
        await loop.create_connection(Recorder, "name.test", 80)


@on_loop
async def test_a_literal_of_the_wrong_family(loop):
    with pytest.raises(socket.gaierror):
        await loop.create_connection(Recorder, "127.0.0.1", 80, family=socket.AF_INET6)


@on_loop
async def test_the_next_address_is_tried(loop):
    with listening() as listener:
        resolve_to(loop, info(refused()), info(refused()), info(listener.getsockname()))
        transport, protocol = await loop.create_connection(Recorder, "name.test", 80)
        assert transport.get_extra_info("peername") == listener.getsockname()
        await finish(loop, transport, protocol)


@on_loop
async def test_one_error_for_equal_texts(loop):
    address = refused()
    resolve_to(loop, info(address), info(address))
    with pytest.raises(ConnectionRefusedError) as caught:
        await loop.create_connection(Recorder, "name.test", 80)
    assert str(caught.value) == f"[Errno 111] Connect call failed {address}"


@on_loop
async def test_several_errors_are_listed(loop):
    one, two = refused(), refused("127.0.0.2")
    resolve_to(loop, info(one), info(two))
    with pytest.raises(OSError) as caught:
        await loop.create_connection(Recorder, "name.test", 80)
    assert str(caught.value) == (
        f"Multiple exceptions: [Errno 111] Connect call failed {one}, "
        f"[Errno 111] Connect call failed {two}"
    )


@pytest.mark.skipif(PY < (3, 12), reason="all_errors is new in Python 3.12")
@pytest.mark.parametrize("count", [1, 3])
@on_loop
async def test_all_errors(loop, count):
    addresses = [refused() for _ in range(count)]
    resolve_to(loop, *map(info, addresses))
    with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
        await loop.create_connection(Recorder, "name.test", 80, all_errors=True)
    assert caught.value.message == "create_connection failed"
    errors = caught.value.exceptions
    assert [type(exc) for exc in errors] == [ConnectionRefusedError] * count
    assert [str(exc).split("failed ")[1] for exc in errors] == list(map(str, addresses))


@on_loop
async def test_an_unsupported_family_is_skipped(loop):
    with listening() as listener:
        bad = (9999, STREAM, 0, "", ("127.0.0.1", 1))
        resolve_to(loop, bad, info(listener.getsockname()))
        transport, protocol = await loop.create_connection(Recorder, "name.test", 80)
        await finish(loop, transport, protocol)


# -- local_addr ----------------------------------------------------------------------


@on_loop
async def test_local_addr(loop):
    local = ("127.0.0.3", support.free_port("127.0.0.3"))
    with listening() as listener:
        transport, protocol = await loop.create_connection(
            Recorder, *listener.getsockname(), local_addr=local
        )
        assert transport.get_extra_info("sockname") == local
        peer, address = listener.accept()
        peer.close()
        assert address == local
        await protocol.lost


@on_loop
async def test_local_addr_in_use(loop):
    with listening() as listener, listening() as user:
        with pytest.raises(OSError) as caught:
            await loop.create_connection(
                Recorder, *listener.getsockname(), local_addr=user.getsockname()
            )
    assert caught.value.errno == errno.EADDRINUSE
    text = str(caught.value)
    assert f"error while attempting to bind on address {user}" not in text
    assert "error while attempting to bind on address ('127.0.0.1', " in text
    assert "address already in use" in text


@needs_ipv6
@on_loop
async def test_local_addr_of_another_family(loop):
    with listening() as listener:
        with pytest.raises(OSError, match="no matching local address with family="):
            await loop.create_connection(
                Recorder, *listener.getsockname(), local_addr=("::1", 0)
            )


@on_loop
async def test_local_addr_is_resolved_too(loop):
    with listening() as listener:
        asked = resolve_to(loop)
        asked.side_effect = [
            [info(listener.getsockname())],
            [info(("127.0.0.250", 1), socket.AF_INET6), info(("127.0.0.4", 0))],
        ]
        transport, protocol = await loop.create_connection(
            Recorder, "name.test", 80, local_addr=("local.test", 0)
        )
        assert transport.get_extra_info("sockname")[0] == "127.0.0.4"
        assert asked.await_args.args == ("local.test", 0)
        await finish(loop, transport, protocol)


# -- happy eyeballs ------------------------------------------------------------------


@on_loop
async def test_a_silent_address_is_overtaken(loop):
    with deaf() as silent, listening() as listener:
        resolve_to(loop, info(silent), info(listener.getsockname()))
        transport, protocol = await loop.create_connection(
            Recorder, "name.test", 80, happy_eyeballs_delay=0.05
        )
        assert transport.get_extra_info("peername") == listener.getsockname()
        await finish(loop, transport, protocol)


@on_loop
async def test_a_refusal_starts_the_next_attempt_at_once(loop):
    """No waiting for the delay: with this one the test's limit would pass."""
    with listening() as listener:
        resolve_to(loop, info(refused()), info(listener.getsockname()))
        transport, protocol = await loop.create_connection(
            Recorder, "name.test", 80, happy_eyeballs_delay=10000
        )
        await finish(loop, transport, protocol)


@on_loop
async def test_happy_eyeballs_when_all_fail(loop):
    one, two = refused(), refused("127.0.0.2")
    resolve_to(loop, info(one), info(two))
    with pytest.raises(OSError, match="Multiple exceptions: "):
        await loop.create_connection(
            Recorder, "name.test", 80, happy_eyeballs_delay=0.01
        )


@needs_ipv6
@pytest.mark.parametrize(
    "arguments, order",
    [
        ({}, [0, 1, 2, 3]),
        ({"interleave": 1}, [0, 2, 1, 3]),
        ({"interleave": 2}, [0, 1, 2, 3]),
        ({"happy_eyeballs_delay": 10000}, [0, 2, 1, 3]),
    ],
)
@on_loop
async def test_interleave(loop, arguments, order):
    v6, v4 = socket.AF_INET6, socket.AF_INET
    infos = [
        info((*refused("::1"), 0, 0), v6),
        info((*refused("::1"), 0, 0), v6),
        info(refused(), v4),
        info(refused(), v4),
    ]
    resolve_to(loop, *infos)
    connect, tried = loop.sock_connect, []

    def spy(sock, address):
        tried.append(address)
        return connect(sock, address)

    loop.sock_connect = spy
    with pytest.raises(OSError):
        await loop.create_connection(Recorder, "name.test", 80, **arguments)
    assert tried == [infos[n][4] for n in order]


# -- cancelling ----------------------------------------------------------------------


@pytest.mark.parametrize("happy", [{}, {"happy_eyeballs_delay": 0.001}])
@on_loop
async def test_cancel_while_connecting_closes_the_socket(loop, happy):
    """The suite counts descriptors after each test."""
    with deaf() as silent:
        resolve_to(loop, info(silent), info(silent))
        task = asyncio.create_task(
            loop.create_connection(Recorder, "name.test", 80, **happy)
        )
        await settle(loop, 10)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle(loop)


@on_loop
async def test_timeout_while_connecting(loop):
    with deaf() as silent:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.create_connection(Recorder, *silent), 0.05)
        await settle(loop)


@on_loop
async def test_cancel_while_resolving(loop):
    never = loop.create_future()
    loop.getaddrinfo = lambda *args, **kwargs: never
    task = asyncio.create_task(loop.create_connection(Recorder, "name.test", 80))
    await settle(loop)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@on_loop
async def test_cancel_between_connecting_and_connection_made(loop):
    """The transport that exists by then is closed."""
    near, peer = socket_pair("unix")
    made = []

    def factory():
        made.append(Recorder())
        return made[0]

    with peer:
        task = asyncio.create_task(loop.create_connection(factory, sock=near))
        await asyncio.sleep(0)
        assert made
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle(loop)
        assert made[0].names == ["connection_made", "connection_lost"]
        assert near.fileno() == -1


# -- sock= ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@on_loop
async def test_a_given_socket(loop, kind):
    near, peer = socket_pair(kind)
    with peer:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        assert transport.get_extra_info("socket").fileno() == near.fileno()
        transport.write(b"hello")
        await finish(loop, transport, protocol)
        assert await read_all(loop, peer) == b"hello"


BAD = [
    ({}, ValueError, "host and port was not specified and no sock specified"),
    (
        {"host": "127.0.0.1", "port": 80, "sock": socket.socket},
        ValueError,
        "host/port and sock can not be specified at the same time",
    ),
    (
        {"sock": lambda: socket.socket(type=socket.SOCK_DGRAM)},
        ValueError,
        "A Stream Socket was expected, got ",
    ),
    (
        {"sock": lambda: ssl.create_default_context().wrap_socket(
            socket.socket(), server_hostname="x")},
        TypeError,
        "Socket cannot be of type SSLSocket",
    ),
    (
        {"host": "127.0.0.1", "port": 80, "server_hostname": "x"},
        ValueError,
        "server_hostname is only meaningful with ssl",
    ),
    (
        {"sock": socket.socket, "ssl": True},
        ValueError,
        "You must set server_hostname when using ssl without a host",
    ),
    (
        {"host": "", "port": 80, "ssl": True},
        ValueError,
        "You must set server_hostname when using ssl without a host",
    ),
    (
        {"host": "127.0.0.1", "port": 80, "ssl_handshake_timeout": 1},
        ValueError,
        "ssl_handshake_timeout is only meaningful with ssl",
    ),
    pytest.param(
        {"host": "127.0.0.1", "port": 80, "ssl_shutdown_timeout": 1},
        ValueError,
        "ssl_shutdown_timeout is only meaningful with ssl",
        marks=pytest.mark.skipif(
            PY < (3, 11), reason="ssl_shutdown_timeout is new in Python 3.11"
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize("arguments, error, text", BAD)
@on_loop
async def test_bad_arguments(loop, arguments, error, text):
    sock = arguments["sock"]() if "sock" in arguments else None
    given = {**arguments, "sock": sock} if sock else arguments
    with pytest.raises(error) as caught:
        await loop.create_connection(Recorder, **given)
    assert str(caught.value).startswith(text)
    if sock:
        assert sock.fileno() >= 0
        sock.close()


# -- debug mode ----------------------------------------------------------------------


@on_loop
async def test_debug_mode(loop):
    loop.set_debug(True)
    with listening() as listener:
        transport, protocol = await loop.create_connection(
            Recorder, *listener.getsockname()
        )
        transport.pause_reading()
        transport.resume_reading()
        transport.write(b"x")
        await finish(loop, transport, protocol)


# -- connect_accepted_socket ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@on_loop
async def test_connect_accepted_socket(loop, kind):
    near, peer = socket_pair(kind)
    with peer:
        transport, protocol = await loop.connect_accepted_socket(Recorder, near)
        assert protocol.transport is transport
        peer.send(b"question")
        assert await protocol.received(8) == b"question"
        transport.write(b"answer")
        assert pending(peer) == b"answer"
        await finish(loop, transport, protocol)


@on_loop
async def test_connect_accepted_socket_after_sock_accept(loop):
    with listening() as listener:
        listener.setblocking(False)
        with socket.create_connection(listener.getsockname()) as client:
            conn, address = await loop.sock_accept(listener)
            transport, protocol = await loop.connect_accepted_socket(Recorder, conn)
            assert transport.get_extra_info("peername") == address
            client.send(b"hello")
            assert await protocol.received(5) == b"hello"
            await finish(loop, transport, protocol)


@on_loop
async def test_connect_accepted_socket_with_tls(loop, certificates):
    near, peer = socket_pair("tcp")
    (server_side, server), (client_side, client) = await asyncio.gather(
        loop.connect_accepted_socket(
            TlsRecorder,
            near,
            ssl=certificates.server_context(),
            ssl_handshake_timeout=10,
        ),
        loop.create_connection(
            TlsRecorder,
            sock=peer,
            ssl=certificates.client_context(),
            server_hostname="localhost",
        ),
    )
    client_side.write(b"hello")
    assert await server.received(5) == b"hello"
    assert server_side.get_extra_info("ssl_object").server_side
    client_side.close()
    await client.lost
    await server.lost
    await settle(loop)


@pytest.mark.parametrize("arguments, error, text", [BAD[2], BAD[3], *BAD[7:]])
@on_loop
async def test_bad_arguments_of_connect_accepted_socket(loop, arguments, error, text):
    given = {k: v for k, v in arguments.items() if k.startswith("ssl_")}
    with arguments.get("sock", socket.socket)() as sock:
        with pytest.raises(error) as caught:
            await loop.connect_accepted_socket(Recorder, sock, **given)
        assert str(caught.value).startswith(text)
        assert sock.fileno() >= 0
