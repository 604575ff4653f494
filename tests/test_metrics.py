"""loop.metrics(): each counter moves with what it counts, and with nothing else."""

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import math
import os
import pickle
import resource
import socket
import sys
import threading
import time

import pytest
import support

pytestmark = pytest.mark.pyloop_only

# What an iteration moves whatever it runs.
RUNNING = {"ticks", "polls", "callbacks", "busy_seconds", "idle_seconds", "lag"}
RUNNING |= {"ready_max", "slowest"}


def moved(before, after):
    """The fields that differ, without those that any iteration moves."""
    return {
        field.name
        for field in dataclasses.fields(before)
        if getattr(before, field.name) != getattr(after, field.name)
    } - RUNNING


def spin(seconds):
    """Be what is slow by this name."""
    support.busy_wait(seconds)


def spin_long():
    spin(0.02)


def slow(metrics, name):
    """The entry of the slowest callbacks whose qualified name ends so, or None."""
    return next((s for s in metrics.slowest if s.name.endswith(name)), None)


# --- the reading ----------------------------------------------------------------


def test_a_fresh_loop(loop):
    metrics = loop.metrics()
    numbers = dataclasses.asdict(metrics)
    assert numbers.pop("slowest") == ()
    assert set(numbers.pop("lag").values()) == {0.0}
    assert set(numbers.values()) == {0}
    assert metrics.utilisation == 0.0


def test_it_is_frozen_plain_data(loop):
    loop.call_soon(spin_long)
    support.run_once(loop)
    metrics = loop.metrics()
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.ticks = 1
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(metrics, protocol)) == metrics
    as_dict = dataclasses.asdict(metrics)
    assert as_dict["slowest"][0]["name"] == "spin_long"
    assert as_dict["lag"]["max"] == metrics.lag.max


def test_every_field_says_its_meaning():
    from pyloop import metrics

    source = inspect.getsource(metrics)
    for cls in (metrics.Lag, metrics.SlowCallback, metrics.Metrics):
        for field in dataclasses.fields(cls):
            assert f'    {field.name}: {field.type}\n    """' in source


def test_a_closed_loop_keeps_its_counters(loop):
    loop.call_soon(spin_long)
    support.run_once(loop)
    loop.call_later(3600, print)
    before = loop.metrics()
    loop.close()
    after = loop.metrics()
    assert moved(before, after) == {"timers"}
    assert after.callbacks == before.callbacks
    assert after.busy_seconds == before.busy_seconds
    assert slow(after, "spin_long").seconds == pytest.approx(
        slow(before, "spin_long").seconds, rel=0.01
    )


def test_from_another_thread_while_it_waits_and_while_it_works(loop):
    seen = {}
    working = threading.Event()
    go_on = threading.Event()

    def block():
        working.set()
        assert go_on.wait(support.PATIENCE)

    def watch():
        while loop.metrics().idle_seconds == 0.0:
            time.sleep(0)  # it has not come to wait yet
        seen["waiting"] = loop.metrics()
        spin(0.01)
        seen["waited"] = loop.metrics()
        loop.call_soon_threadsafe(block)
        assert working.wait(support.PATIENCE)
        seen["working"] = loop.metrics()
        spin(0.01)
        seen["worked"] = loop.metrics()
        go_on.set()
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=watch)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    # Of waits and callbacks that have not ended, too.
    assert seen["waited"].idle_seconds - seen["waiting"].idle_seconds >= 0.0099
    assert seen["worked"].busy_seconds - seen["working"].busy_seconds >= 0.0099
    assert seen["worked"].idle_seconds == seen["working"].idle_seconds
    assert seen["worked"].lag.max >= 0.0099


# --- time --------------------------------------------------------------------------


