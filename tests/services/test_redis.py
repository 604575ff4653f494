"""redis-py's asyncio client, with both of its parsers, and a Redis server."""

import asyncio
import contextlib
import os

import pytest
import redis.asyncio as redis
import support
from redis.asyncio.connection import (
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError, TimeoutError, WatchError


@pytest.fixture
def options(redis_server):
    return {"host": redis_server.host, "port": redis_server.port}


@contextlib.asynccontextmanager
async def connected(**options):
    """A client of an empty database."""
    async with redis.Redis(**{"socket_timeout": None, **options}) as client:
        await client.flushall()
        yield client


@pytest.fixture(params=["tcp", "unix", "tls"])
def pool(request, redis_server, certificates):
    """A function that makes a pool of connections of one kind."""

    def make(**options):
        options["socket_timeout"] = None  # redis-py's is 5 s, of blocking commands too
        if request.param == "tcp":
            options |= {"host": redis_server.host, "port": redis_server.port}
            return redis.ConnectionPool(connection_class=Connection, **options)
        if request.param == "unix":
            options |= {"path": redis_server.unix_path}
            kind = UnixDomainSocketConnection
            return redis.ConnectionPool(connection_class=kind, **options)
        options |= {"host": "localhost", "port": redis_server.tls_port}
        options |= {"ssl_ca_certs": certificates.ca_path}
        return redis.ConnectionPool(connection_class=SSLConnection, **options)

    return make


@pytest.mark.parametrize("protocol", [2, 3])
def test_commands_of_all_kinds(loop, pool, protocol):
    values = [os.urandom(size) for size in (0, 1, 65_536, 3_000_000)]

    async def main():
        client = redis.Redis.from_pool(pool(protocol=protocol))
        async with client:
            await client.flushall()
            for value in values:
                assert await client.set("key", value)
                assert await client.get("key") == value
            assert await client.get("nothing") is None
            assert await client.incrby("count", 5) == 5
            await client.hset("hash", mapping={"a": 1, "b": 2})
            assert await client.hgetall("hash") == {b"a": b"1", b"b": b"2"}
            await client.rpush("list", *range(1000))
            assert len(await client.lrange("list", 0, -1)) == 1000
            assert [key async for key in client.scan_iter(match="h*")] == [b"hash"]
            assert await client.eval("return {1, 'two'}", 0) == [1, b"two"]
            with pytest.raises(ResponseError):
                await client.hget("list", "a")

    support.run(loop, main())


@pytest.mark.parametrize("transaction", [False, True], ids=["plain", "multi"])
def test_pipelines(loop, pool, transaction):
    count = 10_000

    async def main():
        async with redis.Redis.from_pool(pool()) as client:
            await client.flushall()
            async with client.pipeline(transaction=transaction) as pipeline:
                for number in range(count):
                    pipeline.set(f"key {number}", number)
                assert await pipeline.execute() == [True] * count
                for number in range(count):
                    pipeline.get(f"key {number}")
                answers = await pipeline.execute()
            assert answers == [b"%d" % number for number in range(count)]

    support.run(loop, main())


def test_optimistic_locking(loop, options):
    async def main():
        async with connected(**options) as client:
            await client.set("count", 0)

            async def increment():
                while True:
                    async with client.pipeline() as pipeline:
                        try:
                            await pipeline.watch("count")
                            value = int(await pipeline.get("count"))
                            pipeline.multi()
                            pipeline.set("count", value + 1)
                            await pipeline.execute()
                            return
                        except WatchError:
                            continue

            await asyncio.gather(*[increment() for _ in range(20)])
            assert await client.get("count") == b"20"

    support.run(loop, main())


def test_publishing_and_subscribing(loop, pool):
    count = 500

    async def main():
        async with redis.Redis.from_pool(pool()) as client:
            subscribed = asyncio.Semaphore(0)

            async def listen(number):
                async with client.pubsub() as pubsub:
                    await pubsub.subscribe("news")
                    await pubsub.psubscribe(f"own.{number}.*")
                    found = []
                    async for message in pubsub.listen():
                        if message["type"].endswith("subscribe"):
                            subscribed.release()
                        elif message["data"] == b"end":
                            return found
                        else:
                            found.append(int(message["data"]))

            listeners = [asyncio.ensure_future(listen(number)) for number in range(10)]
            for _ in range(20):
                await subscribed.acquire()
            for number in range(count):
                assert await client.publish("news", number) == 10
            for number in range(10):
                assert await client.publish(f"own.{number}.x", -number) == 1
            await client.publish("news", "end")
            for number, found in enumerate(await asyncio.gather(*listeners)):
                assert found == [*range(count), -number]

    support.run(loop, main())


def test_blocking_commands(loop, pool):
    async def main():
        async with redis.Redis.from_pool(pool()) as client:
            await client.flushall()
            started = loop.time()
            assert await client.blpop("jobs", timeout=0.2) is None
            assert loop.time() - started > 0.19
            workers = [
                asyncio.ensure_future(client.blpop(f"jobs {number}"))
                for number in range(20)
            ]
            while (await client.info("clients"))["blocked_clients"] != 20:
                await asyncio.sleep(0.01)
            for number in range(20):
                await client.rpush(f"jobs {number}", number)
            for number, worker in enumerate(workers):
                assert await worker == (b"jobs %d" % number, b"%d" % number)

    support.run(loop, main())


def test_timeouts_and_cancelled_commands(loop, options):
    """A connection whose answer is still to come is not used for another command."""

    async def main():
        once = {"retry": Retry(NoBackoff(), 0)}
        async with connected(**options, socket_timeout=0.1, **once) as client:
            with pytest.raises(TimeoutError):
                await client.blpop("nothing", timeout=30)
            assert await client.ping()
        async with connected(**options) as client:
            for turn in range(20):
                task = asyncio.ensure_future(client.blpop("nothing"))
                await asyncio.sleep(0.001 * (turn % 3))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await client.echo(f"{turn}") == b"%d" % turn

    support.run(loop, main())


def test_a_pool_that_makes_callers_wait(loop, options):
    async def main():
        pool = redis.BlockingConnectionPool(max_connections=4, **options)
        client = redis.Redis.from_pool(pool)
        async with client:
            await client.flushall()
            await asyncio.gather(*[client.incr("count") for _ in range(500)])
            assert await client.get("count") == b"500"
            info = await client.info("clients")
            assert info["connected_clients"] <= 4

    support.run(loop, main())


def test_streams_with_a_group(loop, options):
    async def main():
        async with connected(**options) as client:
            await client.xgroup_create("events", "group", id="0", mkstream=True)

            async def consume(name):
                found = []
                while True:
                    answer = await client.xreadgroup(
                        "group", name, {"events": ">"}, count=10, block=30_000
                    )
                    for identity, fields in answer[0][1]:
                        await client.xack("events", "group", identity)
                        if fields[b"n"] == b"end":
                            return found
                        found.append(int(fields[b"n"]))

            consumers = [asyncio.ensure_future(consume(name)) for name in "ab"]
            for number in range(300):
                await client.xadd("events", {"n": number})
            done = set()
            while len(done) < 2:
                await client.xadd("events", {"n": "end"})
                done, _ = await asyncio.wait(consumers, timeout=0.1)
            found = [number for consumer in consumers for number in consumer.result()]
            assert sorted(found) == list(range(300))

    support.run(loop, main())


def test_the_server_ends_connections(loop, options):
    async def main():
        async with connected(**options) as client, connected(**options) as other:
            assert await client.ping()
            identity = await client.client_id()
            await other.client_kill_filter(_id=identity)
            assert await client.ping()  # redis-py connects again
            assert await client.client_id() != identity

    support.run(loop, main())


def test_no_server(loop, tmp_path):
    async def main():
        async with redis.Redis(port=support.free_port()) as client:
            with pytest.raises(RedisConnectionError):
                await client.ping()
        async with redis.Redis(unix_socket_path=str(tmp_path / "none")) as client:
            with pytest.raises(RedisConnectionError):
                await client.ping()

    support.run(loop, main())
