"""The websockets library: server and client on the loop under test."""

import asyncio
import os

import pytest
import support
from realkit import need

websockets, server_module, client_module = need(
    "websockets", "websockets.asyncio.server", "websockets.asyncio.client"
)
serve, connect = server_module.serve, client_module.connect


async def echo(connection):
    async for message in connection:
        await connection.send(message)


def port_of(server):
    return next(iter(server.sockets)).getsockname()[1]


def test_messages_of_all_sizes(loop):
    data = os.urandom(1_500_000)

    async def main():
        async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
            url = f"ws://127.0.0.1:{port_of(server)}"
            async with connect(url, max_size=None) as connection:
                for size in (0, 1, 125, 126, 65535, 65536, len(data)):
                    await connection.send(data[:size])
                    assert await connection.recv() == data[:size]
                await connection.send("Grüße")
                assert await connection.recv() == "Grüße"

    support.run(loop, main())


def test_fragmented_messages(loop):
    async def main():
        async with serve(echo, "127.0.0.1", 0) as server:
            async with connect(f"ws://127.0.0.1:{port_of(server)}") as connection:
                await connection.send(str(n) + " " for n in range(1000))
                whole = "".join(str(n) + " " for n in range(1000))
                assert await connection.recv() == whole

    support.run(loop, main())


def test_many_messages_in_flight(loop):
    """The sender runs ahead until flow control stops it; nothing is lost."""
    count = 5000

    async def main():
        async with serve(echo, "127.0.0.1", 0, max_queue=4) as server:
            url = f"ws://127.0.0.1:{port_of(server)}"
            async with connect(url, max_queue=4, compression=None) as connection:

                async def send():
                    for number in range(count):
                        await connection.send(str(number) * 20)

                sender = loop.create_task(send())
                for number in range(count):
                    assert await connection.recv() == str(number) * 20
                await sender

    support.run(loop, main())


def test_many_clients(loop):
    async def main():
        async with serve(echo, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{port_of(server)}"

            async def client(number):
                async with connect(url) as connection:
                    for turn in range(20):
                        await connection.send(f"{number} {turn}")
                        assert await connection.recv() == f"{number} {turn}"

            await asyncio.gather(*[client(number) for number in range(50)])

    support.run(loop, main())


def test_broadcast(loop):
    people = 30

    async def main():
        async def listen(connection):
            await connection.wait_closed()

        async with serve(listen, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{port_of(server)}"
            clients = [await connect(url) for _ in range(people)]
            while len(server.connections) < people:
                await asyncio.sleep(0.001)
            for number in range(100):
                server_module.broadcast(server.connections, str(number))
            for client in clients:
                heard = [await client.recv() for _ in range(100)]
                assert heard == [str(number) for number in range(100)]
            await asyncio.gather(*[client.close() for client in clients])

    support.run(loop, main())


def test_ping_and_keep_alive(loop):
    async def main():
        async with serve(
            echo, "127.0.0.1", 0, ping_interval=0.01, ping_timeout=5
        ) as server:
            url = f"ws://127.0.0.1:{port_of(server)}"
            async with connect(url, ping_interval=None) as connection:
                for _ in range(5):
                    assert await (await connection.ping()) >= 0
                await asyncio.sleep(0.1)  # of which the server fills some with pings
                await connection.send("still here")
                assert await connection.recv() == "still here"

    support.run(loop, main())


def test_close_codes(loop):
    async def main():
        codes = asyncio.Queue()

        async def handler(connection):
            if await connection.recv() == "you close":
                await connection.close(4000, "as you say")
            await connection.wait_closed()
            await codes.put((connection.close_code, connection.close_reason))

        async with serve(handler, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{port_of(server)}"
            async with connect(url) as connection:
                await connection.send("you close")
                with pytest.raises(websockets.ConnectionClosedError) as caught:
                    await connection.recv()
                assert caught.value.rcvd.code == 4000
                assert caught.value.rcvd.reason == "as you say"
            assert await codes.get() == (4000, "as you say")
            async with connect(url) as connection:
                await connection.send("I close")
                await connection.close(4001, "myself")
            assert await codes.get() == (4001, "myself")
            connection = await connect(url)
            await connection.send("I vanish")
            connection.transport.abort()
            assert await codes.get() == (1006, "")
            await connection.wait_closed()

    support.run(loop, main())


def test_server_shutdown_tells_its_clients(loop):
    async def main():
        server = await serve(echo, "127.0.0.1", 0)
        url = f"ws://127.0.0.1:{port_of(server)}"
        clients = [await connect(url) for _ in range(5)]
        server.close()
        for client in clients:
            with pytest.raises(websockets.ConnectionClosedOK) as caught:
                await client.recv()
            assert caught.value.rcvd.code == 1001
        await server.wait_closed()
        with pytest.raises(OSError):
            await connect(url)

    support.run(loop, main())


# Python 3.10 says that of every TLS transport that the peer has closed.
@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
def test_tls(loop, certificates):
    data = os.urandom(300_000)

    async def main():
        context = certificates.server_context()
        async with serve(echo, "localhost", 0, ssl=context) as server:
            url = f"wss://localhost:{port_of(server)}"
            client_context = certificates.client_context()
            async with connect(url, ssl=client_context) as connection:
                for _ in range(10):
                    await connection.send(data)
                    assert await connection.recv() == data

    support.run(loop, main())


def test_unix_socket(loop, tmp_path):
    path = str(tmp_path / "socket")

    async def main():
        async with server_module.unix_serve(echo, path):
            async with client_module.unix_connect(path) as connection:
                await connection.send("over a Unix socket")
                assert await connection.recv() == "over a Unix socket"

    support.run(loop, main())


def test_handshake_that_takes_too_long(loop):
    async def main():
        async def silent(reader, writer):
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with server:
            # Two classes up to Python 3.10.
            with pytest.raises((TimeoutError, asyncio.TimeoutError)):
                await connect(f"ws://127.0.0.1:{port_of(server)}", open_timeout=0.05)

    support.run(loop, main())
