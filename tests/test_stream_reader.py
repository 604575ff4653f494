"""asyncio.StreamReader behind a transport of pyloop: fed and read by C code.

Most of it can be said without knowing that: random programs compare the reader with
asyncio's own on asyncio's own loop. The rest is about when the C code has to keep out.
"""

import asyncio
import collections.abc
import contextlib
import gc
import inspect
import socket
import unittest.mock
import warnings
import weakref

import pytest
import support
from streamkit import PY, on_loop, settle, socket_pair, until

hypothesis = pytest.importorskip(
    "hypothesis", reason="the random programs are made by hypothesis"
)
st = hypothesis.strategies

READS = [
    ("readline",),
    ("readuntil",),
    ("readuntil", b"b"),
    ("readuntil", b"ab"),
    ("readuntil", b"a\nb"),
    ("readuntil", b""),
    ("readuntil", bytearray(b"\n")),
    ("readuntil", 7),
    ("read", 1),
    ("read", 5),
    ("read", 1000),
    ("read", 0),
    ("read", True),
    ("read", -1),
    ("read",),
    ("read", None),
    ("readexactly", 1),
    ("readexactly", 4),
    ("readexactly", 30),
    ("readexactly", 0),
    ("readexactly", -1),
    ("readexactly", 2**70),
    ("__anext__",),
]
if PY >= (3, 13):
    READS += [("readuntil", (b"\n", b"ab")), ("readuntil", ())]

STEPS = st.one_of(
    st.tuples(st.just("send"), st.text("ab\n", min_size=1, max_size=12)),
    st.tuples(st.just("send"), st.text("ab\n", min_size=1, max_size=12)),
    st.tuples(st.just("start"), st.sampled_from(READS)),
    st.tuples(st.just("start"), st.sampled_from(READS)),
    st.tuples(st.just("start"), st.sampled_from(READS)),
    st.tuples(st.just("let run")),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("feed"), st.text("ab\n", max_size=6)),
    st.tuples(st.sampled_from(["eof", "reset", "fail", "close"])),
)


def outcome(task):
    """What a finished task came to, comparable."""
    if task.cancelled():
        return "cancelled"
    exc = task.exception()
    if exc is None:
        return type(task.result()), task.result()
    known = [getattr(exc, name, None) for name in ("partial", "expected", "consumed")]
    return type(exc), str(exc), known


class Program:
    """One run of a list of steps on one loop; `trace` is what was seen."""

    def __init__(self, loop, limit):
        self.loop = loop
        self.limit = limit
        self.tasks = []
        self.trace = []
        self.ended = False

    async def run(self, steps):
        near, self.peer = socket.socketpair()
        self.reader, self.writer = await asyncio.open_connection(
            sock=near, limit=self.limit
        )
        try:
            for step, *arguments in steps:
                if not (self.ended and step in ("send", "eof", "reset")):
                    getattr(self, step.replace(" ", "_"))(*arguments)
                if step != "start":
                    await settle(self.loop, 4)
                self.look(step)
        finally:
            self.peer.close()
            self.writer.transport.abort()
            for task in self.tasks:
                task.cancel()
            await settle(self.loop, 3)
            self.look("end")
        return self.trace

    def look(self, step):
        done = [(i, outcome(t)) for i, t in enumerate(self.tasks) if t.done()]
        reader = self.reader
        self.trace.append(
            (
                step,
                done,
                bytes(reader._buffer),
                reader._waiter is None,
                reader._paused,
                reader.at_eof(),
                self.writer.transport.is_reading(),
            )
        )

    def send(self, text):
        self.peer.send(text.encode())

    def start(self, call):
        method, *arguments = call
        try:
            reading = getattr(self.reader, method)(*arguments)
        except TypeError as exc:
            self.trace.append(str(exc))
            return
        self.tasks.append(self.loop.create_task(reading))

    def let_run(self):
        pass

    def cancel(self):
        for task in self.tasks:
            if not task.done():
                task.cancel()
                break

    def feed(self, text):
        if not self.reader._eof:
            self.reader.feed_data(text.encode())

    def eof(self):
        self.ended = True
        self.peer.shutdown(socket.SHUT_WR)

    def reset(self):
        self.ended = True
        self.peer.close()

    def fail(self):
        self.reader.set_exception(ZeroDivisionError("set by hand"))

    def close(self):
        self.ended = True
        self.writer.close()


def trace_of(kind, steps, limit):
    loop = support.make_loop(kind)
    try:
        return support.run(loop, Program(loop, limit).run(steps), 20)
    finally:
        loop.close()


@pytest.mark.pyloop_only
@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
@hypothesis.given(
    steps=st.lists(STEPS, min_size=2, max_size=14),
    limit=st.sampled_from([1, 4, 9, 999]),
)
def test_random_programs(steps, limit):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # reads that are never begun
        assert trace_of("pyloop", steps, limit) == trace_of("asyncio", steps, limit)


