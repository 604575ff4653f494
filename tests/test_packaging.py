"""The build: what is packaged, what the switches do, what is said when it cannot be.

Builds happen in copies of the tree, never in the tree that is tested.
"""

import email
import importlib.util
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = {  # what the message without libuv names, for each system
    "Debian, Ubuntu": "libuv1-dev pkg-config",
    "Fedora": "libuv-devel pkgconf",
    "Alpine": "libuv-dev pkgconf",
    "macOS": "libuv pkg-config",
}
SMALL_MODULE = """
#include <Python.h>

#ifdef NDEBUG
#define ASSERTS 0
#else
#define ASSERTS 1
#endif

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "pyloop._core"};
PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC
PyInit__core(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "ASSERTS", ASSERTS) < 0) {
        Py_CLEAR(module);
    }
    return module;
}
"""


def environment(**changes):
    """The tests' environment without what would change a build's result."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYLOOP_") and name not in ("LD_PRELOAD", "PYTHONPATH")
    }
    return {**kept, **changes}


def run_setup(*arguments, cwd=ROOT, **changes):
    """setup.py with these arguments and changes of the environment."""
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=cwd,
        env=environment(**changes),
        capture_output=True,
        text=True,
        check=False,
    )


def run_with_setup(program, **changes):
    """Run a program in which `setup` is setup.py's module."""
    prologue = (
        "import importlib.util, setuptools, sys\n"
        "spec = importlib.util.spec_from_file_location('setup', 'setup.py')\n"
        "setup = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(setup)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", prologue + program],
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        check=False,
    )


def build_options(**changes):
    """The compiler's and the linker's options under these switches, as text."""
    done = run_with_setup(
        "extension = setup.Extension('name', ['source.c'])\n"
        "setup.configure(extension)\n"
        "print(vars(extension))\n",
        **changes,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def version():
    """The version, read as text from its one place."""
    text = (ROOT / "pyloop/_version.py").read_text()
    return re.search(r'^__version__ = "(.+)"$', text, re.M)[1]


def copy_tree(destination):
    """Copy the tree with the tool that the tasks use; return the copy's path."""
    subprocess.run(
        [sys.executable, ROOT / "scripts/copy_tree.py", destination], check=True
    )
    return pathlib.Path(destination)


# --- versions and sources -----------------------------------------------------------


def test_version_is_in_one_place():
    holders = [
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "*.toml", "pyloop/*.py*", "csrc/**/*.[ch]")
        for path in ROOT.glob(pattern)
        if version() in path.read_text()
    ]
    assert holders == ["pyloop/_version.py"]


def test_version_is_in_the_changelog():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(version())}\]", text, re.M)


@pytest.mark.pyloop_only
def test_package_knows_its_version():
    import pyloop

    assert pyloop.__version__ == version()


def test_every_source_is_listed():
    listed = run_with_setup("print(*setup.SOURCES)").stdout.split()
    existing = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("csrc/**/*.c")]
    assert sorted(listed) == sorted(existing)


# --- what is said when it cannot be built -------------------------------------------


