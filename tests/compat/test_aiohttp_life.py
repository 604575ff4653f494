"""How aiohttp's connections and servers begin and end, and what they run over."""

import asyncio
import io
import signal
import socket

import pytest
import support
from programkit import program
from realkit import aiohttp_site, factory_path, need

aiohttp, web = need("aiohttp", "aiohttp.web")


def application(handler):
    app = web.Application()
    app.router.add_route("*", "/", handler)
    return app


async def hello(request):
    return web.Response(text=f"hello over {request.scheme}")


async def text_of(session, url):
    async with session.get(url) as response:
        assert response.status == 200
        return await response.text()


# --- time-outs and failures --------------------------------------------------------


@pytest.mark.parametrize(
    "timeout",
    [aiohttp.ClientTimeout(total=0.05), aiohttp.ClientTimeout(sock_read=0.05)],
    ids=["total", "sock_read"],
)
def test_client_timeout(loop, timeout):
    async def main():
        release = asyncio.Event()

        async def never(request):
            await release.wait()
            return web.Response()

        async with (
            aiohttp_site(application(never)) as url,
            aiohttp.ClientSession(timeout=timeout) as session,
        ):
            with pytest.raises(asyncio.TimeoutError):
                await session.get(url)
            release.set()

    support.run(loop, main())


def test_timeout_while_connecting(loop):
    """A listener whose backlog is full answers no SYN."""

    async def main():
        timeout = aiohttp.ClientTimeout(sock_connect=0.1)
        with FullListener() as port:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                with pytest.raises(aiohttp.ServerTimeoutError):
                    await session.get(f"http://127.0.0.1:{port}/")

    support.run(loop, main())


