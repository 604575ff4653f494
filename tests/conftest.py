"""The ground of the suite: which loops it runs on, and what every test is held to.

Each test that uses `loop`, `new_loop` or `loop_kind` runs once per kind of loop that
`--loops` names.  asyncio's own loop is among them as the oracle: a test that fails
there states something that asyncio does not do.  After each test nothing may be
left: no descriptor, thread, pending task, unclosed transport, live object of the C
core, or error in asyncio's log.
"""

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import sys
import sysconfig
import threading

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import support

# Its assertion says how two traces differ.
pytest.register_assert_rewrite("modelkit")

# `make services` names it, with what its tests need.
collect_ignore = ["services"]

# What is not about the extension, nor about how it is built or set up.
if os.environ.get("PYLOOP_TESTS") == "core":
    collect_ignore += [
        "examples",
        "test_benchmarks.py",
        "test_compat_suites.py",
        "test_docs_examples.py",
        "test_docs_site.py",
        "test_moving_from_uvloop.py",
        "test_packaging.py",
        "test_source_rules.py",
        "test_typing.py",
    ]

CONFIGURED_KINDS = pytest.StashKey()
FAILED = pytest.StashKey()
FINISHED = pytest.StashKey()
STDERR_COPY = pytest.StashKey()

# The free-threaded 3.13 keeps a class that a function made, and all that the class's
# methods know, once a thread was started. There only isolated/leaks.py counts objects.
CLASSES_ARE_IMMORTAL = bool(
    sysconfig.get_config_var("Py_GIL_DISABLED")
) and sys.version_info < (3, 14)


def pytest_addoption(parser):
    group = parser.getgroup("pyloop")
    group.addoption(
        "--loops",
        default="asyncio,pyloop",
        help="comma-separated kinds of loop to test: asyncio, pyloop, uvloop",
    )
    group.addoption(
        "--test-limit",
        type=float,
        default=60.0,
        help="seconds that the set-up, the call and the teardown of a test may take",
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "pyloop_only: tests something that no other loop has"
    )
    config.addinivalue_line(
        "markers", "limit(seconds): this test's own limit instead of --test-limit"
    )
    config.addinivalue_line("filterwarnings", "error")
    # Hypothesis counts references to know who holds them; from 3.14 on it counts wrong.
    config.addinivalue_line("filterwarnings", "ignore:It looks like .register_random.")
    # Options of plugins that are not installed.
    config.addinivalue_line("filterwarnings", "default::pytest.PytestConfigWarning")
    if threading.current_thread() is threading.main_thread():
        # A shell's background job has it ignored, and so would all that it starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[CONFIGURED_KINDS] = chosen_kinds(config)
    config.stash[STDERR_COPY] = os.dup(2)


def pytest_unconfigure(config):
    fd = config.stash.get(STDERR_COPY, None)
    if fd is not None:
        os.close(fd)
        del config.stash[STDERR_COPY]


def chosen_kinds(config):
    """Return the kinds that --loops names, each shown to be importable."""
    kinds = [kind.strip() for kind in config.getoption("--loops").split(",")]
    for kind in kinds:
        if kind not in support.LOOP_KINDS:
            known = ", ".join(support.LOOP_KINDS)
            raise pytest.UsageError(f"--loops: {kind!r} is none of {known}")
        try:
            # What the library makes once per process exists before anything is counted.
            support.make_loop(kind).close()
            with pytest.MonkeyPatch.context() as patch:  # libuv's loop has more of it
                patch.setenv("PYLOOP_POLLER", "uv_poll")
                support.make_loop(kind).close()
        except ImportError as exc:
            raise pytest.UsageError(
                f"--loops names {kind}, which cannot be imported: {exc}\n"
                f"(build it, or choose others, as in: --loops asyncio)"
            ) from exc
    return kinds


# --- which loops --------------------------------------------------------------


def pytest_generate_tests(metafunc):
    if "loop_kind" in metafunc.fixturenames:
        kinds = metafunc.config.stash[CONFIGURED_KINDS]
        if metafunc.definition.get_closest_marker("pyloop_only"):
            kinds = ["pyloop"]
        metafunc.parametrize("loop_kind", kinds)


