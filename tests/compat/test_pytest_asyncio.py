"""A pytest-asyncio suite that takes its loops from the loop under test.

The way is the documented one: the hook pytest_asyncio_loop_factories.
"""

import support
from realkit import factory_path, need

need("pytest_asyncio", "aiohttp")

CONFTEST = """
import pytest

module, _, name = {factory!r}.partition(":")
loop_factory = getattr(__import__(module), name)


def pytest_asyncio_loop_factories(config, item):
    return {{"under test": loop_factory}}


@pytest.fixture
def loop_module():
    return {module!r}
"""

SUITE = """
import asyncio
import contextvars

import pytest
import pytest_asyncio
from aiohttp import ClientSession, web

loops = set()
name = contextvars.ContextVar("name", default="unset")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server():
    async def hello(request):
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


@pytest_asyncio.fixture
async def background():
    ticks = []

    async def tick():
        while True:
            ticks.append(1)
            await asyncio.sleep(0)

    task = asyncio.create_task(tick())
    yield ticks
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_loop(loop_module):
    assert type(asyncio.get_running_loop()).__module__ == loop_module


@pytest.mark.parametrize("number", range(3))
async def test_a_fresh_loop_for_each(number):
    loop = asyncio.get_running_loop()
    assert loop not in loops
    loops.add(loop)
    name.set("set")
    await asyncio.sleep(0.001)


async def test_nothing_leaks_from_the_others():
    assert name.get() == "unset"
    assert len(asyncio.all_tasks()) == 1
    assert all(loop.is_closed() for loop in loops)


async def test_a_task_of_a_fixture(background):
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(background) >= 3


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("number", range(3))
async def test_a_server_for_the_module(server, number):
    async with ClientSession() as session, session.get(server) as response:
        assert await response.text() == "hello"


@pytest.mark.asyncio(loop_scope="class")
class TestOneLoopForTheClass:
    seen = set()

    async def test_first(self):
        self.seen.add(asyncio.get_running_loop())

    async def test_second(self):
        self.seen.add(asyncio.get_running_loop())
        assert len(self.seen) == 1


async def test_timeout():
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.001)


async def test_failure():
    raise ValueError("on purpose")


def test_not_asynchronous():
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
"""


def test_suite(loop_kind, tmp_path):
    conftest = CONFTEST.format(
        factory=factory_path(loop_kind),
        module=support.loop_class(loop_kind).__module__,
    )
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_suite.py").write_text(SUITE)
    options = ["--rootdir", tmp_path, "-W", "error", "-o", "asyncio_mode=auto"]
    options += ["-o", "asyncio_default_fixture_loop_scope=function"]
    flags = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:anyio"]
    done = support.run_script(
        str(tmp_path / "test_suite.py"), *options, flags=flags, check=False
    )
    assert "1 failed, 13 passed" in done.stdout, done.stdout + done.stderr
    assert "ValueError: on purpose" in done.stdout
