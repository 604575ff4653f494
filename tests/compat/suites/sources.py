"""Getting the sources of a suite: the sdist from the package index, by its hash."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile


class SourceError(Exception):
    """The sources cannot be had; the message is for the user."""


def fetch_sdist(suite, folder):
    """Return the path of the suite's sdist in the folder, downloaded if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = suite.name.replace("-", "_")
    path = folder / f"{stem}-{suite.version}.tar.gz"
    if not (path.exists() and sha256_of(path) == suite.sha256):
        requirement = f"{suite.name}=={suite.version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--no-binary", suite.name]
        done = subprocess.run(
            [*command, "--dest", str(folder), requirement],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0 or not path.exists():
            raise SourceError(f"pip download {requirement}:\n{done.stdout[-2000:]}")
    if (found := sha256_of(path)) != suite.sha256:
        raise SourceError(f"{path.name} has the SHA-256 {found}, not {suite.sha256}")
    return path


def sha256_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unpack(suite, sdist, folder):
    """Unpack the sdist into the folder, which is made anew, without the package.

    What is tested is the installed one; the sdist's is in its place where pytest puts
    the folder first on sys.path, and has no compiled parts.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
        for member in members:
            member.name = member.name.partition("/")[2] or "."
        archive.extractall(folder, members, filter="data")
    if suite.package:
        shutil.rmtree(folder / suite.package)


def check_out(suite, origin, folder):
    """Put the tests of the suite's tag in the place of the sdist's; say if it worked.

    origin: the repository, any that git can clone from.
    """
    copy = folder / "repository"
    command = ["git", "clone", "--quiet", "--depth", "1", "--branch", suite.version]
    done = subprocess.run(
        [*command, origin, str(copy)],
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        return False
    head = subprocess.run(
        ["git", "-C", str(copy), "rev-parse", "HEAD"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    if head != suite.commit:
        raise SourceError(f"{suite.version} of {origin} is {head}, not {suite.commit}")
    shutil.rmtree(folder / "tests")
    shutil.move(copy / "tests", folder / "tests")
    shutil.rmtree(copy)
    return True
