"""Make DESTINATION a copy of the work tree, for a build that must not touch it.

    python scripts/copy_tree.py DESTINATION

File times are kept, so that a second build of the copy compiles nothing, and what
earlier builds left in the copy (its build/ and its shared objects) stays. Links are
not used instead: a test that resolves its own path would leave the copy by them.
"""

import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOT_COPIED = shutil.ignore_patterns(
    ".git", "build", "dist", "__pycache__", "*.so", "*.egg-info", ".*_cache"
)


def remove_old_sources(folder):
    """Remove every file but those of a build, so that deleted ones are gone."""
    for path in sorted(folder.rglob("*"), reverse=True):
        kept = path.relative_to(folder).parts[0] == "build" or path.suffix == ".so"
        if not kept and not path.is_dir():
            path.unlink()


def main(destination):
    """Copy the tree to the folder of that name."""
    folder = pathlib.Path(destination)
    if folder.is_dir():
        remove_old_sources(folder)
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED, dirs_exist_ok=True)


if __name__ == "__main__":
    main(sys.argv[1])
