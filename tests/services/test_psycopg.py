"""psycopg 3, whose C library owns the socket that the loop watches, and PostgreSQL."""

import asyncio
import os

import psycopg
import psycopg_pool
import pytest
import support
from psycopg.rows import dict_row


@pytest.fixture(params=["tcp", "unix", "tls"])
def address(request, postgres, certificates):
    """A connection string, for each way to the server."""
    options = {"port": postgres.port, "user": "postgres", "dbname": "postgres"}
    if request.param == "unix":
        options["host"] = postgres.unix_folder
    elif request.param == "tls":
        options |= {"host": "localhost", "sslmode": "verify-full"}
        options["sslrootcert"] = certificates.ca_path
    else:
        options |= {"host": postgres.host, "sslmode": "disable"}
    return psycopg.conninfo.make_conninfo(**options)


@pytest.fixture
def tcp(postgres):
    return f"host={postgres.host} port={postgres.port} user=postgres sslmode=disable"


async def connect(address, **options):
    return await psycopg.AsyncConnection.connect(address, **options)


def test_rows_and_values(loop, address):
    blob = os.urandom(3_000_000)

    async def main():
        async with await connect(address) as connection:
            cursor = await connection.execute(
                "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
            )
            assert await cursor.fetchone() == ("verify-full" in address,)
            cursor = await connection.execute("select %s::bytea", [blob])
            assert await cursor.fetchone() == (blob,)
            async with connection.cursor(row_factory=dict_row, binary=True) as cursor:
                await cursor.execute("select n from generate_series(1, 50000) n")
                found = [row["n"] async for row in cursor]
                assert found == list(range(1, 50_001))
                await cursor.executemany("select %s", [[n] for n in range(1000)])
            async with connection.cursor("on_the_server") as cursor:
                await cursor.execute("select n from generate_series(1, 5000) n")
                assert len(await cursor.fetchall()) == 5000

    support.run(loop, main())


def test_transactions_and_savepoints(loop, tcp):
    async def main():
        async with await connect(tcp, autocommit=True) as connection:
            await connection.execute("create temp table t (n int unique)")
            async with connection.transaction():
                await connection.execute("insert into t values (1)")
                with pytest.raises(psycopg.errors.UniqueViolation):
                    async with connection.transaction():
                        await connection.execute("insert into t values (1)")
                await connection.execute("insert into t values (2)")
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute("insert into t values (3)")
                    raise ZeroDivisionError
            cursor = await connection.execute("select n from t order by n")
            assert await cursor.fetchall() == [(1,), (2,)]

    support.run(loop, main())


def test_pipelines(loop, address):
    async def main():
        async with await connect(address) as connection:
            async with connection.pipeline():
                cursors = [
                    await connection.execute("select %s::int", [number])
                    for number in range(2000)
                ]
                found = [(await cursor.fetchone())[0] for cursor in cursors]
            assert found == list(range(2000))

    support.run(loop, main())


def test_copy_in_and_out(loop, address):
    count = 50_000

    async def main():
        async with await connect(address) as connection:
            await connection.execute("create temp table t (n int, t text)")
            async with connection.cursor() as cursor:
                async with cursor.copy("copy t from stdin") as copy:
                    for number in range(count):
                        await copy.write_row((number, f"line {number}"))
                async with cursor.copy("copy t to stdout") as copy:
                    found = [row async for row in copy.rows()]
                expected = [(str(n), f"line {n}") for n in range(count)]
                assert found == expected
                with pytest.raises(ZeroDivisionError):
                    async with cursor.copy("copy t from stdin") as copy:
                        await copy.write_row((1, "lost"))
                        raise ZeroDivisionError
            await connection.rollback()
            assert not connection.broken

    support.run(loop, main())


def test_a_pool_under_load(loop, address):
    async def main():
        pool = psycopg_pool.AsyncConnectionPool(
            address, min_size=2, max_size=8, open=False, timeout=support.PATIENCE
        )
        async with pool:

            async def work(number):
                async with pool.connection() as connection:
                    cursor = await connection.execute("select %s::int * 2", [number])
                    return (await cursor.fetchone())[0]

            answers = await asyncio.gather(*[work(number) for number in range(500)])
            assert answers == [2 * number for number in range(500)]
            assert pool.get_stats()["pool_size"] <= 8
            busy = [await pool.getconn() for _ in range(8)]
            with pytest.raises(psycopg_pool.PoolTimeout):
                await pool.getconn(timeout=0.05)
            for connection in busy:
                await pool.putconn(connection)

    support.run(loop, main())


def test_listen_and_notify(loop, address):
    count = 500

    async def main():
        listening = await connect(address, autocommit=True)
        telling = await connect(address, autocommit=True)
        async with listening, telling:
            await listening.execute("listen news")

            async def listen():
                found = []
                async for notify in listening.notifies():
                    found.append(int(notify.payload))
                    if len(found) == count:
                        return found

            listener = asyncio.ensure_future(listen())
            for number in range(count):
                await telling.execute(f"notify news, '{number}'")
            assert await listener == list(range(count))
            got = [notify async for notify in listening.notifies(timeout=0.05)]
            assert got == []

    support.run(loop, main())


async def until_asleep(connection, pid):
    """Wait until that session is inside pg_sleep(): it might miss what comes before."""
    asked = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
    while not await (await connection.execute(asked, [pid])).fetchone():
        await asyncio.sleep(0.01)


def test_cancelling_a_query(loop, address):
    async def main():
        connection = await connect(address, autocommit=True)
        async with connection, await connect(address, autocommit=True) as other:
            pid = connection.info.backend_pid
            for _ in range(3):
                task = asyncio.ensure_future(connection.execute("select pg_sleep(600)"))
                await until_asleep(other, pid)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                task = asyncio.ensure_future(connection.execute("select pg_sleep(600)"))
                await until_asleep(other, pid)
                await connection.cancel_safe()
                with pytest.raises(psycopg.errors.QueryCanceled):
                    await task
                cursor = await connection.execute("select 1")
                assert await cursor.fetchone() == (1,)

    support.run(loop, main())


def test_the_server_ends_a_session(loop, tcp):
    async def main():
        connection = await connect(tcp, autocommit=True)
        async with await connect(tcp, autocommit=True) as other:
            pid = connection.info.backend_pid
            waiting = asyncio.ensure_future(connection.execute("select pg_sleep(600)"))
            await until_asleep(other, pid)
            await other.execute("select pg_terminate_backend(%s)", [pid])
            with pytest.raises(psycopg.OperationalError):
                await waiting
            assert connection.broken
        await connection.close()

    support.run(loop, main())


def test_refusals(loop, tcp, postgres, tmp_path):
    async def main():
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            await connect(f"{tcp} dbname=none")
        with pytest.raises(psycopg.OperationalError, match="refused"):
            await connect(f"host=127.0.0.1 port={support.free_port()} user=x")
        other = support.Certificates(str(tmp_path))
        with pytest.raises(psycopg.OperationalError, match="certificate"):
            await connect(
                f"host=localhost port={postgres.port} user=postgres"
                f" sslmode=verify-full sslrootcert={other.ca_path}"
            )

    support.run(loop, main())
