"""A virtual environment for each suite, with this tree's pyloop on its path."""

import hashlib
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]

RECORDER = "pyloop_compat_recorder"


class EnvironmentFailure(Exception):
    """An environment cannot be made; the message is for the user."""


def import_folder(build):
    """Make a folder with pyloop and the recorder in it, and nothing else of ours."""
    folder = build / "path"
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in (
        ("pyloop", ROOT / "pyloop"),
        (f"{RECORDER}.py", HERE / "recorder.py"),
    ):
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return folder


def make(suite, build):
    """Return the interpreter of the suite's environment, made if need be."""
    requirements = HERE / "requirements" / f"{suite.name}.txt"
    wanted = hashlib.sha256(
        requirements.read_bytes() + sys.version.encode()
    ).hexdigest()
    folder = build / f"venv-{suite.name}"
    python = folder / "bin" / "python"
    mark = folder / "made"
    if not mark.exists() or mark.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(folder)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        run([*pip, "install", "--quiet", "-r", str(requirements)])
        for place in folder.glob("lib/python*/site-packages"):
            (place / "pyloop_compat.pth").write_text(f"{import_folder(build)}\n")
        mark.write_text(wanted)
    return python


def run(command):
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise EnvironmentFailure(f"{' '.join(command)}:\n{done.stdout[-3000:]}")
