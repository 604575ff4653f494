"""Datagram endpoints: the queue of what the kernel does not take, and flow control.

Connected Unix sockets: their kernel keeps few datagrams, and says when there is room.
"""

import asyncio
import contextvars
import math
import re
from fractions import Fraction

import pytest
from datagramkit import HEADER, Recorder, bound, connected, fill, peer_socket, waiting
from streamkit import PY, on_loop, oracle_bug, record_errors, settle, until

#: asyncio adds a header to the size for what is queued, and never takes it off again.
HEADERS_STAY = PY == (3, 13) and not hasattr(
    asyncio.selector_events._SelectorDatagramTransport, "_header_size"
)


def in_full(test):
    """Run test(loop, transport, protocol, peer, sent) with a full, connected endpoint.

    `sent` is the list of the datagrams sent so far, of which the last is queued.
    """

    @on_loop
    async def run(loop, tmp_path, **fixtures):
        async with connected("unix", tmp_path) as (transport, protocol, peer):
            sent = fill(transport)
            await test(loop, transport, protocol, peer, sent, **fixtures)

    def wrapped(loop, tmp_path):
        run(loop=loop, tmp_path=tmp_path)

    wrapped.__name__ = test.__name__
    wrapped.__doc__ = test.__doc__
    return wrapped


async def receive(peer, count):
    """Receive *count* datagrams while the loop sends them."""
    found = []
    while len(found) < count:
        found += waiting(peer)
        await asyncio.sleep(0)
    return found


def kind_of(loop):
    return "asyncio" if isinstance(loop, asyncio.SelectorEventLoop) else "pyloop"


def is_empty(loop, transport):
    stays = kind_of(loop) == "asyncio" and HEADERS_STAY
    return stays or transport.get_write_buffer_size() == 0


@in_full
async def test_the_queue_is_sent_in_order(loop, transport, protocol, peer, sent):
    assert transport.get_write_buffer_size() == 100 + HEADER
    for n in range(500):
        sent.append(b"queued %d" % n)
        transport.sendto(sent[-1])
    assert "write=<polling" in repr(transport)
    assert await receive(peer, len(sent)) == sent
    await settle(loop)
    assert is_empty(loop, transport)
    assert "write=<idle" in repr(transport)
    transport.sendto(b"at once")
    assert peer.recv(10) == b"at once"


@in_full
async def test_what_changes_is_copied(loop, transport, protocol, peer, sent):
    data = bytearray(b"queued")
    view = memoryview(bytearray(b"ab cd ef"))
    transport.sendto(data)
    transport.sendto(view[::3])
    data[:] = b"changed"
    view[:2] = b"XX"
    found = await receive(peer, len(sent) + 2)
    assert found[-2:] == [b"queued", b"ace"]


@in_full
async def test_sizes(loop, transport, protocol, peer, sent):
    size = 100 + HEADER
    for data in (b"12345", bytearray(b"123"), memoryview(b"1234567")):
        transport.sendto(data)
        size += len(data) + HEADER
        assert transport.get_write_buffer_size() == size
    transport.sendto(b"")
    size += HEADER
    assert transport.get_write_buffer_size() == size
    assert f"bufsize={size}" in repr(transport)


@on_loop
async def test_limits(loop):
    async with bound("udp", None) as (transport, _, _):
        assert transport.get_write_buffer_limits() == (16384, 65536)
        for arguments, limits in (
            ({"high": 100}, (25, 100)),
            ({"low": 10}, (10, 40)),
            ({"high": 10, "low": 10}, (10, 10)),
            ({"high": 0}, (0, 0)),
            ({"high": 1e6}, (250_000, 1_000_000)),
            ({"low": 2.5}, (2, 10)),
            ({"high": 9.5, "low": 9}, (9, 9)),
            ({"high": Fraction(17, 2)}, (2, 8)),
            ({}, (16384, 65536)),
        ):
            transport.set_write_buffer_limits(**arguments)
            set_to = transport.get_write_buffer_limits()
            assert tuple(math.floor(mark) for mark in set_to) == limits
        for high, low, said in (
            (1, 2, "high (1) must be >= low (2) must be >= 0"),
            (-1, None, "high (-1) must be >= low (-1) must be >= 0"),
            (None, -1, "high (-4) must be >= low (-1) must be >= 0"),
            (1.5, 2.5, "high (1.5) must be >= low (2.5) must be >= 0"),
            (math.nan, None, "high (nan) must be >= low (nan) must be >= 0"),
        ):
            with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
                transport.set_write_buffer_limits(high, low)
        for high, low in (("x", None), (None, "x"), (b"1", 1), ([], 2.5)):
            with pytest.raises(TypeError):
                transport.set_write_buffer_limits(high, low)
        assert tuple(transport.get_write_buffer_limits()) == (16384, 65536)


