"""The FastAPI application that the tests run under uvicorn.

An ordinary program: it knows nothing of the loop that it runs on but its module's name,
which one route tells.
"""

import asyncio
import contextlib
import hashlib

from fastapi import BackgroundTasks, FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.done = asyncio.Queue()
    print("lifespan: start", flush=True)
    yield {"greeting": "hello"}
    print("lifespan: end", flush=True)


app = FastAPI(lifespan=lifespan)


class Order(BaseModel):
    name: str
    count: int


@app.get("/")
async def root(request: Request):
    return {"greeting": request.state.greeting}


@app.get("/loop")
async def running_loop():
    return {"module": type(asyncio.get_running_loop()).__module__}


@app.get("/thread/{number}")
def in_a_thread(number: int):
    """Not a coroutine, so FastAPI runs it in a thread."""
    return number + 1


@app.post("/order")
async def order(order: Order):
    return {"name": order.name, "double": order.count * 2}


@app.put("/digest")
async def digest(request: Request):
    whole = hashlib.sha256()
    async for chunk in request.stream():
        whole.update(chunk)
    return whole.hexdigest()


@app.get("/stream/{count}")
async def stream(count: int):
    async def lines():
        for number in range(count):
            yield f"line {number}\n"
            if number % 100 == 0:
                await asyncio.sleep(0)

    return StreamingResponse(lines(), media_type="text/plain")


@app.post("/later/{word}")
async def later(word: str, tasks: BackgroundTasks):
    async def finish():
        await asyncio.sleep(0.01)
        await app.state.done.put(word)

    tasks.add_task(finish)
    return "accepted"


@app.get("/later")
async def done():
    return await app.state.done.get()


@app.get("/slow")
async def slow():
    print("slow: begin", flush=True)
    await asyncio.sleep(0.5)
    return "slow"


@app.get("/broken")
async def broken():
    raise ValueError("broken on purpose")


@app.websocket("/echo")
async def echo(socket: WebSocket):
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await socket.send_text(await socket.receive_text())
