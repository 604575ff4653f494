"""The public names of pyloop, and the ways in which programs choose its loop."""

import asyncio
import contextlib
import inspect
import sys
import threading
import unittest
import warnings

import pytest
import support

pytestmark = pytest.mark.pyloop_only

from_311 = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="asyncio.Runner came with Python 3.11"
)
from_312 = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="loop_factory= came with Python 3.12"
)
without_policies = pytest.mark.skipif(
    sys.version_info >= (3, 16), reason="Python 3.16 has no event loop policies"
)


@pytest.fixture
def pyloop():
    import pyloop

    return pyloop


@pytest.fixture
def policy_restored():
    """Puts asyncio's policy back, whatever a test has installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
        asyncio.set_event_loop_policy(None)


async def running_loop():
    await asyncio.sleep(0)
    return asyncio.get_running_loop()


# --- names --------------------------------------------------------------------


def test_the_public_names(pyloop):
    assert set(pyloop.__all__) == {
        "EventLoopPolicy",
        "Loop",
        "OpenTransport",
        "__version__",
        "install",
        "libuv_version",
        "new_event_loop",
        "open_transports",
        "run",
    }
    for name in pyloop.__all__:
        assert getattr(pyloop, name) is not None


def test_versions(pyloop):
    numbers = pyloop.__version__.split(".")
    assert len(numbers) >= 2
    assert numbers[0].isdigit() and numbers[1].isdigit()
    libuv = pyloop.libuv_version
    assert isinstance(libuv, str)
    assert tuple(int(part) for part in libuv.split(".")[:2]) >= (1, 44)


def test_everything_public_is_documented(pyloop):
    for name in ("Loop", "EventLoopPolicy", "run", "install", "new_event_loop"):
        assert inspect.getdoc(getattr(pyloop, name))


LOOP_METHODS = [n for n in dir(asyncio.AbstractEventLoop) if not n.startswith("_")]


@pytest.mark.parametrize("name", LOOP_METHODS)
def test_methods_are_documented_as_asyncio_s_are(pyloop, name):
    theirs = getattr(asyncio.SelectorEventLoop, name)
    ours = getattr(pyloop.Loop, name)
    assert inspect.getdoc(ours) or not inspect.getdoc(theirs)


@pytest.mark.parametrize("name", LOOP_METHODS)
def test_signatures_are_asyncio_s(pyloop, name):
    """Names and defaults of each argument, as inspect and type checkers see them."""
    theirs = inspect.signature(getattr(asyncio.SelectorEventLoop, name)).parameters
    ours = inspect.signature(getattr(pyloop.Loop, name)).parameters
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in ours.values())
    for parameter in theirs.values():
        if parameter.kind is parameter.KEYWORD_ONLY and any_keyword:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        assert parameter.name in ours
        assert ours[parameter.name].default == parameter.default


# --- what things are ----------------------------------------------------------


def test_the_loop_is_asyncio_s(pyloop):
    assert issubclass(pyloop.Loop, asyncio.BaseEventLoop)
    assert issubclass(pyloop.Loop, asyncio.AbstractEventLoop)
    loop = pyloop.new_event_loop()
    assert type(loop) is pyloop.Loop
    assert isinstance(loop, asyncio.BaseEventLoop)
    assert repr(loop) == "<Loop running=False closed=False debug=False>"
    loop.close()


def test_handles_are_asyncio_s(loop):
    handle = loop.call_soon(print)
    timer = loop.call_later(1000, print)
    assert isinstance(handle, asyncio.Handle)
    assert not isinstance(handle, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.TimerHandle)
    handle.cancel()
    timer.cancel()


def test_transports_and_servers_are_asyncio_s(loop):
    async def main():
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        assert isinstance(server, asyncio.Server)
        assert isinstance(server, asyncio.AbstractServer)
        host, port = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
        assert isinstance(transport, asyncio.Transport)
        transport.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.001)

    support.run(loop, main())


@pytest.mark.parametrize("name", ["Handle", "TimerHandle"])
def test_handles_are_made_by_a_loop_only(pyloop, name):
    from pyloop import _core

    with pytest.raises(TypeError):
        getattr(_core, name)()
    with pytest.raises(TypeError):
        getattr(_core, name)(print, (), None)


def test_the_loop_takes_no_arguments(pyloop):
    for call in (pyloop.Loop, pyloop.new_event_loop):
        with pytest.raises(TypeError):
            call(1)
        with pytest.raises(TypeError):
            call(selector=None)


def test_counts_of_live_objects(pyloop):
    from pyloop import _core

    unmade = _core.debug_stats()
    loop = pyloop.new_event_loop()
    before = _core.debug_stats()
    assert set(before) >= {
        "loops",
        "handles",
        "transports",
        "servers",
        "sock_ops",
        "watches",
    }
    assert before["loops"] == unmade["loops"] + 1
    handles = [loop.call_soon(print) for _ in range(5)]
    during = _core.debug_stats()
    assert during["handles"] == before["handles"] + 5
    for handle in handles:
        handle.cancel()
    loop.close()
    del loop, handles, handle
    support.collect()
    assert _core.debug_stats() == unmade


# --- pyloop.run ---------------------------------------------------------------


def test_run(pyloop):
    loop = pyloop.run(running_loop())
    assert type(loop) is pyloop.Loop
    assert loop.is_closed()


def test_run_in_debug_mode(pyloop):
    async def main():
        return asyncio.get_running_loop().get_debug()

    assert pyloop.run(main(), debug=True) is True
    assert pyloop.run(main(), debug=False) is False
    assert pyloop.run(main()) is False
    assert pyloop.run(main(), debug=None) is False


def test_run_with_another_factory(pyloop, policy_restored):
    """As uvloop.run(): a subclass of the loop, or asyncio's choice."""

    class MyLoop(pyloop.Loop):
        pass

    before = asyncio.get_event_loop_policy()
    assert type(pyloop.run(running_loop(), loop_factory=MyLoop)) is MyLoop
    assert not isinstance(pyloop.run(running_loop(), loop_factory=None), pyloop.Loop)
    assert asyncio.get_event_loop_policy() is before