# --- a connection -----------------------------------------------------------------


@contextlib.asynccontextmanager
async def connected(reader=None, protocol=asyncio.StreamReaderProtocol):
    """Yields (reader, transport, peer)."""
    loop = asyncio.get_running_loop()
    near, peer = socket_pair("unix")
    reader = reader or asyncio.StreamReader()
    transport, _ = await loop.create_connection(lambda: protocol(reader), sock=near)
    try:
        yield reader, transport, peer
    finally:
        peer.close()
        transport.abort()
        await settle(loop)


@contextlib.asynccontextmanager
async def adopted():
    """The same, after the first data."""
    async with connected() as (reader, transport, peer):
        peer.send(b"x")
        assert await reader.read(1) == b"x"
        yield reader, transport, peer


def is_c(reader):
    return not inspect.iscoroutinefunction(type(reader).read)


# --- what a reader is afterwards --------------------------------------------------


@on_loop
async def test_it_stays_what_it_was(loop):
    async with adopted() as (reader, transport, _):
        assert isinstance(reader, asyncio.StreamReader)
        assert type(reader).__name__ == "StreamReader"
        assert repr(reader) == f"<StreamReader transport={transport!r}>"
        assert vars(reader)["_transport"] is transport
        assert weakref.ref(reader)() is reader
        reader.mark = "a user's attribute"
        assert reader.mark == "a user's attribute"


@pytest.mark.pyloop_only
@on_loop
async def test_the_first_data_make_it_ours(loop):
    async with connected() as (reader, _, peer):
        assert type(reader) is asyncio.StreamReader
        first = loop.create_task(reader.readline())
        await settle(loop)
        peer.send(b"one\ntwo\n")
        assert await first == b"one\n"
        assert is_c(reader)
        assert await reader.readline() == b"two\n"


@on_loop
async def test_the_class_keeps_the_signatures(loop):
    async with adopted() as (reader, *_):
        for name in ("read", "readline", "readexactly", "readuntil"):
            expected = inspect.signature(getattr(asyncio.StreamReader(), name))
            assert inspect.signature(getattr(reader, name)) == expected


@on_loop
async def test_a_reader_that_is_collected(loop):
    """Data that nobody can read any more are dropped, as asyncio does."""
    near, peer = socket_pair("unix")
    with peer:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.create_connection(lambda: protocol, sock=near)
        peer.send(b"x")
        assert await reader.read(1) == b"x"
        alive = weakref.ref(reader)
        reader = protocol._transport = None
        gc.collect()
        assert alive() is None
        peer.send(b"y")
        await settle(loop)
        assert not transport.is_closing()
        transport.abort()
        await settle(loop)


@pytest.mark.pyloop_only
@on_loop
async def test_an_instance_of_the_class_made_by_hand(loop):
    """Nobody should; it works, on another loop as well."""
    async with adopted() as (ours, *_):
        kind = type(ours)
    reader = kind(limit=3)
    reader.feed_data(b"a\n")
    assert await reader.readline() == b"a\n"
    other = asyncio.SelectorEventLoop()
    try:
        reader = kind(loop=other)
        task = other.create_task(reader.readline())
        other.call_soon(reader.feed_data, b"b\n")
        done = await loop.run_in_executor(None, other.run_until_complete, task)
        assert done == b"b\n"
    finally:
        other.close()
    with pytest.raises(TypeError, match="nonsense"):
        kind(nonsense=1)


# --- when the C code keeps out ----------------------------------------------------


@pytest.mark.pyloop_only
@on_loop
async def test_subclasses_are_left_alone(loop):
    class Reader(asyncio.StreamReader):
        pass

    class Protocol(asyncio.StreamReaderProtocol):
        pass

    for arguments in ({"reader": Reader()}, {"protocol": Protocol}):
        async with connected(**arguments) as (reader, _, peer):
            before = type(reader)
            peer.send(b"a\n")
            assert await reader.readline() == b"a\n"
            assert type(reader) is before


PATCHED = [
    (asyncio.StreamReader, "feed_data"),
    (asyncio.StreamReader, "_wakeup_waiter"),
    (asyncio.StreamReaderProtocol, "data_received"),
]


@pytest.mark.parametrize("adopt", [False, True])
@pytest.mark.parametrize("cls, name", PATCHED)
@on_loop
async def test_a_function_of_the_class_is_replaced(loop, cls, name, adopt):
    original = getattr(cls, name)
    calls = []

    def loud(self, *args):
        calls.append(args)
        return original(self, *args)

    async with adopted() if adopt else connected() as (reader, _, peer):
        with unittest.mock.patch.object(cls, name, loud):
            peer.send(b"a\n")
            await until(lambda: reader._buffer, "the data")
            assert len(calls) == 1
            assert await reader.readline() == b"a\n"
        peer.send(b"b\n")
        assert await reader.readline() == b"b\n"
        assert len(calls) == 1


