"""Build, repair and try what is released: the source archive and a wheel per Python.

    python make.py [PYTHON...]

dev.sh runs it (`make wheels`, `make archive`) in an environment with what
requirements.txt names. Into dist/ come the source archive and, built from it for each
PYTHON, a wheel with libuv inside, of the oldest platform tag that auditwheel finds its
symbols good for. Each wheel is built twice, in different folders, and has to be the
same byte for byte; it is then tried in an environment, and in a root with nothing but
that Python.
"""

import argparse
import gzip
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "build" / "wheels"
DIST = ROOT / "dist"
LIBUV = WORK / "libuv"
#: What the wheels are tried with; some have no wheel for every Python.
TRIED_WITH = ("aiohttp", "uvloop")
TOOLS = pathlib.Path(sys.executable).parent


def say(*words):
    """A line on the standard error, as dev.sh writes them."""
    print("pyloop:", *words, file=sys.stderr, flush=True)


def run(*command, **options):
    """Run a command; a failure ends everything, and shows what the command said."""
    words = [os.fspath(word) for word in command]
    changes = options.pop("env", {})
    done = subprocess.run(
        words,
        env={**os.environ, **changes},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\npyloop: failed: {' '.join(words)}")
    return done.stdout


def moment():
    """SOURCE_DATE_EPOCH, the time that all of a release carries: its last commit's."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    git = ["git", "-c", "safe.directory=*", "log", "-1", "--format=%ct"]
    if (ROOT / ".git").exists() and shutil.which("git"):
        return run(*git, cwd=ROOT).strip()
    return str(int((ROOT / "pyloop" / "_version.py").stat().st_mtime))


def build_environment(epoch):
    """What a build of a wheel has in its environment; the release workflow's too.

    Debug information would be most of a wheel and hold this machine's paths; the names
    of functions stay, for profilers and for who reads a crash.
    """
    return {
        "PYLOOP_STATIC_LIBUV": "1",
        "PKG_CONFIG_PATH": str(LIBUV),
        "LDFLAGS": "-Wl,-S",
        "SOURCE_DATE_EPOCH": epoch,
    }


# --- the source archive -------------------------------------------------------------


def normalised(archive, epoch):
    """The bytes of a .tar.gz, with one time, one owner and its members in order."""
    packed = io.BytesIO()
    with (
        tarfile.open(archive) as old,
        gzip.GzipFile("", "wb", mtime=int(epoch), fileobj=packed) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime = int(epoch)
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o755 if member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return packed.getvalue()


def make_archive(epoch):
    """The source archive in dist/: of a copy of the tree, and reproducible."""
    tree = WORK / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    run(sys.executable, ROOT / "scripts" / "copy_tree.py", tree)
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", WORK, cwd=tree)
    (made,) = WORK.glob("pyloop_uv-*.tar.gz")
    DIST.mkdir(exist_ok=True)
    archive = DIST / made.name
    archive.write_bytes(normalised(made, epoch))
    made.unlink()
    return archive


def judge_archive(archive):
    """The index's own check of the metadata, and git's files against the archive's."""
    run(TOOLS / "twine", "check", "--strict", archive)
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        return "checked by twine"
    listed = run("git", "-c", "safe.directory=*", "ls-files", cwd=ROOT).split()
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    hidden = (".git", ".ci/")  # what a checkout needs, and nobody who builds
    missing = {name for name in listed if not name.startswith(hidden)} - names
    missing = {name for name in missing if (ROOT / name).exists()}
    if missing:
        sys.exit(f"pyloop: {archive.name} lacks {sorted(missing)}: see MANIFEST.in")
    return f"checked by twine, {len(names)} members, none of git's files is missing"


# --- a wheel ------------------------------------------------------------------------


def environment_of(python, name):
    """A new virtual environment of an interpreter; the path of its Python."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    run(python, "-m", "venv", folder)
    return folder / "bin" / "python"


def pip(python, *arguments, **options):
    """pip of an environment, quiet."""
    return run(
        python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments,
        **options,
    )  # fmt: skip


def build_wheel(python, archive, folder, epoch):
    """A wheel of the source archive, with all that is temporary in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (tree,) = folder.glob("pyloop_uv-*")
    pip(
        python, "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir",
        "--wheel-dir", folder / "raw", tree,
        env={**build_environment(epoch), "TMPDIR": str(folder / "tmp")},
    )  # fmt: skip
    (raw,) = (folder / "raw").glob("*.whl")
    if not sys.platform.startswith("linux"):
        return raw
    run(
        sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", folder / "wheel",
        raw,
        env={"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
             "SOURCE_DATE_EPOCH": epoch},
    )  # fmt: skip
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def judge_wheel(wheel):
    """What has to be true of a wheel by its files alone; returns its platform tag."""
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        objects = [name for name in names if ".so" in name]
        assert len(objects) == 1, objects  # no library was brought in by the repair
        assert b"/.pyenv/" not in packed.read(objects[0])
        assert any(name.endswith("licenses/LICENSE.libuv") for name in names), names
    run(TOOLS / "twine", "check", "--strict", wheel)
    platform = wheel.stem.split("-")[-1]
    if sys.platform.startswith("linux"):
        assert re.fullmatch(r"((many|musl)linux_?\w+\.?)+", platform), platform
        # Told by auditwheel once more, of the repaired file.
        said = run(sys.executable, "-m", "auditwheel", "show", wheel)
        assert platform.split(".")[0] in said, said
    return platform


def collect(builder, wheel):
    """A folder of the wheel and what it is tried with, for an install offline."""
    folder = WORK / "offline"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(wheel, folder)
    for package in TRIED_WITH:
        words = ["download", "--only-binary", ":all:", "--dest", folder, package]
        command = [builder, "-m", "pip", "--quiet", *words]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0:
            say(f"{package} has no wheel for this Python: left out")
    return folder


def try_wheel(python, builder, wheel):
    """Install and use the wheel, beside what else there is and beside nothing.

    builder: the Python of an environment, for its pip.
    """
    offline = collect(builder, wheel)
    env_python = environment_of(python, "env-try")
    only = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(offline)}
    pip(env_python, "install", "pyloop-uv", env=only)
    path = f"{env_python.parent}{os.pathsep}{os.environ['PATH']}"
    tried = run(
        "sh", HERE / "try.sh", ROOT / "examples", cwd=WORK, env={**only, "PATH": path}
    )
    print(tried, end="")
    if sys.platform.startswith("linux"):
        said = run("sh", HERE / "empty_root.sh", python, offline, WORK / "empty")
        print("in an empty root:", *said.splitlines(), sep="\n    ", flush=True)


