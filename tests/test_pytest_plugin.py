"""pyloop.pytest: other people's tests on pyloop, and what they may not leave.

Each test here is a session of pytest in a process of its own.
"""

import subprocess
import sys
import textwrap

import pytest
import support

pytestmark = pytest.mark.pyloop_only

ON_PYLOOP = """
import asyncio

def kind():
    return type(asyncio.get_running_loop()).__module__
"""


def session(tmp_path, source, *options, plugin=""):
    """Run pytest on a file with this source: ({test: outcome}, what it wrote).

    plugin: the one of the installed plugins that is loaded.
    """
    (tmp_path / "test_it.py").write_text(ON_PYLOOP + textwrap.dedent(source))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "pyloop.pytest", "-vv", "-rA"]
    command += ["-p", plugin] if plugin else []
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--strict-markers", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=2 * support.PATIENCE,
        env=support.script_environment(
            {"COLUMNS": "200", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        ),
    )
    outcomes = {}
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) > 1 and words[0].startswith("test_it.py::"):
            outcomes[words[0].partition("::")[2]] = words[1].lower()
    return outcomes, done.stdout + done.stderr


def reports(output, name):
    """What pytest wrote of the failure of one test."""
    _, _, rest = output.partition(f"_ {name} _")
    return rest.partition("\n____")[0].partition("\n====")[0]


# --- on pyloop ------------------------------------------------------------------------


def test_every_loop_is_ours(tmp_path):
    source = """
        def test_run():
            async def main():
                return kind()
            assert asyncio.run(main()) == "pyloop._loop"

        def test_new_event_loop():
            loop = asyncio.new_event_loop()
            assert type(loop).__module__ == "pyloop._loop"
            loop.close()
        """
    outcomes, output = session(tmp_path, source)
    assert outcomes == {"test_run": "passed", "test_new_event_loop": "passed"}, output
    assert "loops: pyloop" in output
    outcomes, output = session(tmp_path, source, "--loop=asyncio")
    assert outcomes == {"test_run": "failed", "test_new_event_loop": "failed"}, output


def test_pytest_asyncio(tmp_path):
    pytest.importorskip("pytest_asyncio", reason="pytest-asyncio is not installed")
    source = """
        import pytest, pytest_asyncio

        @pytest_asyncio.fixture
        async def server():
            server = await asyncio.start_server(lambda *ends: None, "127.0.0.1", 0)
            task = asyncio.create_task(asyncio.sleep(60))
            yield server
            task.cancel()
            server.close()

        @pytest.mark.asyncio
        async def test_kind(server):
            assert kind() == "pyloop._loop"

        @pytest.mark.asyncio
        async def test_leaves_a_task(server):
            asyncio.create_task(asyncio.sleep(60), name="left alone")

        @pytest.mark.asyncio
        async def test_leaves_a_server():
            await asyncio.start_server(lambda *ends: None, "127.0.0.1", 0)

        @pytest.mark.asyncio(loop_scope="module")
        async def test_in_a_longer_loop():
            asyncio.create_task(asyncio.sleep(60), name="of the first")

        @pytest.mark.asyncio(loop_scope="module")
        async def test_after_it():
            pass
        """
    outcomes, output = session(tmp_path, source, plugin="asyncio")
    assert outcomes == {
        "test_kind": "passed",
        "test_leaves_a_task": "failed",
        "test_leaves_a_server": "failed",
        "test_in_a_longer_loop": "failed",
        "test_after_it": "passed",
    }, output
    assert "task left alone: sleep()" in reports(output, "test_leaves_a_task")
    assert "transport server fd=" in reports(output, "test_leaves_a_server")


