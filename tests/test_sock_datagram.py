"""sock_recvfrom, sock_recvfrom_into and sock_sendto on UDP and Unix datagram sockets.

Source: asyncio's documentation.  These three methods are new in Python 3.11; pyloop has
them on every version.
"""

import asyncio
import errno
import os
import socket
import ssl
import tempfile

import pytest
import support
from streamkit import PY, loopback, needs_ipv6, on_loop, oracle_bug, settle


@pytest.fixture(autouse=True)
def methods_exist(loop_kind):
    oracle_bug(loop_kind, PY < (3, 11), "has no sock_recvfrom and sock_sendto")


FAMILIES = [
    socket.AF_INET,
    pytest.param(socket.AF_INET6, marks=needs_ipv6),
    socket.AF_UNIX,
]


@pytest.fixture
def pair(family):
    """Two bound, unconnected, non-blocking datagram sockets."""
    with tempfile.TemporaryDirectory(prefix="pl") as directory:
        socks = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
        for n, sock in enumerate(socks):
            if family == socket.AF_UNIX:
                sock.bind(os.path.join(directory, str(n)))
            else:
                sock.bind((loopback(family), 0))
            sock.setblocking(False)
        yield socks
        for sock in socks:
            sock.close()


async def start(awaitable):
    task = asyncio.ensure_future(awaitable)
    await settle(asyncio.get_running_loop())
    return task


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("early", [True, False])
@on_loop
async def test_recvfrom(loop, pair, early):
    near, far = pair
    if early:
        far.sendto(b"hello", near.getsockname())
    task = await start(loop.sock_recvfrom(near, 100))
    assert task.done() is early
    if not early:
        far.sendto(b"hello", near.getsockname())
    assert await task == (b"hello", far.getsockname())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("early", [True, False])
@on_loop
async def test_recvfrom_into(loop, pair, early):
    near, far = pair
    buffer = bytearray(8)
    if early:
        far.sendto(b"hello", near.getsockname())
    task = await start(loop.sock_recvfrom_into(near, buffer))
    if not early:
        far.sendto(b"hello", near.getsockname())
    assert await task == (5, far.getsockname())
    assert buffer == b"hello\0\0\0"


@pytest.mark.parametrize("family", FAMILIES)
@on_loop
async def test_sendto(loop, pair):
    near, far = pair
    assert await loop.sock_sendto(near, b"hello", far.getsockname()) == 5
    assert far.recvfrom(10) == (b"hello", near.getsockname())
    for data in (bytearray(b"abc"), memoryview(b"abc")):
        assert await loop.sock_sendto(near, data, far.getsockname()) == 3
        assert far.recv(10) == b"abc"


@pytest.mark.parametrize("family", [socket.AF_UNIX])
@on_loop
async def test_a_sender_without_a_name(loop, pair):
    near, _ = pair
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        nameless.sendto(b"one", near.getsockname())
        expected = near.recvfrom(10)
        nameless.sendto(b"one", near.getsockname())
        assert await loop.sock_recvfrom(near, 10) == expected
        nameless.sendto(b"one", near.getsockname())
        assert await loop.sock_recvfrom_into(near, bytearray(10)) == (3, expected[1])


@pytest.mark.parametrize("family", FAMILIES)
@on_loop
async def test_conversation(loop, pair):
    near, far = pair

    async def echo():
        for _ in range(50):
            data, address = await loop.sock_recvfrom(far, 100)
            await loop.sock_sendto(far, data.upper(), address)

    task = asyncio.create_task(echo())
    for n in range(50):
        await loop.sock_sendto(near, b"n%d" % n, far.getsockname())
        assert await loop.sock_recvfrom(near, 100) == (b"N%d" % n, far.getsockname())
    await task


@pytest.mark.parametrize("family", FAMILIES)
@on_loop
async def test_empty_datagrams(loop, pair):
    near, far = pair
    assert await loop.sock_sendto(far, b"", near.getsockname()) == 0
    assert await loop.sock_recvfrom(near, 10) == (b"", far.getsockname())
    await loop.sock_sendto(far, b"", near.getsockname())
    assert await loop.sock_recvfrom_into(near, bytearray(4)) == (0, far.getsockname())
    await loop.sock_sendto(far, b"", near.getsockname())
    assert await loop.sock_recv(near, 10) == b""


@pytest.mark.parametrize("family", FAMILIES)
@on_loop
async def test_each_receive_takes_one_datagram_and_cuts_it(loop, pair):
    near, far = pair
    for data in (b"first", b"second", b"third", b"fourth"):
        far.sendto(data, near.getsockname())
    assert (await loop.sock_recvfrom(near, 3))[0] == b"fir"
    buffer = bytearray(10)
    assert (await loop.sock_recvfrom_into(near, buffer, 4))[0] == 4
    assert buffer == b"seco" + bytes(6)
    assert await loop.sock_recv(near, 10) == b"third"
    assert await loop.sock_recv_into(near, buffer) == 6


