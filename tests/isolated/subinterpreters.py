"""A loop in interpreters with a GIL of their own, one after another and side by side.

Argument: the kind of loop.  Needs Python 3.13.
"""

import sys
import threading

import _interpreters

CODE = """
import sys
sys.path[:0] = {path!r}
import asyncio, support

async def main():
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.001)
    loop.call_later(1000, print).cancel()
    loop.call_soon_threadsafe(int)
    with support.socket_pair() as (left, right):
        future = loop.create_future()
        loop.add_reader(left, future.set_result, "readable")
        right.send(b"x")
        assert await future == "readable"
        loop.remove_reader(left)
    return "done"

loop = support.make_loop({kind!r})
assert loop.run_until_complete(main()) == "done"
if {close}:
    loop.close()
"""


def run_one(close):
    interpreter = _interpreters.create("isolated")
    code = CODE.format(path=sys.path[:3], kind=sys.argv[1], close=close)
    try:
        error = _interpreters.exec(interpreter, code)
        assert error is None, error
    finally:
        _interpreters.destroy(interpreter)


def main():
    for _ in range(3):
        run_one(close=True)
    if sys.argv[1] == "pyloop":
        run_one(close=False)
    threads = [threading.Thread(target=run_one, args=(True,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
