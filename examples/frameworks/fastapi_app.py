"""A FastAPI application; uvicorn makes the loop that it runs on."""

import asyncio

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def which_loop():
    return {"loop": type(asyncio.get_running_loop()).__module__}
