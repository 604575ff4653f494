"""Records in and out of asyncio's SSLProtocol, which C code handles one by one.

The peer is an ssl.SSLObject between two buffers in memory, so that a test decides how
its records are cut and when they come. What a test changes by hand on asyncio's objects
means on pyloop what it means on asyncio's loop.
"""

import asyncio
import contextlib
import logging
import random
import ssl
import unittest.mock
from asyncio import sslproto

import pytest
import support
from streamkit import (
    PY,
    BufferedRecorder,
    Recorder,
    on_loop,
    pattern,
    settle,
    socket_pair,
    until,
)
from tlskit import Peer, connected, sslproto_of, stand_in

pytestmark = pytest.mark.skipif(
    PY < (3, 11), reason="asyncio.sslproto is another program there: C code stays out"
)


# --- reading ---------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 1000])
@on_loop
async def test_a_record_that_comes_in_pieces(loop, certificates, step):
    async with connected(loop, certificates) as (_, protocol, peer):
        data = pattern(100 if step == 1 else 2000)
        cipher = peer.records(data, b"the end")
        for i in range(0, len(cipher), step):
            peer.send_raw(cipher[i : i + step])
            await settle(loop, 1)
        await until(lambda: protocol.data.endswith(b"the end"), "the end")
        assert protocol.data == data + b"the end"
        if step == 1:
            assert protocol.names == ["data_received"] * 2


@on_loop
async def test_records_that_come_together(loop, certificates):
    """One data_received() for all that can be read, as asyncio."""
    async with connected(loop, certificates) as (_, protocol, peer):
        pieces = [pattern(n) for n in (1, 10, 3000, 16384, 5)]
        peer.send_raw(peer.records(*pieces))
        await until(lambda: len(protocol.data) == sum(map(len, pieces)), "the data")
        assert protocol.data == b"".join(pieces)
        assert protocol.names == ["data_received"]


@on_loop
async def test_data_and_the_end_together(loop, certificates):
    async with connected(loop, certificates) as (transport, protocol, peer):
        peer.send_raw(peer.records(b"last words") + peer.goodbye())
        await protocol.lost
        assert protocol.data == b"last words"
        assert protocol.names == ["data_received", "eof_received", "connection_lost"]
        assert transport.is_closing()


@pytest.mark.parametrize("after", [b"", b"good data"])
@on_loop
async def test_a_record_that_is_damaged(loop, certificates, after):
    async with connected(loop, certificates) as (transport, protocol, peer):
        cipher = bytearray(peer.records(b"some data"))
        cipher[-1] ^= 1
        before = peer.records(after) if after else b""
        peer.send_raw(before + bytes(cipher) if not before else bytes(cipher) + before)
        await protocol.lost
        assert not protocol.data
        assert isinstance(protocol.lost.result(), ssl.SSLError)


@on_loop
async def test_a_switch_to_a_buffered_protocol_and_back(loop, certificates):

    class Buffered(BufferedRecorder):
        def get_buffer(self, sizehint):
            return memoryview(super().get_buffer(sizehint))

    async with connected(loop, certificates) as (transport, plain, peer):
        buffered = Buffered()
        transport.set_protocol(buffered)
        peer.send_raw(peer.records(b"buffered", b" data"))
        await until(lambda: buffered.data == b"buffered data", "the data")
        transport.set_protocol(plain)
        peer.send_raw(peer.records(b"plain data"))
        await until(lambda: plain.data == b"plain data", "the data")
        transport.set_protocol(buffered)
        transport.set_protocol(plain)


@on_loop
async def test_what_a_small_buffer_left(loop, certificates):
    """A record of which a BufferedProtocol took a part, then a plain protocol."""

    class Small(BufferedRecorder):
        def get_buffer(self, sizehint):
            return memoryview(super().get_buffer(sizehint))[:10]

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            transport.set_protocol(plain)

    async with connected(loop, certificates) as (transport, plain, peer):
        small = Small()
        transport.set_protocol(small)
        data = pattern(3000)
        peer.send_raw(peer.records(data))
        await until(lambda: len(small.data) + len(plain.data) == 3000, "the data")
        assert small.data + plain.data == data