def test_busy_and_idle_are_the_time_of_the_runs(loop_kind):
    started = time.monotonic()
    loop = support.make_loop(loop_kind)
    readings = [loop.metrics()]

    async def main():
        for _ in range(5):
            spin(0.002)
            readings.append(loop.metrics())
            await asyncio.sleep(0.002)
            readings.append(loop.metrics())

    try:
        loop.run_until_complete(main())
        readings.append(loop.metrics())
        wall = time.monotonic() - started
        last = readings[-1]
        assert 0.0099 <= last.busy_seconds
        assert 0.0099 <= last.idle_seconds
        assert last.busy_seconds + last.idle_seconds <= wall
        assert 0 < last.utilisation < 1
        for before, after in zip(readings, readings[1:], strict=False):
            assert before.busy_seconds <= after.busy_seconds
            assert before.idle_seconds <= after.idle_seconds
            assert before.callbacks <= after.callbacks
        spin(0.002)  # between runs: neither
        assert loop.metrics().busy_seconds == last.busy_seconds
        assert loop.metrics().idle_seconds == last.idle_seconds
        assert loop.metrics().utilisation_since(last) == 0.0
    finally:
        loop.close()


def test_utilisation_since(loop):
    loop.run_until_complete(asyncio.sleep(0.01))
    before = loop.metrics()
    loop.call_soon(spin, 0.01)
    support.run_once(loop)
    after = loop.metrics()
    assert after.utilisation_since(before) == 1.0  # nothing to wait for
    assert before.utilisation < after.utilisation < 1.0


def test_lag(loop):
    async def main():
        await asyncio.sleep(0.01)
        for _ in range(3):
            spin_long()
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    lag = loop.metrics().lag
    assert 0 <= lag.p50 <= lag.p90 <= lag.p99 <= lag.p999 <= lag.max
    assert lag.max >= 0.0199
    assert lag.p999 >= 0.015


def test_lag_counts_arrivals():
    """The arithmetic: of a wait of w seconds' rest at random moments of its time."""
    from pyloop.metrics import _lag

    half = _lag([(1.0, 5)], 0.0, 1.0, 10.0)  # idle for half of the time
    assert half.p50 == 0.0
    assert half.p90 == pytest.approx(0.8)  # a tenth comes in the first fifth of one
    assert half.p99 == pytest.approx(0.98)
    assert half.max == 1.0
    mixed = _lag([(0.001, 1000), (1.0, 1)], 0.0, 1.0, 2.0)
    assert mixed.p50 == pytest.approx(0.001, abs=0.001)
    assert mixed.p90 == pytest.approx(0.8)
    assert _lag([], 0.0, 0.0, 0.0).p999 == 0.0
    assert _lag([], 2.0, 0.0, 0.0).max == 2.0


# --- callbacks ------------------------------------------------------------------------


def test_ticks_polls_and_callbacks(loop):
    before = loop.metrics()
    for _ in range(10):
        loop.call_soon(int)
    loop.call_soon(int).cancel()
    assert loop.metrics().ready == 11
    support.run_once(loop)
    after = loop.metrics()
    assert after.ticks - before.ticks == 1
    assert after.callbacks - before.callbacks == 12  # and stop()
    assert after.polls - before.polls == 1
    assert after.ready_max == 12
    assert after.ready == 0
    assert moved(before, after) == set()


def test_an_iteration_that_finds_nothing(loop):
    before = loop.metrics()
    loop._write_to_self()
    loop._run_once()
    after = loop.metrics()
    assert (after.ticks, after.polls, after.callbacks) == (1, 1, 0)
    assert moved(before, after) == {"wakeups"}


def test_timers(loop):
    handles = [loop.call_later(3600, print) for _ in range(3)]
    assert loop.metrics().timers == 3
    handles[0].cancel()
    assert loop.metrics().timers == 2
    for handle in handles:
        handle.cancel()


class Spinner:
    def method(self):
        spin(0.003)

    def __call__(self):
        spin(0.003)


async def spinning():
    spin(0.003)


@pytest.mark.parametrize(
    "schedule, name",
    [
        (lambda loop: loop.call_soon(spin_long), "spin_long"),
        (lambda loop: loop.call_later(0, spin_long), "spin_long"),
        (lambda loop: loop.call_soon(functools.partial(spin, 0.003)), "spin"),
        (lambda loop: loop.call_soon(Spinner().method), "method"),
        (lambda loop: loop.call_soon(Spinner()), "test_metrics.Spinner"),
        (lambda loop: loop.call_soon(time.sleep, 0.003), "sleep"),
        (lambda loop: loop.create_task(spinning()), "spinning"),
        (lambda loop: loop.call_soon(asyncio.ensure_future, spinning()), "spinning"),
    ],
)
def test_the_slowest_callbacks(loop, schedule, name):
    kept = schedule(loop)
    support.spin(loop)
    entry = slow(loop.metrics(), name)
    assert entry is not None
    assert entry.seconds >= 0.00299
    if name != "sleep":  # made in C
        assert os.path.basename(__file__) in entry.where
    del kept


