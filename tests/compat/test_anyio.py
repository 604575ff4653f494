"""anyio on the loop under test: by backend_options, and by its pytest plugin."""

import asyncio
import os
import signal
import socket
import ssl

import pytest
import support
from realkit import factory, factory_path, need

anyio, from_thread, to_thread, tls = need(
    "anyio", "anyio.from_thread", "anyio.to_thread", "anyio.streams.tls"
)


@pytest.fixture
def run(loop_kind):
    """Run a coroutine function to its end on a new loop of the kind under test."""

    def run(function, *args):
        async def limited():
            assert type(asyncio.get_running_loop()) is support.loop_class(loop_kind)
            with anyio.fail_after(support.PATIENCE):
                return await function(*args)

        return anyio.run(limited, backend_options={"loop_factory": factory(loop_kind)})

    return run


def test_task_groups_and_cancel_scopes(run):
    async def main():
        seen = []

        async def worker(number):
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.001)
                    seen.append(number)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(worker, number)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert sorted(seen) == list(range(10))
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.01):
                await anyio.sleep_forever()

    run(main)


def test_task_status_and_exception_group(run):
    async def main():
        async def service(*, task_status):
            task_status.started("ready")
            await anyio.sleep(0.001)
            raise ValueError("over")

        with pytest.raises(Exception) as caught:
            async with anyio.create_task_group() as group:
                assert await group.start(service) == "ready"
        (only,) = caught.value.exceptions
        assert isinstance(only, ValueError)

    run(main)


def test_memory_streams(run):
    async def main():
        send, receive = anyio.create_memory_object_stream(3)
        total = 0

        async def produce(stream):
            async with stream:
                for number in range(500):
                    await stream.send(number)

        async with anyio.create_task_group() as group, receive:
            for _ in range(4):
                group.start_soon(produce, send.clone())
            send.close()
            async for number in receive:
                total += number
        assert total == 4 * sum(range(500))

    run(main)


def test_threads(run):
    async def main():
        def work(number):
            from_thread.run(anyio.sleep, 0)
            return from_thread.run_sync(lambda: number + 1)

        results = {}

        async def one(number):
            results[number] = await to_thread.run_sync(work, number)

        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(one, number)
        assert results == {number: number + 1 for number in range(60)}

    run(main)


def test_blocking_portal(loop_kind):
    """A loop in a thread that ordinary code calls into."""
    options = {"loop_factory": factory(loop_kind)}

    async def name(number):
        await anyio.sleep(0.001)
        return type(asyncio.get_running_loop()), number

    with from_thread.start_blocking_portal(backend_options=options) as portal:
        assert portal.call(name, 1) == (support.loop_class(loop_kind), 1)
        futures = [portal.start_task_soon(name, number) for number in range(20)]
        assert [future.result()[1] for future in futures] == list(range(20))


def test_tcp(run):
    data = os.urandom(2_000_000)

    async def main():
        async def echo(stream):
            async with stream:
                async for chunk in stream:
                    await stream.send(chunk)

        async def client(port):
            async with await anyio.connect_tcp("localhost", port) as stream:
                async with anyio.create_task_group() as group:
                    group.start_soon(send, stream)
                    received = b""
                    while len(received) < len(data):
                        received += await stream.receive()
                assert received == data

        async def send(stream):
            await stream.send(data)

        async with (
            await anyio.create_tcp_listener(local_host="localhost") as listener,
            anyio.create_task_group() as group,
        ):
            group.start_soon(listener.serve, echo)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with anyio.create_task_group() as clients:
                for _ in range(5):
                    clients.start_soon(client, port)
            group.cancel_scope.cancel()

    run(main)


def test_ends_of_a_tcp_stream(run):
    async def main():
        async def handler(stream):
            async with stream:
                request = b""
                async for chunk in stream:  # until the client's end of file
                    request += chunk
                await stream.send(request.upper())

        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as group,
        ):
            group.start_soon(listener.serve, handler)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"half ")
                await stream.send(b"closed")
                await stream.send_eof()
                assert await stream.receive() == b"HALF CLOSED"
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
            group.cancel_scope.cancel()

    run(main)


