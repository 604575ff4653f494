"""aiohttp's server and client talking HTTP, both on the loop under test."""

import asyncio
import hashlib
import io
import os
import socket

import pytest
import support
from realkit import aiohttp_site, need

aiohttp, web = need("aiohttp", "aiohttp.web")


def application(*routes):
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.add_routes(list(routes))
    return app


async def peer_port(request):
    """A handler that answers with the client's port: the connection's name."""
    return web.Response(text=str(request.transport.get_extra_info("peername")[1]))


def test_json_query_headers_and_errors(loop):
    async def show(request):
        return web.json_response(
            {
                "query": dict(request.query),
                "body": await request.json(),
                "agent": request.headers["User-Agent"],
            },
            headers={"X-Answer": "yes"},
        )

    async def broken(request):
        raise web.HTTPGone(text="not here any more")

    async def main():
        app = application(web.post("/show", show), web.get("/broken", broken))
        async with aiohttp_site(app) as url, aiohttp.ClientSession(url) as session:
            async with session.post(
                "/show?a=1&b=2", json=[1, "zwei"], headers={"User-Agent": "tests"}
            ) as response:
                assert response.status == 200
                assert response.headers["X-Answer"] == "yes"
                assert await response.json() == {
                    "query": {"a": "1", "b": "2"},
                    "body": [1, "zwei"],
                    "agent": "tests",
                }
            async with session.get("/broken") as response:
                assert response.status == 410
                assert await response.text() == "not here any more"
            async with session.get("/nowhere") as response:
                assert response.status == 404

    support.run(loop, main())


def test_chunked_both_ways(loop):
    chunks = [os.urandom(size) for size in (1, 10, 1000, 100_000, 300_000, 7)]

    async def echo(request):
        assert request.headers["Transfer-Encoding"] == "chunked"
        response = web.StreamResponse()
        await response.prepare(request)
        async for data in request.content.iter_any():
            await response.write(data)
        await response.write_eof()
        return response

    async def produce():
        for chunk in chunks:
            yield chunk
            await asyncio.sleep(0)

    async def main():
        async with (
            aiohttp_site(application(web.post("/", echo))) as url,
            aiohttp.ClientSession() as session,
            session.post(url, data=produce()) as response,
        ):
            assert response.headers["Transfer-Encoding"] == "chunked"
            assert await response.read() == b"".join(chunks)

    support.run(loop, main())


def test_upload_and_multipart(loop):
    content = os.urandom(8 * 1024 * 1024)

    async def digest(request):
        whole = hashlib.sha256()
        async for data in request.content.iter_chunked(65536):
            whole.update(data)
        return web.Response(text=whole.hexdigest())

    async def form(request):
        fields = await request.post()
        data = fields["file"].file.read()
        fields["file"].file.close()
        return web.json_response(
            [fields["name"], fields["file"].filename, hashlib.sha256(data).hexdigest()]
        )

    async def main():
        app = application(web.put("/digest", digest), web.post("/form", form))
        expected = hashlib.sha256(content).hexdigest()
        async with aiohttp_site(app) as url, aiohttp.ClientSession(url) as session:
            async with session.put("/digest", data=io.BytesIO(content)) as response:
                assert await response.text() == expected
            fields = aiohttp.FormData()
            fields.add_field("name", "Grüße")
            fields.add_field("file", io.BytesIO(content), filename="random.bin")
            async with session.post("/form", data=fields) as response:
                assert await response.json() == ["Grüße", "random.bin", expected]

    support.run(loop, main())


def test_expect_100_continue(loop):
    async def echo(request):
        return web.Response(body=await request.read())

    async def main():
        async with (
            aiohttp_site(application(web.post("/", echo))) as url,
            aiohttp.ClientSession() as session,
            session.post(url, data=b"later", expect100=True) as response,
        ):
            assert await response.read() == b"later"

    support.run(loop, main())


def test_slow_reader_holds_the_server_back(loop):
    """The server's write blocks on the client, which reads little by little."""
    block = b"x" * 65536
    blocks = 400
    written = 0

    async def pour(request):
        nonlocal written
        response = web.StreamResponse(headers={"Content-Length": str(blocks * 65536)})
        await response.prepare(request)
        for _ in range(blocks):
            await response.write(block)
            written += len(block)
        return response

    async def main():
        async with (
            aiohttp_site(application(web.get("/", pour))) as url,
            aiohttp.ClientSession(read_bufsize=4096) as session,
            session.get(url) as response,
        ):
            first = await response.content.readexactly(1000)
            settled = -1
            while settled != written:  # until the server is stuck
                settled = written
                await asyncio.sleep(0.05)
            assert 0 < written < blocks * 65536
            rest = 0
            async for data in response.content.iter_any():
                rest += len(data)
            assert len(first) + rest == blocks * 65536

    support.run(loop, main())


