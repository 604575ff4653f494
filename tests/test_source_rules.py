"""The rules of CONTRIBUTING.md that a program can check, over the whole tree.

They are about text, so they run on no loop.
"""

import ast
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOT_SOURCES = {".git", "build", "dist", "__pycache__", ".hypothesis"}

# Includes go from a folder to itself or to one before it in this order.
LAYERS = ("ds", "base", "loop", "transport", "accel", "module.c")

FILE_LINES = 900
TEST_FILE_LINES = 700
FUNCTION_LINES = 80

# Data that CPython wants non-const although nothing ever writes to it.
TABLES = {
    "PyBufferProcs",
    "PyGetSetDef",
    "PyMemberDef",
    "PyMethodDef",
    "PyModuleDef",
    "PyModuleDef_Slot",
    "PyType_Slot",
    "PyType_Spec",
}


def tree_files():
    """Every file of the project: what git tracks, or all of an unpacked archive."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(
            ["git", "-c", "safe.directory=*", "ls-files", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return [ROOT / name for name in listed.split("\0") if (ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not NOT_SOURCES.intersection(path.relative_to(ROOT).parts)
    ]


@pytest.fixture(scope="module")
def texts():
    """The text files of the tree: their path from its top, and what is in them."""
    found = {}
    for path in tree_files():
        try:
            found[path.relative_to(ROOT).as_posix()] = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
    assert "setup.py" in found
    return found


@pytest.fixture(scope="module")
def core(texts):
    """The C files of csrc."""
    found = {
        name: text
        for name, text in texts.items()
        if name.startswith("csrc/") and name.endswith((".c", ".h"))
    }
    assert "csrc/module.c" in found
    return found


def matches(texts, pattern):
    """Where a pattern matches: "file:line: the line", comments included."""
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]


def without_comments(text):
    """C text with every comment blanked out, its lines kept."""
    return re.sub(
        r"/\*.*?\*/",
        lambda comment: re.sub(r"[^\n]", " ", comment[0]),
        text,
        flags=re.S,
    )


def layer(name):
    """The index in LAYERS of a file below csrc."""
    return LAYERS.index(name.split("/")[0])


# --- the layout of csrc -------------------------------------------------------------


def test_every_folder_of_csrc_has_a_layer(core):
    known = {f"csrc/{name}" for name in LAYERS}
    tops = {"/".join(name.split("/")[:2]) for name in core}
    assert tops <= known


def test_includes_never_point_up(core):
    wrong = []
    for name, text in core.items():
        own = name.removeprefix("csrc/")
        for included in re.findall(r'#include "([^"]+)"', text):
            if f"csrc/{included}" not in core:
                wrong.append(f"{name}: {included} is not written as a path in csrc")
            elif layer(included) > layer(own):
                wrong.append(f"{name} includes {included}")
    assert not wrong


def test_ds_is_plain_c(core):
    plain = {name: text for name, text in core.items() if name.startswith("csrc/ds/")}
    assert plain
    assert not matches(plain, r"#include [<\"](Python|structmember|uv)\.h")


def test_headers_are_guarded(core):
    def guard(name):
        path = name.removeprefix("csrc/").removesuffix(".h")
        return "PYLOOP_" + re.sub(r"\W", "_", path).upper() + "_H"

    assert not [
        name
        for name, text in core.items()
        if name.endswith(".h") and f"#ifndef {guard(name)}\n" not in text
    ]


# --- sizes --------------------------------------------------------------------------


def test_files_are_short(texts):
    def limit(name):
        return TEST_FILE_LINES if name.startswith("tests/") else FILE_LINES

    sources = {
        name: len(text.splitlines())
        for name, text in texts.items()
        if name.endswith((".c", ".h", ".py", ".pyi", ".sh")) or name == ".ci/run"
    }
    assert not {n: lines for n, lines in sources.items() if lines > limit(n)}


def c_functions(text):
    """The name and the number of lines of each function defined in a C file.

    In the project's layout a body begins and ends with a brace in the first column,
    which nothing else does: an initialiser's first brace is on its declaration's line.
    """
    lines = text.splitlines()
    name = "?"
    for index, line in enumerate(lines):
        if called := re.match(r"(\w+)\(", line):
            name = called[1]
        if line == "{":
            yield name, lines.index("}", index) - index + 1


def python_functions(text):
    """The name and the number of lines of each function defined in a Python file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_functions_are_short(texts):
    readers = {"c": c_functions, "h": c_functions, "py": python_functions}
    seen = 0
    long = []
    for path, text in texts.items():
        reader = readers.get(path.rpartition(".")[2])
        for name, lines in reader(text) if reader else ():
            seen += 1
            if lines > FUNCTION_LINES:
                long.append(f"{path}: {name} has {lines} lines")
    assert seen > 100
    assert not long


