"""`python -m pyloop PROGRAM` is `python PROGRAM`, on pyloop's loops.

The programs are run both ways, and what comes out has to be the same.
"""

import os
import re
import signal
import subprocess
import sys
import textwrap
import zipfile

import pytest
import support

import pyloop

pytestmark = pytest.mark.pyloop_only

NAMES = """\
import os, sys
print(sys.argv, [os.path.realpath(entry) if entry else "" for entry in sys.path[:1]])
for name, value in sorted(globals().items()):
    if name not in ("__builtins__", "os", "sys"):
        print(name, "=", repr(value))
print(__builtins__, sys.modules["__main__"].__dict__ is globals())
"""

FAILS = """\
def inner(number):
    return 1 / number

def outer():
    try:
        inner(0)
    except ZeroDivisionError as exc:
        raise ValueError("from inside") from exc

outer()
"""

ATEXIT = """\
import atexit, sys
atexit.register(print, "at exit", flush=True)
print("body", flush=True)
raise KeyError("key")
"""

OWN_HOOK = """\
import sys, traceback
def hook(kind, value, tb):
    print("hook", kind.__name__, [frame.name for frame in traceback.extract_tb(tb)])
    print(value.__traceback__ is tb, sys.excepthook is hook, sys.last_traceback is tb)
sys.excepthook = hook
def fails():
    raise OSError("no")
fails()
"""

PICKLE = """\
import pickle, sys
class Mine:
    pass
thing = pickle.loads(pickle.dumps(Mine()))
print(type(thing) is Mine, Mine.__module__, sys.modules["__main__"].Mine is Mine)
"""

SPAWN = """\
import multiprocessing
def work(number):
    return number + 1, __name__
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(work, [1]))
"""

ASYNC = """\
import asyncio, sys
async def main():
    await asyncio.sleep(0)
    raise SystemExit(7)
asyncio.run(main())
"""

ASYNC_FAILS = """\
import asyncio
async def fails():
    await asyncio.sleep(0)
    raise LookupError("nothing there")
async def main():
    await fails()
loop = asyncio.new_event_loop()
try:
    loop.run_until_complete(main())
except LookupError as exc:
    print(exc)
finally:
    loop.close()
"""

WARNS = """\
import warnings
warnings.warn("old", DeprecationWarning)
warnings.warn("hidden", PendingDeprecationWarning)
"""

PROGRAMS = {
    "names": NAMES,
    "fails": FAILS,
    "syntax": "print(1)\ndef (:\n",
    "encoding": "# -*- coding: latin-1 -*-\nprint(ascii('\xe9'))\n",
    "atexit": ATEXIT,
    "own_hook": OWN_HOOK,
    "pickle": PICKLE,
    "spawn": SPAWN,
    "exit_number": "import sys\nsys.exit(3)\n",
    "exit_text": "import sys\nsys.exit('a message')\n",
    "exit_none": "raise SystemExit\n",
    "interrupt": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint(1)\n",
    "async_exit": ASYNC,
    "async_fails": ASYNC_FAILS,
    "warns": WARNS,
    "stdin": "import sys\nprint(repr(sys.stdin.read()))\n",
}


@pytest.fixture
def folder(tmp_path):
    """A working directory with the programs, a package, a folder and a zip file."""
    for name, source in PROGRAMS.items():
        encoding = "latin-1" if name == "encoding" else "utf-8"
        (tmp_path / f"{name}.py").write_text(source, encoding)
    for kind in ("package", "program"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "__main__.py").write_text(NAMES)
    (tmp_path / "package" / "__init__.py").write_text("print('package')\n")
    (tmp_path / "package" / "fails.py").write_text(FAILS)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.py").symlink_to("program/__main__.py")
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        archive.writestr("__main__.py", NAMES)
    return tmp_path


def outcome(folder, *words, flags=(), stdin="", env=None):
    """What `python FLAGS WORDS` writes and ends with; addresses are left out."""
    done = subprocess.run(
        [sys.executable, *flags, *words],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=2 * support.PATIENCE,
        env=support.script_environment({"PYTHONDONTWRITEBYTECODE": "1", **(env or {})}),
    )
    without = re.compile(r"0x[0-9a-f]+")
    return without.sub("", done.stdout), without.sub("", done.stderr), done.returncode


