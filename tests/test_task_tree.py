"""pyloop.tasks.tree(): who awaits whom, and where each task waits."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading

import acceleratekit
import pytest
import support

from pyloop import tasks

HERE = os.path.abspath(__file__)

functions = acceleratekit.functions


def line_of(mark):
    """The number of the one line of this file that ends in the comment."""
    with open(HERE, encoding="utf-8") as source:
        lines = source.read().splitlines()
    found = [at for at, line in enumerate(lines, 1) if line.endswith("# " + mark)]
    assert len(found) == 1, (mark, found)
    return found[0]


def look(loop, *coros):
    """Start coroutines as tasks, let them wait, and return their nodes by name."""

    async def main():
        made = [loop.create_task(coro) for coro in coros]
        for number, task in enumerate(made):
            task.set_name(f"t{number}")
        for _ in range(6):
            await asyncio.sleep(0)
        found = tasks.tree()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.gather(*made, return_exceptions=True)
        return found

    return loop.run_until_complete(main())


def node(tree, name="t0"):
    found = [node for node in tree.nodes() if node.name == name]
    assert len(found) == 1, tree.format()
    return found[0]


async def sleeper():
    await asyncio.sleep(600)  # sleeps


def test_the_line_is_the_programs(loop, functions):
    found = node(look(loop, sleeper()))
    assert found.state == "waiting" and found.waits_for == "the end of asyncio.sleep()"
    assert (found.place.file, found.place.line) == (HERE, line_of("sleeps"))
    assert found.place.function == "sleeper" and found.coroutine == "sleeper"
    assert found.stack[0] == found.place and len(found.stack) == 2
    assert found.awaits == () and not found.repeated


def test_the_stack_goes_through_coroutines_and_generators(loop):
    async def items():
        yield 1
        await sleeper()

    async def outer():
        async for _ in items():
            pass

    found = node(look(loop, outer()))
    names = [place.function.rpartition(".")[2] for place in found.stack]
    assert names == ["outer", "items", "sleeper", "sleep"]


def test_the_running_task(loop):
    (running,) = look(loop).roots
    assert running.state == "running" and running.waits_for == ""
    assert running.place.function.endswith("main")


def children(tree, name="t0"):
    return [child.coroutine for child in node(tree, name).awaits]


def test_gather_and_shield(loop, functions):
    async def gathers():
        await asyncio.gather(sleeper(), asyncio.shield(sleeper()))

    tree = look(loop, gathers())
    assert children(tree) == ["sleeper", "sleeper"]
    assert node(tree).waits_for == "all of 2 tasks in gather()"


def test_nested_gather(loop, functions):
    async def gathers():
        await asyncio.gather(asyncio.gather(sleeper(), sleeper()), sleeper())

    assert children(look(loop, gathers())) == ["sleeper"] * 3


@pytest.mark.parametrize(
    "when, words", [("ALL_COMPLETED", "all"), ("FIRST_COMPLETED", "one")]
)
def test_wait(loop, when, words):
    async def waits():
        both = [asyncio.ensure_future(sleeper()) for _ in range(2)]
        await asyncio.wait(both, return_when=getattr(asyncio, when))

    tree = look(loop, waits())
    assert children(tree) == ["sleeper"] * 2
    assert node(tree).waits_for == f"{words} of 2 tasks in wait()"


def test_as_completed(loop, functions):
    async def completes():
        for earliest in asyncio.as_completed([sleeper(), sleeper()]):
            await earliest

    assert children(look(loop, completes())) == ["sleeper"] * 2


def test_wait_for_a_task(loop, functions):
    async def waits():
        await asyncio.wait_for(loop.create_task(sleeper()), 600)

    assert children(look(loop, waits())) == ["sleeper"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="came with Python 3.11")
def test_task_group_and_timeout(loop):
    async def groups():
        async with asyncio.timeout(600), asyncio.TaskGroup() as group:
            group.create_task(sleeper())
            group.create_task(sleeper())

    tree = look(loop, groups())
    assert children(tree) == ["sleeper"] * 2
    assert node(tree).waits_for == "2 tasks of its TaskGroup"


def test_a_task_awaited_by_two_is_told_once(loop):
    async def awaits(task):
        await task

    async def shared():
        task = loop.create_task(sleeper())
        await asyncio.gather(awaits(task), awaits(task))

    first, second = node(look(loop, shared())).awaits
    assert [len(each.awaits) for each in (first, second)] == [1, 1]
    assert [each.awaits[0].repeated for each in (first, second)] == [False, True]


def things(loop):
    """Coroutines that wait for asyncio's things, and how that is said."""
    queue, full = asyncio.Queue(), asyncio.Queue(1)
    full.put_nowait(1)
    lock, semaphore = asyncio.Lock(), asyncio.Semaphore(1)
    condition = asyncio.Condition()

    async def holds(thing):
        async with thing:
            await sleeper()

    async def enters(thing):
        async with thing:
            pass

    async def waits(thing):
        async with thing:
            await thing.wait()

    async def reads(reader):
        await reader.readline()

    return [
        (queue.get(), "Queue.get() of <Queue maxsize=0 _getters[1]>"),
        (full.put(2), "Queue.put() of <Queue maxsize=1"),
        (full.join(), "Queue.join() of <Queue maxsize=1"),
        (asyncio.Event().wait(), "Event.wait() of <asyncio.locks.Event object [unset"),
        (holds(lock), "the end of asyncio.sleep()"),
        (enters(lock), "Lock object [locked, waiters:1]>, held by task t4"),
        (holds(semaphore), "the end of asyncio.sleep()"),
        (enters(semaphore), "waiters:1]>, held by task t6"),
        (waits(condition), "Condition.wait() of <asyncio.locks.Condition object"),
        (reads(asyncio.StreamReader(loop=loop)), "StreamReader.readline()"),
    ]


