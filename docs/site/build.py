"""Builds the site of docs/: what `make docs` runs, in an environment of its own.

    python docs/site/build.py [--out build/docs] [--offline]

In four steps: the pages are gathered (pages.py), Sphinx makes HTML of them with every
warning an error, each link and anchor of the HTML is followed (check.py), and addresses
outside the site are asked for, unless --offline. One that is not there ends the build;
one that cannot be reached from here is listed.
"""

import argparse
import pathlib
import shutil
import sys
import time

import check
import pages
from sphinx.cmd.build import build_main

ROOT = pages.ROOT


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/docs")
    parser.add_argument("--offline", action="store_true")
    options = parser.parse_args()
    started = time.monotonic()
    out = options.out.resolve()
    work = out.with_name(out.name + "-work")
    for folder in (out, work / "pages"):
        shutil.rmtree(folder, ignore_errors=True)
    count = pages.gather(work / "pages")
    status = build_main(
        [
            *("-b", "html", "-W", "--keep-going", "-q", "-j", "auto"),
            *("-c", str(pages.HERE), "-d", str(work / "doctrees")),
            *(str(work / "pages"), str(out)),
        ]
    )
    if status:
        print("docs: Sphinx has warnings, and each is an error", file=sys.stderr)
        return status
    found = check.Site(out)
    wrong = found.problems()
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(
        f"docs: {count} pages; {found.links} links and anchors inside, "
        f"{len(wrong)} of them wrong"
    )
    if not options.offline:
        wrong += check.ask_for(found.outside)
    print(f"docs: {out / 'index.html'}, in {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
