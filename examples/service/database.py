"""One small interface to two databases: SQLite by aiosqlite, PostgreSQL by asyncpg.

    async with opened("sqlite:shop.db") as database:
        async with database.transaction() as session:
            rows = await session.fetch("SELECT name FROM items WHERE stock > $1", 3)

Parameters are $1, $2, ... in both; rows are dicts.
"""

import asyncio
import contextlib

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS items"
    " (name TEXT PRIMARY KEY, stock INTEGER NOT NULL CHECK (stock >= 0))",
    "CREATE TABLE IF NOT EXISTS orders"
    " (key TEXT PRIMARY KEY, item TEXT NOT NULL, quantity INTEGER NOT NULL)",
)
CONNECTIONS = 10  # of PostgreSQL
BUSY_SECONDS = 10.0  # that a request waits for its turn


class Busy(Exception):
    """No connection was free in time."""


def opened(url):
    """Open a database: "sqlite:PATH" or "postgresql://..."; ValueError if neither."""
    kind, _, path = url.partition(":")
    if kind == "sqlite" and path:
        return sqlite_opened(path)
    if kind in ("postgresql", "postgres"):
        return postgres_opened(url)
    raise ValueError(f"{url!r} is neither sqlite:PATH nor postgresql://...")


@contextlib.asynccontextmanager
async def sqlite_opened(path):
    """A SQLite database: one connection, in a thread of its own."""
    import aiosqlite

    # We begin and end transactions ourselves.
    async with aiosqlite.connect(path, isolation_level=None) as connection:
        connection.row_factory = aiosqlite.Row
        for statement in ("PRAGMA journal_mode = WAL", *SCHEMA):
            await connection.execute(statement)
        yield Sqlite(connection)


class Sqlite:
    """SQLite: its transactions come one after another, whoever asks."""

    name = "SQLite"

    def __init__(self, connection):
        self.connection = connection
        self.turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def transaction(self):
        """A session whose statements count all, or, if the block raises, none."""
        try:
            await asyncio.wait_for(self.turn.acquire(), BUSY_SECONDS)
        except asyncio.TimeoutError:
            raise Busy("the database is busy") from None
        try:
            await self.connection.execute("BEGIN IMMEDIATE")
            yield self
            await self.connection.execute("COMMIT")
        except BaseException:
            # Also when we are cancelled while the thread begins or commits: it does
            # one after the other, and nothing here if there is no transaction then.
            await self.connection.rollback()
            raise
        finally:
            self.turn.release()

    async def fetch(self, statement, *values):
        """Run a statement inside a transaction; return its rows."""
        # ?1 is SQLite's for $1; our statements have no other $.
        rows = await self.connection.execute_fetchall(
            statement.replace("$", "?"), values
        )
        return [dict(row) for row in rows]


@contextlib.asynccontextmanager
async def postgres_opened(url):
    """A PostgreSQL database: a pool of connections."""
    import asyncpg

    async with asyncpg.create_pool(url, min_size=1, max_size=CONNECTIONS) as pool:
        async with pool.acquire() as connection:
            for statement in SCHEMA:
                await connection.execute(statement)
        yield Postgres(pool)


class Postgres:
    """PostgreSQL: as many transactions at a time as there are connections."""

    name = "PostgreSQL"

    def __init__(self, pool):
        self.pool = pool

    @contextlib.asynccontextmanager
    async def transaction(self):
        """A session whose statements count all, or, if the block raises, none."""
        try:
            connection = await self.pool.acquire(timeout=BUSY_SECONDS)
        except asyncio.TimeoutError:
            raise Busy("the database is busy") from None
        try:
            async with connection.transaction():
                yield PostgresSession(connection)
        finally:
            await self.pool.release(connection)


class PostgresSession:
    """One transaction on one connection."""

    def __init__(self, connection):
        self.connection = connection

    async def fetch(self, statement, *values):
        """Run a statement; return its rows."""
        return [dict(row) for row in await self.connection.fetch(statement, *values)]
