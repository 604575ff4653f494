"""Check the pyloop that is installed, from a wheel.

    python check.py [EXAMPLES]

`make wheels` and the release run it. EXAMPLES is the folder of the tree's examples; the
crawler in it runs if aiohttp is installed. With uvloop beside it, both are used in one
process, in either order. Ends with an error as soon as something is wrong. Needs
nothing of the tree but this file.
"""

import asyncio
import ctypes
import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys
import threading

NAME = "pyloop-uv"


def check_files():
    """It is the installed one, whole, of one version, with the licences it needs."""
    import pyloop

    found = importlib.metadata.distribution(NAME)
    package = pathlib.Path(str(found.locate_file("pyloop/__init__.py")))
    assert package.samefile(pyloop.__file__), (package, pyloop.__file__)
    assert found.version == pyloop.__version__, (found.version, pyloop.__version__)
    names = {path.name for path in found.files or ()}
    assert {"py.typed", "_core.pyi", "LICENSE", "LICENSE.libuv"} <= names, names
    return f"pyloop {pyloop.__version__}, libuv {pyloop.libuv_version}"


def check_symbols():
    """libuv is inside, needs no library of that name, and is nobody else's business."""
    import pyloop._core as core

    module = ctypes.CDLL(core.__file__)
    assert hasattr(module, "PyInit__core")
    for name in ("uv_run", "uv_loop_init", "uv_close", "loop_run"):
        assert not hasattr(module, name), f"{name} can be seen from outside"
    if sys.platform == "linux" and "uvloop" not in sys.modules:
        maps = pathlib.Path("/proc/self/maps").read_text()
        assert "libuv" not in maps, "a shared libuv is loaded"
    return "libuv is inside, and hidden"


async def echo(loop_type):
    """Streams, a timer, a thread and a child on the running loop, which is checked."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, loop_type), loop

    async def answer(reader, writer):
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    for size in (1, 100, 60_000):
        line = b"x" * size + b"\n"
        writer.write(line)
        assert await reader.readline() == line
    writer.close()
    await writer.wait_closed()
    server.close()

    await asyncio.sleep(0.001)
    called = loop.create_future()
    thread = threading.Thread(
        target=loop.call_soon_threadsafe, args=(called.set_result, "called")
    )
    thread.start()
    assert await called == "called"
    thread.join()
    assert await loop.run_in_executor(None, sum, (1, 2)) == 3

    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print('child')", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await child.communicate()
    assert (output.split(), child.returncode) == ([b"child"], 0)


def check_loop():
    """A program on pyloop's loop."""
    import pyloop

    pyloop.run(echo(pyloop.Loop))
    return "streams, timers, threads and children work"


def run_both(first):
    """In this process: the loops of both packages, of the named one first."""
    import importlib

    other = {"pyloop": "uvloop", "uvloop": "pyloop"}[first]
    packages = [importlib.import_module(name) for name in (first, other)]
    for _ in range(2):
        for package in packages:
            package.run(echo(package.Loop))
    check_symbols()


def check_beside_uvloop():
    """Both libuvs in one process, loaded in either order."""
    if importlib.util.find_spec("uvloop") is None:
        return "uvloop is not installed here: not tried beside it"
    for first in ("pyloop", "uvloop"):
        subprocess.run([sys.executable, __file__, "--both", first], check=True)
    return f"works beside uvloop {importlib.metadata.version('uvloop')}"


def check_crawler(examples):
    """The demo: an aiohttp site and its crawler, in children."""
    if importlib.util.find_spec("aiohttp") is None:
        return "aiohttp is not installed here: the crawler was not run"
    demo = pathlib.Path(examples, "crawler", "demo.py")
    done = subprocess.run(
        [sys.executable, demo], stdout=subprocess.PIPE, text=True, check=True
    )
    last = done.stdout.strip().splitlines()[-1]
    return f"the crawler: {last}"


def main(arguments):
    """All of it, a line for each part."""
    if arguments[:1] == ["--both"]:
        run_both(arguments[1])
        return
    # Not the tree's own package, whatever the current folder is.
    sys.path[:] = [path for path in sys.path if path not in ("", ".")]
    version = f"Python {sys.version.split()[0]}{sys.abiflags}"
    print(f"{version}: {check_files()}")
    for check in (check_symbols, check_loop, check_beside_uvloop):
        print(f"{version}: {check()}", flush=True)
    if arguments:
        print(f"{version}: {check_crawler(arguments[0])}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