@on_loop
async def test_no_limit(loop):
    async with bound("udp", None) as (transport, _, _):
        for endless in (math.inf, 1e30, 10**30):
            transport.set_write_buffer_limits(high=endless, low=endless)
            low, high = transport.get_write_buffer_limits()
            assert low == high >= 2**62
            transport.set_write_buffer_limits(high=endless, low=10)
            assert transport.get_write_buffer_limits()[0] == 10
        with pytest.raises(ValueError, match=r"high \(inf\) must be >= low \(nan\)"):
            transport.set_write_buffer_limits(high=math.inf)


@in_full
async def test_pause_and_resume(loop, transport, protocol, peer, sent):
    transport.set_write_buffer_limits(high=1000, low=500)
    assert protocol.count("pause_writing") == 0
    while not protocol.count("pause_writing"):
        sent.append(b"q" * 100)
        transport.sendto(sent[-1])
    size = transport.get_write_buffer_size()
    assert 1000 < size <= 1100 + HEADER
    for _ in range(3):
        sent.append(b"more")
        transport.sendto(sent[-1])
    assert protocol.count("pause_writing") == 1
    assert protocol.count("resume_writing") == 0
    assert await receive(peer, len(sent)) == sent
    if not HEADERS_STAY or kind_of(loop) == "pyloop":
        await protocol.called("resume_writing")
        assert protocol.names == ["connection_made", "pause_writing", "resume_writing"]


@in_full
async def test_lower_limits_pause_at_once(loop, transport, protocol, peer, sent):
    transport.set_write_buffer_limits(high=50)
    assert protocol.count("pause_writing") == 1
    transport.set_write_buffer_limits(high=10)
    assert protocol.count("pause_writing") == 1


@in_full
async def test_failing_pause_and_resume(loop, transport, protocol, peer, sent):
    oracle_bug(kind_of(loop), HEADERS_STAY, "never resumes")
    errors = record_errors(loop)

    def on(name):
        raise LookupError(name)

    protocol.on = on
    transport.set_write_buffer_limits(high=50)
    assert errors.messages == ["protocol.pause_writing() failed"]
    assert errors.contexts[0]["transport"] is transport
    await receive(peer, len(sent))
    await protocol.called("resume_writing")
    await settle(loop)
    assert errors.messages[1:] == ["protocol.resume_writing() failed"]
    protocol.on = lambda name: None


@in_full
async def test_send_more_in_resume_writing(loop, transport, protocol, peer, sent):
    oracle_bug(kind_of(loop), HEADERS_STAY, "never resumes")

    def on(name):
        if name == "resume_writing" and len(sent) < 200:
            sent.extend(fill(transport))

    protocol.on = on
    transport.set_write_buffer_limits(high=50)
    found = []
    while len(found) < len(sent):
        found += waiting(peer)
        await asyncio.sleep(0)
    assert found == sent and len(sent) >= 200


@pytest.mark.parametrize("end", ["close", "abort"])
def test_end_in_resume_writing(loop, tmp_path, end):
    oracle_bug(kind_of(loop), True, "loses the connection twice")

    @in_full
    async def scenario(loop, transport, protocol, peer, sent):
        def on(name):
            if name == "resume_writing":
                getattr(transport, end)()

        protocol.on = on
        transport.set_write_buffer_limits(high=50)
        await receive(peer, len(sent))
        assert await protocol.lost is None
        await settle(loop)
        assert protocol.names[1:] == [
            "pause_writing",
            "resume_writing",
            "connection_lost",
        ]

    scenario(loop, tmp_path)


@in_full
async def test_close_sends_the_queue(loop, transport, protocol, peer, sent):
    sent += [b"%d" % n for n in range(100)]
    for data in sent[-100:]:
        transport.sendto(data)
    transport.close()
    await settle(loop)
    assert transport.is_closing() and not protocol.lost.done()
    transport.sendto(b"after close")  # it is open still, and asyncio queues it
    sent.append(b"after close")
    assert await receive(peer, len(sent)) == sent
    assert await protocol.lost is None
    await settle(loop)
    assert protocol.count("connection_lost") == 1


@in_full
async def test_abort_drops_the_queue(loop, transport, protocol, peer, sent):
    for _ in range(10):
        transport.sendto(b"dropped")
    transport.abort()
    if kind_of(loop) == "pyloop" or not (3, 11) <= PY < (3, 15):
        assert transport.get_write_buffer_size() == 0
    assert await protocol.lost is None
    await settle(loop)
    assert waiting(peer) == sent[:-1]
    assert protocol.names == ["connection_made", "connection_lost"]


@in_full
async def test_abort_after_close(loop, transport, protocol, peer, sent):
    transport.close()
    await settle(loop)
    transport.abort()
    assert await protocol.lost is None
    await settle(loop)
    assert waiting(peer) == sent[:-1]
    assert protocol.names == ["connection_made", "connection_lost"]


@in_full
async def test_the_peer_goes(loop, transport, protocol, peer, sent):
    """Each queued datagram meets the refusal, and is gone."""
    for _ in range(5):
        transport.sendto(b"refused")
    peer.close()
    await protocol.called("error_received", 6)
    assert isinstance(protocol.errors[0], ConnectionRefusedError)
    assert {type(exc) for exc in protocol.errors[1:]} == {OSError}  # ENOTCONN
    assert not transport.is_closing()
    transport.close()
    assert await protocol.lost is None


