"""What `server.py --demo` does: clients of both kinds, some of whom do not stay.

Of each kind a third takes the whole answer, a third hangs up after a few tokens, and of
the websockets a third asks for the end. Then one reads nothing of a very long answer,
which has to stop the model. In the end no answer may be under way.
"""

import asyncio
import json

import aiohttp
import server

CLIENTS = 90  # of each kind
FEW = 5  # tokens, after which a client has enough
LONG = 1_000_000  # tokens: more than all buffers between model and client hold


async def by_events(session, url, number, length, few):
    """Ask by POST; return how the answer ended: "whole" or "left"."""
    prompt = f"events {number}"
    tokens = []
    async with session.post(f"{url}/chat", json={"prompt": prompt}) as response:
        assert response.status == 200
        async for line in response.content:
            if line.startswith(b"event: "):
                kind = line[7:].strip()
            elif line.startswith(b"data: "):
                data = json.loads(line[6:])
                if kind == b"done":
                    assert data == len(tokens)
                    break
                tokens.append(data)
                if few and len(tokens) == FEW:
                    response.close()
                    return "left"
    assert tokens == server.answer_to(prompt, length)
    return "whole"


async def by_socket(session, url, number, length, few):
    """Ask by a websocket; few: None, "leave" or "cancel"."""
    prompt = f"socket {number}"
    tokens = []
    async with session.ws_connect(f"{url}/ws") as socket:
        await socket.send_json({"prompt": prompt})
        async for message in socket:
            data = json.loads(message.data)
            if data["kind"] == "token":
                tokens.append(data["text"])
                if few and len(tokens) == FEW:
                    if few == "leave":
                        return "left"
                    await socket.send_str('{"cancel": true}')
            elif data["kind"] == "done":
                assert data["text"] == len(tokens)
                assert tokens == server.answer_to(prompt, length)
                return "whole"
            else:
                assert data == {"kind": "cancelled"}
                return "cancelled"


async def take_nothing(url, model):
    """Ask and read nothing; return whether the model waits, without having ended."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    body = b'{"prompt": "a flood"}'
    writer.write(
        b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    writer.write(body)
    await reader.readuntil(b"\r\n\r\n")
    before = -1
    while before != model.tokens and model.active:
        before = model.tokens
        await asyncio.sleep(0.3)
    stopped = bool(model.active)
    writer.transport.abort()
    return stopped


async def until_idle(model):
    """Wait until no answer is under way."""
    while model.active:
        await asyncio.sleep(0.001)


async def run(options):
    """Do it all; return the exit status."""
    options.port, options.pause, options.length = 0, 0.002, 100
    connector = aiohttp.TCPConnector(limit=0)
    async with server.serving(options) as (model, port):
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession(connector=connector) as session:
            ends = await asyncio.gather(
                *(
                    by_events(session, url, n, options.length, n % 3 == 1)
                    for n in range(CLIENTS)
                ),
                *(
                    by_socket(session, url, n, options.length, few)
                    for n in range(CLIENTS)
                    for few in [[None, "leave", "cancel"][n % 3]]
                ),
            )
        await until_idle(model)
    for end in "whole", "left", "cancelled":
        print(f"answers that the clients had {end}: {ends.count(end)}")
    print(
        "answers of the model:",
        ", ".join(f"{n} {e}" for e, n in sorted(model.counts.items())),
    )
    most = CLIENTS * 2 * options.length
    print(f"tokens: {'fewer than' if model.tokens < most else 'NOT fewer than'} {most}")
    options.pause, options.length = 0, LONG
    async with server.serving(options) as (model, port):
        stopped = await take_nothing(f"http://127.0.0.1:{port}", model)
        await until_idle(model)
    print(f"a client that reads nothing: the model {'waits' if stopped else 'GOES ON'}")
    return 0 if stopped else 1