@pytest.mark.parametrize("name", ["read", "readline", "readexactly", "readuntil"])
@on_loop
async def test_a_reading_function_of_the_class_is_replaced(loop, name):
    """Also for readers that have been read from before."""
    original = getattr(asyncio.StreamReader, name)
    calls = []

    async def loud(self, *args):
        calls.append(args)
        return await original(self, *args)

    arguments = {"read": (2,), "readexactly": (2,)}.get(name, ())
    async with adopted() as (reader, _, peer):
        peer.send(b"a\nb\n")
        await until(lambda: reader._buffer, "the data")
        with unittest.mock.patch.object(asyncio.StreamReader, name, loud):
            assert await getattr(reader, name)(*arguments) == b"a\n"
            assert calls == [arguments]
        assert await getattr(reader, name)(*arguments) == b"b\n"
        assert calls == [arguments]


@on_loop
async def test_readline_calls_a_replaced_readuntil(loop):
    async with adopted() as (reader, _, peer):
        peer.send(b"a\nb\n")
        await until(lambda: reader._buffer, "the data")

        async def readuntil(separator):
            return b"replaced"

        reader.readuntil = readuntil
        assert await reader.readline() == b"replaced"
        del reader.readuntil
        assert await reader.readline() == b"a\n"

        async def readline():
            return b""

        reader.readline = readline
        assert [line async for line in reader] == []


@pytest.mark.parametrize("where", ["protocol", "reader"])
@on_loop
async def test_an_attribute_of_the_instance_is_replaced(loop, where):
    async with adopted() as (reader, transport, peer):
        protocol = transport.get_protocol()
        target = protocol if where == "protocol" else reader
        name = "data_received" if where == "protocol" else "feed_data"
        setattr(target, name, mock := unittest.mock.Mock(wraps=getattr(target, name)))
        peer.send(b"a\n")
        assert await reader.readline() == b"a\n"
        mock.assert_called_once_with(b"a\n")


@on_loop
async def test_a_protocol_that_forgot_its_reader(loop):
    async with adopted() as (reader, transport, peer):
        transport.get_protocol()._stream_reader_wr = None
        peer.send(b"a\n")
        await settle(loop)
        assert not reader._buffer


@on_loop
async def test_a_switch_of_protocols(loop):
    """set_protocol() to a plain protocol and back."""
    got = []

    class Plain(asyncio.Protocol):
        def data_received(self, data):
            got.append(data)

    async with adopted() as (reader, transport, peer):
        streams = transport.get_protocol()
        transport.set_protocol(Plain())
        peer.send(b"plain")
        await until(lambda: got, "the data")
        transport.set_protocol(streams)
        peer.send(b"streams\n")
        assert await reader.readline() == b"streams\n"
        assert got == [b"plain"]


@pytest.mark.parametrize(
    "name, value",
    [("_buffer", b"bytes"), ("_limit", "text"), ("_limit", 2.5), ("_loop", None)],
)
@on_loop
async def test_attributes_set_to_nonsense(loop, name, value):
    """What asyncio raises, whatever it is; never a crash."""
    async with adopted() as (reader, *_):
        kept = getattr(reader, name)
        setattr(reader, name, value)
        task = loop.create_task(reader.readexactly(3))
        with contextlib.suppress(Exception):
            reader.feed_data(b"abcdef")
        await settle(loop)
        task.cancel()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await task
        setattr(reader, name, kept)


@pytest.mark.parametrize(
    "name",
    "_buffer _limit _loop _eof _waiter _exception _paused _transport".split(),
)
@on_loop
async def test_attributes_deleted(loop, name):
    async with adopted() as (reader, transport, peer):
        kept = getattr(reader, name)
        delattr(reader, name)
        with support.ErrorRecorder(loop):
            peer.send(b"abc\n")
            await settle(loop)
            tasks = [
                loop.create_task(reader.readline()),
                loop.create_task(reader.read(1)),
            ]
            await settle(loop)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            setattr(reader, name, kept)
            transport.abort()
            await settle(loop)


@on_loop
async def test_a_buffer_that_somebody_looks_at(loop):
    """A memoryview of it stops feeding with BufferError, and then the connection."""
    async with adopted() as (reader, transport, peer):
        with support.ErrorRecorder(loop) as errors:
            with memoryview(reader._buffer):
                peer.send(b"abc\n")
                await until(transport.is_closing, "the end")
            await settle(loop)
            assert [type(exc) for exc in errors.exceptions] == [BufferError]


# --- flow control -----------------------------------------------------------------


