"""aiokafka and a mock cluster of three brokers, librdkafka's: see servers.kafka."""

import asyncio
import collections
import os
import pathlib
import signal

import pytest
import support

pytest.importorskip(
    "aiokafka", reason="aiokafka is not installed: it has no wheel for this Python"
)

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError


@pytest.fixture
def cluster(kafka, request):
    return Cluster(kafka, f"topic-{request.node.name}".translate(NAME))


#: What a test's name has and a topic's may not.
NAME = str.maketrans("[]", "--")


class Cluster:
    """Clients of the brokers, and a topic that no other test uses."""

    def __init__(self, service, topic):
        self.service = service
        self.topic = topic
        self.address = f"{service.host}:{service.port}"

    def producer(self, **options):
        return AIOKafkaProducer(bootstrap_servers=self.address, **options)

    def consumer(self, *topics, **options):
        options = {"auto_offset_reset": "earliest", **options}
        topics = topics or (self.topic,)
        return AIOKafkaConsumer(*topics, bootstrap_servers=self.address, **options)

    def reader(self):
        """A consumer that is to be assigned its partitions."""
        return AIOKafkaConsumer(
            bootstrap_servers=self.address, auto_offset_reset="earliest"
        )

    async def send(self, producer, *values, topic=None, **options):
        sent = [
            await producer.send(topic or self.topic, value, **options)
            for value in values
        ]
        return await asyncio.gather(*sent)


def numbers(count, first=0):
    return [b"%d" % number for number in range(first, first + count)]


async def take(consumer, count):
    return [await consumer.getone() for _ in range(count)]


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
def test_ten_thousand_messages(loop, cluster, compression):
    count = 10_000

    async def main():
        options = {"enable_idempotence": True, "compression_type": compression}
        async with cluster.producer(**options, linger_ms=2) as producer:
            sent = await asyncio.gather(
                *[
                    await producer.send(cluster.topic, value, key=b"key " + value[-1:])
                    for value in numbers(count)
                ]
            )
        assert len({(at.partition, at.offset) for at in sent}) == count
        found = collections.defaultdict(list)
        async with cluster.consumer() as consumer:
            for message in await take(consumer, count):
                found[message.key].append(int(message.value))
        for key, values in found.items():
            assert values == list(range(int(key[-1:]), count, 10))
        assert len(found) == 10

    support.run(loop, main())


def test_large_messages_and_headers(loop, cluster):
    bodies = [os.urandom(size) for size in (0, 1, 100_000, 900_000)]

    async def main():
        async with cluster.producer() as producer:
            for body in bodies:
                headers = [("length", str(len(body)).encode())]
                await producer.send_and_wait(
                    cluster.topic, body, headers=headers, partition=0
                )
        async with cluster.consumer() as consumer:
            messages = await take(consumer, len(bodies))
            assert [message.value for message in messages] == bodies
            lengths = [int(dict(message.headers)["length"]) for message in messages]
            assert lengths == [len(body) for body in bodies]

    support.run(loop, main())


def test_two_consumers_share_the_partitions(loop, cluster):
    """By hand: a group of two is more than the mock cluster understands of aiokafka."""

    async def main():
        async with cluster.producer() as producer:
            everything = sorted(await producer.partitions_for(cluster.topic))
            assert len(everything) > 1
            for partition in everything:
                values = numbers(100, 100 * partition)
                await cluster.send(producer, *values, partition=partition)
        halves = [everything[::2], everything[1::2]]
        async with cluster.reader() as first, cluster.reader() as second:
            for consumer, half in zip((first, second), halves, strict=True):
                consumer.assign([TopicPartition(cluster.topic, at) for at in half])
            found = await asyncio.gather(
                take(first, 100 * len(halves[0])), take(second, 100 * len(halves[1]))
            )
        for messages, half in zip(found, halves, strict=True):
            for at in half:
                values = [m.value for m in messages if m.partition == at]
                assert values == numbers(100, 100 * at)

    support.run(loop, main())