def assert_same(folder, *words, **kwargs):
    plain = outcome(folder, *words, **kwargs)
    ours = outcome(folder, "-m", "pyloop", *words, **kwargs)
    assert ours == plain
    return ours


# --- as python runs it --------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_scripts(folder, name):
    _, error, _ = assert_same(folder, f"{name}.py", "argument", "-m", "--debug")
    assert "pyloop" not in error


@pytest.mark.parametrize(
    "words",
    [
        ["./names.py"],
        ["package/../names.py", "--", "-x"],
        ["--", "names.py"],
        ["link.py"],
        ["program"],
        ["program/", "a"],
        ["program.zip", "a"],
        ["-m", "names", "-c", "a"],
        ["-mnames"],
        ["-m", "package", "a"],
        ["-m", "package.fails"],
        ["-m", "fails"],
        ["-c", NAMES, "-m", "a"],
        ["-c", FAILS],
        ["-cprint(1)"],
        ["-c", "raise SystemExit('no')"],
        ["-c", "print(__import__('sys').argv)", "--debug"],
    ],
    ids=lambda words: " ".join(words)[:24].replace("\n", " "),
)
def test_ways_to_name_a_program(folder, words):
    assert_same(folder, *words)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="from Python 3.14 on")
def test_indented_code(folder):
    assert_same(folder, "-c", "\n    print(1)\n    1/0\n")


@pytest.mark.parametrize("source", [NAMES, FAILS, "print('\xe9')\n", "def (:\n"])
def test_program_from_stdin(folder, source):
    assert_same(folder, "-", "a", stdin=source)


@pytest.mark.parametrize(
    "words", [["missing.py"], ["-m", "missing"], ["-m", "empty"], ["empty"]]
)
def test_programs_that_are_not_there(folder, words):
    assert assert_same(folder, *words)[2] != 0


@pytest.mark.parametrize("flags", [["-O"], ["-W", "error"], ["-X", "dev"]], ids=str)
def test_flags_of_python(folder, flags):
    assert_same(folder, "-c", "print(__debug__)", flags=flags)
    assert_same(folder, "warns.py", flags=flags)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="from Python 3.11 on")
@pytest.mark.parametrize(
    "words", [["names.py"], ["-c", NAMES], ["-m", "package"], ["program.zip"]], ids=str
)
def test_safe_path(folder, words):
    env = {"PYTHONPATH": path_of_pyloop(folder)}
    assert_same(folder, *words, flags=["-P"], env=env)


def test_the_working_directory(folder):
    assert_same(folder / "program", ".")


#: Modules that the command line uses, and neither asyncio nor runpy.
USED = ("argparse", "gettext", "platform", "random", "shutil", "tempfile")


@pytest.mark.parametrize(
    "words", [["names.py"], ["-m", "names"], ["-c", NAMES]], ids=lambda words: words[0]
)
def test_files_of_the_program_are_not_taken_for_modules_of_ours(folder, words):
    for name in USED:
        (folder / f"{name}.py").write_text("raise SystemExit('imported by accident')\n")
    assert assert_same(folder, *words)[2] == 0
    assert outcome(folder, "-m", "pyloop", "--version")[2] == 0
    assert outcome(folder, "-m", "pyloop", "--help")[2] == 0


@pytest.mark.parametrize(
    "words",
    [["FOLDER/names.py"], ["missing.py"], ["-c", NAMES], ["-m", "fails"]],
    ids=lambda words: words[-1][:16],
)
def test_in_a_folder_that_is_gone(folder, words):
    """Python has nothing of it in sys.path then."""
    words = [word.replace("FOLDER", str(folder)) for word in words]
    results = []
    for before in [], ["-m", "pyloop"]:
        gone = folder / "gone"
        gone.mkdir()
        done = subprocess.run(
            ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", sys.executable]
            + [*before, *words],
            cwd=gone,
            capture_output=True,
            text=True,
            env=support.script_environment({"PYTHONPATH": path_of_pyloop(folder)}),
        )
        error = re.sub("0x[0-9a-f]+", "", done.stderr)
        results.append((re.sub("0x[0-9a-f]+", "", done.stdout), error, done.returncode))
    assert results[0] == results[1]


def path_of_pyloop(*more):
    own = support.script_environment()["PYTHONPATH"].split(os.pathsep)
    return os.pathsep.join(map(str, (*own, *more)))


