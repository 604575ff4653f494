"""sock_recv, sock_recv_into, sock_sendall, sock_accept and sock_connect on streams.

Source: asyncio's documentation of "Working with socket objects directly".
"""

import array
import asyncio
import errno
import os
import socket
import ssl
import tempfile

import pytest
import support
from streamkit import (
    KINDS,
    has_ipv6,
    listening,
    needs_ipv6,
    on_loop,
    oracle_bug,
    pattern,
    read_all,
    reset,
    settle,
    socket_pair,
)


class Pair:
    """Two connected non-blocking sockets, closed at the end of the block."""

    def __init__(self, kind="unix", sndbuf=None):
        self.socks = socket_pair(kind)
        for sock in self.socks:
            sock.setblocking(False)
            if sndbuf:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)

    def __enter__(self):
        return self.socks

    def __exit__(self, *exc_info):
        for sock in self.socks:
            sock.close()


async def start(awaitable):
    """Begin *awaitable* in a task, and let it come to where it waits."""
    task = asyncio.ensure_future(awaitable)
    await settle(asyncio.get_running_loop())
    return task


async def cancel(task):
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- receiving -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("early", [True, False])
@on_loop
async def test_sock_recv(loop, kind, early):
    with Pair(kind) as (near, far):
        if early:
            far.send(b"hello")
        task = await start(loop.sock_recv(near, 100))
        assert task.done() is early
        if not early:
            far.send(b"hello")
        data = await task
        assert data == b"hello" and type(data) is bytes


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        bytearray,
        lambda n: memoryview(bytearray(n)),
        lambda n: array.array("H", bytes(n)),
    ],
    ids=["bytearray", "memoryview", "array"],
)
@on_loop
async def test_sock_recv_into(loop, early, make):
    with Pair() as (near, far):
        buffer = make(8)
        if early:
            far.send(b"hello")
        task = await start(loop.sock_recv_into(near, buffer))
        if not early:
            far.send(b"hello")
        assert await task == 5
        assert bytes(buffer)[:6] == b"hello\0"


@on_loop
async def test_sock_recv_takes_at_most_what_is_asked(loop):
    with Pair() as (near, far):
        far.send(b"abcdef")
        assert await loop.sock_recv(near, 2) == b"ab"
        assert await loop.sock_recv_into(near, bytearray(3)) == 3
        assert await loop.sock_recv(near, 1 << 20) == b"f"


@pytest.mark.parametrize("early", [True, False])
@on_loop
async def test_eof(loop, early):
    with Pair() as (near, far):
        if early:
            far.close()
        task = await start(loop.sock_recv(near, 10))
        if not early:
            far.close()
        assert await task == b""
        assert await loop.sock_recv(near, 10) == b""
        assert await loop.sock_recv_into(near, bytearray(10)) == 0


@on_loop
async def test_zero_bytes(loop):
    """As the socket does: at once when there is data or EOF, else when there is."""
    with Pair() as (near, far):
        far.send(b"x")
        assert await loop.sock_recv(near, 0) == b""
        assert await loop.sock_recv_into(near, bytearray()) == 0
        assert await loop.sock_recv(near, 10) == b"x"
        await loop.sock_sendall(near, b"")
        with pytest.raises(BlockingIOError):
            far.recv(1)


@pytest.mark.parametrize("size", [-1, "7", 1.5, None])
@on_loop
async def test_a_bad_size(loop, size):
    with Pair() as (near, _):
        with pytest.raises((ValueError, TypeError)) as wanted:
            near.recv(size)
        with pytest.raises(type(wanted.value)):
            await loop.sock_recv(near, size)


@pytest.mark.parametrize("buffer", [b"read only", "text", None])
@on_loop
async def test_a_bad_buffer(loop, buffer):
    with Pair() as (near, _):
        with pytest.raises(TypeError):
            await loop.sock_recv_into(near, buffer)


