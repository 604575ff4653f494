"""nginx in front of servers on the loop under test, and behind clients on it."""

import asyncio
import contextlib
import hashlib
import io
import os
import ssl

import aiohttp
import httpx
import pytest
import support
import uvicorn
import websockets.asyncio.client as websocket_client
import websockets.exceptions
from aiohttp import web
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

both_http = pytest.mark.parametrize("http", ["h11", "httptools"])


@pytest.fixture
def front(nginx, certificates):
    return Front(nginx, certificates)


class Front:
    """nginx as its clients see it, and where its upstream listens."""

    def __init__(self, nginx, certificates):
        self.nginx = nginx
        self.url = f"https://localhost:{nginx.tls_port}"
        self.plain_url = f"http://localhost:{nginx.port}"
        self.socket_path = str(nginx.folder / "application.sock")
        self._certificates = certificates

    @property
    def context(self):
        """A new client's ssl.SSLContext that trusts nginx."""
        return self._certificates.client_context()

    def aiohttp(self, **options):
        connector = aiohttp.TCPConnector(ssl=self.context, **options)
        return aiohttp.ClientSession(self.url, connector=connector)

    def httpx(self, **options):
        return httpx.AsyncClient(
            base_url=self.url,
            verify=self.context,
            trust_env=False,
            timeout=support.PATIENCE,
            **options,
        )

    @contextlib.asynccontextmanager
    async def uvicorn(self, *routes, **options):
        """Serve a Starlette application behind nginx; gives the uvicorn.Server."""
        config = uvicorn.Config(
            Starlette(routes=list(routes)),
            uds=self.socket_path,
            lifespan="off",
            log_config=None,
            access_log=False,
            **options,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            while not server.started:
                assert not serving.done()
                await asyncio.sleep(0.01)
            yield server
        finally:
            server.should_exit = True
            await serving


async def tell(request):
    """What the application knows of the request."""
    body = await request.body()
    return JSONResponse(
        {
            "loop": type(asyncio.get_running_loop()).__module__,
            "scheme": request.headers["x-forwarded-proto"],
            "for": request.headers["x-forwarded-for"],
            "method": request.method,
            "digest": hashlib.sha256(body).hexdigest(),
        }
    )


async def echo(request):
    return Response(await request.body())


@both_http
def test_requests(loop, loop_kind, front, http):
    body = os.urandom(100_000)
    expected = {
        "loop": support.loop_class(loop_kind).__module__,
        "scheme": "https",
        "for": "127.0.0.1",
        "method": "PUT",
        "digest": hashlib.sha256(body).hexdigest(),
    }

    async def main():
        route = Route("/", tell, methods=["GET", "PUT"])
        async with front.uvicorn(route, http=http):
            async with front.aiohttp() as session:
                async with session.put("/", data=body) as response:
                    assert await response.json() == expected
                async with session.get("/nowhere") as response:
                    assert response.status == 404
            async with front.httpx() as client:
                assert (await client.put("/", content=body)).json() == expected
                plain = await client.get(front.plain_url)
                assert plain.json()["scheme"] == "http"

    support.run(loop, main())


@both_http
def test_connections_are_kept_alive_on_both_sides(loop, front, http):
    async def main():
        async with front.uvicorn(Route("/", tell), http=http) as server:
            async with front.aiohttp(limit=1) as session:
                numbers = set()
                for _ in range(50):
                    async with session.get("/") as response:
                        assert response.status == 200
                        numbers.add(response.headers["X-Front-Connection"])
                assert len(numbers) == 1
                assert len(server.server_state.connections) == 1
            async with front.httpx() as client:
                answers = [await client.get("/") for _ in range(50)]
                numbers = {answer.headers["X-Front-Connection"] for answer in answers}
                assert len(numbers) == 1
                assert server.server_state.total_requests == 100

    support.run(loop, main())


@both_http
def test_many_clients_at_once(loop, front, http):
    async def main():
        async with front.uvicorn(Route("/", echo, methods=["POST"]), http=http):
            async with front.aiohttp(limit=50) as session:

                async def ask(number):
                    body = b"%d " % number * (number * 10)
                    async with session.post("/", data=body) as response:
                        assert await response.read() == body

                await asyncio.gather(*[ask(number) for number in range(500)])

    support.run(loop, main())


@both_http
def test_large_bodies(loop, front, http):
    """nginx takes the upload into a file first."""
    body = os.urandom(20_000_000)

    async def main():
        async with front.uvicorn(Route("/", echo, methods=["PUT"]), http=http):
            async with front.aiohttp() as session:
                async with session.put("/", data=io.BytesIO(body)) as response:
                    assert response.headers["Content-Length"] == str(len(body))
                    assert await response.read() == body
            async with front.httpx() as client:
                assert (await client.put("/", content=body)).content == body

    support.run(loop, main())


@both_http
def test_chunks_in_lockstep(loop, front, http):
    """Unbuffered, each chunk is through before the next one is sent."""

    async def main():
        arrived = asyncio.Queue()

        async def upload(request):
            async for chunk in request.stream():
                arrived.put_nowait(chunk)
            return Response(b"all of it")

        async def download(request):
            async def chunks():
                for number in range(20):
                    yield b"%d" % number
                    assert await arrived.get() == b"%d" % number

            return StreamingResponse(chunks())

        async def numbers():
            for number in range(20):
                yield b"%d" % number
                assert await arrived.get() == b"%d" % number

        routes = [
            Route("/unbuffered/up", upload, methods=["POST"]),
            Route("/unbuffered/down", download),
        ]
        async with front.uvicorn(*routes, http=http), front.httpx() as client:
            answer = await client.post("/unbuffered/up", content=numbers())
            assert answer.content == b"all of it"
            assert await arrived.get() == b""
            assert arrived.empty()
            expected = [b"%d" % number for number in range(20)]
            async with client.stream("GET", "/unbuffered/down") as answer:
                assert answer.headers["Transfer-Encoding"] == "chunked"
                found = []
                async for chunk in answer.aiter_raw():
                    found.append(chunk)
                    arrived.put_nowait(chunk)
                assert found == expected
            async with front.aiohttp() as session:
                async with session.post("/unbuffered/up", data=numbers()) as response:
                    assert await response.read() == b"all of it"

    support.run(loop, main())


def test_many_streams_of_one_http2_connection(loop, front):
    body = os.urandom(200_000)

    async def main():
        async with (
            front.uvicorn(Route("/", echo, methods=["POST"])),
            front.httpx(http2=True) as client,
        ):
            answers = await asyncio.gather(
                *[client.post("/", content=body[number:]) for number in range(100)]
            )
            for number, answer in enumerate(answers):
                assert answer.http_version == "HTTP/2"
                assert answer.content == body[number:]
            numbers = {answer.headers["X-Front-Connection"] for answer in answers}
            assert len(numbers) == 1

    support.run(loop, main())


# --- websockets -----------------------------------------------------------------------


async def echo_messages(socket):
    await socket.accept()
    with contextlib.suppress(Exception):
        async for text in socket.iter_text():
            if text == "close":
                await socket.close(4001, "as asked")
            await socket.send_text(text)


@pytest.mark.parametrize("implementation", ["websockets-sansio", "wsproto"])
def test_websockets(loop, front, implementation):
    url = front.url.replace("https", "wss") + "/echo"
    route = WebSocketRoute("/echo", echo_messages)

    async def with_websockets(number):
        async with websocket_client.connect(url, ssl=front.context) as socket:
            for turn in range(20):
                text = f"{number} {turn} " * (turn * 200)
                await socket.send(text)
                assert await socket.recv() == text
            await socket.send("close")
            with pytest.raises(websockets.exceptions.ConnectionClosedError) as caught:
                await socket.recv()
            assert caught.value.rcvd.code == 4001
            assert caught.value.rcvd.reason == "as asked"

    async def with_aiohttp(session, number):
        async with session.ws_connect("/echo") as socket:
            for turn in range(20):
                text = f"{number} {turn} " * (turn * 200)
                await socket.send_str(text)
                assert await socket.receive_str() == text

    async def main():
        async with front.uvicorn(route, ws=implementation), front.aiohttp() as session:
            await asyncio.gather(
                *[with_websockets(number) for number in range(20)],
                *[with_aiohttp(session, number) for number in range(20)],
            )

    support.run(loop, main())


def test_websockets_of_aiohttp_behind(loop, front):
    async def handle(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_bytes(message.data)
        return socket

    async def main():
        app = web.Application()
        app.add_routes([web.get("/echo", handle)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.UnixSite(runner, front.socket_path).start()
        os.chmod(front.socket_path, 0o777)
        data = os.urandom(1_000_000)
        async with front.aiohttp() as session:
            async with session.ws_connect("/echo") as socket:
                for size in (0, 1, 125, 126, 65_535, 65_536, len(data)):
                    await socket.send_bytes(data[:size])
                    assert await socket.receive_bytes() == data[:size]
        await runner.cleanup()

    support.run(loop, main())


# --- when one side goes away ----------------------------------------------------------


@both_http
def test_a_client_goes_away_in_the_middle(loop, front, http):
    async def main():
        gone = loop.create_future()

        async def endless(request):
            async def chunks():
                try:
                    while True:
                        yield b"x" * 65536
                        await asyncio.sleep(0)
                finally:
                    gone.set_result(None)

            return StreamingResponse(chunks())

        routes = [Route("/unbuffered/endless", endless), Route("/", tell)]
        async with front.uvicorn(*routes, http=http), front.aiohttp() as session:
            async with session.get("/unbuffered/endless") as response:
                assert await response.content.readexactly(1_000_000)
            await gone
            async with session.get("/") as response:
                assert response.status == 200

    support.run(loop, main())


def test_no_upstream_and_one_that_fails(loop, front):
    async def fail(request):
        async def chunks():
            yield b"the beginning"
            raise ConnectionAbortedError("on purpose")

        return StreamingResponse(chunks(), headers={"Content-Length": "1000"})

    async def main():
        async with front.httpx() as client:
            assert (await client.get("/")).status_code == 502
            routes = [Route("/unbuffered/fail", fail), Route("/", tell)]
            async with front.uvicorn(*routes):
                with pytest.raises(httpx.RemoteProtocolError):
                    await client.get("/unbuffered/fail")
                assert (await client.get("/")).status_code == 200
            assert (await client.get("/")).status_code == 502

    support.run(loop, main())


def test_a_certificate_that_is_not_trusted(loop, front):
    async def main():
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(front.url)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(front.url)
        old = front.context
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with httpx.AsyncClient(verify=old, trust_env=False) as client:
            assert (await client.get(front.url)).status_code == 502

    support.run(loop, main())


# --- nginx as the upstream ------------------------------------------------------------


@pytest.fixture
def large_file(front):
    path = front.nginx.folder / "files" / "large"
    path.write_bytes(os.urandom(5_000_000))
    path.chmod(0o644)
    yield path
    path.unlink()


def test_files_and_ranges(loop, front, large_file):
    content = large_file.read_bytes()

    async def main():
        async with front.aiohttp(limit=20) as session:

            async def part(first, last):
                headers = {"Range": f"bytes={first}-{last}"}
                async with session.get("/files/large", headers=headers) as response:
                    assert response.status == 206
                    return await response.read()

            size = 50_000
            parts = await asyncio.gather(
                *[part(at, at + size - 1) for at in range(0, len(content), size)]
            )
            assert b"".join(parts) == content

    support.run(loop, main())


@both_http
def test_a_reverse_proxy_on_the_loop(loop, front, large_file, http):
    """Client, nginx, the proxy on the loop, and nginx again for the file."""
    content = large_file.read_bytes()

    async def main():
        async with front.httpx() as upstream:

            async def proxy(request):
                path = request.path_params["path"]
                request = upstream.build_request("GET", f"/files/{path}")
                answer = await upstream.send(request, stream=True)

                async def chunks():
                    try:
                        async for chunk in answer.aiter_raw():
                            yield chunk
                    finally:
                        await answer.aclose()

                return StreamingResponse(chunks(), answer.status_code)

            route = Route("/through/{path}", proxy)
            async with front.uvicorn(route, http=http), front.aiohttp() as session:

                async def fetch(name, expected):
                    async with session.get(f"/through/{name}") as response:
                        assert response.status == expected
                        return await response.read()

                copies = [fetch("large", 200) for _ in range(5)]
                assert all(copy == content for copy in await asyncio.gather(*copies))
                await fetch("missing", 404)

    support.run(loop, main())
