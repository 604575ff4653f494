"""Datagram endpoints: what is sent, what cannot be, and the protocol's errors."""

import array
import asyncio
import errno
import logging
import socket
import sys

import pytest
import support
from datagramkit import (
    KINDS,
    SENDS_EMPTY,
    Recorder,
    bound,
    connected,
    endpoint,
    peer_socket,
    waiting,
)
from streamkit import (
    PY,
    on_loop,
    oracle_bug,
    record_errors,
    settle,
    until,
)
from streamkit import connected as stream_connected

# --- arguments ----------------------------------------------------------------------


@on_loop
async def test_kinds_of_data(loop):
    async with connected("udp", None) as (transport, _, peer):
        for data in (
            b"bytes",
            bytearray(b"bytearray"),
            memoryview(b"view"),
            memoryview(b"xxslicexx")[2:-2],
            memoryview(array.array("I", [1, 2, 3])),
            type("Bytes", (bytes,), {})(b"subclass"),
        ):
            assert transport.sendto(data) is None
            assert peer.recv(100) == bytes(data)
        transport.sendto(data=b"keyword", addr=None)
        assert peer.recv(100) == b"keyword"


@pytest.mark.skipif(PY < (3, 12), reason="__buffer__() came with Python 3.12")
@pytest.mark.parametrize("end", ["close", "abort"])
def test_data_whose_buffer_ends_the_transport(loop, end):
    class Data(bytes):
        def __buffer__(self, flags):
            getattr(transport, end)()
            return memoryview(b"evil")

    @on_loop
    async def scenario(loop):
        nonlocal transport
        async with connected("udp", None) as (transport, protocol, peer):
            transport.sendto(Data(b"data"))
            assert peer.recv(10) == b"evil"
            assert await protocol.lost is None
            assert protocol.names == ["connection_made", "connection_lost"]

    transport = None
    scenario(loop=loop)


@on_loop
async def test_refused_data(loop):
    async with connected("udp", None) as (transport, _, peer):
        for data in ("text", 1, None, [b"x"], array.array("b", b"x")):
            name = type(data).__name__
            with pytest.raises(TypeError, match=f"bytes-like object, not '{name}'"):
                transport.sendto(data)
        for arguments in ((), (b"x", None, None)):
            with pytest.raises(TypeError):
                transport.sendto(*arguments)
        with pytest.raises(TypeError):
            transport.sendto(b"x", address=None)
        assert waiting(peer) == []


@on_loop
async def test_a_datagram_of_no_bytes(loop):
    async with connected("udp", None) as (transport, _, peer):
        for empty in (b"", bytearray(), memoryview(b"")):
            transport.sendto(empty)
        transport.sendto(b"x")
        assert waiting(peer) == ([b""] * 3 if SENDS_EMPTY else []) + [b"x"]


@on_loop
async def test_a_released_view(loop):
    errors = record_errors(loop)
    async with connected("udp", None) as (transport, protocol, _):
        view = memoryview(b"x")
        view.release()
        if SENDS_EMPTY:
            transport.sendto(view)
            assert isinstance(await protocol.lost, ValueError)
            assert errors.only()["message"] == (
                "Fatal write error on datagram transport"
            )
        else:
            with pytest.raises(ValueError, match="released"):
                transport.sendto(view)


@on_loop
async def test_only_its_own_address(loop):
    async with connected("udp", None) as (transport, protocol, peer):
        remote = peer.getsockname()
        transport.sendto(b"1", remote)
        transport.sendto(b"2", (remote[0], remote[1]))
        for other in (("127.0.0.1", 1), list(remote), remote[0], 0):
            with pytest.raises(ValueError, match="Invalid address: must be None or"):
                transport.sendto(b"x", other)
        await settle(loop)
        assert waiting(peer) == [b"1", b"2"]
        assert protocol.names == ["connection_made"]