@pytest.mark.parametrize("family", [socket.AF_INET])
@on_loop
async def test_nbytes_of_recvfrom_into(loop, pair):
    near, far = pair
    far.sendto(b"data", near.getsockname())
    with pytest.raises(ValueError):
        await loop.sock_recvfrom_into(near, bytearray(3), 4)
    assert (await loop.sock_recvfrom_into(near, bytearray(8), 0))[0] == 4
    far.sendto(b"data", near.getsockname())
    assert (await loop.sock_recvfrom_into(near, bytearray(8), nbytes=2))[0] == 2


@pytest.mark.parametrize("family", FAMILIES)
@on_loop
async def test_no_datagram_is_lost_to_a_cancel(loop, pair):
    near, far = pair
    for cut in ("early", "late"):
        task = await start(loop.sock_recvfrom(near, 10))
        if cut == "late":
            far.sendto(cut.encode(), near.getsockname())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if cut == "early":
            far.sendto(cut.encode(), near.getsockname())
        await settle(loop)
        assert (await loop.sock_recvfrom(near, 10))[0] == cut.encode()


@pytest.mark.parametrize("family", [socket.AF_UNIX])
@on_loop
async def test_sendto_waits_for_a_full_queue(loop, pair):
    """A Unix datagram socket says EAGAIN when its peer's queue is full."""
    near, far = pair
    sent = 0
    try:
        while True:
            near.sendto(b"%d" % sent, far.getsockname())
            sent += 1
    except BlockingIOError:
        pass
    task = await start(loop.sock_sendto(near, b"last", far.getsockname()))
    far.setblocking(False)
    got = []
    while not task.done():
        got.append(await loop.sock_recv(far, 10))
        await asyncio.sleep(0)
    assert await task == 4
    while len(got) <= sent:
        got.append(await loop.sock_recv(far, 10))
    assert got == [b"%d" % n for n in range(sent)] + [b"last"]


@pytest.mark.parametrize("family", [socket.AF_INET])
@on_loop
async def test_connected_udp_to_a_closed_port(loop, pair):
    """The ICMP answer is an error of the next operation, waiting ones included."""
    near, _ = pair
    near.connect(("127.0.0.1", support.free_port(kind=socket.SOCK_DGRAM)))
    task = await start(loop.sock_recv(near, 10))
    near.send(b"x")
    with pytest.raises(ConnectionRefusedError):
        await task
    near.send(b"x")
    with pytest.raises(ConnectionRefusedError):
        await loop.sock_recvfrom(near, 10)
    with pytest.raises(ConnectionRefusedError):
        near.send(b"x")
        await loop.sock_sendto(near, b"x", near.getpeername())


@pytest.mark.parametrize("family", [socket.AF_INET])
@on_loop
async def test_sendto_errors(loop, pair):
    near, far = pair
    with pytest.raises(OSError) as caught:
        await loop.sock_sendto(near, bytes(100000), far.getsockname())
    assert caught.value.errno == errno.EMSGSIZE
    for address in [("127.0.0.1",), "127.0.0.1", None, ("127.0.0.1", "x"), 7]:
        with pytest.raises(TypeError):
            await loop.sock_sendto(near, b"x", address)
    with pytest.raises(OverflowError):
        await loop.sock_sendto(near, b"x", ("127.0.0.1", 1 << 17))
    with pytest.raises(TypeError):
        await loop.sock_sendto(near, "text", far.getsockname())


@pytest.mark.parametrize("family", [socket.AF_INET])
@on_loop
async def test_sendto_resolves_a_name_as_the_socket_does(loop, pair):
    near, far = pair
    port = far.getsockname()[1]
    assert await loop.sock_sendto(near, b"named", ("localhost", port)) == 5
    assert far.recv(10) == b"named"


@on_loop
async def test_recvfrom_on_a_stream(loop):
    with support.socket_pair() as (near, far):
        far.send(b"one")
        expected = near.recvfrom(10)
        far.send(b"one")
        assert await loop.sock_recvfrom(near, 10) == expected


CALLS = {
    "sock_recvfrom": (10,),
    "sock_recvfrom_into": (bytearray(10),),
    "sock_sendto": (b"x", ("127.0.0.1", 1)),
}


@pytest.mark.parametrize("name", CALLS)
@on_loop
async def test_bad_sockets(loop, name):
    call = getattr(loop, name)
    context = ssl.create_default_context()
    with context.wrap_socket(socket.socket(), server_hostname="x") as sock:
        with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
            await call(sock, *CALLS[name])
    for thing in (None, 7, "socket"):
        with pytest.raises((AttributeError, TypeError)):
            await call(thing, *CALLS[name])
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.close()
    with pytest.raises(OSError) as caught:
        await call(sock, *CALLS[name])
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("name", CALLS)
@on_loop
async def test_a_blocking_socket_in_debug_mode(loop, name):
    loop.set_debug(True)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="the socket must be non-blocking"):
            await getattr(loop, name)(sock, *CALLS[name])
