"""Print the requirements of some of pyproject.toml's extras, one a line.

Installing `.[test]` itself would build the extension a second time, in pip's own
folder; only what it asks for is wanted here.
"""

import pathlib
import sys

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def main(extras):
    """Print what the named extras ask for."""
    text = pathlib.Path(__file__).parents[1].joinpath("pyproject.toml").read_text()
    known = tomllib.loads(text)["project"]["optional-dependencies"]
    for extra in extras:
        print("\n".join(known[extra]))


if __name__ == "__main__":
    main(sys.argv[1:])