@pytest.mark.parametrize(
    "address, error",
    [
        (None, TypeError),
        ("127.0.0.1", TypeError),
        (("127.0.0.1",), TypeError),
        (("127.0.0.1", "80"), TypeError),
        (("127.0.0.1", 1 << 20), OverflowError),
        (("127.0.0.1", -1), OverflowError),
    ],
)
def test_what_is_no_address_is_fatal(loop, address, error):
    @on_loop
    async def scenario(loop):
        errors = record_errors(loop)
        async with bound("udp", None) as (transport, protocol, _):
            transport.sendto(b"x", address)
            assert transport.is_closing()
            assert isinstance(await protocol.lost, error)
            context = errors.only()
            assert context["message"] == "Fatal write error on datagram transport"
            assert isinstance(context["exception"], error)
            assert context["transport"] is transport
            assert context["protocol"] is protocol
            assert protocol.names == ["connection_made", "connection_lost"]

    scenario(loop=loop)


@on_loop
async def test_kinds_of_address(loop):
    async with bound("udp", None) as (transport, _, _):
        with peer_socket("udp", None) as peer:
            host, port = peer.getsockname()
            for address in (
                (host, port),
                ("localhost", port),
                (host.encode(), port),
                type("Pair", (tuple,), {})((host, port)),
                (host, type("Port", (), {"__index__": lambda self: port})()),
                (bytearray(host.encode()), port),
            ):
                for _ in range(2):
                    transport.sendto(b"x", address)
                    assert peer.recv(10) == b"x"


# --- what the system refuses ----------------------------------------------------------


@on_loop
async def test_too_long(loop):
    async with connected("udp", None) as (transport, protocol, peer):
        transport.sendto(bytes(70_000))
        assert [exc.errno for exc in protocol.errors] == [errno.EMSGSIZE]
        transport.sendto(b"x")
        assert peer.recv(10) == b"x"
        assert not transport.is_closing()


@on_loop
async def test_an_address_that_cannot_be_sent_to(loop, tmp_path):
    async with bound("unix", tmp_path) as (transport, protocol, _):
        for address in (str(tmp_path / "nobody"), b"/nobody"):
            transport.sendto(b"x", address)
        assert [type(exc) for exc in protocol.errors] == [FileNotFoundError] * 2
        transport.sendto(b"x", "/" + "x" * 200)
        assert "too long" in str(protocol.errors[2])


@on_loop
async def test_a_name_that_is_nobody_s(loop):
    async with bound("udp", None) as (transport, protocol, _):
        transport.sendto(b"x", ("no such host", 1))
        assert isinstance(protocol.errors[0], socket.gaierror)
        assert not transport.is_closing()


async def refused(transport, protocol, peer):
    """The peer goes, so that the kernel says so after a datagram."""
    peer.close()
    before = protocol.count("error_received")
    transport.sendto(b"x")
    await protocol.called("error_received", before + 1)


@on_loop
async def test_nobody_is_there(loop):
    """The refusal is received, by whoever reads; another may come of sending."""
    async with connected("udp", None) as (transport, protocol, peer):
        for count in (1, 2, 3):
            await refused(transport, protocol, peer)
            assert [type(exc) for exc in protocol.errors] == [
                ConnectionRefusedError
            ] * count
        transport.sendto(b"x")
        transport.sendto(b"x")  # meets the refusal of the one before
        assert len(protocol.errors) == 4
        assert not transport.is_closing()


@on_loop
async def test_somebody_is_there_again(loop):
    async with connected("udp", None) as (transport, protocol, peer):
        address = peer.getsockname()
        await refused(transport, protocol, peer)
        with socket.socket(type=socket.SOCK_DGRAM) as again:
            again.bind(address)
            again.settimeout(10)
            transport.sendto(b"hello")
            assert again.recv(10) == b"hello"
            again.sendto(b"you", transport.get_extra_info("sockname"))
            assert await protocol.received(1) == [b"you"]


@on_loop
async def test_a_refusal_and_datagrams_at_once(loop):
    async with connected("udp", None) as (transport, protocol, peer):
        for n in range(3):
            peer.sendto(b"%d" % n, transport.get_extra_info("sockname"))
        peer.close()
        transport.sendto(b"x")
        assert await protocol.received(3) == [b"0", b"1", b"2"]
        await protocol.called("error_received")
        assert len(protocol.errors) == 1