# --- state --------------------------------------------------------------------------


def test_no_pygilstate(core):
    assert not matches(core, r"\bPyGILState_")


def test_only_constants_and_the_module_definition_are_extern(core):
    found = matches(core, r"^\s*extern\b(?! const \w+ \w+;)")
    assert not [line for line in found if "PyModuleDef pyloop_module_def;" not in line]


def writable_data(text):
    """The declarations of data in C text that lives for ever and is not const."""
    text = without_comments(text)
    for declared, end in re.findall(r"^\s*static\s+([^;={(\[]+)([;={(\[])", text, re.M):
        # Of a pointer, what is behind the last star has to be const.
        constant = re.search(r"\bconst\b", declared.rpartition("*")[2])
        if end != "(" and not constant and not TABLES.intersection(declared.split()):
            yield declared.strip()
    for declared in re.findall(r"^\w[\w \t*]*[ *]\w+(?=[ \t]*[;=\[])", text, re.M):
        constant = re.search(r"\bconst\b", declared.rpartition("*")[2])
        no_data = r"static|typedef|extern|(struct|enum|union) \w+$"
        if not (
            constant or re.match(no_data, declared) or "pyloop_module_def" in declared
        ):
            yield declared


def test_no_writable_static_data(core):
    """What a thread has locked is its own (threads.md), locks and forks are not."""
    found = {name: [*writable_data(text)] for name, text in core.items()}
    assert len(found.pop("csrc/base/forks.c")) == 4
    assert len(found.pop("csrc/base/lock.c")) == 2
    assert not any(found.values()), found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("static int counter;", True),
        ("static int counter = 0;", True),
        ('static const char *name = "x";', True),
        ("static PyObject *cache[4];", True),
        ("    static bool warned = false;", True),
        ("static struct { int a; } table = {0};", True),
        ("int counter;", True),
        ("PyObject *cache = NULL;", True),
        ("const char *name = NULL;", True),
        ("static const int limit = 4;", False),
        ("const FdPoller poller = {\n    .open = NULL,\n};", False),
        ("static const char *const names[] = {NULL};", False),
        ("static const struct { int a; } table[] = {{1}};", False),
        ("static PyMethodDef loop_methods[] = {{0}};", False),
        ("static PyObject *loop_close(LoopObject *self);", False),
        ("static inline size_t\nring_capacity(const Ring *ring)\n{\n}", False),
        ("struct PyModuleDef pyloop_module_def = {0};", False),
        ("typedef struct Ring Ring;", False),
        ("struct Ring;", False),
        ("/* A comment,\nstatic int counter; of two lines */", False),
    ],
)
def test_writable_data_is_told_from_the_rest(line, found):
    assert bool([*writable_data(line)]) is found


def test_cleared_errors_have_a_reason_beside_them(core):
    wrong = []
    for name, text in core.items():
        lines = ["", *text.splitlines()]
        for number, line in enumerate(lines):
            if "PyErr_Clear()" in line and "*/" not in line + lines[number - 1]:
                wrong.append(f"{name}:{number}")
    assert not wrong


# --- text ---------------------------------------------------------------------------


def test_no_machine_paths(texts):
    folders = "work|root|home|tmp|opt|Users|private"
    assert not matches(texts, rf"(?<![\w.)}}>*\]-])/({folders})/\w")


def test_no_notes_to_self(texts):
    marks = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"))
    assert not matches(texts, rf"\b({marks})\b")


def test_nobody_is_told_to_install_the_other_pyloop(texts):
    """`pyloop` on the package index is another project; ours is `pyloop-uv`."""
    assert not matches(
        texts, r"\binstall\b[^#`]*?\s[\"']?pyloop(?!-uv)(\[|\s|[\"'`.=<>]|$)"
    )
    assert "pyloop-uv" in texts["README.md"]


@pytest.mark.parametrize("suffix", [".c", ".h", ".py", ".pyi", ".sh", ".md", ".toml"])
def test_text_is_tidy(texts, suffix):
    chosen = {name: text for name, text in texts.items() if name.endswith(suffix)}
    assert not matches(chosen, r"[ \t]+$|\r")
    assert not [n for n, text in chosen.items() if text and not text.endswith("\n")]


def test_links_between_documents_lead_somewhere(texts):
    broken = []
    for name, text in texts.items():
        if name.endswith(".md"):
            for link in re.findall(r"\]\(([^)#\s]+)", text):
                if ":" not in link and not (ROOT / name).parent.joinpath(link).exists():
                    broken.append(f"{name}: {link}")
    assert not broken
