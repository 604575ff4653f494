"""gRPC's asyncio server and client.

Their sockets belong to gRPC's own threads; the loop watches one socket on which they
tell that something is done.
"""

import asyncio

import grpc
import grpc.aio
import pytest
import support
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVICE = "pyloop.Test"


def use_grpc():
    """Use it on a loop that does not matter, with nothing that outlives this."""

    async def main():
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary("/nothing/there")(b"")

    before = set(support.open_descriptors())
    loop = asyncio.SelectorEventLoop()
    loop.run_until_complete(main())
    loop.close()
    support.collect()  # its thread ends with the last server and channel
    support.wait_for_condition(  # and after it, in threads of gRPC's, what it polls
        lambda: set(support.open_descriptors()) <= before, what="gRPC's descriptors"
    )


@pytest.fixture(scope="module", autouse=True)
def what_grpc_keeps():
    """Have gRPC make what it keeps for ever before anything is counted."""
    use_grpc()


@pytest.fixture(autouse=True)
def grpc_forgets_the_loop(nothing_left):
    """It keeps the last loop that it was used on."""
    yield
    support.collect()
    use_grpc()


async def echo(request, context):
    return request


async def fail(request, context):
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "on purpose")


async def broken(request, context):
    raise ValueError("on purpose")


async def count_up(request, context):
    for number in range(int(request)):
        yield b"%d" % number


async def add_up(requests, context):
    total = 0
    async for request in requests:
        total += int(request)
    return b"%d" % total


async def double(requests, context):
    async for request in requests:
        yield request * 2


async def tell_metadata(request, context):
    metadata = dict(context.invocation_metadata())
    await context.send_initial_metadata((("first", metadata["question"]),))
    context.set_trailing_metadata((("last", "bye"),))
    return b""


def blocking(request, context):
    """Not a coroutine function, so gRPC calls it in a thread of its pool."""
    return request[::-1]


METHODS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Broken": grpc.unary_unary_rpc_method_handler(broken),
    "CountUp": grpc.unary_stream_rpc_method_handler(count_up),
    "AddUp": grpc.stream_unary_rpc_method_handler(add_up),
    "Double": grpc.stream_stream_rpc_method_handler(double),
    "TellMetadata": grpc.unary_unary_rpc_method_handler(tell_metadata),
    "Blocking": grpc.unary_unary_rpc_method_handler(blocking),
}


class Serving:
    """A server and a channel to it, both on the running loop."""

    def __init__(self, certificates=None, methods=METHODS):
        self._certificates = certificates
        self.server = grpc.aio.server()
        handler = grpc.method_handlers_generic_handler(SERVICE, methods)
        self.server.add_generic_rpc_handlers((handler,))

    async def __aenter__(self):
        if self._certificates is None:
            port = self.server.add_insecure_port("127.0.0.1:0")
            self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        else:
            own, theirs = self._credentials()
            port = self.server.add_secure_port("127.0.0.1:0", own)
            self.channel = grpc.aio.secure_channel(f"localhost:{port}", theirs)
        await self.server.start()
        return self

    def _credentials(self):
        texts = []
        for path in ("key_path", "chain_path", "ca_path"):
            with open(getattr(self._certificates, path), "rb") as file:
                texts.append(file.read())
        key, chain, authority = texts
        return (
            grpc.ssl_server_credentials([(key, chain)]),
            grpc.ssl_channel_credentials(authority),
        )

    async def __aexit__(self, *exc_info):
        await self.channel.close()
        await self.server.stop(None)

    def __getattr__(self, name):
        """The method of this name, as its client calls it."""
        handler = METHODS[name]
        sends = "stream" if handler.request_streaming else "unary"
        gets = "stream" if handler.response_streaming else "unary"
        return getattr(self.channel, f"{sends}_{gets}")(f"/{SERVICE}/{name}")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_calls_of_the_four_kinds(loop, certificates, tls):
    async def numbers():
        for number in range(100):
            yield b"%d" % number

    async def main():
        async with Serving(certificates if tls else None) as serving:
            assert await serving.Echo(b"\0hello") == b"\0hello"
            found = [int(part) async for part in serving.CountUp(b"500")]
            assert found == list(range(500))
            assert await serving.AddUp(numbers()) == b"4950"
            call = serving.Double()
            for number in range(100):
                await call.write(b"%d " % number)
                assert await call.read() == b"%d " % number * 2
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    support.run(loop, main())


