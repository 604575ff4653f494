"""Under `python -m pyloop`, children that multiprocessing starts are on pyloop too."""

import os
import re
import subprocess
import sys
import textwrap

import pytest
import support

import pyloop

pytestmark = pytest.mark.pyloop_only

METHODS = ["spawn", "forkserver", "fork"]

#: The work is done in a child; main() tells the program's arguments.
PROGRAM = """\
import asyncio, multiprocessing, sys
early = asyncio.new_event_loop()
early.close()

def kinds():
    loop = asyncio.new_event_loop()
    loop.close()
    return type(early).__module__, type(loop).__module__

def work(turns, method, put):
    put(kinds())
    if turns:
        child(turns - 1, method, put)

def child(turns, method, put):
    process = multiprocessing.get_context(method).Process(
        target=work, args=(turns, method, put)
    )
    process.start()
    process.join()

if __name__ == "__main__":
    method = sys.argv[1]
    queue = multiprocessing.get_context(method).SimpleQueue()
    child(1, method, queue.put)
    print(queue.get(), queue.get())
"""


def run(folder, *words, env=None, cwd=None):
    """Run python; return (what it wrote to stdout, to stderr) of one that succeeds."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd or folder,
        capture_output=True,
        text=True,
        timeout=2 * support.PATIENCE,
        env=support.script_environment(env),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def script(folder, source):
    (folder / "program.py").write_text(textwrap.dedent(source))
    return str(folder / "program.py")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_children_and_theirs(tmp_path, method):
    path = script(tmp_path, PROGRAM)
    words = ["-W", "ignore", "-m", "pyloop", path, method]
    out, error = run(tmp_path, *words)
    ours = ("pyloop._loop", "pyloop._loop")
    assert (out, error) == (f"{ours} {ours}\n", "")


def test_without_the_command_nothing_changes(tmp_path):
    path = script(tmp_path, "import pyloop\npyloop.install()\n" + PROGRAM)
    out, _ = run(tmp_path, "-W", "ignore", path, "spawn")
    assert out.startswith("('pyloop._loop', 'pyloop._loop')")
    path = script(tmp_path, PROGRAM)
    out, _ = run(tmp_path, path, "spawn")
    assert "pyloop" not in out


def test_a_main_module(tmp_path):
    script(tmp_path, PROGRAM)
    out, _ = run(tmp_path, "-m", "pyloop", "-m", "program", "spawn")
    assert out.count("pyloop._loop") == 4


def test_an_executor(tmp_path):
    source = """\
    import asyncio, concurrent.futures, multiprocessing
    def work(number):
        return number, type(asyncio.new_event_loop()).__module__
    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            print(list(pool.map(work, range(2))))
    """
    out, _ = run(tmp_path, "-m", "pyloop", script(tmp_path, source))
    assert out == "[(0, 'pyloop._loop'), (1, 'pyloop._loop')]\n"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pyloop_need_not_be_where_the_program_looks(tmp_path, method):
    """The parent has found it in its working directory, which the script's replaces."""
    package = os.path.dirname(os.path.abspath(pyloop.__file__))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "pyloop").symlink_to(package)
    (tmp_path / "elsewhere").mkdir()
    path = script(tmp_path / "elsewhere", PROGRAM)
    words = ["-W", "ignore", "-m", "pyloop", path, method]
    out, error = run(tmp_path, *words, env={"PYTHONPATH": ""}, cwd=tmp_path / "home")
    assert (out.count("pyloop._loop"), error) == (4, "")


def test_the_programs_own_pyloop_module_is_left_alone(tmp_path):
    """A file of that name beside the program is not what its parent has imported."""
    (tmp_path / "pyloop.py").write_text("raise SystemExit('wrong file')\n")
    path = script(tmp_path, PROGRAM)
    out, error = run(tmp_path, "-m", "pyloop", path, "spawn", cwd=support.PROJECT_DIR)
    assert (out.count("pyloop._loop"), error) == (4, "")


OPTIONS = """\
import asyncio, multiprocessing, time
async def main():
    loop = asyncio.get_running_loop()
    print(loop.get_debug(), type(asyncio.sleep).__module__, flush=True)
    await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    time.sleep(0.5)  # blocks
def work():
    asyncio.run(main())
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=work, name="the-child")
    process.start()
    process.join()
"""


def test_options_hold_for_children(tmp_path):
    path = script(tmp_path, OPTIONS)
    options = ["--debug", "--accelerate", "--report", "--watchdog", "0.1"]
    out, error = run(tmp_path, "-m", "pyloop", *options, path)
    assert out == "True pyloop._core\n"
    blocks = f"{path}:{OPTIONS.splitlines().index('    time.sleep(0.5)  # blocks') + 1}"
    assert "has blocked the event loop" in error and blocks in error
    first, second = re.findall("^-- pyloop: .*", error, re.MULTILINE)
    assert re.fullmatch(r"-- pyloop: 1 loops in the-child \(\d+\) --", first)
    assert second == "-- pyloop: 0 loops --"
    assert "\n  UDP fd=" in error


def test_no_options_hold_for_children(tmp_path):
    out, error = run(tmp_path, "-m", "pyloop", script(tmp_path, OPTIONS))
    assert (out, error) == ("False builtins\n", "")