def make_wheel(python, archive, epoch):
    """Everything about one Python's wheel; returns a line of the closing table."""
    say(f"a wheel for {python}")
    builder = environment_of(python, "env-build")
    wanted = (HERE / "requirements.txt").read_text()
    pip(builder, "install", re.search(r"^setuptools==.*", wanted, re.M)[0])
    wheel = build_wheel(builder, archive, WORK / "first", epoch)
    again = build_wheel(builder, archive, WORK / "second-and-elsewhere", epoch)
    if wheel.read_bytes() != again.read_bytes():
        sys.exit(f"pyloop: a second build of {wheel.name} is not the same")
    platform = judge_wheel(wheel)
    final = DIST / wheel.name
    shutil.copy(wheel, final)
    try_wheel(python, builder, final)
    return f"{final.name}  {final.stat().st_size // 1024} KiB  {platform}"


def judge_workflow():
    """The release's workflow: its form, and what is known to be unsafe in one."""
    workflow = ROOT / ".github" / "workflows" / "release.yml"
    if workflow.exists():  # it is no part of the source archive
        schema = ("--builtin-schema", "vendor.github-workflows")
        run(TOOLS / "check-jsonschema", *schema, workflow)
        run(TOOLS / "zizmor", "--offline", "--quiet", workflow)


def main():
    """The archive, then a wheel for each interpreter that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", nargs="*", help="a path of an interpreter")
    pythons = parser.parse_args().python
    epoch = moment()
    WORK.mkdir(parents=True, exist_ok=True)
    judge_workflow()
    if pythons:
        run("sh", HERE / "libuv.sh", LIBUV)
    archive = make_archive(epoch)
    lines = [f"{archive.name}  {archive.stat().st_size // 1024} KiB"]
    say(f"{archive.name}: {judge_archive(archive)}")
    lines += [make_wheel(python, archive, epoch) for python in pythons]
    print("", "in dist/:", *lines, sep="\n")


if __name__ == "__main__":
    main()
