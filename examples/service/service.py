"""A web service over a database: items in stock, and orders that take of them.

    python service.py --port 8000
    python service.py --database postgresql://user@host/shop
    python service.py --demo

    PUT /items/NAME {"stock": 5}                        sets what there is
    GET /items/NAME, GET /items?after=NAME&limit=20
    PUT /orders/KEY {"item": "tea", "quantity": 2}      201 the first time, then 200

A client that does not know whether its order arrived sends it again, under its key.
SIGINT or SIGTERM lets the requests end that are under way, and then the program. Ends
with status 3 if the database cannot be had.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from typing import Annotated

import database
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

AT_ONCE = 1000  # connections and requests; others are answered 503
STOP_SECONDS = 5  # that requests get to end
DEFAULT = "sqlite:shop.db"


class Stock(BaseModel):
    """What there is of an item."""

    stock: int = Field(ge=0, le=1_000_000)


class Order(BaseModel):
    """What somebody wants."""

    item: str
    quantity: int = Field(gt=0, le=1_000_000)


def make_app(url=None):
    """The application; url is the database's, or DATABASE_URL in the environment."""

    @contextlib.asynccontextmanager
    async def lifespan(app):
        chosen = url or os.environ.get("DATABASE_URL", DEFAULT)
        async with database.opened(chosen) as app.state.database:
            yield

    app = FastAPI(title="Shop", lifespan=lifespan)
    app.add_exception_handler(database.Busy, busy)
    app.put("/items/{name}")(put_item)
    app.get("/items/{name}")(get_item)
    app.get("/items")(list_items)
    app.put("/orders/{key}")(put_order)
    return app


async def busy(request, error):
    """The answer when the database has no time."""
    headers = {"Retry-After": "1"}
    return JSONResponse({"detail": str(error)}, status_code=503, headers=headers)


async def put_item(request: Request, name: str, item: Stock):
    """Set what there is of an item."""
    async with request.app.state.database.transaction() as session:
        await session.fetch(
            "INSERT INTO items (name, stock) VALUES ($1, $2)"
            " ON CONFLICT (name) DO UPDATE SET stock = excluded.stock",
            name,
            item.stock,
        )
    return {"name": name, "stock": item.stock}


async def get_item(request: Request, name: str):
    """What there is of an item."""
    async with request.app.state.database.transaction() as session:
        found = await session.fetch("SELECT * FROM items WHERE name = $1", name)
    if not found:
        raise HTTPException(404, f"there is no item {name!r}")
    return found[0]


async def list_items(
    request: Request,
    after: str = "",
    limit: Annotated[int, Query(gt=0, le=100)] = 20,
):
    """A page of the items, by name; `after` is the last name of the page before."""
    async with request.app.state.database.transaction() as session:
        return await session.fetch(
            "SELECT * FROM items WHERE name > $1 ORDER BY name LIMIT $2", after, limit
        )


async def put_order(request: Request, response: Response, key: str, order: Order):
    """Take of an item: all that is ordered, or nothing."""
    wanted = {"key": key, **order.model_dump()}
    async with request.app.state.database.transaction() as session:
        # Of two orders of one key that come at once, the second waits here.
        new = await session.fetch(
            "INSERT INTO orders (key, item, quantity) VALUES ($1, $2, $3)"
            " ON CONFLICT (key) DO NOTHING RETURNING key",
            *wanted.values(),
        )
        if not new:
            (known,) = await session.fetch("SELECT * FROM orders WHERE key = $1", key)
            if known != wanted:
                raise HTTPException(409, f"the key {key!r} is that of another order")
            return known
        taken = await session.fetch(
            "UPDATE items SET stock = stock - $1 WHERE name = $2 AND stock >= $1"
            " RETURNING stock",
            order.quantity,
            order.item,
        )
        if not taken:  # what is raised takes the order back
            there = await session.fetch(
                "SELECT stock FROM items WHERE name = $1", order.item
            )
            if not there:
                raise HTTPException(404, f"there is no item {order.item!r}")
            raise HTTPException(409, f"there are {there[0]['stock']} left")
    response.status_code = 201
    return wanted


class Server(uvicorn.Server):
    """uvicorn, which says when it is ready, and ends with status 0 by a signal."""

    @contextlib.contextmanager
    def capture_signals(self):
        """As the loop's own handlers: uvicorn's would raise the signal once more."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def startup(self, sockets=None):
        """Begin to serve; say where."""
        await super().startup(sockets=sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            name = self.config.app.state.database.name
            print(f"http://{host}:{port}/ over {name}", flush=True)


def make_server(app):
    """A server of the application, on the loop that runs."""
    return Server(
        uvicorn.Config(
            app,
            log_level="warning",
            lifespan="on",
            limit_concurrency=AT_ONCE,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )


async def run(options):
    """Serve until a signal comes; return the exit status."""
    try:
        listener = socket.create_server((options.host, options.port), backlog=1000)
    except OSError as error:
        print(f"service: {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1
    server = make_server(make_app(options.database))
    with listener:
        await server.serve(sockets=[listener])
    return 0 if server.started else 1


def port_number(text):
    """A type of argument: a port, 0 for a free one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, which is 0 to 65535")
    return int(text)


def main():
    """Read the arguments, serve, return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=port_number, default=8000)
    add("--database", metavar="URL", help=f"default: DATABASE_URL, or {DEFAULT}")
    add("--demo", action="store_true", help="serve a crowd of clients of its own")
    options = parser.parse_args()
    if options.database:
        try:
            database.opened(options.database)
        except ValueError as error:
            parser.error(f"--database: {error}")
    if options.demo:
        import demo

        return asyncio.run(demo.run(options.database))
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
