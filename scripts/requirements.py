"""Print the requirements of some of pyproject.toml's extras, one a line.

Installing `.[test]` itself would build the extension a second time, in pip's own
folder; only what it asks for is wanted here.  `test` brings the programs that
tests/compat runs.  What does not support the free-threaded build is left out there;
the tests that need it say so and are skipped.
"""

import pathlib
import re
import sys
import sysconfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).parents[1]
#: Of 3.13's free-threaded build: no wheel, and the source does not build there.
NOT_FREE_THREADED = ("httptools", "mypy", "trustme")


def main(extras):
    """Print what the named extras ask for."""
    text = ROOT.joinpath("pyproject.toml").read_text()
    known = tomllib.loads(text)["project"]["optional-dependencies"]
    wanted = [line for extra in extras for line in known[extra]]
    if "test" in extras:
        programs = ROOT.joinpath("tests/compat/requirements.txt").read_text()
        wanted += [line for line in programs.splitlines() if line[:1] != "#"]
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        wanted = [
            line
            for line in wanted
            if re.match(r"[\w-]+", line).group() not in NOT_FREE_THREADED
        ]
        # New versions whose wheels leave this build out want a compiler of Rust.
        wanted.insert(0, "--only-binary :all:")
    print("\n".join(wanted))


if __name__ == "__main__":
    main(sys.argv[1:])