def test_the_slowest_are_few_and_the_longest_run_of_each(loop):
    scope = {"spin": spin}
    for number in range(12):
        exec(f"def spin_{number}(): spin({0.0005 * (number + 1)})", scope)
        loop.call_soon(scope[f"spin_{number}"])
        support.spin(loop, 2)
    loop.call_soon(spin, 0.001)
    loop.call_soon(spin, 0.009)
    loop.call_soon(spin, 0.002)
    support.spin(loop, 2)
    slowest = loop.metrics().slowest
    assert len(slowest) == 8
    assert [s.seconds for s in slowest] == sorted(s.seconds for s in slowest)[::-1]
    assert len({s.name for s in slowest}) == 8
    assert slow(loop.metrics(), "spin").seconds >= 0.00899


def test_one_that_raises_is_named_as_well(loop, asyncio_log):
    def fail():
        spin(0.003)
        raise ValueError

    def end():
        spin(0.003)
        raise SystemExit

    loop.call_soon(fail)
    support.spin(loop)
    loop.call_soon(end)
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert slow(loop.metrics(), "fail") is not None
    assert slow(loop.metrics(), "end") is not None
    assert len(asyncio_log.take()) == 1


def test_a_slow_protocol_is_named_by_its_class(loop):
    class Slow(asyncio.Protocol):
        def data_received(self, data):
            spin(0.003)
            self.lost = loop.create_future()
            transport.close()

        def connection_lost(self, exc):
            self.lost.set_result(None)

    with support.socket_pair() as (left, right):
        transport, protocol = loop.run_until_complete(
            loop.create_connection(Slow, sock=left)
        )
        right.send(b"data")
        support.run_until(loop, lambda: hasattr(protocol, "lost"))
        loop.run_until_complete(protocol.lost)
    entry = slow(loop.metrics(), "<locals>.Slow")
    assert entry.seconds >= 0.00299
    assert entry.where.startswith(__file__)


def test_naming_what_is_slow_leaves_no_strings(loop):
    """The interpreter's cache of types' attributes keeps each that it is asked for."""
    loop.run_until_complete(spinning())
    before = sys.getallocatedblocks()
    for _ in range(60):
        loop.run_until_complete(spinning())
    assert sys.getallocatedblocks() - before < 50


def test_what_names_keep_alive_goes_with_the_loop(loop_kind):
    """A class is what tells its instances' callbacks apart: it may know the loop."""
    loop = support.make_loop(loop_kind)

    class Knows(Spinner):
        known = loop

    loop.call_soon(Knows())
    support.spin(loop)
    assert slow(loop.metrics(), "Knows") is not None
    loop.close()  # and the fixture looks for what is left


# --- descriptors, bytes, messages --------------------------------------------------


def test_a_watched_descriptor(loop):
    before = loop.metrics()
    with support.socket_pair() as (left, _):
        loop.add_reader(left, print)
        assert moved(before, loop.metrics()) == {"descriptors"}
        assert loop.metrics().descriptors == 1
        loop.remove_reader(left)
    assert loop.metrics() == before


def test_a_transport(loop):
    async def main():
        with support.socket_pair() as (left, right):
            before = loop.metrics()
            reader, writer = await asyncio.open_connection(sock=left)
            opened = loop.metrics()
            assert moved(before, opened) == {"transports", "descriptors"}
            assert (opened.transports, opened.descriptors) == (1, 1)

            writer.write(b"x" * 10)
            written = loop.metrics()
            assert moved(opened, written) == {"bytes_out", "messages_out"}
            assert (written.bytes_out, written.messages_out) == (10, 1)

            right.send(b"y" * 7)
            await reader.readexactly(7)
            received = loop.metrics()
            assert moved(written, received) == {"bytes_in", "messages_in"}
            assert (received.bytes_in, received.messages_in) == (7, 1)

            writer.close()
            await writer.wait_closed()
            assert moved(received, loop.metrics()) == {"transports", "descriptors"}
            assert loop.metrics().transports == 0

    support.run(loop, main())


