"""aio-pika and a RabbitMQ node."""

import asyncio
import os

import pytest
import servers
import support
from aio_pika import (
    DeliveryMode,
    ExchangeType,
    Message,
    connect,
    connect_robust,
    exceptions,
    patterns,
)


@pytest.fixture
def url(rabbitmq):
    return f"amqp://guest:guest@{rabbitmq.host}:{rabbitmq.port}/"


async def own_queue(channel, **options):
    """A queue with a name of the broker's, which goes with the connection."""
    return await channel.declare_queue(exclusive=True, **options)


async def publish(channel, queue, *bodies, **options):
    for body in bodies:
        await channel.default_exchange.publish(
            Message(body, **options), routing_key=queue.name
        )


def test_ten_thousand_confirmed_and_consumed(loop, url):
    count = 10_000

    async def main():
        async with await connect(url) as connection:
            sending, receiving = await connection.channel(), await connection.channel()
            await receiving.set_qos(prefetch_count=500)
            queue = await own_queue(receiving)
            confirmations = []

            async def produce():
                for first in range(0, count, 500):
                    batch = [
                        sending.default_exchange.publish(
                            Message(str(number).encode()), routing_key=queue.name
                        )
                        for number in range(first, first + 500)
                    ]
                    confirmations.extend(await asyncio.gather(*batch))

            producer = loop.create_task(produce())
            found = []
            async with queue.iterator() as messages:
                async for message in messages:
                    found.append(int(message.body))
                    await message.ack()
                    if len(found) == count:
                        break
            await producer
            assert {type(frame).__name__ for frame in confirmations} == {"Ack"}
            assert len(confirmations) == count
            assert found == list(range(count))
            assert await queue.get(fail=False) is None

    support.run(loop, main(), timeout=60)


def test_what_no_queue_takes_is_returned(loop, url):
    async def main():
        async with await connect(url) as connection:
            channel = await connection.channel(on_return_raises=True)
            with pytest.raises(exceptions.DeliveryError):
                await channel.default_exchange.publish(
                    Message(b"lost"), routing_key="no such queue", mandatory=True
                )
            queue = await own_queue(channel)
            await publish(channel, queue, b"still open")
            assert (await queue.get()).body == b"still open"

    support.run(loop, main())


def test_acknowledging_rejecting_and_requeueing(loop, url):
    async def main():
        async with await connect(url) as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=1)
            dead = await own_queue(channel)
            arguments = {
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": dead.name,
            }
            queue = await own_queue(channel, arguments=arguments)
            await publish(channel, queue, b"kept", b"refused", b"again")
            seen = []
            done = loop.create_future()

            async def handle(message):
                seen.append((message.body, message.redelivered))
                if message.body == b"refused":
                    await message.reject(requeue=False)
                elif message.body == b"again" and not message.redelivered:
                    await message.nack(requeue=True)
                else:
                    await message.ack()
                if len(seen) == 4:
                    done.set_result(None)

            tag = await queue.consume(handle)
            await done
            await queue.cancel(tag)
            assert seen[:3] == [
                (b"kept", False),
                (b"refused", False),
                (b"again", False),
            ]
            assert seen[3] == (b"again", True)
            letter = await dead.get()
            await letter.ack()
            assert letter.body == b"refused"
            assert letter.headers["x-death"][0]["reason"] == "rejected"

    support.run(loop, main())


def test_topics_and_properties(loop, url):
    async def main():
        async with await connect(url) as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(
                "pyloop.topics", ExchangeType.TOPIC, auto_delete=True
            )
            queues = {}
            for pattern in ("error.*", "#.disk", "*.net"):
                queues[pattern] = await own_queue(channel)
                await queues[pattern].bind(exchange, pattern)
            message = Message(
                b"{}",
                headers={"turn": 3, "names": ["a", "b"]},
                content_type="application/json",
                delivery_mode=DeliveryMode.PERSISTENT,
                correlation_id="7",
                priority=4,
            )
            for key in ("error.disk", "info.disk", "error.net"):
                await exchange.publish(message, routing_key=key)
            found = {}
            for pattern, queue in queues.items():
                found[pattern] = []
                while (got := await queue.get(no_ack=True, fail=False)) is not None:
                    found[pattern].append(got.routing_key)
                    assert got.headers == {"turn": 3, "names": ["a", "b"]}
                    assert (got.content_type, got.priority) == ("application/json", 4)
                    assert got.correlation_id == "7"
            assert found == {
                "error.*": ["error.disk", "error.net"],
                "#.disk": ["error.disk", "info.disk"],
                "*.net": ["error.net"],
            }

    support.run(loop, main())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_large_messages(loop, rabbitmq, certificates, tls):
    """Each is many frames; several channels of one connection send at once."""
    bodies = [os.urandom(size) for size in (1, 131_064, 131_065, 3_000_000, 8_000_000)]
    options = {"host": "localhost", "port": rabbitmq.port}
    if tls:
        options["port"] = rabbitmq.tls_port
        options |= {"ssl": True, "ssl_context": certificates.client_context()}

    async def through(connection, body):
        channel = await connection.channel()
        queue = await own_queue(channel)
        await publish(channel, queue, body, body)
        for _ in range(2):
            message = await queue.get()
            await message.ack()
            assert message.body == body

    async def main():
        async with await connect(**options) as connection:
            await asyncio.gather(*[through(connection, body) for body in bodies])

    support.run(loop, main())