def test_many_calls_at_once(loop):
    async def main():
        async with Serving() as serving:
            for first in range(0, 2000, 500):
                numbers = range(first, first + 500)
                calls = [serving.Echo(b"%d" % number) for number in numbers]
                answers = await asyncio.gather(*calls)
                assert answers == [b"%d" % number for number in numbers]

    support.run(loop, main())


def test_large_messages(loop):
    body = bytes(range(256)) * 12_000  # below gRPC's limit of 4 MiB

    async def main():
        async with Serving() as serving:
            answers = await asyncio.gather(*[serving.Echo(body) for _ in range(10)])
            assert all(answer == body for answer in answers)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await serving.Echo(body * 2)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    support.run(loop, main())


def test_errors_and_metadata(loop):
    async def main():
        async with Serving() as serving:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await serving.Fail(b"")
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert caught.value.details() == "on purpose"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await serving.Broken(b"")
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
            call = serving.TellMetadata(b"", metadata=(("question", "how?"),))
            await call
            assert dict(await call.initial_metadata())["first"] == "how?"
            assert dict(await call.trailing_metadata())["last"] == "bye"

    support.run(loop, main())


def test_deadlines_and_cancelled_calls(loop):
    async def main():
        started, cancelled = asyncio.Queue(), asyncio.Queue()

        async def wait(request, context):
            try:
                started.put_nowait(request)
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.put_nowait(request)
                raise

        methods = {"Wait": grpc.unary_unary_rpc_method_handler(wait)}
        async with Serving(methods=methods) as serving:
            method = serving.channel.unary_unary(f"/{SERVICE}/Wait")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"deadline", timeout=0.1)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert await started.get() == await cancelled.get() == b"deadline"
            task = asyncio.ensure_future(method(b"cancelled"))
            assert await started.get() == b"cancelled"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await cancelled.get() == b"cancelled"

    support.run(loop, main())


def test_a_handler_in_a_thread(loop):
    async def main():
        async with Serving() as serving:
            calls = [serving.Blocking(b"%d." % number) for number in range(100, 200)]
            answers = await asyncio.gather(*calls)
            assert answers == [(b"%d." % n)[::-1] for n in range(100, 200)]

    support.run(loop, main())


def test_interceptors_and_a_generated_service(loop):
    """The health service, whose code protoc has made, watched while it changes."""
    seen = []

    class Interceptor(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation, details):
            seen.append(details.method)
            return await continuation(details)

    async def main():
        server = grpc.aio.server(interceptors=(Interceptor(),))
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        status = health_pb2.HealthCheckResponse
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="it")
            await servicer.set("it", status.SERVING)
            assert (await stub.Check(request)).status == status.SERVING
            watch = stub.Watch(request)
            assert (await watch.read()).status == status.SERVING
            await servicer.set("it", status.NOT_SERVING)
            assert (await watch.read()).status == status.NOT_SERVING
            watch.cancel()
        await server.stop(None)
        assert seen == ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]

    support.run(loop, main())


def test_the_server_goes_away_and_comes_back(loop):
    async def main():
        async with Serving() as serving:
            port = serving.server.add_insecure_port("127.0.0.1:0")
            assert await serving.Echo(b"1") == b"1"
        port = support.free_port()
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.initial_reconnect_backoff_ms", 100)]
        ) as channel:
            method = channel.unary_unary(f"/{SERVICE}/Echo")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"2")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            waiting = asyncio.ensure_future(method(b"3", wait_for_ready=True))
            server = grpc.aio.server()
            handler = grpc.method_handlers_generic_handler(SERVICE, METHODS)
            server.add_generic_rpc_handlers((handler,))
            server.add_insecure_port(f"127.0.0.1:{port}")
            await server.start()
            assert await waiting == b"3"
            await channel.close()
            await server.stop(None)

    support.run(loop, main())
