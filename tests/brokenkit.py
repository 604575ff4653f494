"""Running the programs of examples/broken, each of which has one fault.

The line that is at fault ends in the comment `# culprit`; a report that is worth its
name says that line. `run_broken` gives what a program wrote to stderr under
`python -m pyloop`, `assert_named` looks for the line in it.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import support

BROKEN = pathlib.Path(support.PROJECT_DIR) / "examples" / "broken"


def program(name):
    """Return the path of a broken program, without `.py`, as a pathlib.Path."""
    return BROKEN / f"{name}.py"


def culprit(name):
    """Return (path, number) of the one line of a program that is marked."""
    lines = program(name).read_text("utf-8").splitlines()
    marked = [at for at, line in enumerate(lines, 1) if line.endswith("# culprit")]
    assert len(marked) == 1, f"{name}: marked lines: {marked}"
    return str(program(name)), marked[0]


def names_culprit(text, name):
    """Whether a text has the marked line, as tracebacks or as compilers write it."""
    path, line = culprit(name)
    escaped = re.escape(path)
    return bool(re.search(rf'File "{escaped}", line {line}\b|{escaped}:{line}\b', text))


def assert_named(text, name):
    assert names_culprit(text, name), f"{culprit(name)} is not in\n{text}"


def run_broken(name, *options, hangs=False, env=None, timeout=support.PATIENCE):
    """Run `python -m pyloop OPTIONS examples/broken/NAME.py`; return its stderr.

    hangs: the program does not end by itself. It gets SIGINT, as from a terminal, as
    soon as it has named the culprit; what it says as it ends is returned too. In any
    case it is killed after `timeout` seconds, and what it said until then returned.
    """
    command = [sys.executable, "-m", "pyloop", *options, str(program(name))]
    environment = support.script_environment(env)
    # Not in a session's terminal, and not with the signals a background job ignores.
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=os.path.dirname(BROKEN),
        restore_signals=True,
    ) as process:
        limit = threading.Timer(timeout, process.kill)
        limit.start()
        try:
            return "".join(_report_lines(process, name, hangs))
        finally:
            limit.cancel()
            limit.join()
            process.kill()


def _report_lines(process, name, hangs):
    """Yield the lines of stderr; once the culprit is among them end what hangs."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        yield line
        if hangs and names_culprit("".join(seen), name):
            hangs = False
            process.send_signal(signal.SIGINT)
