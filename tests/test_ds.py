"""Builds and runs the plain C tests of csrc/ds: no Python, no event loop.

They are built with the compiler that CC names (cc by default), with the address and
undefined-behaviour sanitizers where it has them.
"""

import functools
import os
import shlex
import shutil
import subprocess

import pytest
import support

C_TESTS = os.path.join(support.TESTS_DIR, "c")
SOURCES = os.path.join(support.PROJECT_DIR, "csrc")

COMPILER = shlex.split(os.environ.get("CC", "cc"))
WARNINGS = "-Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wvla -Werror"
WRAPPED = "-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc"
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"

pytestmark = [
    pytest.mark.skipif(
        shutil.which(COMPILER[0]) is None, reason="there is no C compiler"
    ),
    pytest.mark.skipif(
        not os.path.isdir(SOURCES), reason="the C sources are not beside the tests"
    ),
]


def build(source, program, *flags):
    """Compile one C file of tests/c with the sources of csrc/ds that it is about."""
    subject = os.path.basename(source).replace("test_", "")
    command = [
        *COMPILER,
        "-std=c11",
        "-O1",
        "-g",
        *shlex.split(WARNINGS),
        f"-I{SOURCES}",
        *flags,
        source,
        os.path.join(SOURCES, "ds", subject),
        WRAPPED,
        "-lm",
        "-o",
        program,
    ]
    return subprocess.run(command, capture_output=True, text=True)


@functools.cache
def sanitizer_flags(directory):
    """The sanitizers' flags if programs built with them can be linked and run here."""
    source = os.path.join(directory, "probe.c")
    with open(source, "w") as file:
        file.write("int main(void) { return 0; }\n")
    program = os.path.join(directory, "probe")
    flags = shlex.split(SANITIZERS)
    built = subprocess.run(
        [*COMPILER, *flags, source, "-o", program], capture_output=True
    )
    if built.returncode != 0:
        return []
    return (
        flags if subprocess.run([program], capture_output=True).returncode == 0 else []
    )


@pytest.mark.parametrize("name", ["heap", "ring"])
def test_in_c(name, tmp_path):
    source = os.path.join(C_TESTS, f"test_{name}.c")
    program = str(tmp_path / name)
    flags = sanitizer_flags(str(tmp_path))
    built = build(source, program, *flags)
    assert built.returncode == 0, built.stderr
    process = subprocess.run(
        [program], capture_output=True, text=True, timeout=support.PATIENCE
    )
    assert process.returncode == 0, process.stderr
