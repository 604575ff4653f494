"""A FastAPI application under uvicorn, as a server process of its own, under load."""

import asyncio
import hashlib
import os
import signal

import pytest
import support
from programkit import program
from realkit import COMPAT_DIR, factory_path, load, need

aiohttp, uvicorn, _, _ = need("aiohttp", "uvicorn", "fastapi", "websockets")

#: Both of uvicorn's HTTP implementations drive the transport, each in its own way.
#: httptools does not build for free-threaded Python.
HTTP = ["h11"] if support.FREE_THREADED else ["h11", need("httptools").__name__]
both_http = pytest.mark.parametrize("http", HTTP)


def server(loop_kind, http, *options):
    """uvicorn's command line on the loop under test; its port is `.match[1]`."""
    argv = ["-m", "uvicorn", "webapp:app", "--app-dir", COMPAT_DIR, "--port", "0"]
    argv += ["--loop", factory_path(loop_kind), "--http", http, "--no-access-log"]
    return program(*argv, *options, banner=r"running on https?://127.0.0.1:(\d+)")


def ask(loop, coroutine_function, port):
    """Run coroutine_function(session) with a session whose base is the server."""

    async def main():
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            return await coroutine_function(session)

    return support.run(loop, main())


def assert_clean_end(running):
    """End it with SIGTERM: shutdown to the end, and nothing said on the way."""
    # uvicorn raises the signal again for itself after its shutdown.
    assert running.end(signal.SIGTERM) == -signal.SIGTERM
    lines = running.output.splitlines()
    assert lines[-1].startswith("INFO:     Finished server process")
    assert "lifespan: end" in lines
    assert "Traceback" not in running.output
    assert not [line for line in lines if line.startswith(("ERROR", "WARNING"))]


@both_http
def test_application(loop, loop_kind, http):
    content = os.urandom(4_000_000)

    async def conversation(session):
        async with session.get("/loop") as response:
            module = (await response.json())["module"]
            assert module == support.loop_class(loop_kind).__module__
        async with session.get("/") as response:
            assert await response.json() == {"greeting": "hello"}
        async with session.post("/order", json={"name": "x", "count": 3}) as response:
            assert await response.json() == {"name": "x", "double": 6}
        async with session.post("/order", json={"name": "x"}) as response:
            assert response.status == 422
        numbers = await asyncio.gather(*[thread(session, n) for n in range(30)])
        assert numbers == list(range(1, 31))
        async with session.put("/digest", data=blocks(content)) as response:
            assert await response.json() == hashlib.sha256(content).hexdigest()
        async with session.get("/stream/2000") as response:
            assert response.headers["Transfer-Encoding"] == "chunked"
            expected = "".join(f"line {n}\n" for n in range(2000))
            assert await response.text() == expected
        async with session.post("/later/word") as response:
            assert await response.json() == "accepted"
        async with session.get("/later") as response:
            assert await response.json() == "word"

    async def thread(session, number):
        async with session.get(f"/thread/{number}") as response:
            return await response.json()

    async def blocks(content, size=100_000):
        for start in range(0, len(content), size):
            yield content[start : start + size]

    with server(loop_kind, http) as running:
        ask(loop, conversation, running.match[1])
        assert_clean_end(running)


@both_http
def test_websockets(loop, loop_kind, http):
    async def one(session, number):
        async with session.ws_connect("/echo") as socket:
            for turn in range(20):
                text = f"{number} {turn} " * (turn * 100 + 1)
                await socket.send_str(text)
                assert await socket.receive_str() == text

    async def conversation(session):
        await asyncio.gather(*[one(session, number) for number in range(10)])

    with server(loop_kind, http) as running:
        ask(loop, conversation, running.match[1])
        assert_clean_end(running)


@both_http
def test_load_without_a_failure(loop_kind, http):
    with server(loop_kind, http) as running:
        port = int(running.match[1])
        requests, failures = load(port, "/", connections=64)
        assert not failures
        assert requests > 100
        requests, failures = load(port, "/stream/50")
        assert not failures
        assert requests > 10
        assert_clean_end(running)


def test_an_exception_in_a_handler_is_an_answer(loop, loop_kind):
    async def conversation(session):
        for _ in range(2):
            async with session.get("/broken") as response:
                assert response.status == 500
        async with session.get("/") as response:
            assert response.status == 200

    with server(loop_kind, HTTP[-1]) as running:
        ask(loop, conversation, running.match[1])
        assert running.end(signal.SIGTERM) == -signal.SIGTERM
        assert running.output.count("ValueError: broken on purpose") == 2


@both_http
def test_sigterm_lets_a_request_finish(loop, loop_kind, http):
    with server(loop_kind, http) as running:

        async def conversation(session):
            async def slow():
                async with session.get("/slow") as response:
                    return await response.json()

            request = loop.create_task(slow())
            await loop.run_in_executor(None, running.wait_for_line, "slow: begin")
            running.process.send_signal(signal.SIGTERM)
            assert await request == "slow"

        ask(loop, conversation, running.match[1])
        assert running.finish() == -signal.SIGTERM
        assert "lifespan: end" in running.output


def test_tls(loop, loop_kind, certificates):
    options = ["--ssl-certfile", certificates.chain_path]
    options += ["--ssl-keyfile", certificates.key_path]

    async def main(port):
        connector = aiohttp.TCPConnector(ssl=certificates.client_context())
        async with aiohttp.ClientSession(connector=connector) as session:

            async def fetch():
                async with session.get(
                    f"https://127.0.0.1:{port}/stream/500"
                ) as response:
                    return len(await response.text())

            lengths = await asyncio.gather(*[fetch() for _ in range(20)])
            assert len(set(lengths)) == 1 and lengths[0] > 4000

    with server(loop_kind, HTTP[-1], *options) as running:
        support.run(loop, main(running.match[1]))
        assert_clean_end(running)


@both_http
def test_server_inside_a_program(loop, loop_kind, http):
    """uvicorn.Server as one task of a program, not as its master."""

    async def application(scope, receive, send):
        assert scope["type"] == "http"
        start = {"type": "http.response.start", "status": 200, "headers": []}
        await send(start)
        await send(
            {"type": "http.response.body", "body": b"part 1, ", "more_body": True}
        )
        await send({"type": "http.response.body", "body": b"part 2"})

    async def main():
        config = uvicorn.Config(
            application, port=0, http=http, lifespan="off", log_config=None
        )
        server = uvicorn.Server(config)
        serving = loop.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.001)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with aiohttp.ClientSession() as session:
            for _ in range(10):
                async with session.get(f"http://127.0.0.1:{port}/") as response:
                    assert await response.text() == "part 1, part 2"
        server.should_exit = True
        await serving

    support.run(loop, main())