def test_anyio(tmp_path):
    pytest.importorskip("anyio", reason="anyio is not installed")
    source = """
        import anyio, pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.fixture
        async def number():
            yield 1

        async def test_kind():
            assert kind() == "pyloop._loop"

        async def test_with_a_fixture(number):
            assert kind() == "pyloop._loop"

        async def test_leaves_a_task():
            asyncio.create_task(asyncio.sleep(60), name="left alone")

        async def test_leaves_a_task_and_has_a_fixture(number):
            asyncio.create_task(asyncio.sleep(60), name="left alone")
        """
    outcomes, output = session(tmp_path, source, plugin="anyio")
    assert outcomes == {
        "test_kind": "passed",
        "test_with_a_fixture": "passed",
        "test_leaves_a_task": "failed",
        "test_leaves_a_task_and_has_a_fixture": "failed",
    }, output
    for name in ("test_leaves_a_task", "test_leaves_a_task_and_has_a_fixture"):
        assert "task left alone: sleep()" in reports(output, name)


# --- what is left ---------------------------------------------------------------------

LEAKS = """
import os, pytest, socket

kept = []

def run(coro):
    asyncio.run(coro)

@pytest.fixture
def loop():
    kept.clear()
    loop = asyncio.new_event_loop()
    before = loop.create_task(asyncio.sleep(60))
    yield loop
    before.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    for transport in kept:
        transport.abort()
    kept.clear()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

async def leave_task():
    asyncio.create_task(asyncio.sleep(60), name="left alone")
    await asyncio.sleep(0)

async def leave_transport():
    left, right = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
    right.close()
    transport.pause_reading()
    kept.append(transport)

async def leave_descriptor():
    os.pipe()

async def end_everything():
    task = asyncio.create_task(asyncio.sleep(60))
    await leave_transport()
    kept.pop().close()
    task.cancel()
"""


def test_what_tests_leave(tmp_path):
    source = """
        def test_task():
            run(leave_task())

        def test_transport():
            run(leave_transport())

        def test_descriptor():
            run(leave_descriptor())

        def test_task_of_an_open_loop(loop):
            loop.run_until_complete(leave_task())

        def test_transport_of_an_open_loop(loop):
            loop.run_until_complete(leave_transport())

        def test_nothing():
            run(end_everything())

        def test_nothing_on_an_open_loop(loop):
            loop.run_until_complete(end_everything())

        def test_no_loop():
            os.pipe()

        def test_that_fails_anyway():
            run(leave_task())
            assert False, "for its own reason"
        """
    outcomes, output = session(tmp_path, LEAKS + textwrap.dedent(source))
    failed = {name for name, outcome in outcomes.items() if outcome == "failed"}
    assert failed == {
        "test_task",
        "test_transport",
        "test_descriptor",
        "test_task_of_an_open_loop",
        "test_transport_of_an_open_loop",
        "test_that_fails_anyway",
    }, output
    assert "\ntask left alone: sleep() at " in reports(output, "test_task")
    assert "\ntransport Unix fd=" in reports(output, "test_transport")
    assert "descriptor" not in reports(output, "test_transport_of_an_open_loop")
    assert "which is pipe:" in reports(output, "test_descriptor")
    own = reports(output, "test_that_fails_anyway")
    assert "for its own reason" in own and "has left" not in own


MARKED = """
@pytest.mark.loop_leaks(tasks=False)
def test_task_allowed():
    run(leave_task())

@pytest.mark.loop_leaks(transports=False, descriptors=False)
def test_transport_allowed():
    run(leave_transport())

@pytest.mark.loop_leaks(False)
class TestAllowed:
    def test_descriptor(self):
        run(leave_descriptor())

    @pytest.mark.loop_leaks(tasks=True)
    def test_but_for_tasks(self):
        run(leave_task())
"""


def test_markers(tmp_path):
    outcomes, output = session(tmp_path, LEAKS + MARKED)
    assert outcomes == {
        "test_task_allowed": "passed",
        "test_transport_allowed": "passed",
        "TestAllowed::test_descriptor": "passed",
        "TestAllowed::test_but_for_tasks": "failed",
    }, output


