"""examples/frameworks/docker/Dockerfile, line by line in environments without Docker.

Each stage is a folder with an environment: RUN's pip is the environment's, and absolute
paths are inside the folder. Packages of the system are not installed but looked at.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import venv

import pytest
import support

pytestmark = [pytest.mark.packaged, pytest.mark.limit(600)]

ROOT = pathlib.Path(support.PROJECT_DIR)
DOCKERFILE = ROOT / "examples/frameworks/docker/Dockerfile"

#: Of Debian, as setup.py asks for them, and what runs needs of them.
TO_BUILD = {"gcc", "libc6-dev", "libuv1-dev", "pkg-config"}
TO_RUN = {"libuv1"}


class Stage:
    """What a FROM begins.

    builds: it has the tools of the test's own environment, as pip would fetch them.
    """

    def __init__(self, folder, builds):
        self.folder = folder
        self.builds = builds
        self.packages = set()
        self.python = pathlib.Path(sys.executable)
        if not builds:
            venv.create(folder / "venv", with_pip=True, symlinks=True)
            self.python = folder / "venv/bin/python"

    def inside(self, path):
        return self.folder / path.lstrip("/")

    def execute(self, words):
        """Run words, as /bin/sh of the stage would; return what is printed."""
        line = " ".join(re.sub(r"^/", f"{self.folder}/", word) for word in words)
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self.folder,
            env={
                **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
                "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "PIP_NO_INDEX": "1",
                "PIP_ROOT_USER_ACTION": "ignore",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def run(self, line):
        for command in line.split("&&"):
            words = command.split()
            if words[:2] == ["apt-get", "install"]:
                self.packages |= {word for word in words[2:] if word[0] != "-"}
            elif words[0] == "pip":
                # The requirements of the build are here, and need not be fetched.
                isolated = ["--no-build-isolation"] if words[1] == "wheel" else []
                self.execute(["python", "-m", *words[:2], *isolated, *words[2:]])
            else:
                assert words[:2] in (["apt-get", "update"], ["rm", "-rf"]), command


def instructions():
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            yield line.split(maxsplit=1)


def test_the_image_can_be_built_and_runs(tmp_path):
    context = tmp_path / "context"
    subprocess.run([sys.executable, ROOT / "scripts/copy_tree.py", context], check=True)
    stages, names = [], {}
    for instruction, rest in instructions():
        if instruction == "FROM":
            image, _, name = rest.partition(" AS ")
            assert re.fullmatch(r"python:3\.1[0-9]-slim", image)
            folder = tmp_path / f"stage{len(stages)}"
            folder.mkdir()
            stages.append(Stage(folder, builds=bool(name)))
            names[name] = stages[-1]
        elif instruction == "RUN":
            stages[-1].run(rest)
        elif instruction == "COPY":
            *option, source, target = rest.split()
            begin = context / source
            if option:
                begin = names[option[0].removeprefix("--from=")].inside(source)
            end = stages[-1].inside(target)
            end.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if begin.is_dir() else shutil.copy)(begin, end)
        else:
            assert instruction == "CMD"
            printed = stages[-1].execute(json.loads(rest))
    assert printed == "on pyloop._loop\n"
    assert [stage.packages for stage in stages] == [TO_BUILD, TO_RUN]
