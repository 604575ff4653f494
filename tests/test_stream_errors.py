"""What goes wrong on a stream transport, and what the protocol is told.

An OSError ends the connection quietly, with connection_lost(exc); any other exception
is also reported to the loop's exception handler.  Source: asyncio's selector transport.
"""

import asyncio
import inspect
import re
import socket
import struct

import pytest
from streamkit import (
    BufferedRecorder,
    Recorder,
    connected,
    fill,
    on_loop,
    pattern,
    pending,
    record_errors,
    reset,
    settle,
    tcp_pair,
)

GONE = (BrokenPipeError, ConnectionResetError)


# -- the peer ------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("kind", ["tcp", "tcp6"])
@on_loop
async def test_a_reset_connection(loop, kind, factory):
    async with connected(factory, kind=kind) as (transport, protocol, peer):
        reset(peer)
        exc = await protocol.lost
        assert type(exc) is ConnectionResetError
        assert exc.errno == 104
        assert protocol.names == ["connection_made", "connection_lost"]
        assert transport.is_closing()


@on_loop
async def test_data_before_a_reset_may_be_lost_but_not_the_reset(loop):
    async with connected(kind="tcp") as (_, protocol, peer):
        peer.send(b"data")
        await protocol.received(4)
        reset(peer)
        assert type(await protocol.lost) is ConnectionResetError


@on_loop
async def test_a_unix_peer_that_closes_with_unread_data(loop):
    async with connected(kind="unix") as (transport, protocol, peer):
        transport.write(b"never read")
        peer.close()
        assert type(await protocol.lost) is ConnectionResetError


@on_loop
async def test_write_to_a_peer_that_is_gone(loop):
    async with connected() as (transport, protocol, peer):
        transport.pause_reading()
        peer.close()
        assert transport.write(b"x") is None
        assert transport.is_closing()
        assert not protocol.lost.done(), "connection_lost is never called inside write"
        exc = await protocol.lost
        assert type(exc) is BrokenPipeError
        assert protocol.count("connection_lost") == 1


@on_loop
async def test_writelines_to_a_peer_that_is_gone(loop):
    async with connected() as (transport, protocol, peer):
        transport.pause_reading()
        peer.close()
        transport.writelines([b"x", b"y"])
        assert type(await protocol.lost) is BrokenPipeError


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@on_loop
async def test_queued_data_when_the_peer_goes(loop, kind):
    async with connected(kind=kind, sndbuf=4096) as (transport, protocol, peer):
        transport.pause_reading()
        transport.write(bytes(8 << 20))
        assert transport.get_write_buffer_size() > 0
        if kind == "tcp":
            reset(peer)
        peer.close()
        assert isinstance(await protocol.lost, GONE)
        assert transport.get_write_buffer_size() == 0
        assert protocol.names == ["connection_made", "pause_writing", "connection_lost"]


@on_loop
async def test_write_eof_then_the_peer_resets(loop):
    async with connected(kind="tcp") as (transport, protocol, peer):
        transport.write_eof()
        reset(peer)
        assert type(await protocol.lost) is ConnectionResetError


@on_loop
async def test_a_reset_seen_by_write_and_by_read_is_told_once(loop):
    async with connected(kind="tcp") as (transport, protocol, peer):
        reset(peer)
        transport.write(b"x")
        transport.write(b"x")
        assert isinstance(await protocol.lost, GONE)
        await settle(loop)
        assert protocol.count("connection_lost") == 1


@on_loop
async def test_close_right_after_an_error_keeps_the_error(loop):
    async with connected() as (transport, protocol, peer):
        transport.pause_reading()
        peer.close()
        transport.write(b"x")
        transport.close()
        transport.abort()
        assert type(await protocol.lost) is BrokenPipeError


@on_loop
async def test_errors_after_close_are_not_told(loop):
    async with connected(kind="tcp") as (transport, protocol, peer):
        transport.close()
        reset(peer)
        assert await protocol.lost is None


@on_loop
async def test_shut_down_behind_the_transports_back(loop):
    """The user shuts the socket's write side: the next write fails."""
    async with connected() as (transport, protocol, _):
        transport.pause_reading()
        transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
        transport.write(b"x")
        assert type(await protocol.lost) is BrokenPipeError


# -- the protocol --------------------------------------------------------------------


@pytest.mark.parametrize("place", ["data_received", "eof_received"])
@on_loop
async def test_a_callback_that_raises_ends_the_connection(loop, place):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        errors = record_errors(loop)
        error = ZeroDivisionError("in " + place)

        def fail(name):
            if name == place:
                raise error

        protocol.on = fail
        fill(transport)
        if place == "data_received":
            peer.send(b"data")
        else:
            peer.shutdown(socket.SHUT_WR)
        assert await protocol.lost is error
        assert errors.only() == {
            "message": f"Fatal error: protocol.{place}() call failed.",
            "exception": error,
            "transport": transport,
            "protocol": protocol,
        }
        assert protocol.names[-1] == "connection_lost"
        assert protocol.count("connection_lost") == 1


@pytest.mark.parametrize("kind", [OSError, ConnectionResetError])
@on_loop
async def test_an_os_error_out_of_data_received_is_not_reported(loop, kind):
    error = kind("from the program")
    async with connected() as (_, protocol, peer):

        def fail(name):
            if name == "data_received":
                raise error

        protocol.on = fail
        peer.send(b"data")
        assert await protocol.lost is error


