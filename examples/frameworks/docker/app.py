"""What the image runs: a program that need not know of pyloop."""

import asyncio


async def main():
    loop = asyncio.get_running_loop()
    print("on", type(loop).__module__)


asyncio.run(main())