def test_compiled_scripts(folder):
    import py_compile

    py_compile.compile(folder / "names.py", cfile=folder / "compiled.pyc")
    assert_same(folder, "compiled.pyc")


def test_a_program_without_an_excepthook(folder):
    """Python says that it is missing, too."""
    source = "import sys\ndel sys.excepthook\n1/0\n"
    plain = outcome(folder, "-c", source)
    ours = outcome(folder, "-m", "pyloop", "-c", source)
    assert plain[1].splitlines()[1:] == ours[1].splitlines()
    assert (plain[0], plain[2]) == (ours[0], ours[2])


def test_inspect_sees_the_programs_names(folder):
    """`python -i` goes on in `__main__` after the program."""
    (folder / "sets.py").write_text("answer = 42\n")
    out, _, status = assert_same(folder, "sets.py", flags=["-i"], stdin="print(answer)")
    assert out == "42\n" and status == 0


def test_interrupt_ends_by_the_signal(folder):
    """A shell tells 130 from this; a program that ends by exit(130) is not the same."""
    assert outcome(folder, "-m", "pyloop", "interrupt.py")[2] == -signal.SIGINT


# --- every loop ---------------------------------------------------------------------

WAYS = {
    "run": "asyncio.run(main())",
    "new_event_loop": "loop = asyncio.new_event_loop()\n"
    "loop.run_until_complete(main())\nloop.close()",
    "runner": "with asyncio.Runner() as runner:\n    runner.run(main())",
    "class": "loop = asyncio.SelectorEventLoop()\n"
    "loop.run_until_complete(main())\nloop.close()",
    "early": "from asyncio import SelectorEventLoop as Early\n"
    "loop = Early(None)\nloop.run_until_complete(main())\nloop.close()",
    "factory": "asyncio.run(main(), loop_factory=asyncio.EventLoop)",
    "policy": "asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())\n"
    "asyncio.run(main())",
    "subclass": "class Policy(asyncio.DefaultEventLoopPolicy):\n    pass\n"
    "asyncio.set_event_loop_policy(Policy())\nasyncio.run(main())",
    "no_policy": "asyncio.set_event_loop_policy(None)\nasyncio.run(main())",
    "thread": "import threading\n"
    "thread = threading.Thread(target=lambda: asyncio.run(main()))\n"
    "thread.start()\nthread.join()",
    "fork": "pid = os.fork()\nasyncio.run(main())\n"
    "if pid: os.waitpid(pid, 0)\n"
    "else: os._exit(0)",
}
SINCE = {"runner": (3, 11), "factory": (3, 13)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_every_loop_is_ours(tmp_path, way):
    if sys.version_info < SINCE.get(way, (3, 10)):
        pytest.skip("this version's asyncio has no such thing")
    source = (
        "import asyncio, os\n"
        "async def main():\n"
        "    kind = type(asyncio.get_running_loop())\n"
        "    os.write(1, (kind.__module__ + '\\n').encode())\n" + WAYS[way]
    )
    out, error, status = outcome(tmp_path, "-W", "ignore", "-m", "pyloop", "-c", source)
    assert (set(out.splitlines()), error, status) == ({"pyloop._loop"}, "", 0)


def test_what_stays_asyncios(tmp_path):
    """A loop with a selector of the program's own, and subclasses of asyncio's loop."""
    source = textwrap.dedent(
        """
        import asyncio, selectors
        class Mine(asyncio.SelectorEventLoop):
            pass
        for loop in Mine(), asyncio.SelectorEventLoop(selectors.SelectSelector()):
            print(type(loop).__name__, loop._selector.__class__.__name__)
            loop.run_until_complete(asyncio.sleep(0, loop))
            loop.close()
        """
    )
    out, error, _ = outcome(tmp_path, "-m", "pyloop", "-c", source)
    assert error == "" and "Mine" in out
    assert "_UnixSelectorEventLoop SelectSelector" in out


FAKE_UVLOOP = """\
import asyncio
class Loop(asyncio.SelectorEventLoop):
    pass
def new_event_loop():
    return Loop()
"""


def test_uvloop_is_not_imported_but_taken_over(tmp_path):
    """What uvicorn's `--loop auto` does, with a stand-in that need not be compiled."""
    (tmp_path / "uvloop.py").write_text(FAKE_UVLOOP)
    source = textwrap.dedent(
        """
        import sys
        print("uvloop" in sys.modules, len(sys.meta_path))
        import uvloop
        loop = uvloop.new_event_loop()
        print(type(loop).__module__, isinstance(loop, uvloop.Loop))
        print(uvloop.__spec__.name, len(sys.meta_path))
        loop.close()
        """
    )
    out, error, _ = outcome(tmp_path, "-m", "pyloop", "-c", source)
    first, second, third = out.splitlines()
    assert (first.split()[0], second) == ("False", "pyloop._loop True")
    assert third == f"uvloop {int(first.split()[1]) - 1}"
    assert error == ""


def test_uvloop_that_is_missing(tmp_path):
    if "uvloop" in sys.modules:
        pytest.skip("uvloop is loaded: this process would find it")
    source = "import sys; sys.path[:] = []\nimport uvloop"
    _, error, status = outcome(tmp_path, "-m", "pyloop", "-c", source)
    assert status == 1 and "No module named 'uvloop'" in error


# --- the options --------------------------------------------------------------------


def test_version(tmp_path):
    out, error, status = outcome(tmp_path, "-m", "pyloop", "--version")
    assert (error, status) == ("", 0)
    lines = out.splitlines()
    assert lines[0].startswith(f"pyloop {pyloop.__version__} (")
    assert lines[1].startswith(f"libuv {pyloop.libuv_version} (compiled with ")
    assert f"{sys.version_info[0]}.{sys.version_info[1]}." in lines[2]
    loop = pyloop.new_event_loop()
    assert lines[3].split()[-1] == loop._poller
    loop.close()


def test_debug(tmp_path):
    source = textwrap.dedent(
        """
        import asyncio, os, pyloop, warnings
        async def main():
            print(asyncio.get_running_loop().get_debug())
        asyncio.run(main())
        loop = pyloop.new_event_loop()
        print(loop.get_debug(), "PYTHONASYNCIODEBUG" in os.environ)
        loop.close()
        warnings.warn("shown", ResourceWarning)
        """
    )
    # Whoever has chosen warnings keeps the choice; `make tsan` has.
    env = {"PYTHONWARNINGS": ""}
    out, error, _ = outcome(tmp_path, "-m", "pyloop", "--debug", "-c", source, env=env)
    assert out.split() == ["True", "True", "False"]
    assert "ResourceWarning: shown" in error


def test_accelerate(tmp_path):
    source = "import asyncio; print(type(asyncio.sleep).__module__)"
    plain, _, _ = outcome(tmp_path, "-m", "pyloop", "-c", source)
    fast, _, _ = outcome(tmp_path, "-m", "pyloop", "--accelerate", "-c", source)
    assert plain != fast == "pyloop._core\n"


@pytest.mark.parametrize("option", [["--watchdog", "0.05"], ["--watchdog=0.05"]])
def test_watchdog(tmp_path, option):
    (tmp_path / "blocks.py").write_text(
        "import asyncio, sys, time\n"
        "async def main():\n"
        "    time.sleep(0.5)\n"
        "asyncio.run(main())\n"
        "print(sys.argv)\n"
    )
    out, error, status = outcome(tmp_path, "-m", "pyloop", *option, "blocks.py", "a")
    assert (out, status) == ("['blocks.py', 'a']\n", 0)
    assert "has blocked the event loop" in error and "blocks.py:3" in error


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--nothing", "x.py"],
        ["-m"],
        ["-c"],
        ["--watchdog"],
        ["--watchdog", "x.py"],
        ["--watchdog=0", "x.py"],
        ["--watchdog", "nan", "x.py"],
    ],
    ids=str,
)
def test_wrong_usage(tmp_path, words):
    out, error, status = outcome(tmp_path, "-m", "pyloop", *words)
    assert (out, status) == ("", 2)
    assert error.startswith("usage: python -m pyloop [options]")


def test_options_of_python_are_told_from_ours(tmp_path):
    _, error, status = outcome(tmp_path, "-m", "pyloop", "-X", "dev", "x.py")
    assert status == 2 and "options of Python's stand before -m pyloop" in error


def test_help(tmp_path):
    out, error, status = outcome(tmp_path, "-m", "pyloop", "--help")
    assert (error, status) == ("", 0)
    assert "--debug" in out and os.sep not in out.splitlines()[0]