def test_committed_offsets_are_where_the_next_one_begins(loop, cluster):
    async def main():
        options = {"group_id": f"group of {cluster.topic}", "enable_auto_commit": False}
        async with cluster.producer() as producer:
            await cluster.send(producer, *numbers(20), partition=0)
        async with cluster.consumer(**options) as consumer:
            for expected in numbers(7):
                assert (await consumer.getone()).value == expected
            await consumer.commit()
            await take(consumer, 3)
        async with cluster.consumer(**options) as consumer:
            assert await consumer.committed(TopicPartition(cluster.topic, 0)) == 7
            messages = await take(consumer, 13)
            assert [message.value for message in messages] == numbers(13, 7)

    support.run(loop, main())


def test_seeking_pausing_and_batches(loop, cluster):
    async def main():
        partition = TopicPartition(cluster.topic, 0)
        async with cluster.producer() as producer:
            await cluster.send(producer, *numbers(50), partition=0)
        async with cluster.consumer() as consumer:
            await take(consumer, 50)
            consumer.seek(partition, 45)
            assert [m.value for m in await take(consumer, 5)] == numbers(5, 45)
            await consumer.seek_to_beginning(partition)
            batch = await consumer.getmany(timeout_ms=30_000, max_records=10)
            assert [m.value for m in batch[partition]] == numbers(10)
            consumer.pause(partition)
            assert await consumer.getmany(timeout_ms=50) == {}
            consumer.resume(partition)
            assert (await consumer.getone()).value == b"10"
            assert await consumer.end_offsets([partition]) == {partition: 50}

    support.run(loop, main())


def test_transactions(loop, cluster):
    """Consume, process, produce: the results and the offsets are one transaction.

    The mock cluster answers all of its requests, but keeps no offsets of one.
    """

    async def main():
        group = f"group of {cluster.topic}"
        partition = TopicPartition(cluster.topic, 0)
        results = f"{cluster.topic}-results"
        options = {"group_id": group, "enable_auto_commit": False}
        async with cluster.producer() as producer:
            await cluster.send(producer, *numbers(10), partition=0)
        producer = cluster.producer(transactional_id=f"transaction {cluster.topic}")
        async with producer, cluster.consumer(**options) as consumer:
            messages = await take(consumer, 10)
            async with producer.transaction():
                for message in messages:
                    await producer.send(results, message.value * 2, partition=0)
                offsets = {partition: messages[-1].offset + 1}
                await producer.send_offsets_to_transaction(offsets, group)
            with pytest.raises(ZeroDivisionError):
                async with producer.transaction():
                    raise ZeroDivisionError
        async with cluster.consumer(results) as consumer:
            found = [message.value for message in await take(consumer, 10)]
            assert found == [value * 2 for value in numbers(10)]

    support.run(loop, main())


def test_an_idle_consumer_waits_and_is_cancelled(loop, cluster):
    async def main():
        async with cluster.producer() as producer, cluster.consumer() as consumer:
            waiting = asyncio.ensure_future(consumer.getone())
            await asyncio.sleep(0.1)
            assert not waiting.done()
            await cluster.send(producer, b"at last")
            assert (await waiting).value == b"at last"
            waiting = asyncio.ensure_future(consumer.getone())
            await asyncio.sleep(0.1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(consumer.getone(), 0.1)

    support.run(loop, main())


def has_stopped(process):
    """Whether all threads are stopped: a busy one may go on for a moment."""
    threads = pathlib.Path(f"/proc/{process.pid}/task").glob("*/stat")
    return all(one.read_text().rpartition(")")[2].split()[0] == "T" for one in threads)


def test_a_broker_that_stops_answering(loop, cluster):
    """Requests time out while it is stopped; afterwards the same producer goes on."""

    async def main():
        options = {"request_timeout_ms": 500, "retry_backoff_ms": 50}
        async with cluster.producer(**options) as producer:
            await cluster.send(producer, b"before")
            os.kill(cluster.service.process.pid, signal.SIGSTOP)
            try:
                support.wait_for_condition(lambda: has_stopped(cluster.service.process))
                with pytest.raises(KafkaError):  # which one, depends on where it was
                    await producer.send_and_wait(cluster.topic, b"lost")
            finally:
                os.kill(cluster.service.process.pid, signal.SIGCONT)
            await producer.send_and_wait(cluster.topic, b"after")

    support.run(loop, main())


def test_no_broker(loop):
    async def main():
        address = f"127.0.0.1:{support.free_port()}"
        producer = AIOKafkaProducer(bootstrap_servers=address)
        with pytest.raises(KafkaConnectionError):
            await producer.start()
        await producer.stop()

    support.run(loop, main())