@on_loop
async def test_pausing_in_data_received(loop, certificates):
    class Pausing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async with connected(loop, certificates, Pausing) as (transport, protocol, peer):
        transport.resume_reading()
        await settle(loop)
        for n in range(3):
            assert transport.is_reading()
            peer.send_raw(peer.records(b"%d" % n))
            await until(lambda: not transport.is_reading(), "the pause")
            peer.send_raw(peer.records(b"more"))
            await settle(loop)
            assert protocol.data == b"%d" % n
            transport.resume_reading()
            await until(lambda n=n: protocol.data == b"%dmore" % n, "the rest")
            protocol.data.clear()
            transport.resume_reading()
            await settle(loop)


@pytest.mark.parametrize("how", ["close", "abort", "write"])
@on_loop
async def test_calls_from_data_received(loop, certificates, how):
    class Calling(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if data == b"go":
                getattr(self.transport, how)(*[b"answer"][: how == "write"])

    async with connected(loop, certificates, Calling) as (transport, protocol, peer):
        peer.send_raw(peer.records(b"go"))
        if how == "write":
            await peer.got(b"answer")
            return
        if how == "close":
            await settle(loop)
            peer.take()
            peer.send_raw(peer.goodbye())
        await protocol.lost
        assert protocol.lost.result() is None
        assert protocol.data == b"go"


@pytest.mark.parametrize("exception", [ZeroDivisionError, asyncio.CancelledError])
@on_loop
async def test_data_received_that_raises(loop, certificates, exception):
    class Raising(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if data == b"go":
                raise exception("from the protocol")

    async with connected(loop, certificates, Raising) as (_, protocol, peer):
        with support.ErrorRecorder(loop) as errors:
            peer.send_raw(peer.records(b"go"))
            await protocol.lost
            await settle(loop)
            assert [str(exc) for exc in errors.exceptions] == ["from the protocol"]
        assert isinstance(protocol.lost.result(), exception)


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_what_leaves_the_run(new_loop, certificates, exception):
    loop = new_loop()

    class Raising(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if data == b"go":
                raise exception

    async def main():
        async with connected(loop, certificates, Raising) as (_, __, peer):
            peer.send_raw(peer.records(b"go"))
            await loop.create_future()

    task = loop.create_task(main())
    with pytest.raises(exception):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


@on_loop
async def test_streams_over_tls(loop, certificates):
    near, far = socket_pair("unix")
    peer = Peer(loop, far, certificates.server_context())
    connecting = loop.create_task(
        asyncio.open_connection(
            sock=near,
            ssl=certificates.client_context(),
            server_hostname="localhost",
            limit=1000,
        )
    )
    await peer.greet()
    reader, writer = await connecting
    with far:
        for n in range(5):
            writer.write(b"line %d\n" % n)
            await writer.drain()
            peer.send_raw(peer.records(b"answer %d\nrest" % n))
            assert await reader.readline() == b"answer %d\n" % n
            assert await reader.readexactly(4) == b"rest"
        await peer.got(b"".join(b"line %d\n" % n for n in range(5)))
        peer.send_raw(peer.records(pattern(2500)))
        await until(lambda: not writer.transport.is_reading(), "the pause")
        assert await reader.readexactly(2000) == pattern(2500)[:2000]
        assert writer.transport.is_reading()
        peer.send_raw(peer.goodbye())
        assert await reader.read() == pattern(2500)[2000:]
        writer.close()
        with contextlib.suppress(ssl.SSLError):
            await writer.wait_closed()


# --- writing ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 32768, 50000])
@on_loop
async def test_sizes(loop, certificates, size):
    async with connected(loop, certificates) as (transport, _, peer):
        data = pattern(size)
        transport.write(data)
        await peer.got(data)
        transport.write(bytearray(data))
        transport.write(memoryview(data)[:100])
        await peer.got(data + data + data[:100])
        assert transport.get_write_buffer_size() == 0


@on_loop
async def test_random_conversation(loop, certificates):
    chance = random.Random(7)
    async with connected(loop, certificates) as (transport, protocol, peer):
        sent, received = bytearray(), bytearray()
        for _ in range(200):
            data = pattern(chance.choice([1, 5, 100, 5000, 20000]))
            if chance.random() < 0.5:
                transport.write(data)
                sent += data
            else:
                for i in range(0, len(data), 16384):
                    peer.send_raw(peer.records(data[i : i + 16384]))
                received += data
            if chance.random() < 0.7:
                await settle(loop, 1)
            peer.read()
        await peer.got(bytes(sent))
        await until(lambda: len(protocol.data) == len(received), "the data")
        assert protocol.data == received


@on_loop
async def test_what_is_no_data(loop, certificates):
    async with connected(loop, certificates) as (transport, _, peer):
        for wrong in ("text", 7, None, [b"x"]):
            with pytest.raises(TypeError):
                transport.write(wrong)
        with pytest.raises(TypeError):
            transport.write()
        with pytest.raises(TypeError):
            transport.write(b"a", b"b")
        transport.write(b"")
        transport.write(data=b"good")
        await peer.got(b"good")


@on_loop
async def test_writes_after_the_end(loop, certificates, asyncio_log):
    async with connected(loop, certificates) as (transport, protocol, peer):
        transport.abort()
        await protocol.lost
        for _ in range(7):
            transport.write(b"lost")
        assert "SSL connection is closed" in " ".join(
            asyncio_log.take_texts(logging.WARNING)
        )


@on_loop
async def test_flow_control(loop, certificates):
    async with connected(loop, certificates) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=1000, low=100)
        while "pause_writing" not in protocol.names:
            transport.write(pattern(30000))
            await asyncio.sleep(0)
        while "resume_writing" not in protocol.names:
            peer.read()
            await asyncio.sleep(0)
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x")
        assert protocol.names.count("pause_writing") == 2


@pytest.mark.parametrize("error", [ssl.SSLWantReadError, ssl.SSLSyscallError])
@on_loop
async def test_a_write_that_has_to_wait(loop, certificates, error):
    """Kept, in order, and sent after the next record that comes."""
    async with connected(loop, certificates) as (transport, _, peer):
        stand = stand_in(transport)
        stand.failures.append(error())
        transport.write(pattern(20000))
        assert transport.get_write_buffer_size() == 20000
        stand.failures.append(error())
        transport.write(b"and more")
        assert transport.get_write_buffer_size() == 20008
        assert peer.read() == b""
        peer.send_raw(peer.records(b"anything"))
        await peer.got(pattern(20000) + b"and more")
        assert transport.get_write_buffer_size() == 0


@pytest.mark.parametrize("operation", ["read", "write"])
@on_loop
async def test_an_error_of_the_ssl_object(loop, certificates, operation):
    async with connected(loop, certificates) as (transport, protocol, peer):
        stand = stand_in(transport)
        stand.failures.append(ZeroDivisionError("from OpenSSL"))
        with support.ErrorRecorder(loop) as errors:
            if operation == "write":
                transport.write(b"data")
            else:
                peer.send_raw(peer.records(b"data"))
            await protocol.lost
            assert [str(exc) for exc in errors.exceptions] == ["from OpenSSL"]
            assert errors.messages == ["Fatal error on SSL protocol"]
        assert isinstance(protocol.lost.result(), ZeroDivisionError)


# --- when C code keeps out ------------------------------------------------------------

PATCHED = [
    (sslproto.SSLProtocol, "_process_outgoing"),
    (sslproto.SSLProtocol, "_do_read"),
    (sslproto._SSLProtocolTransport, "write"),
    (sslproto.SSLProtocol, "_write_appdata"),
    (ssl.SSLObject, "read"),
    (ssl.SSLObject, "write"),
]


@pytest.mark.parametrize("cls, name", PATCHED)
@on_loop
async def test_a_function_of_a_class_is_replaced(loop, certificates, cls, name):
    original = getattr(cls, name)
    calls = []

    def loud(self, *args):
        calls.append(args)
        return original(self, *args)

    async with connected(loop, certificates) as (transport, protocol, peer):
        with unittest.mock.patch.object(cls, name, loud):
            transport.write(b"one")
            peer.send_raw(peer.records(b"two"))
            await until(lambda: protocol.data == b"two", "the data")
            await peer.got(b"one")
            assert calls
        seen = len(calls)
        transport.write(b"three")
        peer.send_raw(peer.records(b"four"))
        await until(lambda: protocol.data == b"twofour", "the data")
        await peer.got(b"onethree")
        assert len(calls) == seen


@pytest.mark.parametrize("name", ["_do_read", "buffer_updated", "_write_appdata"])
@on_loop
async def test_a_function_of_one_protocol_is_replaced(loop, certificates, name):
    async with connected(loop, certificates) as (transport, protocol, peer):
        target = sslproto_of(transport)
        mock = unittest.mock.Mock(wraps=getattr(target, name))
        setattr(target, name, mock)
        transport.write(b"one")
        peer.send_raw(peer.records(b"two"))
        await until(lambda: protocol.data == b"two", "the data")
        await peer.got(b"one")
        assert mock.called


@on_loop
async def test_another_class_of_ssl_objects(loop, certificates):
    calls = []

    class Loud(ssl.SSLObject):
        def read(self, *args):
            calls.append("read")
            return super().read(*args)

        def write(self, data):
            calls.append("write")
            return super().write(data)

    with unittest.mock.patch.object(ssl.SSLContext, "sslobject_class", Loud):
        async with connected(loop, certificates) as (transport, protocol, peer):
            calls.clear()
            transport.write(b"one")
            peer.send_raw(peer.records(b"two"))
            await until(lambda: protocol.data == b"two", "the data")
            await until(lambda: peer.read() == b"one", "the peer's data")
    assert {"read", "write"} <= set(calls)


@pytest.mark.parametrize(
    "name",
    "_state _sslobj _incoming _outgoing _app_protocol _write_backlog "
    "_write_buffer_size _outgoing_high_water _incoming_high_water _transport "
    "_app_reading_paused _ssl_writing_paused".split(),
)
@pytest.mark.parametrize("value", ["deleted", None, "nonsense"])
@on_loop
async def test_attributes_that_are_nonsense(loop, certificates, name, value):
    """Whatever asyncio raises; never a crash."""
    async with connected(loop, certificates) as (transport, _, peer):
        target = sslproto_of(transport)
        kept = getattr(target, name)
        with support.ErrorRecorder(loop):
            if value == "deleted":
                delattr(target, name)
            else:
                setattr(target, name, value)
            with contextlib.suppress(Exception):
                transport.write(b"data")
            peer.send_raw(peer.records(b"data"))
            await settle(loop)
            setattr(target, name, kept)
            with contextlib.suppress(Exception):
                transport.abort()
            await settle(loop)


@on_loop
async def test_the_name_of_the_transport_s_class(loop, certificates):
    async with connected(loop, certificates) as (transport, *_):
        assert type(transport).__name__ == "_SSLProtocolTransport"


@pytest.mark.pyloop_only
@on_loop
async def test_the_class_of_the_transport(loop, certificates):
    async with connected(loop, certificates) as (transport, *_):
        assert isinstance(transport, sslproto._SSLProtocolTransport)
        assert type(transport) is not sslproto._SSLProtocolTransport
        kind = type(transport)
        bare = kind.__new__(kind)
        bare._closed = True
        with pytest.raises(AttributeError):
            bare.write(b"x")
