"""python -m pyloop --report: what a program's loops left behind."""

import re
import subprocess
import sys
import textwrap

import pytest
import support

pytestmark = pytest.mark.pyloop_only


def report(tmp_path, source, *options):
    """(stdout, the report's lines) of a program with that source."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(source))
    done = support.run_script(
        str(program), flags=["-m", "pyloop", "--report", *options], check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("-- pyloop"))
    return done.stdout, [line.replace(str(program), "FILE") for line in lines[start:]]


def test_a_program_without_fault(tmp_path):
    source = """\
        import asyncio, atexit
        asyncio.run(asyncio.sleep(0))
        asyncio.run(asyncio.sleep(0))
        atexit.register(lambda: asyncio.run(asyncio.sleep(0)))
        """
    lines = report(tmp_path, source)[1]
    figures = lines[1:-3]
    assert re.fullmatch(r"callbacks: \d+ in \d+ iterations; busy .* s, .*", figures[0])
    assert figures[1] == "received: 0 bytes in 0 messages; sent: 0 bytes in 0 messages"
    assert lines[:1] + lines[-3:] == [
        "-- pyloop: 3 loops --",
        "tasks left pending: none",
        "transports left open: none",
        "errors that nothing handled: none",
    ]


def test_the_slowest_callbacks(tmp_path):
    source = """\
        import asyncio, time
        async def slow():
            time.sleep(0.05)
        asyncio.run(slow())
        """
    _, lines = report(tmp_path, source)
    at = lines.index("slowest callbacks:") + 1
    assert re.fullmatch(r"  0\.\d+ s slow\(\) FILE:2", lines[at])


def test_tasks_that_are_left(tmp_path):
    source = """\
        import asyncio
        async def waits(future):
            await future
        loop = asyncio.new_event_loop()
        future = loop.create_future()
        tasks = [loop.create_task(waits(future)) for _ in range(2)]
        for number, task in enumerate(tasks):
            task.set_name(f"number {number}")
        loop.run_until_complete(asyncio.sleep(0))
        """
    _, lines = report(tmp_path, source)
    assert lines[0] == "-- pyloop: 1 loops, 1 never closed --"
    start = lines.index("tasks left pending: 2") + 1
    assert sorted(lines[start : start + 2]) == [
        "  number 0: waits() at FILE:3",
        "  number 1: waits() at FILE:3",
    ]


def test_errors_are_counted(tmp_path):
    source = """\
        import asyncio, gc
        async def fails():
            raise ValueError("wrong")
        async def main():
            for _ in range(3):
                asyncio.create_task(fails())
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            await asyncio.sleep(0.01)
            gc.collect()
        asyncio.run(main())
        """
    _, lines = report(tmp_path, source)
    assert "errors that nothing handled: 4" in lines
    lost = "Task exception was never retrieved: ValueError: wrong at FILE:3 (3 times)"
    assert f"  {lost}" in lines
    assert any("ZeroDivisionError" in line and "FILE:7" in line for line in lines)


def test_a_running_loop_is_not_taken_for_closed(tmp_path):
    """close() of a loop that runs raises; what it has is not left then."""
    source = """\
        import asyncio
        async def main():
            try:
                asyncio.get_running_loop().close()
            except RuntimeError:
                print("refused")
        asyncio.run(main())
        """
    out, lines = report(tmp_path, source)
    assert out == "refused\n" and lines[0] == "-- pyloop: 1 loops --"
    assert "tasks left pending: none" in lines


def test_many_findings_are_cut(tmp_path):
    source = """\
        import asyncio
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(asyncio.sleep(9), name=str(n)) for n in range(25)]
        """
    _, lines = report(tmp_path, source)
    assert "tasks left pending: 25" in lines and "  and 5 others" in lines


def test_what_is_dropped_is_dropped(tmp_path):
    """The report keeps no loop, task or exception alive."""
    source = """\
        import asyncio, gc, weakref
        class Error(Exception):
            pass
        async def fails():
            raise Error
        async def main():
            task = asyncio.create_task(fails())
            await asyncio.sleep(0)
            return weakref.ref(task), weakref.ref(asyncio.get_running_loop())
        alive = asyncio.run(main())
        gc.collect()
        print([thing() for thing in alive])
        """
    out, lines = report(tmp_path, source)
    assert out == "[None, None]\n" and "errors that nothing handled: 1" in lines


LEFT_OPEN = """\
import asyncio
loop = asyncio.new_event_loop()
loop.run_until_complete(asyncio.sleep(0))
kept = loop
"""


def test_a_loop_that_lives_until_the_interpreter_ends(tmp_path):
    """It is closed when nothing can be imported any more, and was reported by then."""
    _, lines = report(tmp_path, LEFT_OPEN)
    assert lines[0] == "-- pyloop: 1 loops, 1 never closed --"
    assert lines[-1] == "errors that nothing handled: none"


def test_without_a_stderr(tmp_path):
    """The report does not go to stdout instead."""
    (tmp_path / "program.py").write_text(LEFT_OPEN)
    command = [sys.executable, "-m", "pyloop", "--report", "program.py"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env=support.script_environment(),
    )
    assert (done.stdout, done.returncode) == ("", 0)
