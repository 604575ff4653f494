"""Helpers of the tests that run real programs."""

import contextlib
import http.client
import os
import re
import shutil
import subprocess
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
