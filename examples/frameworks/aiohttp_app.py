"""An aiohttp server that makes its loop itself: python aiohttp_app.py PORT"""

import asyncio
import sys

from aiohttp import web

import pyloop

routes = web.RouteTableDef()


@routes.get("/")
async def which_loop(request):
    return web.json_response({"loop": type(asyncio.get_running_loop()).__module__})


app = web.Application()
app.add_routes(routes)

if __name__ == "__main__":
    web.run_app(app, port=int(sys.argv[1]), loop=pyloop.new_event_loop())
