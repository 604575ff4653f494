"""examples/control: every period, none too early, and the motor has its speed."""

import importlib.util
import json
import re

import examplekit
import pytest

CONTROL = "control/control.py"


def test_every_period(loop_kind):
    printed = examplekit.run(loop_kind, CONTROL, "--json", "--seconds", 0.3)
    result = json.loads(printed)
    assert (result["loop"], result["periods"]) == (loop_kind, 300)
    assert result["readings"] == len(result["lateness"]) == 300
    assert result["stopped by"] is None
    assert min(result["lateness"]) > -1e-8  # the clock's own resolution


@pytest.mark.packaged
def test_demo(loop_kind):
    printed = examplekit.run(loop_kind, CONTROL, "--demo").splitlines()
    assert printed[0] == f"{loop_kind}: 2000 periods, 2000 readings, speed 100.0"
    assert printed[1] == "  begun too early: 0"
    counts = [int(re.search(r"us: +(\d+)", line)[1]) for line in printed[3:-1]]
    assert (len(counts), sum(counts)) == (9, 2000)
    assert printed[-1] == "the motor has its speed"


@pytest.mark.packaged
def test_both_loops_and_a_plot(tmp_path):
    arguments = ["--compare", "--seconds", 0.5]
    if importlib.util.find_spec("matplotlib") is not None:
        arguments += ["--plot", tmp_path / "jitter.svg"]
    printed = examplekit.run("asyncio", CONTROL, *arguments)
    for loop in "asyncio", "pyloop":
        assert f"{loop}: 500 periods, 500 readings" in printed
    if "--plot" in arguments:
        assert "</svg>" in (tmp_path / "jitter.svg").read_text()


@pytest.mark.packaged
@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--rate", "0"], "argument --rate: 0 is not above 0"),
        (["--rate", "1e6"], "argument --rate: 1e+06 is above 100000"),
        (["--seconds", "x"], "argument --seconds: invalid"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    assert said in examplekit.refused(CONTROL, *arguments)