@pytest.mark.parametrize("early", [True, False])
@on_loop
async def test_recv_of_a_reset_connection(loop, early):
    with Pair("tcp") as (near, far):
        if early:
            reset(far)
        task = await start(loop.sock_recv(near, 10))
        if not early:
            reset(far)
        with pytest.raises(ConnectionResetError):
            await task


@on_loop
async def test_the_buffer_is_locked_while_waiting_and_free_afterwards(loop):
    with Pair() as (near, far):
        buffer = bytearray(4)
        task = await start(loop.sock_recv_into(near, buffer))
        far.send(b"data")
        assert await task == 4
        buffer.extend(b"more")
        assert buffer == b"datamore"


# -- sending -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_sock_sendall_with_a_slow_reader(loop, kind):
    with Pair(kind, sndbuf=8192) as (near, far):
        data = pattern(5 << 20)
        task = await start(loop.sock_sendall(near, data))
        assert not task.done()
        assert await read_all(loop, far, len(data)) == data
        assert await task is None


@pytest.mark.parametrize(
    "make",
    [
        bytearray,
        memoryview,
        lambda data: memoryview(bytearray(data)),
        lambda data: array.array("B", data),
    ],
    ids=["bytearray", "memoryview", "writable view", "array"],
)
@on_loop
async def test_sock_sendall_of_bytes_like_objects(loop, make):
    with Pair(sndbuf=8192) as (near, far):
        data = pattern(1 << 20)
        task = asyncio.ensure_future(loop.sock_sendall(near, make(data)))
        assert await read_all(loop, far, len(data)) == data
        await task


def test_sock_sendall_of_a_view_of_words(loop, loop_kind):
    """All bytes are sent, not as many bytes as there are items."""
    oracle_bug(loop_kind, True, "sock_sendall() counts items for bytes")

    @on_loop
    async def body(loop):
        with Pair(sndbuf=8192) as (near, far):
            words = array.array("I", range(1 << 18))
            task = asyncio.ensure_future(loop.sock_sendall(near, memoryview(words)))
            assert await read_all(loop, far, 1 << 20) == words.tobytes()
            await asyncio.wait_for(task, 10)

    body(loop=loop)


@pytest.mark.parametrize("data", ["text", 7, None])
@on_loop
async def test_sock_sendall_of_a_wrong_type(loop, data):
    with Pair() as (near, _):
        with pytest.raises(TypeError):
            await loop.sock_sendall(near, data)


@pytest.mark.parametrize("waiting", [True, False])
@on_loop
async def test_sock_sendall_to_a_peer_that_is_gone(loop, waiting):
    with Pair() as (near, far):
        if waiting:
            task = await start(loop.sock_sendall(near, bytes(8 << 20)))
            far.close()
        else:
            far.close()
            task = await start(loop.sock_sendall(near, b"x"))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await task


@on_loop
async def test_cancelled_sendall_sends_no_more(loop):
    with Pair(sndbuf=8192) as (near, far):
        data = pattern(4 << 20)
        task = await start(loop.sock_sendall(near, data))
        await cancel(task)
        already = support.drain(far)
        await settle(loop)
        assert support.drain(far) == b""
        assert already == data[: len(already)]
        await loop.sock_sendall(near, b"next")
        assert support.drain(far) == b"next"


# -- cancelling receives -------------------------------------------------------------


@pytest.mark.parametrize("method", ["sock_recv", "sock_recv_into"])
@on_loop
async def test_no_data_is_lost_to_a_cancelled_receive(loop, method):
    """Neither data that comes after the cancel nor data that came just before it."""
    with Pair() as (near, far):

        def receive():
            argument = 10 if method == "sock_recv" else bytearray(10)
            return getattr(loop, method)(near, argument)

        await cancel(await start(receive()))
        far.send(b"after")
        await settle(loop)
        assert await loop.sock_recv(near, 10) == b"after"

        task = await start(receive())
        far.send(b"before")
        await cancel(task)
        assert await loop.sock_recv(near, 10) == b"before"