@on_loop
async def test_cancelled_error_out_of_data_received(loop):
    async with connected() as (_, protocol, peer):
        errors = record_errors(loop)

        def fail(name):
            if name == "data_received":
                raise asyncio.CancelledError

        protocol.on = fail
        peer.send(b"data")
        assert type(await protocol.lost) is asyncio.CancelledError
        assert errors.messages == ["Fatal error: protocol.data_received() call failed."]


@on_loop
async def test_an_exception_raised_after_close_is_still_reported(loop):
    async with connected() as (transport, protocol, peer):
        errors = record_errors(loop)

        def fail(name):
            if name == "data_received":
                transport.close()
                raise ZeroDivisionError

        protocol.on = fail
        peer.send(b"data")
        assert await protocol.lost is None, "close() came first"
        assert errors.messages == ["Fatal error: protocol.data_received() call failed."]


@on_loop
async def test_connection_made_that_raises_is_reported_and_the_connection_lives(loop):
    errors = record_errors(loop)
    error = ZeroDivisionError("in connection_made")

    class Failing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise error

    async with connected(Failing) as (transport, protocol, peer):
        assert errors.only()["exception"] is error
        context = errors.only()
        assert re.match(
            r"Exception in callback .*\.connection_made\(",
            context["message"],
        )
        assert isinstance(context["handle"], asyncio.Handle)
        peer.send(b"data")
        assert await protocol.received(4) == b"data"
        transport.write(b"alive")
        assert pending(peer) == b"alive"


# Some release of 3.14 began to close the socket of a call that made no transport.
CLOSES_WITHOUT_TRANSPORT = "sock.close()" in inspect.getsource(
    asyncio.BaseEventLoop._create_connection_transport
)


@on_loop
async def test_a_protocol_factory_that_raises(loop):
    near, peer = socket.socketpair()

    def factory():
        raise ZeroDivisionError("in the factory")

    with near, peer:
        with pytest.raises(ZeroDivisionError, match="in the factory"):
            await loop.create_connection(factory, sock=near)
        kept = near.fileno() >= 0
    assert kept != CLOSES_WITHOUT_TRANSPORT, "whose is the socket of a failed call?"


@pytest.mark.parametrize("method", ["data_received", "eof_received", "connection_lost"])
@on_loop
async def test_a_protocol_without_the_method(loop, method):
    async with connected() as (_, protocol, peer):
        errors = record_errors(loop)

        def absent(self):
            raise AttributeError(method)

        broken = type("Broken", (Recorder,), {method: property(absent)})
        protocol.__class__ = broken
        if method == "data_received":
            peer.send(b"x")
        peer.close()
        if method == "connection_lost":
            await protocol.called("eof_received")
        else:
            assert type(await protocol.lost) is AttributeError
        await settle(loop)
        assert [type(exc) for exc in errors.exceptions] == [AttributeError]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["data_received", "eof_received", "connection_lost"])
def test_exceptions_that_end_the_program_leave_the_loop(loop, place, error):
    near, peer = socket.socketpair()
    with peer:

        async def start():
            return await loop.create_connection(Recorder, sock=near)

        transport, protocol = loop.run_until_complete(start())

        def fail(name):
            if name == place:
                raise error(place)

        protocol.on = fail
        if place == "data_received":
            peer.send(b"x")
        elif place == "eof_received":
            peer.shutdown(socket.SHUT_WR)
        else:
            transport.close()
        with pytest.raises(error, match=place):
            loop.run_forever()
        protocol.on = lambda name: None
        assert not loop.is_running()
        if place != "connection_lost":
            # The loop goes on where it was.
            assert not protocol.lost.done()
            transport.close()
            loop.run_until_complete(protocol.lost)
        loop.run_until_complete(asyncio.sleep(0))


# -- reported errors come with what they are about ------------------------------------


@on_loop
async def test_debug_mode_logs_read_errors_but_does_not_report_them(loop):
    loop.set_debug(True)
    async with connected(kind="tcp") as (_, protocol, peer):
        reset(peer)
        assert type(await protocol.lost) is ConnectionResetError


@on_loop
async def test_urgent_data_disturbs_nothing(loop):
    """Out-of-band data is not part of the stream unless asked for."""
    async with connected(kind="tcp") as (_, protocol, peer):
        peer.send(b"a")
        peer.send(b"!", socket.MSG_OOB)
        peer.send(b"b")
        assert await protocol.received(2) == b"ab"


@on_loop
async def test_a_lingering_socket_closes(loop):
    """SO_LINGER 0 on our side: abort() resets the connection."""
    near, peer = tcp_pair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with peer:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        transport.abort()
        assert await protocol.lost is None
        peer.settimeout(5)
        with pytest.raises(ConnectionResetError):
            peer.recv(1)


@on_loop
async def test_big_data_then_error_in_the_middle(loop):
    """Data after the failing callback is not delivered."""
    async with connected() as (_, protocol, peer):
        errors = record_errors(loop)

        def fail(name):
            if name == "data_received" and protocol.count("data_received") == 2:
                raise ZeroDivisionError

        protocol.on = fail
        peer.setblocking(False)
        sender = asyncio.create_task(loop.sock_sendall(peer, pattern(8 << 20)))
        assert type(await protocol.lost) is ZeroDivisionError
        await asyncio.wait([sender])
        assert isinstance(sender.exception(), GONE)
        assert protocol.count("data_received") == 2
        assert len(errors.messages) == 1