def test_the_option(tmp_path):
    source = """
        def test_task():
            run(leave_task())

        def test_descriptor():
            run(leave_descriptor())

        @pytest.mark.loop_leaks(True)
        def test_marked():
            run(leave_descriptor())
        """
    source = LEAKS + textwrap.dedent(source)
    passed, failed = "passed", "failed"
    for option, expected in {
        "none": [passed, passed, failed],
        "tasks": [failed, passed, failed],
        "descriptors,tasks": [failed, failed, failed],
    }.items():
        outcomes, output = session(tmp_path, source, f"--loop-leaks={option}")
        assert list(outcomes.values()) == expected, output


def test_wrong_usage(tmp_path):
    _, output = session(tmp_path, "", "--loop-leaks=tasks,sockets")
    assert "--loop-leaks: ['sockets'] is none of tasks, transports" in output
    source = "import pytest\n@pytest.mark.loop_leaks(sockets=False)\ndef test(): pass\n"
    _, output = session(tmp_path, source)
    assert "loop_leaks takes True or False, and tasks=" in output


def test_debug_mode_names_the_place(tmp_path):
    source = """
        def test_transport():
            asyncio.run(leave_transport(), debug=True)
        """
    _, output = session(tmp_path, LEAKS + textwrap.dedent(source))
    line = 1 + (ON_PYLOOP + LEAKS).splitlines().index(
        "    transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)"
    )
    assert f"created at {tmp_path}/test_it.py:{line}" in output


# --- what blocks the loop -------------------------------------------------------------


def test_what_blocks(tmp_path):
    source = """
        import pytest, time

        async def block():
            time.sleep(0.8)

        def test_blocks():
            asyncio.run(block())

        def test_waits():
            asyncio.run(asyncio.sleep(0.5))

        @pytest.mark.loop_block_limit(None)
        def test_may_block():
            asyncio.run(block())

        @pytest.mark.loop_block_limit(60)
        def test_may_block_longer():
            asyncio.run(block())
        """
    outcomes, output = session(tmp_path, source, "--loop-block-limit=0.4")
    assert list(outcomes.values()) == ["failed", "passed", "passed", "passed"], output
    line = (ON_PYLOOP + textwrap.dedent(source)).splitlines().index(
        "    time.sleep(0.8)"
    ) + 1
    assert f"test_it.py:{line}" in reports(output, "test_blocks")
    source = source.replace("loop_block_limit(60)", "loop_block_limit(0.4)")
    outcomes, output = session(tmp_path, source, "-k", "longer")
    assert list(outcomes.values()) == ["failed"], output


# --- several loops at once ------------------------------------------------------------

THREADS = """
import threading, time

def in_threads(*functions):
    \"\"\"A loop in a thread for each; nobody goes on before all of them run.\"\"\"
    running = []

    async def main(function):
        running.append(function)
        while len(running) < len(functions):
            await asyncio.sleep(0.001)
        await function()

    def body(function):
        if hasattr(asyncio, "Runner"):
            with asyncio.Runner() as runner:
                runner.run(main(function))
                runner.run(asyncio.sleep(0))
        else:
            asyncio.run(main(function))

    threads = [
        threading.Thread(target=body, args=(function,), name=function.__name__)
        for function in functions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

async def sane():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    async with server:
        for _ in range(20):
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname()
            )
            await reader.read()
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(0.001)

async def block():
    time.sleep(2)
"""


