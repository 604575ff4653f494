"""Datagram endpoints: what is received, and what a protocol may do meanwhile."""

import contextvars
import os
import socket
import sys
import unittest.mock

import pytest
import support
from datagramkit import KINDS, PAUSES, Recorder, bound, connected, peer_socket
from streamkit import on_loop, oracle_bug, record_errors, settle

# --- receiving ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_burst_comes_whole_and_in_order(loop, kind, tmp_path):
    @on_loop
    async def scenario(loop):
        async with bound(kind, tmp_path) as (_, protocol, address):
            with peer_socket(kind, tmp_path) as peer:
                sent = []
                for burst in (1, 2, 3, 8, 9):
                    sent += [b"%d/%d" % (burst, n) * n for n in range(1, burst + 1)]
                    for data in sent[-burst:]:
                        peer.sendto(data, address)
                    assert await protocol.received(len(sent)) == sent

    scenario(loop=loop)


@on_loop
async def test_a_long_burst(loop):
    async with bound("udp", None) as (_, protocol, address):
        with peer_socket("udp", None) as peer:
            sent = [b"%d" % n for n in range(100)]
            for data in sent:
                peer.sendto(data, address)
            assert await protocol.received(100) == sent


@on_loop
async def test_empty_datagrams(loop):
    async with bound("udp", None) as (_, protocol, address):
        with peer_socket("udp", None) as peer:
            for data in (b"", b"x", b"", b""):
                peer.sendto(data, address)
            assert await protocol.received(4) == [b"", b"x", b"", b""]


@pytest.mark.parametrize("kind, size", [("udp", 65507), ("unix", 200_000)])
def test_long_datagrams(loop, kind, size, tmp_path):
    @on_loop
    async def scenario(loop):
        async with connected(kind, tmp_path) as (transport, protocol, peer):
            for sock in (peer, transport.get_extra_info("socket")):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212992)
            data = os.urandom(size)
            transport.sendto(data)
            assert peer.recv(size + 1) == data
            sent = [data, b"short", data]
            for count, sending in enumerate(sent, 1):
                peer.sendto(sending, transport.get_extra_info("sockname"))
                await protocol.received(count)
            assert protocol.datagrams == sent

    scenario(loop=loop)


@on_loop
async def test_what_is_longer_than_256_kib_is_cut(loop, tmp_path):
    async with bound("unix", tmp_path) as (_, protocol, address):
        with peer_socket("unix", tmp_path) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212992)
            try:
                peer.sendto(bytes(300_000), address)
            except OSError:
                pytest.skip("this system has no datagrams of that size")
            assert [len(data) for data in await protocol.received(1)] == [262144]