@pytest.mark.pyloop_only
def test_nobody_is_there_with_uv_poll(new_loop, monkeypatch):
    """libuv stops watching at an error, and says nothing of a direction."""
    monkeypatch.setenv("PYLOOP_POLLER", "uv_poll")

    @on_loop
    async def scenario(loop):
        assert loop._poller == "uv_poll"
        async with connected("udp", None) as (transport, protocol, peer):
            address = peer.getsockname()
            for count in (1, 2, 3):
                await refused(transport, protocol, peer)
                assert len(protocol.errors) == count
            with socket.socket(type=socket.SOCK_DGRAM) as again:
                again.bind(address)
                again.sendto(b"you", transport.get_extra_info("sockname"))
                assert await protocol.received(1) == [b"you"]

    scenario(loop=new_loop())


@on_loop
async def test_a_failing_error_received(loop):
    """Out of sendto() it reaches who called that, out of an event the handler."""
    errors = record_errors(loop)
    async with connected("udp", None) as (transport, protocol, peer):

        def on(name):
            if name == "error_received":
                raise LookupError("in error_received")

        protocol.on = on
        with pytest.raises(LookupError, match="in error_received"):
            transport.sendto(bytes(70_000))
        assert not errors.contexts
        await refused(transport, protocol, peer)
        await until(lambda: errors.contexts)
        context = errors.only()
        assert str(context["exception"]) == "in error_received"
        assert "_read_ready" in context["message"]
        assert not transport.is_closing()


@pytest.mark.parametrize("end", ["close", "abort"])
def test_end_in_error_received(loop, end):
    @on_loop
    async def scenario(loop):
        async with connected("udp", None) as (transport, protocol, peer):

            def on(name):
                if name == "error_received":
                    getattr(transport, end)()

            protocol.on = on
            transport.sendto(bytes(70_000))
            assert transport.is_closing()
            assert await protocol.lost is None
            assert protocol.names[1:] == ["error_received", "connection_lost"]

    scenario(loop=loop)


# --- ends ---------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "abort"])
def test_sendto_after_the_end(loop, asyncio_log, end):
    @on_loop
    async def scenario(loop):
        async with connected("udp", None) as (transport, protocol, peer):
            getattr(transport, end)()
            for _ in range(3):
                transport.sendto(b"lost")
            await protocol.lost
            await asyncio.sleep(0)
            for _ in range(3):
                transport.sendto(b"lost")
            assert waiting(peer) == []
            assert (
                asyncio_log.take_texts(logging.WARNING)
                == ["socket.send() raised exception."] * 2
            )

    scenario(loop=loop)


@pytest.mark.parametrize("end", ["close", "abort"])
def test_unconnected_sendto_after_the_end(loop, loop_kind, end):
    """As long as the socket is open, that is until connection_lost()."""
    oracle_bug(loop_kind, True, "AttributeError once the socket is closed")

    @on_loop
    async def scenario(loop):
        async with bound("udp", None) as (transport, protocol, _):
            with peer_socket("udp", None) as peer:
                getattr(transport, end)()
                transport.sendto(b"sent", peer.getsockname())
                await protocol.lost
                await asyncio.sleep(0)
                transport.sendto(b"lost", peer.getsockname())
                assert waiting(peer) == [b"sent"]

    scenario(loop=loop)


@on_loop
async def test_sendto_in_connection_lost(loop):
    async with bound("udp", None) as (transport, protocol, _):
        with peer_socket("udp", None) as peer:

            def on(name):
                transport.sendto(b"bye", peer.getsockname())

            protocol.on = on
            transport.close()
            await protocol.lost
            assert peer.recv(10) == b"bye"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["close", "abort"])
def test_connection_lost_comes_once(loop, kind, end, tmp_path):
    @on_loop
    async def scenario(loop):
        async with bound(kind, tmp_path) as (transport, protocol, _):
            sock = transport.get_extra_info("socket")
            for method in (end, "close", "abort"):
                getattr(transport, method)()
                assert transport.is_closing() and not protocol.count("connection_lost")
            assert await protocol.lost is None
            await settle(loop)
            assert protocol.names == ["connection_made", "connection_lost"]
            assert sock.fileno() == -1
            assert transport.get_protocol() is None
            assert transport.get_extra_info("sockname")
            transport.close()
            transport.abort()
            await settle(loop)
            assert protocol.count("connection_lost") == 1

    scenario(loop=loop)