def test_remote_calls(loop, url):
    async def multiply(*, left, right):
        await asyncio.sleep(0)
        return left * right

    async def fail():
        raise ValueError("on purpose")

    async def main():
        async with await connect(url) as served, await connect(url) as connection:
            server = await patterns.RPC.create(await served.channel())
            await server.register("pyloop.multiply", multiply, auto_delete=True)
            await server.register("pyloop.fail", fail, auto_delete=True)
            client = await patterns.RPC.create(await connection.channel())
            answers = await asyncio.gather(
                *[
                    client.call("pyloop.multiply", {"left": number, "right": 3})
                    for number in range(200)
                ]
            )
            assert answers == [number * 3 for number in range(200)]
            with pytest.raises(ValueError, match="on purpose"):
                await client.call("pyloop.fail")
            await client.close()
            await server.close()

    support.run(loop, main())


def test_transactions(loop, url):
    async def main():
        async with await connect(url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            queue = await own_queue(channel)
            async with channel.transaction():
                await publish(channel, queue, b"one", b"two")
            with pytest.raises(ZeroDivisionError):
                async with channel.transaction():
                    await publish(channel, queue, b"rolled back")
                    raise ZeroDivisionError
            bodies = [(await queue.get(no_ack=True)).body for _ in range(2)]
            assert bodies == [b"one", b"two"]
            assert await queue.get(no_ack=True, fail=False) is None

    support.run(loop, main())


def test_many_connections_and_channels(loop, url):
    async def one_connection(number):
        async with await connect(url) as connection:
            channels = [await connection.channel() for _ in range(10)]
            queue = await own_queue(channels[0], auto_delete=True)
            bodies = {b"%d %d" % (number, index) for index in range(10)}
            await asyncio.gather(
                *[
                    publish(channel, queue, body)
                    for channel, body in zip(channels, bodies, strict=True)
                ]
            )
            assert {(await queue.get(no_ack=True)).body for _ in range(10)} == bodies

    async def main():
        await asyncio.gather(*[one_connection(number) for number in range(20)])

    support.run(loop, main())


def test_timeouts(loop, url):
    async def main():
        async with await connect(url) as connection:
            queue = await own_queue(await connection.channel())
            with pytest.raises(asyncio.TimeoutError):
                async with queue.iterator(timeout=0.05) as messages:
                    await messages.__anext__()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(queue.iterator().__anext__(), 0.05)

    support.run(loop, main())


def test_an_idle_connection_is_kept_by_heartbeats(loop, url):
    """The broker closes a connection that says nothing for twice this second."""

    async def main():
        async with await connect(url + "?heartbeat=1") as connection:
            channel = await connection.channel()
            queue = await own_queue(channel)
            await asyncio.sleep(3)
            await publish(channel, queue, b"still there")
            assert (await queue.get(no_ack=True)).body == b"still there"

    support.run(loop, main())


def test_a_wrong_password_and_no_broker(loop, rabbitmq):
    async def main():
        with pytest.raises(exceptions.ProbableAuthenticationError):
            await connect(f"amqp://guest:wrong@127.0.0.1:{rabbitmq.port}/")
        with pytest.raises(exceptions.AMQPConnectionError):
            await connect(f"amqp://guest:guest@127.0.0.1:{support.free_port()}/")

    support.run(loop, main())


# --- what is lost comes back ----------------------------------------------------------


async def survive(url, interrupt):
    """Consume before and after interrupt(); everything published comes, in order."""
    connection = await connect_robust(url, reconnect_interval=0.1)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("pyloop.durable", durable=True)
        await queue.purge()
        received = asyncio.Queue()

        async def handle(message):
            async with message.process():
                await received.put(message.body)

        await queue.consume(handle)
        options = {"delivery_mode": DeliveryMode.PERSISTENT}
        for turn in range(3):
            await publish(channel, queue, b"before %d" % turn, **options)
            assert await received.get() == b"before %d" % turn
        reconnected = asyncio.Event()
        connection.reconnect_callbacks.add(lambda *_: reconnected.set())
        await asyncio.get_running_loop().run_in_executor(None, interrupt)
        await reconnected.wait()
        for turn in range(3):
            await publish(channel, queue, b"after %d" % turn, **options)
            assert await received.get() == b"after %d" % turn
        await queue.delete(if_unused=False, if_empty=False)


def test_reconnecting_when_the_broker_closes_the_connection(loop, rabbitmq, url):
    def interrupt():
        servers.rabbitmqctl(rabbitmq, "close_all_connections", "test")

    support.run(loop, survive(url, interrupt))


def test_reconnecting_when_the_broker_restarts(loop, rabbitmq, url):
    def interrupt():
        servers.rabbitmqctl(rabbitmq, "stop_app")
        servers.rabbitmqctl(rabbitmq, "start_app")

    support.run(loop, survive(url, interrupt), timeout=60)