def pytest_collection_modifyitems(config, items):
    if "pyloop" in config.stash[CONFIGURED_KINDS]:
        return
    left_out = [item for item in items if item.get_closest_marker("pyloop_only")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def forget_the_living():
    # What exists between two tests is no test's garbage: not looking at it again makes
    # the collections of every teardown several times faster.
    gc.collect()
    gc.freeze()


def pytest_collection_finish(session):
    session.config.stash[FINISHED] = 0
    forget_the_living()


@pytest.fixture
def new_loop(loop_kind):
    """A factory of loops of the kind under test; each is closed at the end."""
    made = []

    def factory():
        made.append(support.make_loop(loop_kind))
        return made[-1]

    yield factory
    problems = []
    while made:
        problems += finish(made.pop())
    assert not problems, problems


@pytest.fixture
def loop(new_loop):
    """A fresh loop, which is also the thread's current one."""
    loop = new_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)


def finish(loop):
    """Close a loop; return what the test had left on it."""
    if loop.is_closed():
        return []
    assert not loop.is_running(), "the test has left its loop running"
    problems = [repr(task) for task in asyncio.all_tasks(loop)]
    for task in asyncio.all_tasks(loop):
        task.cancel()
    support.spin(loop)  # closed transports report connection_lost in a callback
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    return problems


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A `support.Certificates` for the whole run."""
    return support.Certificates(str(tmp_path_factory.mktemp("certificates")))


# --- what every test is held to -----------------------------------------------


@pytest.fixture(autouse=True)
def asyncio_log():
    """What the test logs to `asyncio`.  Errors it does not take() are a failure."""
    log = support.AsyncioLog()
    logger = logging.getLogger("asyncio")
    logger.addFilter(log)
    yield log
    support.collect()  # tasks and futures report what nobody looked at as they die
    logger.removeFilter(log)
    errors = log.take(logging.ERROR)
    assert not errors, f"logged to asyncio and not taken by the test: {errors}"


@pytest.fixture(autouse=True)
def nothing_left(request, asyncio_log):
    """Compare descriptors, threads and live C objects before and after the test."""
    support.collect()
    threads = set(threading.enumerate())
    native = len(support.native_threads())
    counts = support.core_stats()
    descriptors = support.open_descriptors()
    wakeup_fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup_fd)
    yield
    if request.node.stash.get(FAILED, False):
        return  # its traceback keeps everything alive
    request.node.funcargs.clear()  # pytest holds the fixtures' values, the loop too
    left = left_threads(threads, native)
    support.collect()  # after the threads: what one holds is not free before it ends
    left += left_descriptors(descriptors)
    left += [
        f"{after - counts.get(kind, 0)} of {kind!r} in the C core"
        for kind, after in support.core_stats().items()
        if after > counts.get(kind, 0) and not CLASSES_ARE_IMMORTAL
    ]
    if signal.set_wakeup_fd(wakeup_fd) != wakeup_fd:
        left.append("a changed signal wake-up descriptor")
    assert not left, "the test has left behind: " + "; ".join(left)


def left_threads(threads, native):
    """Join what has been told to end; return what does not, as text."""
    left = []
    for thread in set(threading.enumerate()) - threads:
        thread.join(5)
        if thread.is_alive():
            left.append(f"{thread!r}")
    if not left and "uvloop" not in sys.modules:  # libuv's pool threads stay for ever
        # Not which: faulthandler's own is another one in each phase of a test.
        support.wait_for_condition(
            lambda: len(support.native_threads()) <= native, what="kernel's threads"
        )
    return left


def left_descriptors(before):
    """Return, as text, the descriptors that are open or closed unlike before."""
    after = support.open_descriptors()
    left = [
        f"descriptor {fd} -> {after[fd]}"
        for fd in sorted(after)
        if fd not in before or before[fd] != after[fd]
    ]
    lost = [
        f"closed: descriptor {fd} -> {before[fd]}" for fd in before if fd not in after
    ]
    return left + lost


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if outcome.get_result().failed:
        item.stash[FAILED] = True


# --- no test hangs ------------------------------------------------------------


class TestTookTooLong(SystemExit):
    """Raised where a test hangs.  Of all exceptions a loop swallows SystemExit last."""

    __test__ = False


def on_limit(signum, frame):
    raise TestTookTooLong("the test's time limit has passed")


def limited(item):
    """Hold one phase of a test to its limit.

    An alarm raises in the main thread.  When that does not end the phase (a hang in
    C code, or a swallowed exception), every thread's traceback is written and the
    process ends.
    """
    marker = item.get_closest_marker("limit")
    seconds = marker.args[0] if marker else item.config.getoption("--test-limit")
    faulthandler.dump_traceback_later(
        seconds + 30, exit=True, file=item.config.stash[STDERR_COPY]
    )
    signal.signal(signal.SIGALRM, on_limit)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup(item):
    yield from limited(item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    yield from limited(item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item):
    yield from limited(item)
    item.config.stash[FINISHED] += 1
    if item.config.stash[FINISHED] % 50 == 0:
        forget_the_living()