def test_what_waits_for_the_peer_is_counted_when_it_goes(loop):
    async def main():
        with support.socket_pair() as (left, right):
            _, writer = await asyncio.open_connection(sock=left)
            size = 4 << 20
            writer.writelines([b"x" * size, b"y" * size])
            first = loop.metrics().bytes_out
            assert 0 < first < 2 * size
            while (left_over := writer.transport.get_write_buffer_size()) > 0:
                assert loop.metrics().bytes_out == 2 * size - left_over
                await loop.sock_recv(right, 1 << 20)
            assert loop.metrics().bytes_out == 2 * size
            writer.transport.abort()
            await asyncio.sleep(0)

    support.run(loop, main())


def test_held_writes_are_counted(loop):
    """Those that wait for the end of their batch, whoever sends them."""

    async def main():
        with support.socket_pair() as (left, _):
            _, writer = await asyncio.open_connection(sock=left)
            for _ in range(200):
                writer.write(b"head")
                writer.write(b"body")
                await asyncio.sleep(0)
            assert loop.metrics().bytes_out == 200 * 8
            writer.transport.abort()
            await asyncio.sleep(0)

    support.run(loop, main())


def test_pipes(loop):
    async def main():
        with support.pipe_pair() as (read_end, write_end):
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            reading, _ = await loop.connect_read_pipe(
                lambda: protocol, open(os.dup(read_end), "rb", 0)
            )
            writing, _ = await loop.connect_write_pipe(
                asyncio.Protocol, open(os.dup(write_end), "wb", 0)
            )
            before = loop.metrics()
            assert before.transports == 2
            writing.write(b"x" * 5)
            await reader.readexactly(5)
            after = loop.metrics()
            assert (after.bytes_in, after.bytes_out) == (5, 5)
            assert (after.messages_in, after.messages_out) == (1, 1)
            writing.close()
            reading.close()
            while loop.metrics().transports > 0:
                await asyncio.sleep(0)

    support.run(loop, main())


def test_datagrams(loop):
    async def main():
        received = asyncio.Queue()

        class Receiver(asyncio.DatagramProtocol):
            def datagram_received(self, data, address):
                received.put_nowait(data)

        there, _ = await loop.create_datagram_endpoint(
            Receiver, local_addr=("127.0.0.1", 0)
        )
        here, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=there.get_extra_info("sockname")
        )
        assert loop.metrics().transports == 2
        for _ in range(3):
            here.sendto(b"x" * 9)
        for _ in range(3):
            await received.get()
        metrics = loop.metrics()
        assert (metrics.messages_in, metrics.messages_out) == (3, 3)
        assert (metrics.bytes_in, metrics.bytes_out) == (27, 27)
        here.close()
        there.close()
        while loop.metrics().transports > 0:
            await asyncio.sleep(0)

    support.run(loop, main())


def test_sock_calls(loop):
    async def main():
        with support.socket_pair() as (left, right):
            await loop.sock_sendall(left, b"x" * 10)
            assert await loop.sock_recv(right, 4) == b"xxxx"
            assert await loop.sock_recv_into(right, bytearray(100)) == 6
            metrics = loop.metrics()
            assert (metrics.bytes_in, metrics.bytes_out) == (10, 10)
            assert (metrics.messages_in, metrics.messages_out) == (2, 1)
            left.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(right, 4) == b""  # its end is no message
            assert loop.metrics().messages_in == 2

    support.run(loop, main())


# --- threads, servers, forks ---------------------------------------------------------


def test_calls_from_threads_wake_once_per_batch(loop):
    def call(times):
        for _ in range(times):
            loop.call_soon_threadsafe(int)

    async def main():
        before = loop.metrics()
        thread = threading.Thread(target=call, args=(5,))
        thread.start()
        thread.join()
        after = loop.metrics()
        assert moved(before, after) == {"threadsafe_calls", "wakeups", "ready"}
        assert after.threadsafe_calls == 5
        assert after.wakeups == 1
        assert after.ready - before.ready == 5

    support.run(loop, main())
    calls = loop.metrics().threadsafe_calls
    call(2)  # while it does not run, from the thread itself: into the ready queue
    assert loop.metrics().threadsafe_calls == calls
    assert loop.metrics().ready == 2


