"""Datagram endpoints: making them, their addresses, the transport as an object."""

import asyncio
import os
import socket
import sys
import unittest.mock
import weakref

import pytest
import support
from datagramkit import (
    KINDS,
    Recorder,
    bound,
    connected,
    endpoint,
    needs_linux,
    peer_socket,
)
from streamkit import PY, needs_ipv6, on_loop, oracle_bug, record_errors, until

# --- making -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_echo(loop, kind, tmp_path):
    @on_loop
    async def scenario(loop):
        async with bound(kind, tmp_path) as (transport, protocol, address):
            with peer_socket(kind, tmp_path) as peer:
                peer.sendto(b"question", address)
                assert await protocol.received(1) == [b"question"]
                assert protocol.calls[-1][2] == peer.getsockname()
                transport.sendto(b"answer", protocol.calls[-1][2])
                assert peer.recvfrom(100) == (b"answer", address)

    scenario(loop=loop)


@pytest.mark.parametrize("kind", KINDS)
def test_connected(loop, kind, tmp_path):
    @on_loop
    async def scenario(loop):
        async with connected(kind, tmp_path) as (transport, protocol, peer):
            transport.sendto(b"one")
            transport.sendto(b"two", None)
            data, address = peer.recvfrom(100)
            assert data == b"one" and peer.recv(100) == b"two"
            assert address == transport.get_extra_info("sockname")
            assert transport.get_extra_info("peername") == peer.getsockname()
            peer.sendto(b"back", address)
            assert await protocol.received(1) == [b"back"]
            assert protocol.calls[-1] == (
                "datagram_received",
                b"back",
                peer.getsockname(),
            )

    scenario(loop=loop)


@on_loop
async def test_host_names_are_resolved(loop):
    async with endpoint(local_addr=("localhost", 0), family=socket.AF_INET) as (
        server,
        protocol,
    ):
        port = server.get_extra_info("sockname")[1]
        async with endpoint(remote_addr=("localhost", port), family=socket.AF_INET) as (
            client,
            _,
        ):
            assert client.get_extra_info("peername") == ("127.0.0.1", port)
            client.sendto(b"x")
            assert await protocol.received(1) == [b"x"]


@on_loop
async def test_a_family_alone(loop):
    async with endpoint(family=socket.AF_INET) as (transport, _):
        assert transport.get_extra_info("sockname") == ("0.0.0.0", 0)
        assert transport.get_extra_info("peername") is None
        with peer_socket("udp", None) as peer:
            transport.sendto(b"x", peer.getsockname())
            assert peer.recv(10) == b"x"
        # Looked at when it was made, as asyncio does.
        assert transport.get_extra_info("sockname") == ("0.0.0.0", 0)


@on_loop
async def test_options_of_the_socket(loop):
    local = ("127.0.0.1", 0)
    async with endpoint(local_addr=local, reuse_port=True, allow_broadcast=True) as (
        transport,
        _,
    ):
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        assert sock.type == socket.SOCK_DGRAM and sock.gettimeout() == 0


@on_loop
async def test_allow_broadcast_does_not_connect(loop):
    """The remote address is then only where everything is sent."""
    with peer_socket("udp", None) as peer, peer_socket("udp", None) as stranger:
        async with endpoint(remote_addr=peer.getsockname(), allow_broadcast=True) as (
            transport,
            protocol,
        ):
            assert transport.get_extra_info("peername") is None
            transport.sendto(b"x")
            _, address = peer.recvfrom(10)
            stranger.sendto(b"anybody", ("127.0.0.1", address[1]))
            assert await protocol.received(1) == [b"anybody"]
            with pytest.raises(ValueError, match="must be None or"):
                transport.sendto(b"x", stranger.getsockname())


@on_loop
async def test_a_socket_of_the_user_s(loop):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    async with endpoint(sock=sock) as (transport, protocol):
        assert transport.get_extra_info("socket").fileno() == sock.fileno()
        assert sock.gettimeout() == 0
        with peer_socket("udp", None) as peer:
            peer.sendto(b"x", sock.getsockname())
            assert await protocol.received(1) == [b"x"]
    assert sock.fileno() == -1


@on_loop
async def test_a_connected_socket_of_the_user_s(loop):
    with peer_socket("udp", None) as peer, peer_socket("udp", None) as other:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(peer.getsockname())
        async with endpoint(sock=sock) as (transport, _):
            transport.sendto(b"1")
            transport.sendto(b"2", other.getsockname())  # connected: not looked at
            assert peer.recv(10) == b"1" and peer.recv(10) == b"2"


@on_loop
async def test_a_pair_of_unix_sockets(loop, loop_kind):
    """The peer has no name, but there is one: None addresses it."""
    oracle_bug(loop_kind, True, "sends nothing to a peer without a name")
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with far:
        async with endpoint(sock=near) as (transport, protocol):
            assert transport.get_extra_info("peername") == ""
            transport.sendto(b"x")
            assert far.recv(10) == b"x"
            far.send(b"y")
            assert await protocol.received(1) == [b"y"]
            assert protocol.calls[-1][2] is None


