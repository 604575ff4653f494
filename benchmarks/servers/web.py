"""Web servers as people run them: uvicorn and aiohttp, with a small answer."""

from __future__ import annotations

import asyncio

from servers import certificate, programs
from servers.echo import Ready

BODY = b"Hello, world!\n"


async def asgi_app(scope, receive, send) -> None:
    """A plain ASGI application: one header block and one body for every request."""
    assert scope["type"] == "http", scope["type"]
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"text/plain"),
                (b"content-length", str(len(BODY)).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": BODY})


async def serve_uvicorn(ready: Ready, app=asgi_app, **tls: str) -> None:
    """uvicorn with httptools, until SIGTERM, which uvicorn handles itself."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets)
            ready(self.servers[0].sockets[0].getsockname()[1])

    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
        **tls,
    )
    await Server(config).serve()


async def serve_uvicorn_tls(ready: Ready) -> None:
    """The same over TLS."""
    chain, key = certificate.make(programs.cache_folder())
    await serve_uvicorn(ready, ssl_certfile=chain, ssl_keyfile=key)


async def serve_fastapi(ready: Ready) -> None:
    """FastAPI under uvicorn: a path function that returns a dictionary."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/")
    async def hello() -> dict[str, str]:
        return {"message": "Hello, world!"}

    await serve_uvicorn(ready, app)


async def serve_aiohttp(ready: Ready) -> None:
    """aiohttp's server; ends when cancelled."""
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        return web.Response(body=BODY, content_type="text/plain")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    ready(runner.addresses[0][1])
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def serve_websockets(ready: Ready) -> None:
    """Echo messages of WebSockets with the websockets package; ends when cancelled."""
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed

    async def echo(connection: ServerConnection) -> None:
        try:
            async for message in connection:
                await connection.send(message)
        except ConnectionClosed:
            pass  # the load leaves without a closing frame

    async with serve(echo, "127.0.0.1", 0, backlog=1024, compression=None) as server:
        ready(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()
