"""The pages of the site, and the order in which its menu has them.

docs/ is plain Markdown, to be read as it is, too: so what only a site needs is added in
a copy. That has the files of the tree's top that are pages, the API reference
(reference.py), and the menu; a link out of docs/ leads to the page that was made of its
file, or to a copy of the file.
"""

import fnmatch
import os
import pathlib
import re
import shutil

HERE = pathlib.Path(__file__).resolve().parent
DOCS = HERE.parent
ROOT = DOCS.parent

# Files outside docs/ that are pages of the site: under which name.
MORE_PAGES = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "rules.md",
    "benchmarks/README.md": "benchmarks.md",
}

# The menu: a section's pages, without their suffix, in order. "folder/*" stands for
# what is in the folder and not named before it, by name. A page of docs/ that nothing
# here names goes to the end of the section OTHERS.
OTHERS = "How to"
MENU = {
    "Start": ["readme", "tutorial", "usage"],
    "How to": [
        "my-program-hangs",
        "what-blocks-my-loop",
        "how-busy",
        "command-line",
        "pytest",
        "in-your-framework",
        "services",
        "moving-from-uvloop",
    ],
    "Examples": ["examples/index", "examples/*"],
    "Reference": [
        "api/index",
        "compatibility",
        "performance",
        "measured-*",
        "changelog",
    ],
    "Working on pyloop": [
        "contributing",
        "rules",
        "benchmarks",
        "internals/overview",
        "internals/iteration",
        "internals/*",
        "decisions/*",
    ],
}

# Pages whose own title says too little in a menu.
TITLES = {
    "readme": "What pyloop is",
    "tutorial": "Tutorial",
    "contributing": "Where things are",
    "rules": "Contributing: the rules",
    "internals/overview": "Internals: overview",
}

LINK = re.compile(
    r"(?P<text>!?\[(?:[^\]]|\n)*?\])\((?P<path>[^)#\s]+)(?P<rest>[^)\s]*)\)"
)
FENCE = re.compile(r"^ {0,3}(```|~~~).*?^ {0,3}\1`*\s*?$", re.S | re.M)


def menu(names):
    """The menu's sections, each with its pages, of all pages' names."""
    left = sorted(names - {"index"})
    sections = {title: [] for title in MENU}
    exact = {name for listed in MENU.values() for name in listed}
    for title, listed in MENU.items():
        for wanted in listed:
            fitting = [
                name
                for name in left
                if name == wanted
                or (fnmatch.fnmatchcase(name, wanted) and name not in exact)
            ]
            sections[title] += fitting
            left = [name for name in left if name not in fitting]
    # The API's pages are in the menu of its own index.
    sections[OTHERS] += [name for name in left if not name.startswith("api/")]
    return {title: listed for title, listed in sections.items() if listed}


def outside_of_code(text, change):
    """The text with change() applied to what is not in a fenced block."""
    parts = []
    end = 0
    for code in FENCE.finditer(text):
        parts += [change(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(text[end:])])


class Copy:
    """The copy of a page: its links are those of the place where it is put."""

    def __init__(self, source, name, folder):
        """source: a file of the tree; name: its page's, a path in the site."""
        self.source = source
        self.name = name
        self.folder = folder

    def write(self):
        text = self.source.read_text("utf-8")
        text = outside_of_code(text, lambda part: LINK.sub(self.redirected, part))
        target = self.folder / self.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")

    def redirected(self, link):
        """A link of the page, as the copy has to have it."""
        path = link["path"]
        if ":" in path:
            return link[0]
        target = pathlib.Path(os.path.normpath(self.source.parent / path))
        if target.is_dir():
            return link["text"][1:-1]  # there is no page for a folder
        if not target.is_file() or not target.is_relative_to(ROOT):
            return link[0]  # Sphinx will say so
        inside = target.relative_to(ROOT).as_posix()
        if inside in MORE_PAGES:
            place = MORE_PAGES[inside]
        elif target.is_relative_to(DOCS):
            place = target.relative_to(DOCS).as_posix()
        else:
            place = f"files/{inside}"
            (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, self.folder / place)
        away = os.path.relpath(place, pathlib.PurePath(self.name).parent)
        return f"{link['text']}({away}{link['rest']})"


def sources():
    """Every page that is written, not generated: its name in the site, and its file."""
    found = {name: ROOT / path for path, name in MORE_PAGES.items()}
    for path in sorted(DOCS.rglob("*.md")):
        found[path.relative_to(DOCS).as_posix()] = path
    return found


def gather(folder):
    """Put the whole site's pages into a folder; return how many there are."""
    import reference

    found = sources()
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in found.items():
        Copy(path, name, folder).write()
    for picture in DOCS.rglob("*.svg"):
        target = folder / picture.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, target)
    made = reference.pages()
    for name, text in made.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    names = {name.rpartition(".")[0] for name in (*found, *made)}
    with (folder / "index.md").open("a", encoding="utf-8") as index:
        for title, listed in menu(names).items():
            lines = [f"{TITLES[n]} <{n}>" if n in TITLES else n for n in listed]
            options = f":hidden:\n:caption: {title}\n\n"
            index.write("\n```{toctree}\n" + options + "\n".join(lines) + "\n```\n")
    return len(names)
