"""WebSockets between aiohttp's client and server, both on the loop under test."""

import asyncio
import os

import support
from realkit import aiohttp_site, need

aiohttp, web = need("aiohttp", "aiohttp.web")


def application(handler):
    app = web.Application()
    app.router.add_get("/", handler)
    return app


async def echo(request):
    socket = web.WebSocketResponse(max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        if message.type is aiohttp.WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


def test_text_binary_and_large_messages(loop):
    large = os.urandom(2_000_000)

    async def main():
        async with (
            aiohttp_site(application(echo)) as url,
            aiohttp.ClientSession() as session,
            session.ws_connect(url, max_msg_size=0) as socket,
        ):
            await socket.send_str("Grüße")
            assert await socket.receive_str() == "Grüße"
            for size in (0, 1, 125, 126, 65535, 65536, len(large)):
                await socket.send_bytes(large[:size])
                assert await socket.receive_bytes() == large[:size]

    support.run(loop, main())


def test_compression(loop):
    text = "the same again and again " * 10_000

    async def main():
        async with (
            aiohttp_site(application(echo)) as url,
            aiohttp.ClientSession() as session,
            session.ws_connect(url, compress=15) as socket,
        ):
            assert socket.compress
            for _ in range(5):
                await socket.send_str(text)
                assert await socket.receive_str() == text

    support.run(loop, main())


def test_tls(loop, certificates):
    async def main():
        app = application(echo)
        async with aiohttp_site(app, ssl_context=certificates.server_context()) as url:
            connector = aiohttp.TCPConnector(ssl=certificates.client_context())
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.ws_connect(url) as socket,
            ):
                for n in range(100):
                    await socket.send_str(str(n))
                    assert await socket.receive_str() == str(n)

    support.run(loop, main())


def test_the_server_closes_with_a_code(loop):
    async def say_goodbye(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close(code=4321, message=b"goodbye")
        return socket

    async def main():
        async with (
            aiohttp_site(application(say_goodbye)) as url,
            aiohttp.ClientSession() as session,
            session.ws_connect(url) as socket,
        ):
            message = await socket.receive()
            assert message.type is aiohttp.WSMsgType.CLOSE
            assert (message.data, message.extra) == (4321, "goodbye")
            assert socket.close_code == 4321

    support.run(loop, main())


def test_heartbeat_finds_a_dead_peer(loop):
    """A peer that answers no ping is given up after half the heartbeat."""

    async def main():
        closed = loop.create_future()

        async def watch(request):
            socket = web.WebSocketResponse(heartbeat=0.1)
            await socket.prepare(request)
            async for _ in socket:
                pass
            closed.set_result(socket.close_code)
            return socket

        async with (
            aiohttp_site(application(watch)) as url,
            aiohttp.ClientSession() as session,
            session.ws_connect(url, autoping=False),  # which nobody reads: no pong
        ):
            assert await closed == aiohttp.WSCloseCode.ABNORMAL_CLOSURE

    support.run(loop, main())


def test_chat_of_many(loop):
    """What one says, all hear, in one order."""
    people, lines = 20, 10

    async def main():
        room = set()

        async def join(request):
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            room.add(socket)
            async for message in socket:
                for other in list(room):
                    await other.send_str(message.data)
            room.discard(socket)
            return socket

        async def person(session, url, number, everybody_is_here):
            heard = []
            async with session.ws_connect(url) as socket:
                await everybody_is_here(socket)
                for line in range(lines):
                    await socket.send_str(f"{number}:{line}")
                while len(heard) < people * lines:
                    heard.append(await socket.receive_str())
            return heard

        async with (
            aiohttp_site(application(join)) as url,
            aiohttp.ClientSession() as session,
        ):

            async def everybody_is_here(socket):
                while len(room) < people:
                    await asyncio.sleep(0.001)

            heard = await asyncio.gather(
                *[person(session, url, n, everybody_is_here) for n in range(people)]
            )
        for each in heard:
            assert sorted(each) == sorted(heard[0])
            assert len(set(each)) == people * lines
            for number in range(people):
                said = [line for line in each if line.startswith(f"{number}:")]
                assert said == [f"{number}:{line}" for line in range(lines)]

    support.run(loop, main())