@on_loop
async def test_receives_one_after_another_with_cancels_between(loop):
    with Pair() as (near, far):
        got = []
        for n in range(50):
            if n % 3 == 0:
                await cancel(await start(loop.sock_recv(near, 10)))
            task = asyncio.ensure_future(loop.sock_recv(near, 10))
            if n % 2:
                await asyncio.sleep(0)
            far.send(b"%02d" % n)
            got.append(await task)
        assert got == [b"%02d" % n for n in range(50)]


@on_loop
async def test_wait_for_times_out_and_the_next_receive_works(loop):
    with Pair() as (near, far):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.sock_recv(near, 10), 0.01)
        task = asyncio.ensure_future(loop.sock_recv(near, 10))
        far.send(b"data")
        assert await task == b"data"


# -- several users of one descriptor -------------------------------------------------


@on_loop
async def test_recv_and_sendall_wait_on_one_descriptor(loop):
    with Pair(sndbuf=8192) as (near, far):
        data = pattern(2 << 20)
        sending = await start(loop.sock_sendall(near, data))
        receiving = await start(loop.sock_recv(near, 100))
        assert not sending.done() and not receiving.done()
        far.send(b"the other way")
        assert await receiving == b"the other way"
        assert not sending.done()
        receiving = await start(loop.sock_recv(near, 100))
        assert await read_all(loop, far, len(data)) == data
        await sending
        assert not receiving.done()
        far.send(b"again")
        assert await receiving == b"again"


@pytest.mark.parametrize("cancelled", ["sending", "receiving"])
@on_loop
async def test_cancelling_one_of_two_users_leaves_the_other(loop, cancelled):
    with Pair(sndbuf=8192) as (near, far):
        data = pattern(2 << 20)
        sending = await start(loop.sock_sendall(near, data))
        receiving = await start(loop.sock_recv(near, 100))
        if cancelled == "sending":
            await cancel(sending)
            far.send(b"data")
            assert await receiving == b"data"
        else:
            await cancel(receiving)
            assert await read_all(loop, far, len(data)) == data
            await sending


@on_loop
async def test_both_directions_at_once(loop):
    with Pair("tcp") as (near, far):
        there, back = pattern(4 << 20, 1), pattern(4 << 20, 2)
        results = await asyncio.gather(
            loop.sock_sendall(near, there),
            loop.sock_sendall(far, back),
            read_all(loop, near, len(back)),
            read_all(loop, far, len(there)),
        )
        assert results[2:] == [back, there]


@on_loop
async def test_add_reader_takes_over_from_a_waiting_receive(loop):
    """One reader per descriptor: as in asyncio, the later one wins."""
    with Pair() as (near, far):
        task = await start(loop.sock_recv(near, 10))
        seen = loop.create_future()
        loop.add_reader(near, lambda: seen.done() or seen.set_result(near.recv(10)))
        far.send(b"for the reader")
        assert await seen == b"for the re"
        assert loop.remove_reader(near)
        support.drain(near)
        await cancel(task)
        await settle(loop)
        far.send(b"later")
        assert await loop.sock_recv(near, 10) == b"later"


@on_loop
async def test_a_receive_leaves_no_reader_behind(loop):
    with Pair() as (near, far):
        far.send(b"x")
        await loop.sock_recv(near, 10)
        task = await start(loop.sock_recv(near, 10))
        far.send(b"y")
        await task
        await settle(loop)
        assert loop.remove_reader(near) is False
        assert loop.remove_writer(near) is False


@on_loop
async def test_add_reader_and_receives_by_turns(loop):
    with Pair() as (near, far):
        for _ in range(10):
            far.send(b"r")
            assert await loop.sock_recv(near, 10) == b"r"
            seen = loop.create_future()
            loop.add_reader(
                near, lambda f: f.done() or f.set_result(near.recv(9)), seen
            )
            far.send(b"a")
            assert await seen == b"a"
            assert loop.remove_reader(near)