def test_tls(run, certificates):
    data = os.urandom(300_000)

    async def main():
        async def echo(stream):
            async with stream:
                async for chunk in stream:
                    await stream.send(chunk)

        plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
        listener = tls.TLSListener(plain, certificates.server_context())
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            port = plain.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.connect_tcp(
                "127.0.0.1",
                port,
                tls_hostname="localhost",
                ssl_context=certificates.client_context(),
            ) as stream:
                assert isinstance(
                    stream.extra(tls.TLSAttribute.ssl_object), ssl.SSLObject
                )
                for start in range(0, len(data), 10_000):
                    block = data[start : start + 10_000]
                    await stream.send(block)
                    received = b""
                    while len(received) < len(block):
                        received += await stream.receive()
                    assert received == block
            group.cancel_scope.cancel()

    run(main)


def test_unix_sockets_and_their_descriptors(run, tmp_path):
    """anyio's Unix streams are its own, on sock_* and add_reader."""
    path = tmp_path / "socket"

    async def main():
        async def handler(stream):
            async with stream:
                received = await stream.receive()
                left, right = socket.socketpair()
                with left, right:
                    right.sendall(received)
                    await stream.send_fds(b"fd", [left.fileno()])

        async with (
            await anyio.create_unix_listener(path) as listener,
            anyio.create_task_group() as group,
        ):
            group.start_soon(listener.serve, handler)
            async with await anyio.connect_unix(path) as stream:
                await stream.send(b"through a passed descriptor")
                message, (descriptor,) = await stream.receive_fds(2, 1)
                assert message == b"fd"
                with socket.socket(fileno=descriptor) as passed:
                    assert passed.recv(100) == b"through a passed descriptor"
            group.cancel_scope.cancel()

    run(main)


def test_wait_for_descriptors(run):
    async def main():
        with support.socket_pair() as (near, far):
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.wait_readable, near)
                await anyio.wait_all_tasks_blocked()
                await anyio.wait_writable(far)
                far.send(b"x")

    run(main)


def test_signals(run):
    async def main():
        with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
            for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
                os.kill(os.getpid(), signum)
                assert await signals.__anext__() == signum

    run(main)


SUITE = """
import asyncio
import anyio
import pytest

module, _, name = {factory!r}.partition(":")
loop_factory = getattr(__import__(module), name)
pytestmark = pytest.mark.anyio
loops = set()


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {{"loop_factory": loop_factory}}


@pytest.fixture(scope="module", autouse=True)
async def listener(anyio_backend):
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            yield listener
            group.cancel_scope.cancel()


@pytest.fixture
async def stream(listener):
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        yield stream


async def echo(stream):
    async with stream:
        async for chunk in stream:
            await stream.send(chunk)


async def test_the_loop():
    loop = asyncio.get_running_loop()
    loops.add(loop)
    assert type(loop).__module__ == {module!r}


@pytest.mark.parametrize("text", [b"one", b"two", b"three"])
async def test_fixtures(stream, text):
    loops.add(asyncio.get_running_loop())
    await stream.send(text)
    assert await stream.receive() == text


async def test_timeout():
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.001):
            await anyio.sleep_forever()


async def test_failure():
    raise ValueError("on purpose")


def test_one_loop_for_the_module():
    assert len(loops) == 1
"""


def test_pytest_plugin(loop_kind, tmp_path):
    suite = SUITE.format(
        factory=factory_path(loop_kind),
        module=support.loop_class(loop_kind).__module__,
    )
    (tmp_path / "test_suite.py").write_text(suite)
    flags = [
        "-W",
        "error",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
    ]
    done = support.run_script(
        str(tmp_path / "test_suite.py"), "--rootdir", tmp_path, flags=flags, check=False
    )
    assert "1 failed, 6 passed" in done.stdout, done.stdout + done.stderr
    assert "ValueError: on purpose" in done.stdout
