"""What `service.py --demo` serves: a hundred clients who order more than there is.

Whatever the order in which their requests come, as much is sold as there was, and an
order that is sent twice counts once.
"""

import asyncio
import collections
import os
import socket
import tempfile
import uuid

import aiohttp
import service

ITEMS = 20
STOCK = 25  # of each item
CLIENTS = 100
ORDERS = 10  # of each client, of one piece each: twice as many as there are


async def order(session, key, item, quantity=1):
    """Send an order; return the status of the answer."""
    wanted = {"item": item, "quantity": quantity}
    async with session.put(f"/orders/{key}", json=wanted) as response:
        await response.read()
        return response.status


async def client(session, run, number):
    """One client's orders, each sent twice at once; returns the pairs of statuses."""
    answers = collections.Counter()
    for turn in range(ORDERS):
        item = f"{run}-{(number + turn) % ITEMS:02}"
        key = f"{run}-{number}-{turn}"
        twice = [order(session, key, item) for _ in range(2)]
        pair = await asyncio.gather(*twice)
        answers[tuple(sorted(pair))] += 1
    return answers


async def all_items(session, run):
    """What there is of the items of this run, page by page."""
    found, after = {}, f"{run}-"
    while True:
        params = {"after": after, "limit": "7"}
        async with session.get("/items", params=params) as response:
            page = await response.json()
        found.update((item["name"], item["stock"]) for item in page)
        if len(page) < 7:
            return {name: stock for name, stock in found.items() if run in name}
        after = page[-1]["name"]


async def shop(url):
    """Be all the clients; print what became of their orders."""
    run = f"demo-{uuid.uuid4().hex[:8]}"  # the database may be in use
    async with aiohttp.ClientSession(url) as session:
        for number in range(ITEMS):
            path = f"/items/{run}-{number:02}"
            async with session.put(path, json={"stock": STOCK}) as response:
                assert response.status == 200, await response.text()
        before = sum((await all_items(session, run)).values())
        pairs = collections.Counter()
        clients = [client(session, run, number) for number in range(CLIENTS)]
        for answers in await asyncio.gather(*clients):
            pairs += answers
        left = await all_items(session, run)
        print(f"{ITEMS} items, {before} pieces; {CLIENTS * ORDERS} orders, sent twice")
        print(f"sold and confirmed: {pairs.pop((200, 201))}")
        print(f"refused both times: {pairs.pop((409, 409))}")
        print(f"anything else: {dict(pairs)}; left: {sum(left.values())}")
        wrong = [
            await order(session, f"{run}-none", "no such item"),
            await order(session, f"{run}-zero", f"{run}-00", quantity=0),
            await order(session, f"{run}-0-0", f"{run}-01"),
        ]
        print(f"unknown, too few, another's key: {wrong}")


async def run(url):
    """Serve on a free port, and be the clients; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        url = url or f"sqlite:{os.path.join(folder, 'shop.db')}"
        server = service.make_server(service.make_app(url))
        with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            # Until it listens the kernel keeps the clients waiting.
            port = listener.getsockname()[1]
            shopping = asyncio.create_task(shop(f"http://127.0.0.1:{port}"))
            await asyncio.wait([serving, shopping], return_when=asyncio.FIRST_COMPLETED)
            if not shopping.done():
                shopping.cancel()
                await asyncio.wait([shopping, serving])
                print("stopped before the end")
                return 0 if server.started else 1
            server.should_exit = True
            await serving
        await shopping
    return 0
