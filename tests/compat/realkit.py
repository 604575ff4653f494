"""Helpers of the tests that run real programs."""

import contextlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest
import support

COMPAT_DIR = os.path.dirname(os.path.abspath(__file__))
REQUIREMENTS = "tests/compat/requirements.txt"


def need(*names):
    """Import these modules and return them (the one, when it is one).

    Where one is not installed the module of tests is skipped, and says what to install;
    in CI that is an error.
    """
    modules = []
    for name in names:
        try:
            modules.append(__import__(name, fromlist=["*"]))
        except ImportError:
            if os.environ.get("CI"):
                raise
            pytest.skip(
                f"{name} is not installed: {REQUIREMENTS} lists what these tests need",
                allow_module_level=True,
            )
    return modules[0] if len(modules) == 1 else modules


def factory_path(kind):
    """What `--loop` of uvicorn takes for this kind of loop: "module:callable"."""
    return {
        "asyncio": "asyncio:SelectorEventLoop",
        "pyloop": "pyloop:new_event_loop",
        "uvloop": "uvloop:new_event_loop",
    }[kind]


def factory(kind):
    """The callable that factory_path names."""
    module, _, name = factory_path(kind).partition(":")
    return getattr(__import__(module), name)


@contextlib.contextmanager
def program(*argv, banner, timeout=support.PATIENCE, **env):
    """Run a Python program that prints a line that matches *banner* when it is ready.

    argv: arguments of the interpreter.  banner: a regular expression, searched in each
    line of stdout and stderr, which are one stream.  env: added to the environment.
    Gives a Program; the program is killed at the end if the test has not ended it.
    """
    process = subprocess.Popen(
        [sys.executable, *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=support.script_environment({"PYTHONUNBUFFERED": "1", **env}),
    )
    running = Program(process)
    try:
        running.wait_for_line(banner, timeout)
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        running.finish()


class Program:
    """A running program and what it has printed."""

    def __init__(self, process):
        self.process = process
        self.match = None  # of the banner
        self._lines = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with self.process.stdout as stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line.decode(errors="replace").rstrip())
                    self._changed.notify_all()
        with self._changed:
            self._lines.append(None)
            self._changed.notify_all()

    @property
    def output(self):
        """All that it has printed so far, as text."""
        with self._changed:
            return "\n".join(line for line in self._lines if line is not None)

    def _ready(self, pattern):
        for line in self._lines:
            if line is None:
                return True
            match = re.search(pattern, line)
            if match:
                self.match = match
                return True
        return False

    def wait_for_line(self, pattern, timeout=support.PATIENCE):
        """Wait for a line that the pattern is found in; return the match."""
        self.match = None
        with self._changed:
            self._changed.wait_for(lambda: self._ready(pattern), timeout)
        assert self.match, f"no line matches {pattern!r}:\n{self.output}"
        return self.match

    def end(self, signum, timeout=support.PATIENCE):
        """Send the signal, wait for the end; return the exit status."""
        self.process.send_signal(signum)
        return self.finish(timeout)

    def finish(self, timeout=support.PATIENCE):
        """Wait for the end of the program and of its output; return the status."""
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return status


# --- load ---------------------------------------------------------------------------


def load(port, path="/", seconds=1, connections=32):
    """Load a web server; return (requests answered, failures in words).

    With wrk where it is installed, for so many seconds; otherwise from Python threads,
    a fixed number of requests.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        return load_from_threads(port, path)
    url = f"http://127.0.0.1:{port}{path}"
    output = subprocess.run(
        [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", url],
        capture_output=True,
        text=True,
        timeout=seconds + support.PATIENCE,
        check=True,
    ).stdout
    requests = re.search(r"(\d+) requests in ", output)
    assert requests, output
    failures = re.findall(r"^.*(?:Socket errors|Non-2xx).*$", output, re.MULTILINE)
    return int(requests[1]), failures


def load_from_threads(port, path, threads=8, requests_each=100):
    failures = []

    def client():
        connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=support.PATIENCE
        )
        with contextlib.closing(connection):
            for _ in range(requests_each):
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                if not 200 <= response.status < 400:
                    failures.append(f"status {response.status}")

    def guarded():
        try:
            client()
        except Exception as exc:
            failures.append(repr(exc))

    running = [threading.Thread(target=guarded) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return threads * requests_each, failures


# --- aiohttp, which serves as the other end of several suites ----------------------


@contextlib.asynccontextmanager
async def aiohttp_site(app, *, ssl_context=None, **runner_options):
    """Serve an aiohttp application on the running loop; gives its base URL.

    runner_options: what web.AppRunner takes.
    """
    from aiohttp import web

    runner = web.AppRunner(app, access_log=None, **runner_options)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
        await site.start()
        scheme = "https" if ssl_context else "http"
        # The certificate of the tests names localhost.
        yield f"{scheme}://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
