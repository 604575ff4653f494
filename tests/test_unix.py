"""create_unix_connection() and create_unix_server(): paths, names, stale files, errors.

Source: asyncio's documentation of Unix socket connections and servers.
"""

import errno
import os
import pathlib
import socket
import stat
import sys
import tempfile

import pytest
from streamkit import (
    PY,
    Recorder,
    TlsRecorder,
    on_loop,
    pattern,
    read_all,
    settle,
    until,
)

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="abstract names exist on Linux only"
)


@pytest.fixture
def directory():
    """A directory with a name short enough for a socket's address."""
    with tempfile.TemporaryDirectory(prefix="pl") as name:
        yield name


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class TlsEcho(TlsRecorder, Echo):
    pass


async def check_echo(loop, path):
    """Connect to *path*, be echoed, and end."""
    transport, client = await loop.create_unix_connection(Recorder, path)
    transport.write(b"hello")
    assert await client.received(5) == b"hello"
    transport.close()
    await client.lost
    await settle(loop)


PATHS = [
    pytest.param(lambda name: name, id="str"),
    pytest.param(pathlib.Path, id="pathlib"),
]


# -- paths ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", PATHS)
@on_loop
async def test_client_and_server(loop, directory, make):
    path = make(os.path.join(directory, "socket"))
    server = await loop.create_unix_server(Echo, path)
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    await check_echo(loop, path)
    assert server.sockets[0].getsockname() == os.fspath(path)
    assert server.sockets[0].family == socket.AF_UNIX
    server.close()
    await server.wait_closed()


@on_loop
async def test_a_path_of_bytes_for_the_client(loop, directory):
    path = os.path.join(directory, "socket")
    server = await loop.create_unix_server(Echo, path)
    await check_echo(loop, os.fsencode(path))
    server.close()


@on_loop
async def test_a_path_of_bytes_for_the_server(loop, directory):
    path = os.path.join(directory, "socket")
    server = await loop.create_unix_server(Echo, os.fsencode(path))
    await check_echo(loop, path)
    server.close()


@on_loop
async def test_a_path_that_is_not_ascii(loop, directory):
    path = os.path.join(directory, "sökèt-名")
    server = await loop.create_unix_server(Echo, path)
    await check_echo(loop, path)
    server.close()


@linux_only
@pytest.mark.parametrize("as_bytes", [False, True])
@on_loop
async def test_an_abstract_name(loop, as_bytes):
    name = f"\0pyloop-test-{os.getpid()}-{as_bytes}"
    path = name.encode() if as_bytes else name
    server = await loop.create_unix_server(Echo, path)
    await check_echo(loop, path)
    assert server.sockets[0].getsockname() == name.encode()
    server.close()
    await server.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await loop.create_unix_connection(Recorder, path)


@on_loop
async def test_a_path_that_is_too_long(loop, directory):
    path = os.path.join(directory, "x" * 200)
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        await loop.create_unix_server(Echo, path)
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        await loop.create_unix_connection(Echo, path)


@on_loop
async def test_large_data(loop, directory):
    path = os.path.join(directory, "socket")
    server = await loop.create_unix_server(Echo, path)
    transport, client = await loop.create_unix_connection(Recorder, path)
    data = pattern(4 << 20)
    transport.write(data)
    transport.write_eof()
    assert await client.lost is None
    assert client.data == data
    server.close()
    await settle(loop)


@on_loop
async def test_extra_info(loop, directory):
    path = os.path.join(directory, "socket")
    accepted = []

    def factory():
        accepted.append(Recorder())
        return accepted[0]

    server = await loop.create_unix_server(factory, path)
    transport, client = await loop.create_unix_connection(Recorder, path)
    assert transport.get_extra_info("peername") == path
    assert transport.get_extra_info("sockname") == ""
    await until(lambda: accepted and accepted[0].made.done())
    theirs = accepted[0].transport
    assert theirs.get_extra_info("sockname") == path
    assert theirs.get_extra_info("peername") == ""
    assert theirs.get_extra_info("socket").family == socket.AF_UNIX
    transport.close()
    await client.lost
    await accepted[0].lost
    server.close()
    await settle(loop)


@pytest.mark.parametrize("form", ["path", pytest.param("abstract", marks=linux_only)])
@on_loop
async def test_the_peername_of_a_client_with_a_name(loop, directory, form):
    path = os.path.join(directory, "socket")
    name = os.path.join(directory, "client")
    if form == "abstract":
        name = b"\0pyloop-client\0%d" % os.getpid()
    accepted = []

    def factory():
        accepted.append(Recorder())
        return accepted[-1]

    server = await loop.create_unix_server(factory, path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path + "2")
        listener.listen()
        listener.setblocking(False)
        with socket.socket(socket.AF_UNIX) as client:
            client.bind(name)
            client.connect(path)
            await until(lambda: accepted and accepted[0].made.done())
            assert accepted[0].transport.get_extra_info("peername") == name
        await accepted[0].lost
        if form == "path":
            os.unlink(name)
        with socket.socket(socket.AF_UNIX) as client:
            client.bind(name)
            client.connect(path + "2")
            conn, peername = await loop.sock_accept(listener)
            conn.close()
            assert peername == name
    server.close()
    await settle(loop)