@on_loop
async def test_pausing_and_resuming(loop):
    near, peer = socket_pair("unix")
    reader, writer = await asyncio.open_connection(sock=near, limit=4)
    with peer:
        for method, arguments, taken in (
            (reader.read, (6,), b"012345"),
            (reader.readexactly, (6,), b"012345"),
            (reader.readuntil, (b"5",), None),
        ):
            peer.send(b"0123456789")
            await until(lambda: not writer.transport.is_reading(), "the pause")
            if taken is None:
                with pytest.raises(asyncio.LimitOverrunError):
                    await method(*arguments)
                taken = await reader.read(6)
            else:
                assert await method(*arguments) == taken
            assert writer.transport.is_reading()
            assert await reader.readexactly(4) == b"6789"
        # more than twice the limit is waited for: the wait resumes
        peer.send(b"0123456789")
        await until(lambda: not writer.transport.is_reading(), "the pause")
        task = loop.create_task(reader.readexactly(15))
        await settle(loop)
        assert writer.transport.is_reading()
        peer.send(b"01234")
        assert await task == b"012345678901234"
        writer.close()
        await writer.wait_closed()


@on_loop
async def test_a_transport_that_cannot_pause(loop):
    async with adopted() as (reader, transport, peer):
        stand_in = unittest.mock.Mock()
        stand_in.pause_reading.side_effect = NotImplementedError
        reader._transport = stand_in
        reader._limit = 1
        peer.send(b"abc")
        await until(lambda: reader._buffer, "the data")
        assert reader._transport is None
        assert not reader._paused
        stand_in.pause_reading.side_effect = ZeroDivisionError
        reader._transport = stand_in
        with support.ErrorRecorder(loop) as errors:
            peer.send(b"abc")
            await until(transport.is_closing, "the end")
            await settle(loop)
            assert [type(exc) for exc in errors.exceptions] == [ZeroDivisionError]


# --- the coroutines ---------------------------------------------------------------


@on_loop
async def test_what_is_returned_is_a_coroutine(loop):
    async with adopted() as (reader, _, peer):
        reading = reader.readline()
        assert asyncio.iscoroutine(reading)
        assert isinstance(reading, collections.abc.Coroutine)
        assert reading.__name__ == "readline"
        assert reading.__qualname__ == "StreamReader.readline"
        with pytest.raises(TypeError, match="non-None"):
            reading.send(1)
        reading.close()
        with pytest.raises(RuntimeError, match="already awaited"):
            await reading
        with pytest.warns(RuntimeWarning, match="'StreamReader.read' was never"):
            reader.read(10)
            gc.collect()
        peer.send(b"ab\n")
        assert await asyncio.wait_for(reader.read(1), 5) == b"a"
        assert await asyncio.gather(reader.read(1), reader.read(1)) == [b"b", b"\n"]


@on_loop
async def test_lazy_until_awaited(loop):
    """A call alone reads nothing."""
    async with adopted() as (reader, _, peer):
        later = reader.read(3)
        peer.send(b"abcdef")
        await until(lambda: reader._buffer, "the data")
        assert await reader.read(3) == b"abc"
        assert await later == b"def"


@pytest.mark.parametrize("ending", ["close", "throw", "collect", "cancel"])
@on_loop
async def test_ended_while_it_waits(loop, ending):
    """The reader can be read from again, and nothing is lost."""
    async with adopted() as (reader, _, peer):
        reading = reader.readexactly(3)
        if ending == "cancel":
            task = loop.create_task(reading)
            del reading
            await settle(loop)
            assert reader._waiter is not None
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            assert reading.send(None) is reader._waiter
            if ending == "throw":
                with pytest.raises(ZeroDivisionError):
                    reading.throw(ZeroDivisionError())
            if ending == "close":
                reading.close()
            del reading
            gc.collect()
        assert reader._waiter is None
        peer.send(b"abc")
        assert await reader.readexactly(3) == b"abc"


@on_loop
async def test_woken_and_cancelled_at_once(loop):
    async with adopted() as (reader, _, peer):
        task = loop.create_task(reader.readline())
        await settle(loop)
        reader.feed_data(b"line\n")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await reader.readline() == b"line\n"


@on_loop
async def test_the_waiter_is_cancelled_by_hand(loop):
    async with adopted() as (reader, _, peer):
        task = loop.create_task(reader.readline())
        await settle(loop)
        reader._waiter.cancel()
        peer.send(b"line\n")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await reader.readline() == b"line\n"


@on_loop
async def test_many_lines_of_all_sizes(loop):
    lines = [b"x" * (n * 37 % 301) + b"\n" for n in range(2000)]
    async with adopted() as (reader, _, peer):
        peer.setblocking(False)

        async def send():
            for i in range(0, len(lines), 7):
                await loop.sock_sendall(peer, b"".join(lines[i : i + 7]))

        sending = loop.create_task(send())
        for line in lines:
            assert await reader.readline() == line
        await sending
