"""Flow control of writing: water marks, pause_writing() and resume_writing().

Source: asyncio's documentation of WriteTransport and of "Flow Control Callbacks".
"""

import pytest
from streamkit import (
    PY,
    connected,
    fill,
    on_loop,
    oracle_bug,
    pattern,
    pending,
    read_all,
    record_errors,
    settle,
    until,
)


@on_loop
async def test_default_limits(loop):
    async with connected() as (transport, _, _):
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)


@pytest.mark.parametrize(
    "arguments, limits",
    [
        ({}, (16384, 65536)),
        ({"high": 1000}, (250, 1000)),
        ({"low": 1000}, (1000, 4000)),
        ({"high": 10, "low": 10}, (10, 10)),
        ({"high": 0}, (0, 0)),
        ({"high": 5, "low": 0}, (0, 5)),
        ({"low": 0}, (0, 0)),
        ({"high": 1 << 40}, (1 << 38, 1 << 40)),
    ],
)
@on_loop
async def test_set_limits(loop, arguments, limits):
    async with connected() as (transport, protocol, _):
        transport.set_write_buffer_limits(**arguments)
        assert transport.get_write_buffer_limits() == limits
        transport.set_write_buffer_limits(arguments.get("high"), arguments.get("low"))
        assert transport.get_write_buffer_limits() == limits
        assert protocol.names == ["connection_made"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"high": 1, "low": 2}, "high (1) must be >= low (2) must be >= 0"),
        ({"high": -8}, "high (-8) must be >= low (-2) must be >= 0"),
        ({"low": -1}, "high (-4) must be >= low (-1) must be >= 0"),
    ],
)
@on_loop
async def test_bad_limits_change_nothing(loop, arguments, message):
    async with connected() as (transport, _, _):
        with pytest.raises(ValueError) as info:
            transport.set_write_buffer_limits(**arguments)
        assert str(info.value) == message
        assert transport.get_write_buffer_limits() == (16384, 65536)


@on_loop
async def test_pause_writing_is_called_inside_write_above_the_high_mark(loop):
    async with connected(sndbuf=4096) as (transport, protocol, _):
        fill(transport, b"x" * 512)
        queued = transport.get_write_buffer_size()
        transport.set_write_buffer_limits(high=queued + 100, low=10)
        transport.write(b"x" * 100)
        assert protocol.count("pause_writing") == 0, "the mark itself is not above it"
        transport.write(b"x")
        assert protocol.names[-1] == "pause_writing"
        transport.write(b"x" * 100000)
        assert protocol.count("pause_writing") == 1
        assert protocol.count("resume_writing") == 0


@on_loop
async def test_resume_writing_comes_once_at_the_low_mark(loop):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        sizes = []

        def watch(name):
            if name == "resume_writing":
                sizes.append(transport.get_write_buffer_size())

        protocol.on = watch
        total = 1 << 20
        transport.write(pattern(total))
        assert protocol.names[-1] == "pause_writing"
        await read_all(loop, peer, total)
        await settle(loop)
        assert protocol.names == ["connection_made", "pause_writing", "resume_writing"]
        assert sizes[0] <= 16384


@on_loop
async def test_pause_and_resume_alternate(loop):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        for _ in range(5):
            transport.write(bytes(1 << 18))
            await read_all(loop, peer, 1 << 18)
            await until(lambda: protocol.names[-1] == "resume_writing")
        assert protocol.names[1:] == ["pause_writing", "resume_writing"] * 5


@on_loop
async def test_high_zero_pauses_on_any_queued_byte_and_resumes_when_empty(loop):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        transport.write(b"taken by the kernel")
        assert protocol.names == ["connection_made"]
        total = fill(transport)
        assert protocol.names == ["connection_made", "pause_writing"]
        sizes = []
        protocol.on = lambda name: sizes.append(transport.get_write_buffer_size())
        await read_all(loop, peer, total)
        await until(lambda: protocol.names[-1] == "resume_writing")
        assert sizes == [0]


@on_loop
async def test_lowering_the_limits_pauses_at_once(loop):
    async with connected(sndbuf=4096) as (transport, protocol, _):
        fill(transport, b"x" * 4096)
        assert protocol.count("pause_writing") == 0
        transport.set_write_buffer_limits(high=1)
        assert protocol.count("pause_writing") == 1
        transport.set_write_buffer_limits(high=2)
        assert protocol.count("pause_writing") == 1


def test_writelines_pauses_too(loop, loop_kind):
    oracle_bug(loop_kind, PY >= (3, 12), "writelines() forgets flow control")

    @on_loop
    async def body(loop):
        async with connected(sndbuf=4096) as (transport, protocol, peer):
            transport.writelines([bytes(1 << 16)] * 16)
            assert protocol.names[-1] == "pause_writing"
            await read_all(loop, peer, 1 << 20)
            await until(lambda: protocol.names[-1] == "resume_writing")

    body(loop=loop)


@on_loop
async def test_resume_writing_may_write_again(loop):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        left = [6]
        chunk = pattern(1 << 18)

        def again(name):
            if name == "resume_writing" and left[0]:
                left[0] -= 1
                transport.write(chunk)
                if not left[0]:
                    transport.write_eof()

        protocol.on = again
        transport.write(chunk)
        assert await read_all(loop, peer) == chunk * 7
        assert protocol.names[1:].count("pause_writing") == 7


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
@on_loop
async def test_a_failing_flow_control_callback_is_reported_and_survived(loop, name):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        errors = record_errors(loop)
        error = ZeroDivisionError("in " + name)

        def fail(called):
            if called == name:
                raise error

        protocol.on = fail
        transport.write(pattern(1 << 18))
        assert await read_all(loop, peer, 1 << 18) == pattern(1 << 18)
        await until(lambda: protocol.names[-1] == "resume_writing")
        assert errors.contexts == [
            {
                "message": f"protocol.{name}() failed",
                "exception": error,
                "transport": transport,
                "protocol": protocol,
            }
        ]
        transport.write(b"still alive")
        assert pending(peer) == b"still alive"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@on_loop
async def test_a_fatal_exception_in_pause_writing_leaves_write(loop, error):
    async with connected(sndbuf=4096) as (transport, protocol, _):

        def fail(called):
            if called == "pause_writing":
                raise error

        protocol.on = fail
        with pytest.raises(error):
            transport.write(bytes(1 << 20))


@on_loop
async def test_abort_while_paused_does_not_resume(loop):
    async with connected(sndbuf=4096) as (transport, protocol, _):
        transport.write(bytes(1 << 20))
        transport.abort()
        await protocol.lost
        assert protocol.names == ["connection_made", "pause_writing", "connection_lost"]


@on_loop
async def test_resume_writing_goes_to_the_protocol_of_the_moment(loop):
    async with connected(sndbuf=4096) as (transport, first, peer):
        transport.write(bytes(1 << 20))
        second = type(first)()
        transport.set_protocol(second)
        await read_all(loop, peer, 1 << 20)
        await until(lambda: second.names == ["resume_writing"])
        assert first.names == ["connection_made", "pause_writing"]


@on_loop
async def test_close_with_queued_data_resumes_while_it_drains(loop):
    async with connected(sndbuf=4096) as (transport, protocol, peer):
        transport.write(bytes(1 << 20))
        transport.close()
        assert len(await read_all(loop, peer)) == 1 << 20
        await protocol.lost
        assert protocol.names[1:] == [
            "pause_writing",
            "resume_writing",
            "connection_lost",
        ]