@on_loop
async def test_two_floods_share_the_loop(loop):
    """Who is ready waits for some of the other's datagrams, not for all of them."""
    order = []

    class Protocol(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            order.append(self)

    async with (
        bound("udp", None, Protocol) as (_, one, first),
        bound("udp", None, Protocol) as (_, two, second),
    ):
        with peer_socket("udp", None) as peer:
            for address in (first, second):
                for _ in range(100):
                    peer.sendto(b"x", address)
            await one.received(100)
            await two.received(100)
    last_first = max(order.index(one), order.index(two))
    assert last_first < 100


# --- what the protocol does while it is called ----------------------------------------


def flood(peer, address, count=5):
    sent = [b"%d" % n for n in range(count)]
    for data in sent:
        peer.sendto(data, address)
    return sent


@on_loop
async def test_pause_in_the_middle(loop, loop_kind):
    oracle_bug(loop_kind, not PAUSES, "a datagram transport cannot pause")
    async with bound("udp", None) as (transport, protocol, address):
        protocol.on = lambda name: transport.pause_reading()
        with peer_socket("udp", None) as peer:
            sent = flood(peer, address)
            for count in range(1, 6):
                await protocol.received(count)
                await settle(loop)
                assert protocol.datagrams == sent[:count]
                assert not transport.is_reading()
                transport.resume_reading()
                assert transport.is_reading()
            sent += flood(peer, address)
            del protocol.on
            transport.resume_reading()
            assert await protocol.received(10) == sent


@on_loop
async def test_pause_and_resume_before_the_rest_was_delivered(loop, loop_kind):
    oracle_bug(loop_kind, not PAUSES, "a datagram transport cannot pause")
    async with bound("udp", None) as (transport, protocol, address):

        def on(name):
            transport.pause_reading()
            transport.resume_reading()
            transport.pause_reading()
            loop.call_soon(transport.resume_reading)

        protocol.on = on
        with peer_socket("udp", None) as peer:
            sent = flood(peer, address, 50)
            assert await protocol.received(50) == sent


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no recvmmsg")
@pytest.mark.pyloop_only
@on_loop
async def test_a_burst_is_one_callback(loop):
    """What the first datagram schedules runs after the others that were there."""
    seen = []
    async with bound("udp", None) as (_, protocol, address):

        def on(name):
            seen.append(name)
            loop.call_soon(seen.append, "scheduled")

        protocol.on = on
        with peer_socket("udp", None) as peer:
            flood(peer, address, 3)
            await protocol.received(3)
            await settle(loop)
    assert seen[:6] == ["datagram_received"] * 3 + ["scheduled"] * 3


@pytest.mark.pyloop_only
@on_loop
async def test_a_failing_method_names_the_transport(loop):
    errors = record_errors(loop)
    async with bound("udp", None) as (transport, protocol, address):

        def on(name):
            if name == "datagram_received":
                raise LookupError

        protocol.on = on
        with peer_socket("udp", None) as peer:
            flood(peer, address, 1)
            await protocol.received(1)
            await settle(loop)
        context = errors.only()
        message = "Exception in callback DatagramTransport._read_ready()"
        assert context["message"] == message
        assert context["transport"] is transport and context["protocol"] is protocol


@pytest.mark.parametrize("end", ["close", "abort"])
def test_end_in_the_middle(loop, end):
    @on_loop
    async def scenario(loop):
        async with bound("udp", None) as (transport, protocol, address):
            protocol.on = lambda name: getattr(transport, end)()
            with peer_socket("udp", None) as peer:
                flood(peer, address)
                assert await protocol.lost is None
                await settle(loop)
            assert protocol.names == [
                "connection_made",
                "datagram_received",
                "connection_lost",
            ]

    scenario(loop=loop)


@on_loop
async def test_another_protocol_in_the_middle(loop):
    async with bound("udp", None) as (transport, protocol, address):
        other = Recorder()
        protocol.on = lambda name: transport.set_protocol(other)
        with peer_socket("udp", None) as peer:
            sent = flood(peer, address)
            assert await other.received(4) == sent[1:]
            assert protocol.datagrams == sent[:1]
            assert transport.get_protocol() is other


def test_stop_in_the_middle(loop):
    """What came before the loop was stopped is there when it runs again."""
    transport, protocol = support.run(
        loop, loop.create_datagram_endpoint(NoLoop, local_addr=("127.0.0.1", 0))
    )
    protocol.on = lambda name: loop.stop()
    with peer_socket("udp", None) as peer:
        sent = flood(peer, transport.get_extra_info("sockname"))
        for count in range(1, 6):
            loop.run_forever()
            assert protocol.datagrams == sent[:count]
    transport.close()
    support.spin(loop)


class NoLoop(Recorder):
    """Made outside of a run."""

    def __init__(self):
        self.calls = []
        self.lost = unittest.mock.MagicMock()


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_run_loses_nothing(loop, fatal):
    transport, protocol = support.run(
        loop, loop.create_datagram_endpoint(NoLoop, local_addr=("127.0.0.1", 0))
    )

    def on(name):
        raise fatal("enough")

    protocol.on = on
    with peer_socket("udp", None) as peer:
        sent = flood(peer, transport.get_extra_info("sockname"))
        for count in range(1, 6):
            with pytest.raises(fatal, match="enough"):
                loop.run_forever()
            assert protocol.datagrams == sent[:count]
    protocol.on = lambda name: None
    transport.close()
    support.spin(loop)
    assert protocol.names[-1] == "connection_lost"


@on_loop
async def test_a_failing_datagram_received_is_reported(loop):
    errors = record_errors(loop)
    async with bound("udp", None) as (transport, protocol, address):

        def on(name):
            if name == "datagram_received":
                raise LookupError(protocol.datagrams[-1].decode())

        protocol.on = on
        with peer_socket("udp", None) as peer:
            sent = flood(peer, address, 3)
            assert await protocol.received(3) == sent
            await settle(loop)
        assert [str(exc) for exc in errors.exceptions] == ["0", "1", "2"]
        assert all("_read_ready" in message for message in errors.messages)
        assert not transport.is_closing()


@on_loop
async def test_an_iteration_inside_a_callback_keeps_the_order(loop, loop_kind):
    oracle_bug(loop_kind, True, "an event inside an event of a descriptor fails")
    async with bound("udp", None) as (_, protocol, address):
        inside = []

        def on(name):
            if name == "datagram_received" and not inside:
                inside.append(True)
                for _ in range(3):
                    loop._run_once()

        protocol.on = on
        with peer_socket("udp", None) as peer:
            sent = flood(peer, address)
            assert await protocol.received(5) == sent


@on_loop
async def test_contexts(loop):
    variable = contextvars.ContextVar("variable", default="nobody")
    seen = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(variable.get())
            variable.set("connection_made")

        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            seen.append(variable.get())
            variable.set("datagram_received")

    variable.set("creator")
    async with bound("udp", None, Protocol) as (_, protocol, address):
        variable.set("later")
        with peer_socket("udp", None) as peer:
            for count in (1, 2):
                peer.sendto(b"x", address)
                await protocol.received(count)
            flood(peer, address, 2)
            await protocol.received(4)
    # Each callback of asyncio's has a copy of its own; events share one.
    assert seen == ["creator", "creator"] + ["datagram_received"] * 3