def test_several_loops_at_once(tmp_path):
    source = """
        def test_sane():
            in_threads(sane, sane, sane, sane)

        def test_blocks():
            in_threads(sane, block, sane)

        def test_sane_after_it():
            in_threads(sane, sane, sane, sane)

        def test_leaves_a_task():
            in_threads(sane, leave_task, sane)

        def test_leaves_a_transport():
            in_threads(sane, leave_transport, sane)

        def test_leaves_a_descriptor():
            in_threads(sane, leave_descriptor, sane)

        def test_leave_all():
            in_threads(leave_task, leave_transport, leave_descriptor, sane)

        def test_sane_at_the_end():
            in_threads(sane, sane, end_everything)
        """
    source = LEAKS + THREADS + textwrap.dedent(source)
    outcomes, output = session(tmp_path, source, "--loop-block-limit=1")
    passed = {name for name, outcome in outcomes.items() if outcome == "passed"}
    assert passed == {"test_sane", "test_sane_after_it", "test_sane_at_the_end"}, output
    assert len(outcomes) == 8
    told = {name: reports(output, name) for name in outcomes}
    line = (ON_PYLOOP + source).splitlines().index("    time.sleep(2)") + 1
    blocked = told["test_blocks"].partition("\n---")[0]
    assert "the event loop of thread 'block'" in blocked
    assert f"test_it.py:{line} in block()" in blocked and "has left" not in blocked
    texts = {
        "test_leaves_a_task": ["\ntask left alone: sleep() at "],
        "test_leaves_a_transport": ["\ntransport Unix fd="],
        "test_leaves_a_descriptor": ["which is pipe:"],
    }
    texts["test_leave_all"] = sum(texts.values(), [])
    everything = texts["test_leave_all"]
    for name, expected in texts.items():
        assert [each for each in everything if each in told[name]] == expected
        assert "blocked" not in told[name]


def test_a_loop_that_another_thread_runs(tmp_path):
    """What a test has closed there gets some time, what it has not is its fault."""
    source = """
        @pytest.fixture(scope="module")
        def address():
            loop = asyncio.new_event_loop()

            async def handle(reader, writer):
                while await reader.readline():
                    writer.write(b"answer")
                await asyncio.sleep(0.2)  # longer than three iterations
                writer.close()

            async def serve():
                return await asyncio.start_server(handle, "127.0.0.1", 0)

            async def end():
                server.close()
                others = asyncio.all_tasks() - {asyncio.current_task()}
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)

            def call(coro):
                return asyncio.run_coroutine_threadsafe(coro, loop).result()

            thread = threading.Thread(target=loop.run_forever)
            thread.start()
            server = call(serve())
            yield server.sockets[0].getsockname()
            call(end())
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

        def ask(address):
            client = socket.create_connection(address)
            client.sendall(b"question\\n")
            assert client.recv(100) == b"answer"
            return client

        @pytest.mark.parametrize("number", range(3))
        def test_closes(address, number):
            ask(address).close()

        def test_keeps(address):
            kept.append(ask(address))

        def test_closes_after_it(address):
            ask(address).close()
        """
    source = LEAKS + THREADS + textwrap.dedent(source)
    outcomes, output = session(tmp_path, source)
    failed = [name for name, outcome in outcomes.items() if outcome == "failed"]
    assert failed == ["test_keeps"] and len(outcomes) == 5, output
    told = reports(output, "test_keeps")
    line = (ON_PYLOOP + source).splitlines().index(
        "        while await reader.readline():"
    ) + 1
    assert f"handle() at {tmp_path}/test_it.py:{line}\ntransport TCP fd=" in told


# --- what it is not ------------------------------------------------------------------


def test_pyloop_does_not_import_pytest():
    support.run_script("import sys, pyloop\nassert 'pytest' not in sys.modules\n")


def test_everything_is_put_back(tmp_path):
    (tmp_path / "test_it.py").write_text("def test(): pass\n")
    source = f"""
import asyncio, pytest, sys
from asyncio import runners
import pyloop
before = pyloop.Loop.close, runners._cancel_all_tasks, list(sys.meta_path)
status = pytest.main(["-q", "-p", "pyloop.pytest", r"{tmp_path}"])
assert status == 0
finders = [finder for finder in sys.meta_path if "pyloop" in type(finder).__module__]
assert (pyloop.Loop.close, runners._cancel_all_tasks) == before[:2] and not finders
loop = asyncio.new_event_loop()
assert not isinstance(loop, pyloop.Loop)
loop.close()
"""
    support.run_script(source, env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
