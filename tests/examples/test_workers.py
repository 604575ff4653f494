"""Servers of several processes: on whose loops they are, as the docs say.

Each is started as a user would, asked until every worker has answered, and ended by
SIGTERM.
"""

import importlib.util
import signal
import socket
import time
import urllib.request

import programkit
import pytest
import support

pytestmark = pytest.mark.packaged

ASGI = """\
import asyncio, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for stage in "startup", "shutdown":
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    loop = type(asyncio.get_running_loop()).__module__
    body = f"{os.getpid()} {loop}".encode()
    head = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})
"""

AIOHTTP = """\
import asyncio, os
from aiohttp import web

async def tell(request):
    loop = type(asyncio.get_running_loop()).__module__
    return web.Response(text=f"{os.getpid()} {loop}")

app = web.Application()
app.add_routes([web.get("/", tell)])
"""

WORKER = """\
from uvicorn_worker import UvicornWorker

class PyloopWorker(UvicornWorker):
    CONFIG_KWARGS = {"loop": "pyloop:new_event_loop"}
"""

UVICORN = "-m uvicorn asgi:app --port PORT"
GUNICORN = "-m gunicorn -b 127.0.0.1:PORT"

#: By `python -m pyloop`: name: (packages, command, number of workers).
ANY = {
    "uvicorn": ("uvicorn", f"{UVICORN} --workers 2", 2),
    "uvicorn-reload": ("uvicorn", f"{UVICORN} --reload", 1),
    "gunicorn-uvicorn": (
        "gunicorn uvicorn_worker",
        f"{GUNICORN} -w 2 -k uvicorn_worker.UvicornWorker asgi:app",
        2,
    ),
    "gunicorn-aiohttp": (
        "gunicorn aiohttp",
        f"{GUNICORN} -w 2 -k aiohttp.GunicornWebWorker aio:app",
        2,
    ),
}

#: By what these servers can be told.
TOLD = {
    "uvicorn": ("uvicorn", f"{UVICORN} --workers 2 --loop pyloop:new_event_loop", 2),
    "gunicorn-uvicorn": (
        "gunicorn uvicorn_worker",
        f"{GUNICORN} -w 2 -k worker.PyloopWorker asgi:app",
        2,
    ),
    "gunicorn-aiohttp": (
        "gunicorn aiohttp",
        f"{GUNICORN} -w 2 -k aiohttp.GunicornWebWorker -c settings.py aio:app",
        2,
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory of the servers, with their applications."""
    (tmp_path / "asgi.py").write_text(ASGI)
    (tmp_path / "aio.py").write_text(AIOHTTP)
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "settings.py").write_text("import pyloop\npyloop.install()\n")
    monkeypatch.chdir(tmp_path)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def loops_of(port, workers):
    """Ask until so many processes have answered; return {process id: loop's module}."""
    url = f"http://127.0.0.1:{port}/"
    found = {}
    limit = time.monotonic() + support.PATIENCE
    while len(found) < workers and time.monotonic() < limit:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                process, loop = answer.read().decode().split()
        except OSError:  # not yet listening, or a worker that is not there yet
            time.sleep(0.01)
            continue
        found[process] = loop
    return found


def check(case, options, module):
    packages, command, workers = case
    for name in packages.split():
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    port = free_port()
    words = command.replace("PORT", str(port)).split()
    with programkit.program(
        *options, *words, banner="(?i)started.*process|listening at"
    ) as server:
        found = loops_of(port, workers)
        assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM), server.output
        assert "Traceback" not in server.output
    assert list(found.values()) == [module] * workers


@pytest.mark.parametrize("server", ANY)
def test_unchanged(folder, loop_kind, server):
    options = {"asyncio": [], "pyloop": ["-m", "pyloop"]}[loop_kind]
    check(ANY[server], options, support.loop_class(loop_kind).__module__)


@pytest.mark.pyloop_only
@pytest.mark.parametrize("server", TOLD)
def test_told(folder, server):
    check(TOLD[server], [], "pyloop._loop")