# -- the file ------------------------------------------------------------------------


def stale_socket(path):
    """A socket file nobody listens on."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


@on_loop
async def test_a_stale_socket_file_is_replaced(loop, directory):
    path = os.path.join(directory, "socket")
    stale_socket(path)
    with pytest.raises(ConnectionRefusedError):
        await loop.create_unix_connection(Recorder, path)
    server = await loop.create_unix_server(Echo, path)
    await check_echo(loop, path)
    server.close()


@on_loop
async def test_another_kind_of_file_is_not_replaced(loop, directory):
    path = os.path.join(directory, "file")
    pathlib.Path(path).write_text("precious")
    with pytest.raises(OSError) as info:
        await loop.create_unix_server(Echo, path)
    assert info.value.errno == errno.EADDRINUSE
    assert f"Address {path!r} is already in use" in str(info.value)
    assert pathlib.Path(path).read_text() == "precious"


@on_loop
async def test_a_missing_directory(loop, directory):
    path = os.path.join(directory, "missing", "socket")
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_server(Echo, path)
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_connection(Echo, path)


@on_loop
async def test_the_file_after_close(loop, directory):
    """From 3.13 the server removes its file, unless told not to."""
    path = os.path.join(directory, "socket")
    server = await loop.create_unix_server(Echo, path)
    server.close()
    await server.wait_closed()
    assert os.path.exists(path) == (PY < (3, 13))


@pytest.mark.skipif(PY < (3, 13), reason="cleanup_socket is new in Python 3.13")
@pytest.mark.parametrize("cleanup", [True, False])
@on_loop
async def test_cleanup_socket(loop, directory, cleanup):
    path = os.path.join(directory, "socket")
    server = await loop.create_unix_server(Echo, path, cleanup_socket=cleanup)
    server.close()
    assert os.path.exists(path) is not cleanup


@pytest.mark.skipif(PY < (3, 13), reason="cleanup_socket is new in Python 3.13")
@on_loop
async def test_cleanup_socket_of_a_given_socket(loop, directory):
    path = os.path.join(directory, "socket")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    server = await loop.create_unix_server(Echo, sock=sock)
    await check_echo(loop, path)
    server.close()
    assert not os.path.exists(path)


@pytest.mark.skipif(PY < (3, 13), reason="cleanup_socket is new in Python 3.13")
@on_loop
async def test_a_file_that_is_another_servers_by_now_is_not_removed(loop, directory):
    path = os.path.join(directory, "socket")
    first = await loop.create_unix_server(Echo, path)
    second = await loop.create_unix_server(Echo, path)
    first.close()
    assert os.path.exists(path)
    await check_echo(loop, path)
    second.close()
    assert not os.path.exists(path)


@pytest.mark.skipif(PY < (3, 13), reason="cleanup_socket is new in Python 3.13")
@on_loop
async def test_a_file_that_is_gone_by_now_is_no_error(loop, directory):
    path = os.path.join(directory, "socket")
    server = await loop.create_unix_server(Echo, path)
    os.unlink(path)
    server.close()


@pytest.mark.skipif(PY < (3, 13), reason="cleanup_socket is new in Python 3.13")
@on_loop
async def test_who_looks_at_the_file(loop, directory, monkeypatch):
    """asyncio's own code: tools that look for blocking calls know it by its file."""
    callers = []
    stat = os.stat

    def watched(*args, **kwargs):
        callers.append(sys._getframe(1).f_code)
        return stat(*args, **kwargs)

    server = await loop.create_unix_server(Echo, os.path.join(directory, "socket"))
    monkeypatch.setattr(os, "stat", watched)
    server.close()
    monkeypatch.undo()
    names = [(os.path.basename(c.co_filename), c.co_name) for c in callers]
    assert ("unix_events.py", "_stop_serving") in names


@on_loop
async def test_a_path_in_use_is_taken_over(loop, directory):
    """A live server is displaced by a second one on its path, as in asyncio."""
    path = os.path.join(directory, "socket")
    first = await loop.create_unix_server(Recorder, path)
    second = await loop.create_unix_server(Echo, path)
    await check_echo(loop, path)
    first.close()
    second.close()


# -- given sockets -------------------------------------------------------------------


