"""How busy a loop is, and what makes it so."""

import asyncio
import time

import pyloop


def render_report():
    time.sleep(0.05)  # not a coroutine: the loop stands still


async def serve():
    await asyncio.sleep(0.05)


async def main():
    loop = asyncio.get_running_loop()
    before = loop.metrics()
    await serve()
    quiet = loop.metrics()
    loop.call_soon(render_report)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    after = loop.metrics()

    print("busy while it served:", quiet.utilisation_since(before) < 0.5)
    print("busy while it rendered:", after.utilisation_since(quiet) > 0.9)
    print("it did not look for 50 ms:", after.lag.max >= 0.05)
    slowest = after.slowest[0]
    print("because of", slowest.name, "at", slowest.where.rpartition("/")[2])


pyloop.run(main())