# -- accepting -----------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    "family", [socket.AF_INET, pytest.param(socket.AF_INET6, marks=needs_ipv6)]
)
@on_loop
async def test_sock_accept(loop, family, early):
    with listening(family) as listener:
        listener.setblocking(False)
        address = listener.getsockname()[:2]
        if early:
            client = socket.create_connection(address)
        task = await start(loop.sock_accept(listener))
        assert task.done() is early
        if not early:
            client = socket.create_connection(address)
        conn, peername = await task
        with conn, client:
            assert isinstance(conn, socket.socket)
            assert conn.gettimeout() == 0
            assert not conn.get_inheritable()
            assert conn.family == family
            assert peername == client.getsockname()
            client.send(b"hello")
            assert await loop.sock_recv(conn, 10) == b"hello"


@on_loop
async def test_sock_accept_many(loop):
    with listening() as listener:
        listener.setblocking(False)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(20)]
        names = []
        for _ in range(20):
            conn, name = await loop.sock_accept(listener)
            conn.close()
            names.append(name)
        assert sorted(names) == sorted(client.getsockname() for client in clients)
        for client in clients:
            client.close()


@on_loop
async def test_a_cancelled_accept_loses_no_connection(loop):
    with listening() as listener:
        listener.setblocking(False)
        await cancel(await start(loop.sock_accept(listener)))
        with socket.create_connection(listener.getsockname()) as client:
            await settle(loop)
            conn, name = await loop.sock_accept(listener)
            conn.close()
            assert name == client.getsockname()


@on_loop
async def test_sock_accept_on_a_socket_that_does_not_listen(loop):
    with Pair() as (near, _):
        with pytest.raises(OSError) as caught:
            await loop.sock_accept(near)
        assert caught.value.errno == errno.EINVAL


@on_loop
async def test_sock_accept_unix(loop):
    with tempfile.TemporaryDirectory(prefix="pl") as directory:
        path = os.path.join(directory, "socket")
        with (
            socket.socket(socket.AF_UNIX) as listener,
            socket.socket(socket.AF_UNIX) as client,
        ):
            listener.bind(path)
            listener.listen()
            listener.setblocking(False)
            client.setblocking(False)
            task = await start(loop.sock_accept(listener))
            await loop.sock_connect(client, path)
            conn, name = await task
            assert name == ""
            conn.close()


# -- connecting ----------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@on_loop
async def test_sock_connect(loop, host):
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    with listening(family) as listener, socket.socket(family) as sock:
        sock.setblocking(False)
        port = listener.getsockname()[1]
        assert await loop.sock_connect(sock, (host, port)) is None
        assert sock.getpeername() == listener.getsockname()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@on_loop
async def test_sock_connect_refused(loop, host):
    port = support.free_port()
    with socket.socket() as sock:
        sock.setblocking(False)
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.sock_connect(sock, (host, port))
        assert caught.value.errno == errno.ECONNREFUSED
        assert f"Connect call failed ('127.0.0.1', {port})" in str(caught.value)


@on_loop
async def test_sock_connect_asks_a_replaced_ensure_resolved(loop):
    asked = []
    original = loop._ensure_resolved

    async def resolve(address, **arguments):
        asked.append(address)
        return await original(address, **arguments)

    loop._ensure_resolved = resolve
    with listening() as listener, socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, listener.getsockname())
        assert asked == [listener.getsockname()]


@on_loop
async def test_sock_connect_of_a_connected_socket(loop):
    with listening() as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as sock:
            sock.setblocking(False)
            with pytest.raises(OSError) as caught:
                await loop.sock_connect(sock, address)
            assert caught.value.errno == errno.EISCONN


@on_loop
async def test_sock_connect_unix(loop):
    with tempfile.TemporaryDirectory(prefix="pl") as directory:
        path = os.path.join(directory, "socket")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            with pytest.raises(FileNotFoundError):
                await loop.sock_connect(sock, path)


