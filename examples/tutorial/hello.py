import asyncio

import pyloop


async def main():
    print("running on", asyncio.get_running_loop())
    await asyncio.sleep(0.01)
    return "done"


print(pyloop.run(main()))
