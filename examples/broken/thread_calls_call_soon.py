"""A thread that gives its result to the loop by call_soon(), which does not wake it.

    python -m pyloop --debug examples/broken/thread_calls_call_soon.py

raises in the thread, with the line. Without --debug the program may hang, or seem to
work.
"""

import asyncio
import threading


def compute(loop, future):
    loop.call_soon(future.set_result, sum(range(1000)))  # culprit


async def main():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    threading.Thread(target=compute, args=(loop, future)).start()
    print(await future)


if __name__ == "__main__":
    asyncio.run(main())