@on_loop
async def test_cancelled_connect_leaves_the_socket_to_its_owner(loop):
    with socket.socket() as listener, socket.socket() as sock:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        sock.setblocking(False)
        await cancel(await start(loop.sock_connect(sock, listener.getsockname())))
        assert sock.fileno() >= 0
        await settle(loop)
        assert loop.remove_writer(sock) is False
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    "address", [("127.0.0.1",), ("127.0.0.1", "no such service"), ("not/a/host", 80)]
)
@on_loop
async def test_sock_connect_to_a_bad_address(loop, address):
    with socket.socket() as sock:
        sock.setblocking(False)
        with pytest.raises((OSError, ValueError, TypeError)):
            await loop.sock_connect(sock, address)


# -- bad sockets ---------------------------------------------------------------------

CALLS = {
    "sock_recv": (10,),
    "sock_recv_into": (bytearray(10),),
    "sock_sendall": (b"x",),
    "sock_accept": (),
    "sock_connect": (("127.0.0.1", 1),),
}


@pytest.mark.parametrize("name", CALLS)
@on_loop
async def test_a_blocking_socket_in_debug_mode(loop, name):
    loop.set_debug(True)
    with socket.socket() as sock:
        for timeout in (None, 1.0):
            sock.settimeout(timeout)
            with pytest.raises(ValueError, match="the socket must be non-blocking"):
                await getattr(loop, name)(sock, *CALLS[name])


@pytest.mark.parametrize("name", CALLS)
@on_loop
async def test_a_tls_socket(loop, name):
    context = ssl.create_default_context()
    with context.wrap_socket(socket.socket(), server_hostname="x") as sock:
        sock.setblocking(False)
        with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
            await getattr(loop, name)(sock, *CALLS[name])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("thing", [None, 7, "socket"])
@on_loop
async def test_no_socket_at_all(loop, name, thing):
    with pytest.raises((AttributeError, TypeError)):
        await getattr(loop, name)(thing, *CALLS[name])


@pytest.mark.parametrize("name", CALLS)
@on_loop
async def test_a_closed_socket(loop, name):
    sock = socket.socket()
    sock.setblocking(False)
    sock.close()
    with pytest.raises(OSError) as caught:
        await getattr(loop, name)(sock, *CALLS[name])
    assert caught.value.errno == errno.EBADF


@on_loop
async def test_a_socket_closed_while_it_is_waited_for(loop):
    """As in asyncio nothing tells the waiter; it can be cancelled, nothing breaks."""
    near, far = socket.socketpair()
    near.setblocking(False)
    task = await start(loop.sock_recv(near, 10))
    near.close()
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or isinstance(task.exception(), OSError)
    far.close()
    with Pair() as (near, far):
        far.send(b"fresh")
        assert await loop.sock_recv(near, 10) == b"fresh"
        task = await start(loop.sock_recv(near, 10))
        far.send(b"again")
        assert await task == b"again"


@pytest.mark.pyloop_only
@on_loop
async def test_the_number_of_a_socket_closed_while_waiting_is_reused(loop):
    """The dead socket's operation gets none of the new one's data; asyncio hangs."""
    near, far = socket.socketpair()
    near.setblocking(False)
    number = near.fileno()
    old = await start(loop.sock_recv(near, 10))
    near.close()
    with Pair() as pair:
        assert number in [sock.fileno() for sock in pair]
        if pair[0].fileno() != number:
            pair = pair[::-1]
        receiving = await start(loop.sock_recv(pair[0], 10))
        pair[1].send(b"new")
        assert await receiving == b"new"
        old.cancel()
        await asyncio.wait([old])
        receiving = await start(loop.sock_recv(pair[0], 10))
        pair[1].send(b"newer")
        assert await receiving == b"newer"
    far.close()


@on_loop
async def test_a_socket_with_a_timeout_of_its_own_outside_debug_mode(loop):
    """Its data is there, so that nothing would block."""
    loop.set_debug(False)
    with Pair() as (near, far):
        near.settimeout(5)
        far.send(b"data")
        assert await loop.sock_recv(near, 10) == b"data"
        await loop.sock_sendall(near, b"back")
        assert far.recv(10) == b"back"
