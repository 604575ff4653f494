"""A short sample of `make oom`, `make fault` and `make leaks`: they keep working.

Each driver has a process of its own; it exits with 1 when it found something.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
import support

HARDENING = os.path.join(support.TESTS_DIR, "hardening")

sys.path.append(HARDENING)
import fault  # noqa: E402  (from the folder above)
import shims  # noqa: E402

pytestmark = [
    pytest.mark.pyloop_only,
    pytest.mark.skipif(bool(shims.missing()), reason=shims.missing() or "it can run"),
]


def run(driver, *arguments):
    """Run a driver; it has nothing to report, and did at least one case."""
    process = support.run_script(
        os.path.join(HARDENING, driver), "--jobs", 2, *arguments, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert " 0 findings" in process.stdout
    assert " 0 cases" not in process.stdout.splitlines()[-1]
    return process.stdout


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="a free-threaded Python has an allocator of its own, which cannot fail",
)
@pytest.mark.skipif(
    sys.version_info < (3, 13) and not shims.code_of_evaluation(),
    reason="an interpreter without symbols does not tell whose an allocation is",
)
def test_failing_allocations(loop_kind):
    run("oom.py", "=threadsafe", "=readers", "=timers", "=echo", "=sock_recv")


def test_failing_system_calls(loop_kind):
    run("fault.py", "--calls", 2, "=loop_life", "=buffered_echo", "=forked")


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm lists the core's imports")
def test_no_system_call_of_the_core_is_forgotten(loop_kind):
    """What the core imports fails in fault.py, or is said there not to."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", shims.core_path()],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.split()[-1].partition("@")[0] for line in listed.stdout.splitlines()}
    assert {"recv", "sendmsg", "PyErr_Occurred"} <= names
    left_out = "|".join(fault.NOT_FAILED)
    assert not {
        name for name in names - fault.ERRORS.keys() if not re.fullmatch(left_out, name)
    }
    with open(os.path.join(HARDENING, "failcall.c")) as source:
        intercepted = re.findall(r"^    X\((\w+)\)", source.read(), re.MULTILINE)
    assert intercepted == list(fault.ERRORS)


def test_repetitions(loop_kind):
    run("leaks.py", "--repeat", 100, "=call_soon", "=echo")


def test_collections_at_every_call(loop_kind):
    run("leaks.py", "--collect", 1, "--repeat", 5, "=readers")