def test_what_each_waits_for(loop, functions):
    async def make():
        return things(loop)

    known = loop.run_until_complete(make())
    tree = look(loop, *[coro for coro, _words in known])
    for number, (_coro, words) in enumerate(known):
        assert words in node(tree, f"t{number}").waits_for, tree.format()


def test_threads_sockets_and_futures(loop):
    near, far = socket.socketpair()
    near.setblocking(False)
    gate = threading.Event()

    async def executes():
        await loop.run_in_executor(None, gate.wait)

    async def receives():
        await loop.sock_recv(near, 1)

    async def awaits():
        await loop.create_future()

    try:
        tree = look(loop, executes(), receives(), awaits())
    finally:
        gate.set()
        near.close()
        far.close()
    said = [node(tree, f"t{number}").waits_for for number in range(3)]
    assert said[0] == "a thread or process of an executor"
    assert said[1].endswith(".sock_recv()")
    assert said[2] == "a future that somebody has to set a result of"


def test_a_connections_reads(loop, functions):
    """Through readers of the C core, once they have had data."""

    async def serve(reader, writer):
        await reader.readline()
        try:
            await reader.readexactly(5)  # reads
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"line\n123")
        found = []

        def is_there():
            found[:] = [
                each
                for each in tasks.tree().nodes()
                if each.place is not None and each.place.line == line_of("reads")
            ]
            return found

        while not is_there():
            await asyncio.sleep(0)
        writer.close()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await server.wait_closed()
        return found[0]

    assert "StreamReader.read" in loop.run_until_complete(main()).waits_for


def test_format_puts_alike_tasks_together(loop):
    async def gathers():
        await asyncio.gather(*[sleeper() for _ in range(50)])

    text = look(loop, gathers()).format(limit=2)
    assert text.count("sleeper()\n") == 2 and "and 48 more like that" in text
    assert f"waiting at {HERE}:{line_of('sleeps')} in sleeper" in text


def test_nodes_keep_no_task_alive(loop):
    tree = look(loop, sleeper())
    support.collect()
    assert asyncio.all_tasks(loop) == set() and node(tree).name == "t0"


def test_without_a_loop():
    with pytest.raises(RuntimeError, match="no running event loop"):
        tasks.tree()


def test_from_another_thread(loop):
    async def main():
        task = loop.create_task(sleeper(), name="t0")
        await asyncio.sleep(0)
        found = await loop.run_in_executor(None, tasks.tree, loop)
        task.cancel()
        return found

    assert node(loop.run_until_complete(main())).place.line == line_of("sleeps")


# -- on a signal -----------------------------------------------------------------


def test_dump_on_signal_while_the_loop_waits(loop, tmp_path):
    path = tmp_path / "dump"
    restore = tasks.dump_on_signal(signal.SIGUSR1, path)
    assert loop is not None  # all loops, of which this one does not run
    main_thread = threading.main_thread().ident

    async def main():
        waiting = loop.create_task(sleeper(), name="t0")
        await asyncio.sleep(0)
        kick = threading.Thread(
            target=signal.pthread_kill, args=(main_thread, signal.SIGUSR1)
        )
        kick.start()
        while not path.exists() or "t0" not in path.read_text("utf-8"):
            await asyncio.sleep(0.001)
        kick.join()
        waiting.cancel()

    try:
        loop.run_until_complete(main())
    finally:
        restore()
    text = path.read_text("utf-8")
    assert f"waiting at {HERE}:{line_of('sleeps')} in sleeper" in text
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_dump_on_signal_off_the_main_thread():
    caught = []

    def call():
        try:
            tasks.dump_on_signal()
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert len(caught) == 1 and "main thread only" in caught[0]


BLOCKED = """
import asyncio
import pyloop, pyloop.tasks

async def waits_here():
    await asyncio.get_running_loop().create_future()

async def main():
    asyncio.get_running_loop().call_soon(lambda: print("ready", flush=True))
    await waits_here()

pyloop.tasks.dump_on_signal()
pyloop.run(main())
"""


@pytest.mark.pyloop_only
def test_dump_while_the_loop_blocks_in_its_poll(loop_kind):
    """No timer and no event: only the signal itself ends the wait."""
    with subprocess.Popen(
        [sys.executable, "-c", BLOCKED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=support.script_environment(),
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGUSR1)
            seen = ""
            for line in process.stderr:
                seen += line
                if "for a future" in line:
                    break
            assert "in waits_here" in seen
        finally:
            process.kill()


ENTERED = """
import asyncio
import sys

from pyloop import tasks

found = []


async def inner():
    await asyncio.get_running_loop().create_future()


async def outer():
    await inner()


def trace(frame, event, arg):
    if event == "exception":
        found.append(tasks.tree().format())
    return trace


async def main():
    coro = outer()
    task = asyncio.create_task(coro)
    await asyncio.sleep(0)
    coro.cr_frame.f_trace = coro.cr_await.cr_frame.f_trace = trace
    sys.settrace(lambda *args: None)
    task.cancel()
    await asyncio.wait([task])
    sys.settrace(None)


asyncio.run(main())
assert len(found) == 2
print("looked")
"""


def test_a_look_while_an_exception_enters():
    """CPython 3.12 crashes when a coroutine is asked what it awaits then."""
    assert support.run_script(ENTERED).stdout == "looked\n"
