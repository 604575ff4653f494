"""examples/logwatch: each line is found once, whatever happens to log and tail."""

import os
import pathlib
import signal

import examplekit
import pytest
import support

LOGWATCH = "logwatch/logwatch.py"
SIX_LOGS = "grows late rotates rotates-often truncated dies".split()


def children(process):
    """The ids of a process's children, by their parents in /proc."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if fields[0] != "Z" and int(fields[1]) == process:
            found.append(int(entry.parent.name))
    return found


def exists(process):
    """Whether a process is there and not merely unreaped."""
    try:
        fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
    except OSError:
        return False
    return fields.split()[0] != "Z"


@pytest.mark.packaged
def test_six_logs(loop_kind):
    *lines, last = examplekit.run(loop_kind, LOGWATCH, "--demo").splitlines()
    assert last == "every line of every log was found once"
    assert lines[:2] == 2 * ["dies.log: tail was ended by SIGKILL; again in 0.1 s"]
    found = "2000 lines; error 40, slow 20"
    assert lines[2:] == [
        f"{name}.log: {found}; {2 * (name == 'dies')} restarts" for name in SIX_LOGS
    ]


@pytest.mark.parametrize("number", examplekit.ENDING)
def test_a_log_and_a_tail_that_dies(loop_kind, tmp_path, number):
    log = tmp_path / "app.log"
    log.write_text("ERROR of yesterday\n")
    program = LOGWATCH, "--alert", "error=ERROR", log
    with examplekit.running(loop_kind, *program, banner="watching 1 logs") as watch:
        pid = watch.process.pid
        support.wait_for_condition(lambda: children(pid), what="tail")
        (tail,) = children(pid)
        with log.open("a") as file:
            file.write("INFO nothing\nERROR the first\nERROR the sec")
        watch.wait_for_line("^error app.log: ERROR the first$")
        os.kill(tail, signal.SIGKILL)
        with log.open("a") as file:
            file.write("ond\n")
        watch.wait_for_line("^error app.log: ERROR the second$")
        (tail,) = children(pid)
        assert watch.end(number) == 0
        assert watch.output.splitlines()[1:] == [
            "error app.log: ERROR the first",
            "app.log: tail was ended by SIGKILL; again in 0.1 s",
            "error app.log: ERROR the second",
            "app.log: 3 lines; error 2; 1 restarts",
        ]
    assert not exists(tail)


@pytest.mark.packaged
def test_without_tail(loop_kind, tmp_path):
    program = LOGWATCH, "--alert", "a=b", tmp_path / "log"
    banner = "^logwatch: .*No such file or directory: 'tail'$"
    with examplekit.running(loop_kind, *program, banner=banner, PATH="") as watch:
        assert watch.finish() == 1


@pytest.mark.packaged
@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "there are no logs to watch"),
        (["log"], "there is nothing to look for: --alert NAME=PATTERN"),
        (["log", "--alert", "ERROR"], "'ERROR' is not NAME=PATTERN"),
        (["log", "--alert", "a=("], "'(': missing ), unterminated subpattern"),
        (["log", "log", "--alert", "a=b"], "a log is named twice"),
        (["log", "--demo"], "--demo has logs and alerts of its own"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    assert said in examplekit.refused(LOGWATCH, *arguments)