#: What asyncio says of an address that is no pair.
NO_PAIR = TypeError if PY >= (3, 11) else AssertionError


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({}, ValueError),
        ({"local_addr": "127.0.0.1"}, NO_PAIR),
        ({"remote_addr": ("127.0.0.1", 1, 2)}, NO_PAIR),
        ({"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 1)}, ValueError),
        ({"local_addr": 1, "family": socket.AF_UNIX}, TypeError),
        ({"local_addr": ("192.0.2.1", 1)}, OSError),
        ({"remote_addr": ("/nobody", 1), "family": socket.AF_UNIX}, TypeError),
        ({"remote_addr": "/nobody/here", "family": socket.AF_UNIX}, OSError),
    ],
)
def test_refused_arguments(loop, arguments, error):
    with pytest.raises(error):
        support.run(loop, loop.create_datagram_endpoint(Recorder, **arguments))


def test_refused_sockets(loop):
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="was expected, got"):
            support.run(loop, loop.create_datagram_endpoint(Recorder, sock=stream))
        with pytest.raises(ValueError, match="can not be used"):
            support.run(
                loop,
                loop.create_datagram_endpoint(
                    Recorder, sock=sock, allow_broadcast=True
                ),
            )


@on_loop
async def test_a_second_transport_on_one_descriptor_is_refused(loop, loop_kind):
    oracle_bug(loop_kind, sys.version_info < (3, 12), "takes it")
    async with endpoint(local_addr=("127.0.0.1", 0)) as (transport, _):
        sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        sock.close()
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop._make_datagram_transport(
                transport.get_extra_info("socket"), asyncio.DatagramProtocol()
            )
        for method in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                method(transport.get_extra_info("socket"), print)


@on_loop
async def test_the_order_of_the_first_calls(loop):
    calls = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            calls.append("made")
            loop.call_soon(calls.append, "after")

    loop.call_soon(calls.append, "before")
    async with endpoint(Protocol, local_addr=("127.0.0.1", 0)) as (transport, protocol):
        calls.append("returned")
        assert protocol.transport is transport
    assert calls == ["before", "made", "returned", "after"] or calls == [
        "before",
        "made",
        "after",
        "returned",
    ]


@on_loop
async def test_a_failing_connection_made_is_reported(loop):
    errors = record_errors(loop)

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise LookupError("in connection_made")

    async with endpoint(Protocol, local_addr=("127.0.0.1", 0)) as (transport, protocol):
        context = errors.only()
        assert str(context["exception"]) == "in connection_made"
        assert "connection_made" in context["message"]
        assert isinstance(context["handle"], asyncio.Handle)
        with peer_socket("udp", None) as peer:
            peer.sendto(b"x", transport.get_extra_info("sockname"))
            assert await protocol.received(1) == [b"x"]


@pytest.mark.parametrize("end", ["close", "abort"])
def test_end_in_connection_made(loop, end):
    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            getattr(transport, end)()

    @on_loop
    async def scenario(loop):
        async with endpoint(Protocol, local_addr=("127.0.0.1", 0)) as (_, protocol):
            assert await protocol.lost is None
            assert protocol.names == ["connection_made", "connection_lost"]

    scenario(loop=loop)


@on_loop
async def test_cancelled_while_it_is_made(loop):
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    task = loop.create_task(
        loop.create_datagram_endpoint(factory, local_addr=("127.0.0.1", 0))
    )
    await until(lambda: protocols, "the protocol")
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():  # it was done before
        task.result()[0].close()
    assert await protocols[0].lost is None


# --- addresses ----------------------------------------------------------------------


@on_loop
async def test_senders_of_unix_datagrams(loop, tmp_path):
    async with bound("unix", tmp_path) as (_, protocol, address):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody:
            nobody.sendto(b"unnamed", address)
            await protocol.received(1)
        with peer_socket("unix", tmp_path, "ünï") as peer:
            peer.sendto(b"path", address)
            await protocol.received(2)
        long_name = "l" * (106 - len(str(tmp_path)))
        with peer_socket("unix", tmp_path, long_name) as peer:
            peer.sendto(b"long", address)
            await protocol.received(3)
    assert [call[1:] for call in protocol.calls[1:4]] == [
        (b"unnamed", None),
        (b"path", str(tmp_path / "ünï")),
        (b"long", str(tmp_path / long_name)),
    ]


@needs_linux
@on_loop
async def test_abstract_addresses(loop):
    names = [f"\0pyloop-test-{os.getpid()}-{n}" for n in range(2)]
    async with endpoint(local_addr=names[0], family=socket.AF_UNIX) as (one, served):
        assert one.get_extra_info("sockname") == names[0].encode()
        async with endpoint(
            local_addr=names[1], remote_addr=names[0], family=socket.AF_UNIX
        ) as (two, client):
            two.sendto(b"question")
            assert await served.received(1) == [b"question"]
            assert served.calls[-1][2] == names[1].encode()
            one.sendto(b"answer", served.calls[-1][2])
            assert await client.received(1) == [b"answer"]