def refused(done):
    """The message of a build that ended itself."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "pyloop cannot be built:" in done.stderr
    return done.stderr


def assert_names_packages(message):
    for system, packages in PACKAGES.items():
        assert re.search(rf"{system}: .*{packages}$", message, re.M), message


def test_message_without_pkg_config(tmp_path):
    done = run_setup("build_ext", PKG_CONFIG=str(tmp_path / "pkg-config"))
    message = refused(done)
    assert "was not found" in message
    assert_names_packages(message)


def test_message_without_libuv(tmp_path):
    done = run_setup("build_ext", PKG_CONFIG_LIBDIR=str(tmp_path), PKG_CONFIG_PATH="")
    message = refused(done)
    assert "libuv's headers were not found" in message
    assert_names_packages(message)


def test_message_with_an_old_libuv(tmp_path):
    (tmp_path / "libuv.pc").write_text(
        "Name: libuv\nDescription: old\nVersion: 1.43.0\nLibs: -luv\n"
    )
    done = run_setup("build_ext", PKG_CONFIG_LIBDIR=str(tmp_path), PKG_CONFIG_PATH="")
    message = refused(done)
    assert "libuv 1.43.0 is too old, 1.44 or later is needed" in message
    assert_names_packages(message)


def test_message_with_old_setuptools(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import setuptools\nsetuptools.__version__ = '65.5.0'\n"
    )
    message = refused(run_setup("--version", PYTHONPATH=str(tmp_path)))
    assert "setuptools 65.5.0 is too old" in message
    assert "pip install 'setuptools>=77'" in message


def test_windows_is_refused():
    done = run_with_setup(
        "build = setup.BuildExt(setuptools.Distribution())\n"
        "sys.platform = 'win32'\n"
        "build.run()\n"
    )
    assert "Windows is not supported" in refused(done)


# --- the switches -------------------------------------------------------------------


def test_release_build_has_no_asserts():
    text = build_options()
    assert "'-DNDEBUG'" in text and "'-O3'" in text
    assert "PYLOOP_DEBUG" not in text and "-Werror" not in text
    assert "-isystem" in text and "'-luv'" in text


def test_debug_build_has_asserts():
    text = build_options(PYLOOP_DEBUG="1")
    assert "'-UNDEBUG'" in text and "'-DPYLOOP_DEBUG=1'" in text
    assert "'-DNDEBUG'" not in text


def test_zero_switches_off():
    assert build_options(PYLOOP_DEBUG="0") == build_options()


def test_warnings_are_errors_on_demand():
    assert "'-Werror'" in build_options(PYLOOP_WERROR="1")


def test_sanitizers_reach_compiler_and_linker():
    text = build_options(PYLOOP_SANITIZE="address,undefined")
    assert text.count("'-fsanitize=address,undefined'") == 2
    assert "'-fno-omit-frame-pointer'" in text


@pytest.mark.parametrize("archive", ["libuv_a.a", "libuv.a"])
def test_static_libuv(tmp_path, archive):
    (tmp_path / archive).touch()
    (tmp_path / "libuv.pc").write_text(
        f"libdir={tmp_path}\nName: libuv\nDescription: fake\nVersion: 1.50.0\n"
        "Libs: -luv\nLibs.private: -lpthread -ldl\n"
    )
    text = build_options(
        PYLOOP_STATIC_LIBUV="1", PKG_CONFIG_LIBDIR=str(tmp_path), PKG_CONFIG_PATH=""
    )
    assert str(tmp_path / archive) in text
    assert "'-luv'" not in text and "'-lpthread'" in text and "'-ldl'" in text


def test_message_without_a_static_libuv(tmp_path):
    (tmp_path / "libuv.pc").write_text(
        f"libdir={tmp_path}\nName: libuv\nDescription: fake\nVersion: 1.50.0\n"
    )
    done = run_setup(
        "build_ext",
        PYLOOP_STATIC_LIBUV="1",
        PKG_CONFIG_LIBDIR=str(tmp_path),
        PKG_CONFIG_PATH="",
    )
    assert "no libuv_a.a or libuv.a" in refused(done)


def test_static_libuv_is_nobody_elses():
    """Another package of the process has a libuv, too: neither may see the other's."""
    configure = (
        "sys.platform = {!r}; setup.static_libuv = lambda: ('libuv.a', [])\n"
        "extension = setup.Extension('name', ['source.c'])\n"
        "setup.configure(extension); print(extension.extra_link_args)"
    )
    for platform, option in (
        ("linux", "-Wl,--exclude-libs,ALL"),
        ("darwin", "-Wl,-exported_symbol,_PyInit__core"),
    ):
        done = run_with_setup(configure.format(platform), PYLOOP_STATIC_LIBUV="1")
        assert done.stdout == f"[{option!r}]\n", done.stderr


def test_no_module_says_where_its_interpreter_was():
    done = run_with_setup(
        "import types\n"
        "build = setup.BuildExt(setuptools.Distribution())\n"
        "words = ['cc', '-shared', '-Wl,-rpath,/python/lib', '-Lfolder']\n"
        "build.compiler = types.SimpleNamespace(linker_so=words)\n"
        "build.extensions = []\n"
        "build.build_extensions(); print(*build.compiler.linker_so)"
    )
    assert done.stdout.split() == ["cc", "-shared", "-Lfolder"], done.stderr