def test_run_raises_what_main_raises(pyloop):
    async def main():
        raise LookupError("from main")

    with pytest.raises(LookupError, match="from main"):
        pyloop.run(main())


@pytest.mark.parametrize("main", [None, 1, running_loop], ids=["None", "1", "function"])
def test_run_needs_a_coroutine(pyloop, main):
    expected = (ValueError, TypeError)  # 3.14 has made it a TypeError
    with pytest.raises(expected, match="coroutine"):
        pyloop.run(main)


def test_run_inside_a_run(pyloop):
    async def main():
        coroutine = running_loop()
        try:
            with pytest.raises(RuntimeError, match="cannot be called from a running"):
                pyloop.run(coroutine)
        finally:
            coroutine.close()
        return "done"

    assert pyloop.run(main()) == "done"


def test_run_cleans_up(pyloop):
    log = []

    async def generator():
        try:
            yield 1
        finally:
            log.append("generator closed")

    async def background():
        try:
            await asyncio.sleep(1000)
        finally:
            log.append("task cancelled")

    async def main():
        agen = generator()
        await agen.__anext__()
        tasks.append(asyncio.ensure_future(background()))
        agens.append(agen)
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, int)

    tasks, agens = [], []
    pyloop.run(main())
    assert sorted(log) == ["generator closed", "task cancelled"]
    assert tasks[0].cancelled()
    assert threading.active_count() == 1


def test_run_in_a_thread(pyloop):
    loop = support.run_in_thread(pyloop.run, running_loop())
    assert type(loop) is pyloop.Loop


def test_run_again_and_again(pyloop):
    loops = {id(pyloop.run(running_loop())) for _ in range(3)}
    assert loops


def test_run_leaves_the_policy_alone(pyloop, policy_restored):
    before = asyncio.get_event_loop_policy()
    pyloop.run(running_loop())
    assert asyncio.get_event_loop_policy() is before


# --- asyncio's ways -----------------------------------------------------------


@from_312
def test_asyncio_run_with_a_factory(pyloop):
    assert (
        type(asyncio.run(running_loop(), loop_factory=pyloop.new_event_loop))
        is pyloop.Loop
    )
    assert type(asyncio.run(running_loop(), loop_factory=pyloop.Loop)) is pyloop.Loop


@from_311
def test_runner_with_a_factory(pyloop):
    with asyncio.Runner(loop_factory=pyloop.new_event_loop, debug=True) as runner:
        loop = runner.run(running_loop())
        assert type(loop) is pyloop.Loop
        assert loop.get_debug() is True
        assert runner.run(running_loop()) is loop
        assert runner.get_loop() is loop
        loop.slow_callback_duration = 1000
    assert loop.is_closed()


def test_set_event_loop(pyloop):
    loop = pyloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
    loop.close()


def run_case(case):
    """Run a TestCase class; return its result."""
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    return suite.run(unittest.TestResult())


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="loop_factory of test cases came with 3.13"
)
@pytest.mark.parametrize("how", ["class", "function"])
def test_isolated_asyncio_test_case_with_a_factory(pyloop, how):
    seen = []

    class Case(unittest.IsolatedAsyncioTestCase):
        # a function that is a class attribute would be called with the case
        loop_factory = (
            pyloop.Loop if how == "class" else staticmethod(pyloop.new_event_loop)
        )

        async def asyncSetUp(self):
            seen.append(type(asyncio.get_running_loop()))

        async def test_something(self):
            await asyncio.sleep(0.001)
            self.addAsyncCleanup(asyncio.sleep, 0)
            seen.append(type(asyncio.get_running_loop()))

    result = run_case(Case)
    assert (result.errors, result.failures, result.testsRun) == ([], [], 1)
    assert seen == [pyloop.Loop, pyloop.Loop]


