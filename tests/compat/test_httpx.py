"""httpx, whose connections are anyio's, against aiohttp's server."""

import asyncio
import os

import pytest
import support
from realkit import aiohttp_site, need

httpx, _, web = need("httpx", "anyio", "aiohttp.web")


def application(*routes):
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.add_routes(list(routes))
    return app


async def echo(request):
    return web.Response(body=await request.read())


async def peer_port(request):
    return web.Response(text=str(request.transport.get_extra_info("peername")[1]))


def test_requests_of_all_kinds(loop):
    content = os.urandom(3_000_000)

    async def blocks():
        for start in range(0, len(content), 50_000):
            yield content[start : start + 50_000]

    async def main():
        async with (
            aiohttp_site(application(web.route("*", "/", echo))) as url,
            httpx.AsyncClient(base_url=url, trust_env=False) as client,
        ):
            assert (await client.get("/")).content == b""
            assert (await client.post("/", json={"a": 1})).json() == {"a": 1}
            assert (await client.put("/", content=content)).content == content
            assert (await client.put("/", content=blocks())).content == content
            assert (await client.get("/nowhere")).status_code == 404

    support.run(loop, main())


def test_streamed_answer(loop):
    async def lines(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(1000):
            await response.write(f"line {number}\n".encode())
        return response

    async def main():
        async with (
            aiohttp_site(application(web.get("/", lines))) as url,
            httpx.AsyncClient(trust_env=False) as client,
            client.stream("GET", url) as response,
        ):
            found = [line async for line in response.aiter_lines()]
            assert found == [f"line {number}" for number in range(1000)]

    support.run(loop, main())


def test_pool_of_connections(loop):
    async def main():
        limits = httpx.Limits(max_connections=5, max_keepalive_connections=5)
        async with (
            aiohttp_site(application(web.get("/", peer_port))) as url,
            httpx.AsyncClient(limits=limits, trust_env=False) as client,
        ):
            answers = await asyncio.gather(*[client.get(url) for _ in range(100)])
            assert 1 <= len({answer.text for answer in answers}) <= 5

    support.run(loop, main())


def test_timeouts(loop):
    async def main():
        release = asyncio.Event()
        short = httpx.Timeout(support.PATIENCE, read=0.05)

        async def wait(request):
            await release.wait()
            return web.Response()

        async with (
            aiohttp_site(application(web.get("/", wait))) as url,
            httpx.AsyncClient(trust_env=False, timeout=short) as client,
        ):
            with pytest.raises(httpx.ReadTimeout):
                await client.get(url)
            release.set()
            assert (await client.get(url, timeout=support.PATIENCE)).status_code == 200

    support.run(loop, main())


def test_connection_refused(loop):
    async def main():
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.1:{support.free_port()}/")

    support.run(loop, main())


def test_tls(loop, certificates):
    content = os.urandom(500_000)

    async def main():
        app = application(web.post("/", echo))
        context = certificates.client_context()
        async with (
            aiohttp_site(app, ssl_context=certificates.server_context()) as url,
            httpx.AsyncClient(verify=context, trust_env=False) as client,
        ):
            for _ in range(5):
                assert (await client.post(url, content=content)).content == content

    support.run(loop, main())


def test_unix_socket(loop, tmp_path):
    path = str(tmp_path / "socket")

    async def main():
        runner = web.AppRunner(application(web.post("/", echo)))
        await runner.setup()
        await web.UnixSite(runner, path).start()
        transport = httpx.AsyncHTTPTransport(uds=path)
        async with httpx.AsyncClient(transport=transport) as client:
            answer = await client.post("http://any/", content=b"over a Unix socket")
            assert answer.content == b"over a Unix socket"
        await runner.cleanup()

    support.run(loop, main())