def small_tree(tree):
    """A tree that builds as ours does, of one small C file."""
    (tree / "csrc").mkdir(parents=True)
    (tree / "csrc/module.c").write_text(SMALL_MODULE)
    (tree / "pyloop").mkdir()
    (tree / "pyloop/__init__.py").touch()
    shutil.copy(ROOT / "pyloop/_version.py", tree / "pyloop")
    shutil.copy(ROOT / "pyproject.toml", tree)
    text = (ROOT / "setup.py").read_text()
    text = re.sub(
        r"SOURCES = \(.*?\)", "SOURCES = ('csrc/module.c',)", text, flags=re.S
    )
    (tree / "setup.py").write_text(text)
    for name in ("README.md", "LICENSE"):
        (tree / name).touch()
    return tree


@pytest.mark.limit(300)
def test_message_when_the_archive_does_not_link(tmp_path):
    """Debian's libuv_a.a does not: it is not position-independent."""
    (tmp_path / "libuv.a").write_text("no archive")
    (tmp_path / "libuv.pc").write_text(
        f"libdir={tmp_path}\nName: libuv\nDescription: fake\nVersion: 1.50.0\n"
    )
    done = run_setup(
        "build_ext",
        cwd=small_tree(tmp_path / "tree"),
        PYLOOP_STATIC_LIBUV="1",
        PKG_CONFIG_LIBDIR=str(tmp_path),
        PKG_CONFIG_PATH="",
    )
    message = refused(done)
    assert f"{tmp_path / 'libuv.a'} does not link" in message
    assert "-fPIC" in message


@pytest.mark.limit(300)
def test_a_wheel_that_libuv_is_in_brings_its_licence(tmp_path):
    shutil.copytree(small_tree(tmp_path / "tree"), tmp_path / "other")
    subprocess.run(["ar", "rc", tmp_path / "libuv.a"], check=True)
    (tmp_path / "LICENSE.libuv").write_text("the terms")
    (tmp_path / "libuv.pc").write_text(
        f"libdir={tmp_path}\nlicence={tmp_path}/LICENSE.libuv\n"
        "Name: libuv\nDescription: fake\nVersion: 1.50.0\n"
    )
    found = dict(PKG_CONFIG_LIBDIR=str(tmp_path), PKG_CONFIG_PATH="")
    for tree, changes in (("tree", {"PYLOOP_STATIC_LIBUV": "1"}), ("other", {})):
        out = tmp_path / f"{tree}-wheel"
        done = run_setup(
            "-q", "bdist_wheel", "-d", out, cwd=tmp_path / tree, **found, **changes
        )
        assert done.returncode == 0, done.stderr
        (wheel,) = out.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
        assert ("LICENSE.libuv" in names) is (tree == "tree")
        assert "LICENSE" in names