@on_loop
async def test_a_given_listening_socket(loop, directory):
    path = os.path.join(directory, "socket")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    server = await loop.create_unix_server(Echo, sock=sock)
    await check_echo(loop, path)
    server.close()
    assert sock.fileno() == -1


@on_loop
async def test_a_given_connected_socket(loop):
    near, peer = socket.socketpair()
    with peer:
        transport, _protocol = await loop.create_unix_connection(Recorder, sock=near)
        transport.write(b"hello")
        transport.close()
        assert await read_all(loop, peer) == b"hello"


@on_loop
async def test_start_serving_false(loop, directory):
    path = os.path.join(directory, "socket")
    server = await loop.create_unix_server(Echo, path, start_serving=False)
    assert not server.is_serving()
    with pytest.raises(ConnectionRefusedError):
        await loop.create_unix_connection(Recorder, path)
    await server.start_serving()
    assert server.is_serving()
    await check_echo(loop, path)
    server.close()


# -- connecting ----------------------------------------------------------------------


@on_loop
async def test_nobody_there(loop, directory):
    path = os.path.join(directory, "socket")
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_connection(Recorder, path)
    stale_socket(path)
    with pytest.raises(ConnectionRefusedError):
        await loop.create_unix_connection(Recorder, path)


# -- arguments -----------------------------------------------------------------------


def stream():
    return socket.socket(socket.AF_UNIX)


BAD_SERVER = [
    ({}, ValueError, "path was not specified, and no sock specified"),
    (
        {"path": "x", "sock": stream},
        ValueError,
        "path and sock can not be specified at the same time",
    ),
    (
        {"sock": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)},
        ValueError,
        "A UNIX Domain Stream Socket was expected, got ",
    ),
    (
        {"sock": socket.socket},
        ValueError,
        "A UNIX Domain Stream Socket was expected, got ",
    ),
    (
        {"path": "x", "ssl": True},
        TypeError,
        "ssl argument must be an SSLContext or None",
    ),
    (
        {"path": "x", "ssl_handshake_timeout": 1},
        ValueError,
        "ssl_handshake_timeout is only meaningful with ssl",
    ),
    ({"path": 7}, TypeError, "expected str, bytes or os.PathLike object, not int"),
]

BAD_CLIENT = [
    ({}, ValueError, "no path and sock were specified"),
    *(case for case in BAD_SERVER[1:4]),
    (
        {"path": "x", "ssl": True},
        ValueError,
        "you have to pass server_hostname when using ssl",
    ),
    (
        {"path": "x", "server_hostname": "y"},
        ValueError,
        "server_hostname is only meaningful with ssl",
    ),
    BAD_SERVER[5],
    BAD_SERVER[6],
]


async def expect_error(method, arguments, error, text):
    sock = arguments["sock"]() if "sock" in arguments else None
    try:
        with pytest.raises(error) as info:
            await method(Recorder, **{**arguments, **({"sock": sock} if sock else {})})
        assert str(info.value).startswith(text)
    finally:
        if sock:
            assert sock.fileno() >= 0
            sock.close()


@pytest.mark.parametrize("arguments, error, text", BAD_SERVER)
@on_loop
async def test_bad_arguments_of_create_unix_server(loop, arguments, error, text):
    await expect_error(loop.create_unix_server, arguments, error, text)


@pytest.mark.parametrize("arguments, error, text", BAD_CLIENT)
@on_loop
async def test_bad_arguments_of_create_unix_connection(loop, arguments, error, text):
    await expect_error(loop.create_unix_connection, arguments, error, text)


@pytest.mark.skipif(PY < (3, 11), reason="ssl_shutdown_timeout is new in Python 3.11")
@pytest.mark.parametrize("method", ["create_unix_server", "create_unix_connection"])
@on_loop
async def test_ssl_shutdown_timeout_without_ssl(loop, method):
    with pytest.raises(ValueError, match="ssl_shutdown_timeout is only meaningful"):
        await getattr(loop, method)(Recorder, "x", ssl_shutdown_timeout=1)


@on_loop
async def test_tls_over_a_unix_socket(loop, certificates, directory):
    path = os.path.join(directory, "socket")
    server = await loop.create_unix_server(
        TlsEcho, path, ssl=certificates.server_context(), ssl_handshake_timeout=10
    )
    transport, client = await loop.create_unix_connection(
        TlsRecorder,
        path,
        ssl=certificates.client_context(),
        server_hostname="localhost",
        ssl_handshake_timeout=10,
    )
    transport.write(b"secret")
    assert await client.received(6) == b"secret"
    assert transport.get_extra_info("ssl_object") is not None
    transport.close()
    await client.lost
    server.close()
    await settle(loop, 10)
