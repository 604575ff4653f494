"""The scenarios of pyloop.install(accelerate=True); see scenarios.py."""

import asyncio
import contextlib

from scenarios import scenario
from world import World

from pyloop import _accelerate


@contextlib.contextmanager
def accelerated(w: World):
    """Armed, with pyloop's functions in the place of asyncio's."""
    # Spare handles: a task whose next step there was no memory for does not end, with
    # asyncio's functions either.
    for _ in range(8):
        w.loop.call_soon(int)
    w.run_once()
    _accelerate.accelerate()
    try:
        with w.armed():
            yield
    finally:
        _accelerate.restore()


async def cancelled(awaitable):
    """Cancel what waits; the name of what comes of it."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError as exc:
        return type(exc).__name__


@scenario
def accelerated_sleep(w: World):
    async def main():
        asyncio.sleep(0).close()
        return [
            await asyncio.sleep(0, 1),
            await asyncio.sleep(0.0001, 2),
            await cancelled(asyncio.sleep(1000)),
        ]

    with accelerated(w):
        result = w.run(main())
    assert result == [1, 2, "CancelledError"]


@scenario
def accelerated_gather(w: World):
    async def child(number):
        await asyncio.sleep(0)
        if number == 2:
            raise LookupError
        return number

    async def main():
        future = w.loop.create_future()
        w.loop.call_soon(future.set_result, 5)
        found = await asyncio.gather(child(1), asyncio.sleep(0, 4), future)
        found += await asyncio.gather(child(1), child(2), return_exceptions=True)
        try:
            await asyncio.gather(child(1), child(2))
        except LookupError as exc:
            found.append(exc)
        return found, await cancelled(asyncio.gather(child(1), asyncio.sleep(1000)))

    with accelerated(w):
        result = w.run(main())
    if result is not None:
        found, last = result
        assert found[:4] == [1, 4, 5, 1] and last == "CancelledError"
        assert [type(exc) for exc in found[4:]] == [LookupError] * 2


@scenario
def accelerated_wait_for(w: World):
    async def failing():
        await asyncio.sleep(0)
        raise LookupError

    async def main():
        found = [await asyncio.wait_for(asyncio.sleep(0, 1), 1000)]
        try:
            await asyncio.wait_for(failing(), 1000)
        except LookupError:
            found.append("failed")
        return found

    with accelerated(w):
        result = w.run(main())
    assert result == [1, "failed"]


def accelerated_timeout(w: World):
    async def main():
        found = []
        async with asyncio.timeout(1000) as timeout:
            await asyncio.sleep(0)
        found.append(timeout.expired())
        try:
            async with asyncio.timeout_at(w.loop.time() + 1000) as timeout:
                timeout.reschedule(w.loop.time() - 1)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        except TimeoutError:
            found.append(timeout.expired())
        return found

    with accelerated(w):
        result = w.run(main())
    assert result in (None, [False, True])


if hasattr(asyncio, "timeout"):  # from Python 3.11 on
    scenario(accelerated_timeout)


@scenario
def accelerated_queue(w: World):
    async def main():
        queue = asyncio.Queue(1)

        async def produce():
            for number in range(3):
                await queue.put(number)

        producer = asyncio.ensure_future(produce())
        found = [await queue.get() for _ in range(3)]
        await producer
        found.append(await cancelled(queue.get()))
        return found

    with accelerated(w):
        result = w.run(main())
    assert result == [0, 1, 2, "CancelledError"]


@scenario
def accelerated_locks(w: World):
    async def main():
        lock, semaphore, event = asyncio.Lock(), asyncio.Semaphore(1), asyncio.Event()

        async def worker():
            async with lock, semaphore:
                await event.wait()
            return "done"

        workers = [asyncio.ensure_future(worker()) for _ in range(2)]
        await asyncio.sleep(0)
        found = [await cancelled(lock.acquire()), await cancelled(event.wait())]
        event.set()
        return [*found, *[await task for task in workers]]

    with accelerated(w):
        result = w.run(main())
    assert result == ["CancelledError", "CancelledError", "done", "done"]