@on_loop
async def test_many_peers_are_told_apart(loop):
    peers = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(300)]
    try:
        async with bound("udp", None) as (transport, protocol, address):
            for peer in peers:
                peer.bind(("127.0.0.1", 0))
                peer.settimeout(10)
            for turn in range(2):
                for n, peer in enumerate(peers):
                    peer.sendto(b"%d" % n, address)
                    if n % 50 == 49:
                        await protocol.received(turn * len(peers) + n + 1)
            for _, data, sender in protocol.calls[1:]:
                assert sender == peers[int(data)].getsockname()
                transport.sendto(data, sender)
            for n, peer in enumerate(peers):
                assert peer.recv(10) == peer.recv(10) == b"%d" % n
    finally:
        for peer in peers:
            peer.close()


@needs_ipv6
@on_loop
async def test_one_tuple_for_two_families(loop):
    """A tuple may name an IPv4 and an IPv6 end: it is converted for each socket."""
    with peer_socket("udp6", None) as peer:
        address = ("::1", peer.getsockname()[1])
        async with (
            endpoint(family=socket.AF_INET6) as (six, _),
            endpoint(family=socket.AF_INET) as (four, protocol),
        ):
            for _ in range(2):
                six.sendto(b"x", address)
                assert peer.recv(10) == b"x"
                four.sendto(b"x", address)  # the resolver refuses it
            assert [type(exc) for exc in protocol.errors] == [socket.gaierror] * 2


# --- the object ---------------------------------------------------------------------


@on_loop
async def test_isinstance(loop, loop_kind):
    oracle_bug(loop_kind, sys.version_info < (3, 12), "is no DatagramTransport")
    async with endpoint(local_addr=("127.0.0.1", 0)) as (transport, _):
        for kind in (
            asyncio.BaseTransport,
            asyncio.DatagramTransport,
            asyncio.transports._FlowControlMixin,
        ):
            assert isinstance(transport, kind)


@on_loop
async def test_attributes_mocks_and_weak_references(loop):
    async with endpoint(local_addr=("127.0.0.1", 0)) as (transport, protocol):
        transport.user_data = 1
        assert vars(transport)["user_data"] == 1
        transport.sendto = unittest.mock.Mock()
        transport.sendto(b"x", ("127.0.0.1", 1))
        transport.sendto.assert_called_once_with(b"x", ("127.0.0.1", 1))
        del transport.sendto
        reference = weakref.ref(transport)
        assert reference() is transport
        assert transport.get_protocol() is protocol
        assert not transport.is_closing()
        assert transport.get_extra_info("nothing") is None
        assert transport.get_extra_info("nothing", 1) == 1
        assert transport.get_extra_info(name="nothing", default=2) == 2
        for method in ("write", "write_eof", "can_write_eof"):
            arguments = [b""] if method == "write" else []
            with pytest.raises(NotImplementedError):
                getattr(transport, method)(*arguments)


@on_loop
async def test_repr(loop):
    async with endpoint(local_addr=("127.0.0.1", 0)) as (transport, protocol):
        await asyncio.sleep(0)
        fd = transport.get_extra_info("socket").fileno()
        text = repr(transport)
        assert f"DatagramTransport fd={fd} read=polling write=<idle, bufsize=0>" in text
        transport.close()
        assert f"closing fd={fd} read=idle" in repr(transport)
        await protocol.lost
        await asyncio.sleep(0)
        assert repr(transport).endswith(f"DatagramTransport closed fd={fd}>")


@on_loop
async def test_families_that_only_python_knows(loop):
    """Their addresses go through the socket's own methods."""
    netlink = getattr(socket, "AF_NETLINK", None)
    if netlink is None:
        pytest.skip("this system has no netlink sockets")
    with socket.socket(netlink, socket.SOCK_DGRAM, 0) as peer:
        peer.bind((0, 0))
        near = socket.socket(netlink, socket.SOCK_DGRAM, 0)
        near.bind((0, 0))
        async with endpoint(sock=near) as (transport, protocol):
            # Asks the kernel (RTM_GETLINK, dumped) and gets several datagrams' worth.
            request = b"\x14\0\0\0\x12\0\1\3\1\0\0\0\0\0\0\0" + b"\0" * 4
            transport.sendto(request, (0, 0))
            assert (await protocol.received(1))[0]
            assert protocol.calls[-1][2] == (0, 0)


@pytest.mark.parametrize("end", ["close", "abort"])
@on_loop
async def test_the_end_after_asyncio_s_own_callback_of_it(loop, loop_kind, end):
    """_call_connection_lost() without a close() before it is an end like any other."""
    oracle_bug(loop_kind, True, "AttributeError, or connection_lost twice")
    async with endpoint(local_addr=("127.0.0.1", 0)) as (transport, protocol):
        transport._call_connection_lost(None)
        getattr(transport, end)()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert protocol.names == ["connection_made", "connection_lost"]
        assert transport._conn_lost == 1
        assert " closed fd=" in repr(transport)
