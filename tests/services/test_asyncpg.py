"""asyncpg, which has a protocol of its own over the transport, and PostgreSQL."""

import asyncio
import datetime
import decimal
import io
import os
import sys
import uuid

import asyncpg
import pytest
import support


@pytest.fixture(params=["tcp", "unix", "tls"])
def address(request, postgres, certificates):
    """What asyncpg.connect() takes, for each way to the server."""
    options = {"port": postgres.port, "user": "postgres", "database": "postgres"}
    if request.param == "unix":
        return {**options, "host": postgres.unix_folder, "ssl": False}
    if request.param == "tls":
        context = certificates.client_context()
        return {**options, "host": "localhost", "ssl": context}
    return {**options, "host": postgres.host, "ssl": False}


@pytest.fixture
def tcp(postgres):
    return {
        "host": postgres.host,
        "port": postgres.port,
        "user": "postgres",
        "database": "postgres",
        "ssl": False,
    }


class Connected:
    """A connection, closed at the end of the block."""

    def __init__(self, options):
        self._options = options

    async def __aenter__(self):
        self._connection = await asyncpg.connect(**self._options)
        return self._connection

    async def __aexit__(self, *exc_info):
        await self._connection.close()


def test_values_of_many_types(loop, address):
    values = [
        ("int8", -(2**62)),
        ("numeric", decimal.Decimal("12345678901234567890.5")),
        ("text", "Grüße" * 100_000),
        ("bytea", os.urandom(3_000_000)),
        ("timestamptz", datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)),
        ("uuid", uuid.uuid4()),
        ("int4[]", list(range(1000))),
        ("bool", None),
    ]

    async def main():
        async with Connected(address) as connection:
            in_use = await connection.fetchval(
                "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
            )
            assert in_use == bool(address["ssl"])
            for kind, value in values:
                assert await connection.fetchval(f"select $1::{kind}", value) == value

    support.run(loop, main())


def test_many_rows_by_fetch_and_by_cursor(loop, address):
    async def main():
        async with Connected(address) as connection:
            query = "select n, repeat('x', n % 100) as t from generate_series(1, $1) n"
            rows = await connection.fetch(query, 50_000)
            assert [row["n"] for row in rows] == list(range(1, 50_001))
            assert all(len(row["t"]) == row["n"] % 100 for row in rows)
            async with connection.transaction():
                found = [row["n"] async for row in connection.cursor(query, 5000)]
            assert found == list(range(1, 5001))

    support.run(loop, main())


def test_transactions_and_savepoints(loop, tcp):
    async def main():
        async with Connected(tcp) as connection:
            await connection.execute("create temp table t (n int unique)")
            async with connection.transaction():
                await connection.execute("insert into t values (1)")
                with pytest.raises(asyncpg.UniqueViolationError):
                    async with connection.transaction():
                        await connection.execute("insert into t values (1)")
                await connection.execute("insert into t values (2)")
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction(isolation="serializable"):
                    await connection.execute("insert into t values (3)")
                    raise ZeroDivisionError
            rows = await connection.fetch("select n from t order by n")
            assert [row["n"] for row in rows] == [1, 2]

    support.run(loop, main())


def test_copy_in_and_out(loop, address):
    if sys.version_info < (3, 11) and address["ssl"]:
        pytest.skip("TLS of Python 3.10 goes on delivering when asyncpg has paused it")
    records = [(number, f"line {number}") for number in range(100_000)]

    async def main():
        async with Connected(address) as connection:
            await connection.execute("create temp table t (n int, t text)")
            status = await connection.copy_records_to_table("t", records=records)
            assert status == "COPY 100000"
            output = io.BytesIO()
            await connection.copy_from_query("select * from t", output=output)
            lines = output.getvalue().decode().splitlines()
            assert lines == [f"{number}\t{text}" for number, text in records]
            await connection.execute("truncate t")

            async def blocks():
                for start in range(0, len(output.getvalue()), 50_000):
                    yield output.getvalue()[start : start + 50_000]

            await connection.copy_to_table("t", source=blocks())
            total = await connection.fetchval("select sum(n) from t")
            assert total == sum(range(100_000))
            with pytest.raises(ZeroDivisionError):

                async def failing():
                    yield b"1\tone\n"
                    raise ZeroDivisionError

                await connection.copy_to_table("t", source=failing())
            assert await connection.fetchval("select count(*) from t") == 100_000

    support.run(loop, main())


def test_a_pool_under_load(loop, address):
    async def main():
        async with asyncpg.create_pool(**address, min_size=2, max_size=8) as pool:

            async def work(number):
                async with pool.acquire() as connection, connection.transaction():
                    return await connection.fetchval("select $1::int * 2", number)

            answers = await asyncio.gather(*[work(number) for number in range(500)])
            assert answers == [2 * number for number in range(500)]
            assert pool.get_size() <= 8
            busy = [await pool.acquire() for _ in range(8)]
            with pytest.raises(asyncio.TimeoutError):
                await pool.acquire(timeout=0.05)
            for connection in busy:
                await pool.release(connection)

    support.run(loop, main())


def test_listen_and_notify(loop, address):
    count = 500

    async def main():
        async with Connected(address) as listening, Connected(address) as telling:
            received = asyncio.Queue()

            def on_notify(connection, sender, channel, payload):
                received.put_nowait((sender, int(payload)))

            await listening.add_listener("news", on_notify)
            for number in range(count):
                await telling.execute(f"notify news, '{number}'")
            found = [await received.get() for _ in range(count)]
            sender = telling.get_server_pid()
            assert found == [(sender, number) for number in range(count)]
            await listening.remove_listener("news", on_notify)

    support.run(loop, main())


async def until_asleep(connection, pid):
    """Wait until that session is inside pg_sleep(): it might miss what comes before."""
    asked = "select 1 from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'"
    while not await connection.fetchval(asked, pid):
        await asyncio.sleep(0.01)


def test_cancelling_a_query(loop, address):
    """asyncpg opens another connection to ask the server to stop."""

    async def main():
        async with Connected(address) as connection, Connected(address) as other:
            pid = connection.get_server_pid()
            for _ in range(3):
                task = asyncio.ensure_future(connection.fetch("select pg_sleep(600)"))
                await until_asleep(other, pid)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                # A second cancellation before the first one is through closes it.
                assert await connection.fetchval("select 1") == 1
            with pytest.raises(asyncio.TimeoutError):
                await connection.fetch("select pg_sleep(600)", timeout=0.5)
            assert await connection.fetchval("select 1") == 1

    support.run(loop, main())


def test_the_server_ends_a_session(loop, tcp):
    async def main():
        async with Connected(tcp) as connection, Connected(tcp) as other:
            ended = loop.create_future()
            connection.add_termination_listener(lambda _: ended.set_result(None))
            waiting = asyncio.ensure_future(connection.fetch("select pg_sleep(600)"))
            pid = connection.get_server_pid()
            await until_asleep(other, pid)
            await other.fetchval("select pg_terminate_backend($1)", pid)
            with pytest.raises(asyncpg.ConnectionDoesNotExistError):
                await waiting
            await ended
            assert connection.is_closed()

    support.run(loop, main())


def test_refusals(loop, tcp, certificates, tmp_path):
    async def main():
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await asyncpg.connect(**{**tcp, "database": "none"})
        with pytest.raises(ConnectionRefusedError):
            await asyncpg.connect(**{**tcp, "port": support.free_port()})
        other = support.Certificates(str(tmp_path))
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await asyncpg.connect(
                **{**tcp, "host": "localhost", "ssl": other.client_context()}
            )

    support.run(loop, main())
