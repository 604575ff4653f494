"""A name is looked up by socket's own function, and the loop waits for the answer.

`await loop.getaddrinfo(...)` would not block it. The name server is slow because it is
made so here, which needs no network.
"""

import asyncio
import socket
import time


def stand_in(*arguments):
    time.sleep(0.4)
    return [arguments]


socket.getaddrinfo = stand_in


async def connect(name, port):
    for address in socket.getaddrinfo(name, port):  # culprit
        print("would connect to", *address)


asyncio.run(connect("example.com", 80))