class FullListener:
    """A listening socket with as many waiting connections as it takes; its port."""

    def __enter__(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.waiting = []
        # One more than the backlog fits; the rest stay unanswered.
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(self.listener.getsockname())
            self.waiting.append(sock)
        return self.listener.getsockname()[1]

    def __exit__(self, *exc_info):
        for sock in [self.listener, *self.waiting]:
            sock.close()


def test_connection_refused(loop):
    async def main():
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await session.get(f"http://127.0.0.1:{support.free_port()}/")
            assert isinstance(caught.value.os_error, ConnectionRefusedError)

    support.run(loop, main())


def test_the_server_hangs_up(loop):
    async def hang_up(request):
        request.transport.abort()
        return web.Response()

    async def main():
        async with (
            aiohttp_site(application(hang_up)) as url,
            aiohttp.ClientSession() as session,
        ):
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(url)
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.post(url, data=io.BytesIO(b"x" * 1_000_000))

    support.run(loop, main())


def test_the_client_leaves_in_the_middle_of_its_upload(loop):
    async def main():
        ended = loop.create_future()

        async def receive(request):
            try:
                await request.read()
                ended.set_result(None)
            except ConnectionError as exc:
                ended.set_result(type(exc))
            return web.Response()

        async with aiohttp_site(application(receive)) as url:
            port = int(url.rpartition(":")[2])
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
            writer.write(head + b"x" * 1000)
            await asyncio.sleep(0.01)
            writer.transport.abort()
            assert issubclass(await ended, ConnectionResetError)
            await writer.wait_closed()
            ended = loop.create_future()
            async with aiohttp.ClientSession() as session:  # the server goes on
                async with session.post(url, data=b"all of it") as response:
                    assert response.status == 200

    support.run(loop, main())


# --- what it runs over --------------------------------------------------------------


def test_tls(loop, certificates):
    async def main():
        app = application(hello)
        async with aiohttp_site(app, ssl_context=certificates.server_context()) as url:
            connector = aiohttp.TCPConnector(ssl=certificates.client_context())
            async with aiohttp.ClientSession(connector=connector) as session:
                texts = await asyncio.gather(
                    *[text_of(session, url) for _ in range(20)]
                )
                assert set(texts) == {"hello over https"}

    support.run(loop, main())


def test_tls_refuses_an_unknown_authority(loop, certificates, asyncio_log):
    async def main():
        app = application(hello)
        async with aiohttp_site(app, ssl_context=certificates.server_context()) as url:
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await session.get(url)
            connector = aiohttp.TCPConnector(ssl=certificates.client_context())
            async with aiohttp.ClientSession(connector=connector) as session:
                assert await text_of(session, url) == "hello over https"

    support.run(loop, main())


def test_large_bodies_over_tls(loop, certificates):
    content = bytes(range(256)) * 12_000

    async def echo(request):
        return web.Response(body=await request.read())

    async def main():
        app = web.Application(client_max_size=len(content) + 1)
        app.router.add_post("/", echo)
        async with aiohttp_site(app, ssl_context=certificates.server_context()) as url:
            connector = aiohttp.TCPConnector(ssl=certificates.client_context())
            async with aiohttp.ClientSession(connector=connector) as session:
                async with session.post(url, data=io.BytesIO(content)) as response:
                    assert await response.read() == content

    support.run(loop, main())


def test_unix_socket(loop, tmp_path):
    path = str(tmp_path / "socket")

    async def main():
        runner = web.AppRunner(application(hello))
        await runner.setup()
        await web.UnixSite(runner, path).start()
        connector = aiohttp.UnixConnector(path)
        async with aiohttp.ClientSession(connector=connector) as session:
            for _ in range(3):
                assert await text_of(session, "http://any/") == "hello over http"
        await runner.cleanup()

    support.run(loop, main())


def test_a_socket_of_ones_own(loop):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
            runner = web.AppRunner(application(hello))
            await runner.setup()
            await web.SockSite(runner, sock).start()
            async with aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{port}/"
                assert await text_of(session, url) == "hello over http"
            await runner.cleanup()

    support.run(loop, main())


# --- the end -----------------------------------------------------------------------


def can_connect(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_graceful_shutdown_finishes_what_runs(loop):
    """cleanup() stops listening at once and lets the running request end."""

    async def main():
        entered, release = asyncio.Event(), asyncio.Event()
        order = []

        async def slow(request):
            entered.set()
            await release.wait()
            order.append("answered")
            return web.Response(text="done")

        async def resource(app):
            order.append("opened")
            yield
            order.append("closed")

        app = application(slow)
        app.cleanup_ctx.append(resource)
        runner = web.AppRunner(app, shutdown_timeout=10)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession() as session:
            request = loop.create_task(text_of(session, f"http://127.0.0.1:{port}/"))
            await entered.wait()
            cleanup = loop.create_task(runner.cleanup())
            while can_connect(port):
                await asyncio.sleep(0.001)
            assert not cleanup.done()
            release.set()
            assert await request == "done"
            await cleanup
        assert order == ["opened", "answered", "closed"]

    support.run(loop, main())


def test_shutdown_timeout_cancels_what_does_not_end(loop):
    async def main():
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def for_ever(request):
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        runner = web.AppRunner(application(for_ever), shutdown_timeout=0.05)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
            request = loop.create_task(text_of(session, url))
            await entered.wait()
            await runner.cleanup()
            assert cancelled.is_set()
            with pytest.raises(aiohttp.ClientConnectionError):
                await request

    support.run(loop, main())


RUN_APP = """
import sys
from aiohttp import web

module, _, name = sys.argv[1].partition(":")
loop = getattr(__import__(module), name)()

async def hello(request):
    return web.Response(text="hello from " + type(loop).__module__)

async def resource(app):
    print("opened", flush=True)
    yield
    print("closed", flush=True)

app = web.Application()
app.router.add_get("/", hello)
app.cleanup_ctx.append(resource)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), loop=loop)
print("ended", loop.is_closed(), flush=True)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_run_app_until_a_signal(loop, loop_kind, signum):
    """The way most aiohttp programs are run: web.run_app."""
    port = support.free_port()
    argv = ["-c", RUN_APP, factory_path(loop_kind), str(port)]

    async def ask():
        async with aiohttp.ClientSession() as session:
            return await text_of(session, f"http://127.0.0.1:{port}/")

    with program(*argv, banner="Running on") as server:
        answer = support.run(loop, ask())
        assert answer.startswith(
            "hello from " + support.loop_class(loop_kind).__module__
        )
        assert server.end(signum) == 0
    assert "opened" in server.output
    assert server.output.endswith("closed\nended True")