@pytest.mark.limit(300)
def test_changed_switch_rebuilds(tmp_path):
    """File times alone would leave a build without asserts in place."""
    tree = small_tree(tmp_path / "tree")

    def build(**changes):
        """Whether anything was compiled, and whether the module has asserts."""
        done = run_setup("build_ext", "--inplace", cwd=tree, **changes)
        assert done.returncode == 0, done.stderr
        built = subprocess.run(
            [sys.executable, "-c", "import pyloop._core as c; print(c.ASSERTS)"],
            cwd=tree,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return "csrc/module.c" in done.stdout + done.stderr, int(built.stdout)

    assert build() == (True, 0)
    assert build() == (False, 0)
    assert build(PYLOOP_DEBUG="1") == (True, 1)
    assert build(PYLOOP_DEBUG="1") == (False, 1)
    assert build() == (True, 0)


# --- what is shipped ----------------------------------------------------------------


@pytest.mark.pyloop_only
@pytest.mark.limit(600)
def test_archive_and_wheel(tmp_path):
    """The source archive is complete: the wheel is built from it, and is used."""
    tree = copy_tree(tmp_path / "tree")
    done = run_setup("-q", "sdist", "--dist-dir", str(tmp_path), cwd=tree)
    assert done.returncode == 0, done.stderr
    name = f"pyloop_uv-{version()}"
    with tarfile.open(tmp_path / f"{name}.tar.gz") as archive:
        shipped = {member.name.removeprefix(f"{name}/") for member in archive}
        if hasattr(tarfile, "data_filter"):
            archive.extractall(tmp_path / "unpacked", filter="data")
        else:
            archive.extractall(tmp_path / "unpacked")
    for path in ("LICENSE", "README.md", "pyloop/py.typed", "pyloop/_core.pyi"):
        assert path in shipped
    headers = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("csrc/**/*.h")}
    assert headers <= shipped
    assert (
        "tests/test_packaging.py" in shipped and "examples/crawler/demo.py" in shipped
    )
    assert not [path for path in shipped if path.endswith((".so", ".pyc"))]

    unpacked = tmp_path / "unpacked" / name
    done = run_setup("-q", "bdist_wheel", "--dist-dir", str(tmp_path), cwd=unpacked)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    check_wheel(site)


def check_wheel(site):
    """The files and the metadata of an unpacked wheel; and it works."""
    files = {path.relative_to(site).as_posix() for path in site.rglob("*.*")}
    assert {"pyloop/__init__.py", "pyloop/py.typed", "pyloop/_core.pyi"} <= files
    assert {file.split("/")[0] for file in files} == {
        "pyloop",
        f"pyloop_uv-{version()}.dist-info",
    }
    (info,) = site.glob("*.dist-info")
    metadata = email.message_from_string((info / "METADATA").read_text("utf-8"))
    assert metadata["Name"] == "pyloop-uv"
    assert metadata["Version"] == version()
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "MIT"
    assert "pyloop-uv" in metadata.get_payload()
    program = (
        "import asyncio, pyloop; pyloop.run(asyncio.sleep(0)); print(pyloop.__file__)"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            f"import sys; sys.path.insert(0, {str(site)!r}); {program}",
        ],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(site))


# --- what is released ---------------------------------------------------------------


@pytest.fixture
def make():
    """scripts/wheels/make.py as a module."""
    path = ROOT / "scripts" / "wheels" / "make.py"
    spec = importlib.util.spec_from_file_location("make", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_archive_is_the_same_whoever_makes_it_when(make, tmp_path):
    made = []
    for time, owner in ((1_000_000_000, "one"), (1_700_000_000, "another")):
        path = tmp_path / f"{owner}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name in sorted(("a", "b"), reverse=owner == "one"):
                member = tarfile.TarInfo(f"name/{name}")
                member.mtime, member.uname, member.size = time, owner, 4
                archive.addfile(member, io.BytesIO(b"text"))
        made.append(make.normalised(path, "1600000000"))
    assert made[0] == made[1]
    with tarfile.open(fileobj=io.BytesIO(made[0])) as archive:
        assert archive.getnames() == ["name/a", "name/b"]
        assert {member.mtime for member in archive} == {1_600_000_000}


def test_the_release_runs_the_scripts_that_make_wheels_runs(make):
    metadata = (ROOT / "pyproject.toml").read_text()
    _, _, released = metadata.partition("[tool.cibuildwheel]\n")
    for name in make.build_environment("0"):
        # The time is the workflow's to pass on; the rest is for each system.
        times = len(re.findall(rf'\b{name}("\]$| = ")', released, re.M))
        assert times >= (1 if name == "SOURCE_DATE_EPOCH" else 2), name
    workflow = ROOT / ".github" / "workflows" / "release.yml"
    if workflow.exists():  # it is no part of the source archive
        released += workflow.read_text()
    scripts = set(re.findall(r"scripts/[\w/]+\.(?:sh|py)", released))
    assert scripts >= {"scripts/wheels/libuv.sh", "scripts/wheels/try.sh"}
    assert not [script for script in scripts if not (ROOT / script).is_file()]