@without_policies
def test_isolated_asyncio_test_case_under_the_policy(pyloop, policy_restored):
    seen = []

    class Case(unittest.IsolatedAsyncioTestCase):
        async def test_something(self):
            await asyncio.sleep(0.001)
            seen.append(type(asyncio.get_running_loop()))

    pyloop.install()
    result = run_case(Case)
    assert (result.errors, result.failures, result.testsRun) == ([], [], 1)
    assert seen == [pyloop.Loop]


# --- the policy ---------------------------------------------------------------


@without_policies
def test_install(pyloop, policy_restored):
    assert pyloop.install() is None
    assert isinstance(asyncio.get_event_loop_policy(), pyloop.EventLoopPolicy)
    loop = asyncio.new_event_loop()
    assert type(loop) is pyloop.Loop
    loop.close()
    assert type(asyncio.run(running_loop())) is pyloop.Loop


@without_policies
def test_install_in_threads(pyloop, policy_restored):
    pyloop.install()
    loop = support.run_in_thread(asyncio.run, running_loop())
    assert type(loop) is pyloop.Loop


@without_policies
def test_the_policy_as_an_object(pyloop, policy_restored):
    policy = pyloop.EventLoopPolicy()
    loop = policy.new_event_loop()
    assert type(loop) is pyloop.Loop
    policy.set_event_loop(loop)
    assert policy.get_event_loop() is loop
    policy.set_event_loop(None)
    loop.close()


@without_policies
def test_a_subclass_of_the_policy(pyloop, policy_restored):
    class Policy(pyloop.EventLoopPolicy):
        def new_event_loop(self):
            made.append(super().new_event_loop())
            return made[-1]

    made = []
    asyncio.set_event_loop_policy(Policy())
    assert asyncio.run(running_loop()) is made[0]


POLICY_SCRIPT = """
import asyncio, sys, warnings
warnings.simplefilter("error")
import pyloop
policy = pyloop.EventLoopPolicy()
loop = policy.new_event_loop()
loop.close()
pyloop.install()
class Policy(pyloop.EventLoopPolicy):
    pass
Policy()
async def main():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
print(asyncio.run(main()))
print(pyloop.run(main()))
"""


@without_policies
def test_no_deprecation_warning_from_any_of_it():
    process = support.run_script(POLICY_SCRIPT, flags=("-W", "error"))
    assert process.stdout.split() == ["pyloop", "pyloop"]


def test_the_import_is_silent_and_starts_nothing():
    script = """
import sys, threading, os
before = set(os.listdir("/proc/self/fd"))
import pyloop
assert threading.active_count() == 1
assert len(os.listdir("/proc/self/task")) == 1
assert set(os.listdir("/proc/self/fd")) == before
"""
    support.run_script(script, flags=("-W", "error"))


# --- the environment ----------------------------------------------------------


POLLER_SCRIPT = """
import asyncio, pyloop
async def main():
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"ping")
    assert await reader.readexactly(4) == b"ping"
    writer.close()
    await writer.wait_closed()
    server.close()
async def serve():
    global server, address
    async def echo(reader, writer):
        writer.write(await reader.read(100))
        writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await main()
pyloop.run(serve())
print("done")
"""


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"PYLOOP_POLLER": "epoll"},
        {"PYLOOP_POLLER": "uv_poll"},
        {"PYLOOP_POLL_EVERY_TICK": "1"},
        {"PYLOOP_HOLD_WRITES": "0"},
    ],
    ids=str,
)
def test_switches_of_the_environment(variables):
    process = support.run_script(POLLER_SCRIPT, env=variables)
    assert process.stdout == "done\n"


def test_an_unknown_poller_is_refused():
    process = support.run_script(
        POLLER_SCRIPT, env={"PYLOOP_POLLER": "kqueue?"}, check=False
    )
    assert process.returncode == 1
    assert "ValueError" in process.stderr
    assert "PYLOOP_POLLER" in process.stderr


def test_a_failed_construction_leaves_nothing(pyloop, monkeypatch):
    monkeypatch.setenv("PYLOOP_POLLER", "no such poller")
    for _ in range(3):
        with pytest.raises(ValueError, match="PYLOOP_POLLER"):
            pyloop.new_event_loop()
    with contextlib.suppress(ValueError):
        pyloop.Loop()