def test_the_default_executor(loop):
    import concurrent.futures

    release = threading.Event()
    release_all = functools.partial(release.wait, support.PATIENCE)

    async def main():
        executor = concurrent.futures.ThreadPoolExecutor(1)
        loop.set_default_executor(executor)
        jobs = [loop.run_in_executor(None, release_all) for _ in range(3)]
        while loop.metrics().executor_running == 0:
            await asyncio.sleep(0)
        metrics = loop.metrics()
        assert metrics.executor_jobs == 3
        assert metrics.executor_running == 1
        assert metrics.executor_queue == 2
        spin(0.01)
        release.set()
        await asyncio.gather(*jobs)
        metrics = loop.metrics()
        assert metrics.executor_queue == 0
        assert metrics.executor_jobs == 3
        assert metrics.executor_wait_max_seconds >= 0.01
        assert metrics.executor_wait_seconds >= 0.02
        assert metrics.executor_wait_seconds >= metrics.executor_wait_max_seconds

    support.run(loop, main())


def test_other_executors_are_given_what_they_know(loop):
    import concurrent.futures

    given = []

    class Own(concurrent.futures.ThreadPoolExecutor):
        def submit(self, function, *args):
            given.append(function)
            return super().submit(function, *args)

    async def main():
        with Own(1) as executor:
            await loop.run_in_executor(executor, release)
            loop.set_default_executor(executor)
            await loop.run_in_executor(None, release)

    release = threading.Event().set
    support.run(loop, main())
    assert given == [release, release]
    assert loop.metrics().executor_jobs == 0
    assert loop.metrics().executor_queue == 0


def test_a_job_that_fails_has_ended(loop):
    async def main():
        with pytest.raises(ZeroDivisionError) as caught:
            await loop.run_in_executor(None, divmod, 1, 0)
        assert len(caught.traceback) < 6
        with pytest.raises(TypeError, match="'int' object is not callable"):
            await loop.run_in_executor(None, 1)

    support.run(loop, main())
    assert loop.metrics().executor_jobs == 2
    assert loop.metrics().executor_running == 0


@contextlib.contextmanager
def no_more_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_pauses_of_accepting(loop):
    reports = []
    loop.set_exception_handler(lambda _, context: reports.append(context["message"]))

    async def main():
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        with socket.socket() as client:
            client.setblocking(False)
            before = loop.metrics()
            assert before.transports == 0
            assert before.descriptors == 1
            with no_more_descriptors():
                client.connect_ex(server.sockets[0].getsockname())
                while not reports:
                    await asyncio.sleep(0)
            assert loop.metrics().accept_pauses == 1
        server.close()
        await server.wait_closed()

    support.run(loop, main())


@pytest.mark.filterwarnings("ignore:This process")  # a library's thread is no concern
def test_a_fork_begins_at_zero(loop):
    loop.call_soon(spin_long)
    support.spin(loop)
    before = loop.metrics()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            fresh = loop.metrics()
            loop.call_soon(int)
            support.run_once(loop)
            now = loop.metrics()
            good = fresh.callbacks == fresh.busy_seconds == fresh.lag.max == 0
            good = good and fresh.slowest == () and now.callbacks == 2
            # On a busy machine anything may be slow, but for what the parent called.
            names = [slow.name for slow in now.slowest]
            status = 0 if good and "spin_long" not in names else 1
        os._exit(status)
    os.close(writer)
    os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert loop.metrics().callbacks == before.callbacks


def test_loops_of_many_threads_are_read_by_all(loop_kind):
    """Every reading is whole, whoever reads, and whatever the loop does just then."""
    loops = []
    made = threading.Barrier(3)

    def work():
        loop = support.make_loop(loop_kind)
        loops.append(loop)
        made.wait()

        async def main():
            for turn in range(200):
                await asyncio.sleep(0 if turn % 4 else 0.0001)
                await loop.run_in_executor(None, int)
                for other in loops:
                    metrics = other.metrics()
                    assert metrics.callbacks >= metrics.ticks
                    assert math.isfinite(metrics.busy_seconds)

        try:
            loop.run_until_complete(main())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            made.wait()
            loop.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    made.wait()
    made.wait()
    for thread in threads:
        thread.join()
    assert [loop.metrics().executor_jobs for loop in loops] == [200, 200]