@in_full
async def test_the_peer_goes_after_close(loop, transport, protocol, peer, sent):
    transport.sendto(b"refused")
    transport.close()
    peer.close()
    assert await protocol.lost is None
    assert protocol.count("error_received") == 2
    assert protocol.names[-1] == "connection_lost"


@in_full
async def test_a_failing_error_received_in_an_event(
    loop, transport, protocol, peer, sent
):
    errors = record_errors(loop)

    def on(name):
        if name == "error_received":
            raise LookupError("in error_received")

    protocol.on = on
    transport.sendto(b"refused")
    peer.close()
    await until(lambda: len(errors.contexts) == 2)
    assert [str(exc) for exc in errors.exceptions] == ["in error_received"] * 2
    assert all("_sendto_ready" in message for message in errors.messages)


@pytest.mark.parametrize("end", ["close", "abort"])
def test_end_in_error_received_of_an_event(loop, tmp_path, end):
    oracle_bug(kind_of(loop), end == "abort", "loses the connection twice")

    @in_full
    async def scenario(loop, transport, protocol, peer, sent):
        def on(name):
            if name == "error_received":
                getattr(transport, end)()

        protocol.on = on
        peer.close()
        assert await protocol.lost is None
        await settle(loop)
        assert protocol.names[1:] == ["error_received", "connection_lost"]

    scenario(loop, tmp_path)


@on_loop
async def test_contexts(loop, tmp_path):
    """What an event of sending calls has a copy of the context of who had to wait."""
    variable = contextvars.ContextVar("variable", default="nobody")
    seen = []

    class Protocol(Recorder):
        def error_received(self, exc):
            super().error_received(exc)
            seen.append(variable.get())
            variable.set("error_received")

        def connection_lost(self, exc):
            super().connection_lost(exc)
            seen.append(variable.get())

    variable.set("creator")
    async with connected("unix", tmp_path, Protocol) as (transport, protocol, peer):
        variable.set("sender")
        fill(transport)
        transport.sendto(b"another")
        variable.set("closer")
        peer.close()
        await protocol.called("error_received", 2)
        transport.close()
        await protocol.lost
    assert seen == ["sender", "error_received", "closer"]


# --- several destinations -------------------------------------------------------------


@on_loop
async def test_several_destinations(loop, tmp_path):
    """Not connected: each datagram has its address, and one may not be there."""
    async with bound("unix", tmp_path) as (transport, protocol, _):
        with (
            peer_socket("unix", tmp_path, "full") as full,
            peer_socket("unix", tmp_path, "other") as other,
        ):
            sent = fill(transport, full.getsockname())
            expected = []
            for n in range(100):
                data = b"%d" % n
                address = (full, other)[n % 2].getsockname()
                if n % 10 == 3:
                    address = str(tmp_path / "nobody")
                elif n % 2:
                    expected.append(data)
                else:
                    sent.append(data)
                transport.sendto(data, address)
            await asyncio.sleep(0)
            assert waiting(other) == []  # the first has to go first
            found, others = [], []
            while len(found) < len(sent) or len(others) < len(expected):
                found += waiting(full)
                others += waiting(other)
                await asyncio.sleep(0)
            assert found == sent and others == expected
            await until(lambda: is_empty(loop, transport))
            assert [type(exc) for exc in protocol.errors] == [FileNotFoundError] * 10


@on_loop
async def test_a_queued_address_that_is_none(loop, tmp_path):
    """It is found out when its turn has come."""
    errors = record_errors(loop)
    async with bound("unix", tmp_path) as (transport, protocol, _):
        with peer_socket("unix", tmp_path) as peer:
            sent = fill(transport, peer.getsockname())
            transport.sendto(b"x", bytearray(peer.getsockname().encode()))
            transport.sendto(b"y", 17)
            transport.sendto(b"z", peer.getsockname())
            assert not protocol.lost.done()
            found = await receive(peer, len(sent) + 1)
            assert found == [*sent, b"x"]
            assert isinstance(await protocol.lost, TypeError)
            assert errors.only()["message"] == "Fatal write error on datagram transport"
            assert waiting(peer) == []


@on_loop
async def test_a_queued_address_whose_code_ends_the_transport(loop, tmp_path):
    oracle_bug(kind_of(loop), True, "loses the connection twice")

    class Path(bytearray):
        """As an address it is asked for a buffer; as garbage it ends the transport."""

        def __del__(self):
            ended.append(transport.is_closing())
            transport.abort()

    ended = []
    async with bound("unix", tmp_path) as (transport, protocol, _):
        with peer_socket("unix", tmp_path) as peer:
            sent = fill(transport, peer.getsockname())
            transport.sendto(b"x", Path(peer.getsockname().encode()))
            transport.sendto(b"dropped", peer.getsockname())
            assert await receive(peer, len(sent) + 1) == [*sent, b"x"]
            assert await protocol.lost is None
            await settle(loop)
            assert ended and waiting(peer) == []
            assert protocol.count("connection_lost") == 1
