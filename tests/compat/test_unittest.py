"""unittest.IsolatedAsyncioTestCase on the loop under test."""

import asyncio
import io
import sys
import unittest

import pytest
import support
from realkit import factory


def make_suite(loop_kind, events):
    """A TestCase class as a user writes it, and without a loop of its own."""

    class Suite(unittest.IsolatedAsyncioTestCase):
        def setUp(self):
            events.append("setUp")

        async def asyncSetUp(self):
            loop = asyncio.get_running_loop()
            assert type(loop) is support.loop_class(loop_kind)
            self.server = await asyncio.start_server(self.echo, "127.0.0.1", 0)
            self.addAsyncCleanup(self.clean)

        async def echo(self, reader, writer):
            writer.write(await reader.read())
            writer.close()
            await writer.wait_closed()

        async def clean(self):
            events.append("clean-up")

        async def asyncTearDown(self):
            self.server.close()
            await self.server.wait_closed()
            events.append("asyncTearDown")

        async def test_echo(self):
            address = self.server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"hello")
            writer.write_eof()
            self.assertEqual(await reader.read(), b"hello")
            writer.close()
            await writer.wait_closed()

        async def test_subtests(self):
            for number in range(3):
                with self.subTest(number=number):
                    await asyncio.sleep(0)
                    self.assertNotEqual(number, 1)

        async def test_failure(self):
            await asyncio.sleep(0.001)
            self.fail("on purpose")

        async def test_left_task(self):
            asyncio.ensure_future(asyncio.sleep(3600))

        def test_not_asynchronous(self):
            with self.assertRaises(RuntimeError):
                asyncio.get_running_loop()

    return Suite


def run_suite(suite):
    """Run the test case class; return (tests run, names of failed tests)."""
    result = unittest.TextTestRunner(stream=io.StringIO()).run(
        unittest.defaultTestLoader.loadTestsFromTestCase(suite)
    )
    assert not result.errors, result.errors
    return result.testsRun, sorted(test.id() for test, _ in result.failures)


def check(suite, events):
    run, failed = run_suite(suite)
    assert run == 5
    assert len(failed) == 2
    assert failed[0].endswith("test_failure")
    assert "(number=1)" in failed[1]
    assert events.count("clean-up") == 5
    assert events == ["setUp", "asyncTearDown", "clean-up"] * 5


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="loop_factory is new in Python 3.13"
)
def test_loop_factory(loop_kind):
    events = []
    suite = make_suite(loop_kind, events)
    suite.loop_factory = staticmethod(factory(loop_kind))
    check(suite, events)


@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="asyncio deprecates policies from Python 3.14"
)
def test_policy(loop_kind):
    """The only way before 3.13."""

    class Policy(asyncio.DefaultEventLoopPolicy):
        _loop_factory = support.loop_class(loop_kind)

    if loop_kind == "pyloop":
        from pyloop import EventLoopPolicy as Policy
    events = []
    asyncio.set_event_loop_policy(Policy())
    try:
        check(make_suite(loop_kind, events), events)
    finally:
        asyncio.set_event_loop_policy(None)
