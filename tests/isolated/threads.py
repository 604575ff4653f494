"""Many threads, each with loops of its own, which also call each other's.

Argument: the kind of loop.
"""

import asyncio
import sys
import threading

import support

KIND = sys.argv[1]
THREADS = 6
LOOPS = 15


def body(number, results):
    for _ in range(LOOPS):
        loop = support.make_loop(KIND)
        with LOCK:
            RUNNING.append(loop)
        loop.run_until_complete(main(number))
        with LOCK:
            RUNNING.remove(loop)
        loop.close()
    results.append(number)


async def main(number):
    loop = asyncio.get_running_loop()
    for i in range(20):
        with LOCK:
            for other in RUNNING:
                other.call_soon_threadsafe(int)
        await asyncio.sleep(0.0001 * (i % 3))
        loop.call_later(1000, int).cancel()
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(10)))


LOCK = threading.Lock()
RUNNING = []


if __name__ == "__main__":
    results = []
    threads = [threading.Thread(target=body, args=(i, results)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(THREADS))
    support.collect()
    counts = support.core_stats()
    assert not any(counts.values()), counts