def test_file_response_and_range(loop, tmp_path):
    content = os.urandom(3 * 1024 * 1024 + 17)
    path = tmp_path / "file.bin"
    path.write_bytes(content)

    async def send(request):
        return web.FileResponse(path)

    async def main():
        app = application(web.get("/", send))
        async with aiohttp_site(app) as url, aiohttp.ClientSession(url) as session:
            async with session.get("/") as response:
                assert await response.read() == content
            part = {"Range": "bytes=1000-1048575"}
            async with session.get("/", headers=part) as response:
                assert response.status == 206
                assert await response.read() == content[1000:1048576]
            # The connection is as it was: the next answer is not shifted by a byte.
            async with session.get("/") as response:
                assert await response.read() == content

    support.run(loop, main())


def test_keep_alive_reuses_one_connection(loop):
    async def main():
        app = application(web.get("/", peer_port))
        async with aiohttp_site(app) as url:
            async with aiohttp.ClientSession(url) as session:
                ports = {await fetch(session) for _ in range(50)}
                assert len(ports) == 1
            connector = aiohttp.TCPConnector(force_close=True)
            async with aiohttp.ClientSession(url, connector=connector) as session:
                ports = {await fetch(session) for _ in range(5)}
                assert len(ports) == 5

    async def fetch(session):
        async with session.get("/") as response:
            return await response.text()

    support.run(loop, main())


def test_keep_alive_timeout_closes_the_connection(loop):
    async def main():
        app = application(web.get("/", peer_port))
        async with aiohttp_site(app, keepalive_timeout=0.05) as url:
            port = int(url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await reader.read()  # to the end: the server closes
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            writer.close()
            await writer.wait_closed()

    support.run(loop, main())


def test_pipelined_requests(loop):
    """Requests that come in one segment are answered in order."""

    async def number(request):
        return web.Response(text=request.match_info["n"])

    async def main():
        app = application(web.get("/{n}", number))
        async with aiohttp_site(app) as url:
            port = int(url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            requests = [
                b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % n for n in range(20)
            ]
            writer.write(b"".join(requests))
            for n in range(20):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                body = str(n).encode()
                assert await reader.readexactly(len(body)) == body
            writer.close()
            await writer.wait_closed()

    support.run(loop, main())


def test_many_requests_at_once(loop):
    async def square(request):
        await asyncio.sleep(0.001)
        return web.Response(text=str(int(request.match_info["n"]) ** 2))

    async def main():
        app = application(web.get("/{n}", square))
        limit = asyncio.Semaphore(40)
        async with aiohttp_site(app) as url, aiohttp.ClientSession(url) as session:

            async def fetch(n):
                async with limit, session.get(f"/{n}") as response:
                    return int(await response.text())

            squares = await asyncio.gather(*[fetch(n) for n in range(300)])
            assert squares == [n * n for n in range(300)]

    support.run(loop, main())


def test_a_replaced_getaddrinfo_is_the_resolver(loop, loop_kind, monkeypatch):
    """aiohttp's resolver is loop.getaddrinfo, which uses the socket module's."""
    if loop_kind == "uvloop":
        pytest.skip("uvloop resolves names in C")
    original = socket.getaddrinfo

    def resolve(host, *args, **kwargs):
        assert host in ("somewhere.invalid", "127.0.0.1")
        return original("127.0.0.1", *args, **kwargs)

    async def main():
        app = application(web.get("/", peer_port))
        resolver = aiohttp.resolver.ThreadedResolver()
        connector = aiohttp.TCPConnector(resolver=resolver, family=socket.AF_INET)
        async with (
            aiohttp_site(app) as url,
            aiohttp.ClientSession(connector=connector) as session,
        ):
            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            port = url.rpartition(":")[2]
            async with session.get(f"http://somewhere.invalid:{port}/") as response:
                assert response.status == 200
            assert response.request_info.url.host == "somewhere.invalid"

    support.run(loop, main())
