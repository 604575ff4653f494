"""Run one server on one loop until SIGTERM.

    python benchmarks/servers LOOP KIND

Prints one line of JSON with the port as soon as connections are taken.  Every server
binds by host and port, because not every loop takes a socket made by somebody else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

# Run as a directory, so sys.path[0] is this package: its parent is wanted instead.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import loops  # noqa: E402

from servers import echo, files, web  # noqa: E402

KINDS = {
    "protocol": echo.serve_protocol,
    "protocol_busy": echo.serve_protocol_busy,
    "streams": echo.serve_streams,
    "sock": echo.serve_sock,
    "datagrams": echo.serve_datagrams,
    "uvicorn": web.serve_uvicorn,
    "uvicorn_tls": web.serve_uvicorn_tls,
    "uvicorn_fastapi": web.serve_fastapi,
    "aiohttp": web.serve_aiohttp,
    "websockets": web.serve_websockets,
    "sendfile": files.serve_sendfile,
    "read_write": files.serve_read_write,
}


def ready(port: int) -> None:
    print(json.dumps({"port": port}), flush=True)


async def serve(kind: str) -> None:
    """Run the server until it returns or SIGTERM cancels it."""
    task = asyncio.current_task()
    if not kind.startswith("uvicorn"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await KINDS[kind](ready)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("loop", choices=[*loops.LOOPS, *loops.TOOLS])
    parser.add_argument("kind", choices=list(KINDS))
    args = parser.parse_args()
    loop = loops.new_event_loop(args.loop)
    asyncio.set_event_loop(loop)
    # uvicorn raises the signal again once it has shut down: the default action would
    # make a clean end look like a death.
    signal.signal(signal.SIGTERM, lambda *_: None)
    loop.run_until_complete(serve(args.kind))
    pending = asyncio.all_tasks(loop)
    for task in pending:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


if __name__ == "__main__":
    main()