@on_loop
async def test_a_failing_connection_lost_is_reported(loop):
    errors = record_errors(loop)
    async with bound("udp", None) as (transport, protocol, _):

        def on(name):
            raise LookupError("in connection_lost")

        protocol.on = on
        sock = transport.get_extra_info("socket")
        transport.close()
        await protocol.lost
        await asyncio.sleep(0)
        context = errors.only()
        assert str(context["exception"]) == "in connection_lost"
        assert "_call_connection_lost" in context["message"]
        assert sock.fileno() == -1


@on_loop
async def test_a_socket_closed_behind_the_transport(loop):
    async with connected("udp", None) as (transport, protocol, peer):
        transport.get_extra_info("socket")._sock.close()
        transport.sendto(b"x")
        assert [exc.errno for exc in protocol.errors] == [errno.EBADF]
        with socket.socket(type=socket.SOCK_DGRAM) as other:  # has its number
            other.bind(("127.0.0.1", 0))
            transport.sendto(b"x")
            peer.sendto(b"x", other.getsockname())
            await settle(loop)
            assert other.recv(10) == b"x"
        assert protocol.datagrams == []
        transport.close()
        assert await protocol.lost is None


def test_unclosed(loop, loop_kind):
    transport, protocol = support.run(
        loop,
        loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        ),
    )
    sock = transport.get_extra_info("socket")
    loop.close()
    with pytest.warns(ResourceWarning, match="unclosed transport <.*DatagramTransport"):
        del transport, protocol
        support.collect()
    assert sock.fileno() == -1


@pytest.mark.skipif(PY < (3, 11), reason="pause_reading() came with Python 3.11")
def test_paused_and_forgotten(loop):
    """Nobody holds an endpoint that does not read."""
    transport, protocol = support.run(
        loop,
        loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        ),
    )
    transport.pause_reading()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport, protocol
        support.collect()


def test_close_after_the_loop(loop):
    transport, protocol = support.run(
        loop,
        loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        ),
    )
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        transport.close()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport, protocol
        support.collect()


@pytest.mark.pyloop_only
def test_sendto_after_the_loop(loop):
    with peer_socket("udp", None) as peer:
        transport, protocol = support.run(
            loop,
            loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
            ),
        )
        loop.close()
        for _ in range(2):
            transport.sendto(b"x", peer.getsockname())
            assert peer.recv(10) == b"x"
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            del transport, protocol
            support.collect()


@pytest.mark.pyloop_only
@on_loop
async def test_what_a_stream_holds_is_sent_before(loop):
    """The order between transports stays, also when writes are held."""
    async with (
        stream_connected() as (stream, receiver, peer),
        connected("udp", None) as (transport, _, udp_peer),
    ):
        order = []

        def on(name):
            if name != "data_received":
                return
            stream.write(b"head")
            transport.sendto(b"x")
            peer.setblocking(False)
            try:
                order.append(peer.recv(100))
            except BlockingIOError:
                order.append(None)
            peer.settimeout(10)
            stream.write(b"body")

        receiver.on = on
        for count in range(1, 7):
            peer.send(b"!")
            await until(lambda count=count: len(order) == count)
            peer.recv(100)
        assert order == [b"head"] * 6
        assert len(waiting(udp_peer)) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@on_loop
async def test_nothing_is_left_of_failed_endpoints(loop):
    before = support.open_descriptors()
    for arguments in (
        {"local_addr": ("192.0.2.1", 1)},
        {"remote_addr": "/nobody/here", "family": socket.AF_UNIX},
    ):
        with pytest.raises(OSError):
            await loop.create_datagram_endpoint(Recorder, **arguments)
    async with endpoint(local_addr=("127.0.0.1", 0)):
        pass
    support.collect()
    assert support.open_descriptors() == before
