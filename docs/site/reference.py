"""The pages of the API reference: every public name, with its docstring.

What is public is what a module's __all__ names, and of a class every name without an
underscore in front. The pages name the objects; Sphinx's autodoc takes the signatures
and docstrings from them, so nothing is written here that a docstring can say.
"""

import asyncio
import dataclasses
import importlib
import inspect
import re

MODULES = (
    "pyloop",
    "pyloop.tasks",
    "pyloop.watchdog",
    "pyloop.metrics",
    "pyloop.telemetry",
    "pyloop.pytest",
)

# A module of other names for what is documented elsewhere, for programs of uvloop's.
ALIASES = "pyloop.loop"

# Strings have no docstring of their own.
STRINGS = {
    "pyloop.__version__": 'pyloop\'s own version, such as ``"0.1.0"``.',
    "pyloop.libuv_version": "The version of the libuv that pyloop runs with, such as "
    '``"1.44.2"``.',
}

INTRODUCTION = """\
API reference
=============

Made from the docstrings of pyloop {version}. What is asyncio's is documented in
`its own reference <https://docs.python.org/3/library/asyncio.html>`_; what differs from
it is in :doc:`/compatibility`.

.. toctree::

{pages}
"""

# Below pyloop.Loop's own methods.
INHERITED = """\
Methods of asyncio's
--------------------

A :class:`pyloop.Loop` has every method that the running Python's
``asyncio.AbstractEventLoop`` documents. These are pyloop's own, in C or around C:

{members}

These are asyncio's, run as they are, over pyloop's transports: {rest}.
"""


def public(module):
    """The public names of an imported module, in order."""
    return list(getattr(module, "__all__", ()))


def loop_methods():
    """Loop's public methods: those that only pyloop has, those that it does its own
    way, and those that it has from asyncio."""
    import pyloop

    bases = pyloop.Loop.__mro__
    ours = bases[: bases.index(asyncio.BaseEventLoop)]
    alone, own, inherited = [], [], []
    for name in sorted(name for name in dir(pyloop.Loop) if name[0] != "_"):
        found = inspect.getattr_static(pyloop.Loop, name)
        module = getattr(found, "__module__", None) or ""
        if not hasattr(asyncio.SelectorEventLoop, name):
            alone.append(name)
        elif any(name in base.__dict__ for base in ours) and "asyncio" not in module:
            own.append(name)
        else:
            inherited.append(name)
    return alone, own, inherited


def pages():
    """The text of each page, in reStructuredText, by its path in the site."""
    import pyloop

    made = {f"api/{name}.rst": module_page(name) for name in MODULES}
    names = "\n".join(
        f"   {name}" for name in (MODULES[0], "loop", *MODULES[1:], ALIASES)
    )
    made[f"api/{ALIASES}.rst"] = aliases_page()
    made["api/index.rst"] = INTRODUCTION.format(version=pyloop.__version__, pages=names)
    made["api/loop.rst"] = loop_page()
    return made


def module_page(name):
    module = importlib.import_module(name)
    text = [headed(name), ".. highlight:: python\n", f".. automodule:: {name}\n"]
    for member in public(module):
        text.append(entry(f"{name}.{member}", getattr(module, member)))
    if name == "pyloop.pytest":
        text.append(plugin_tables(module))
    return "\n".join(text)


def entry(path, member):
    """A public name: the directive that documents it."""
    if path in STRINGS:
        return f".. py:data:: {path}\n   :type: str\n\n   {STRINGS[path]}\n"
    if path == "pyloop.Loop":
        return ".. class:: pyloop.Loop()\n   :no-index:\n\n   See :doc:`loop`.\n"
    if inspect.isclass(member):
        options = "   :members:\n"
        if hidden(member):
            options += f"   :exclude-members: {', '.join(hidden(member))}\n"
        # What start() and instrument() return is not made by hand, and a dataclass's
        # fields are below it.
        heading = f".. autoclass:: {path}()\n"
        return f"{heading}{options}"
    return f".. autofunction:: {path}\n"


def hidden(cls):
    """Members without documentation of their own that dataclasses add."""
    return ["__init__"] if dataclasses.is_dataclass(cls) else []


def loop_page():
    alone, own, inherited = loop_methods()
    members = "\n".join(f".. automethod:: pyloop.Loop.{name}" for name in own)
    return "\n".join(
        [
            headed("pyloop.Loop"),
            ".. currentmodule:: pyloop\n",
            ".. autoclass:: pyloop.Loop()",
            f"   :members: {', '.join(alone)}\n",
            INHERITED.format(
                members=members,
                rest=", ".join(f"``{name}``" for name in inherited),
            ),
        ]
    )


def aliases_page():
    module = importlib.import_module(ALIASES)
    text = [headed(ALIASES), f".. automodule:: {ALIASES}\n"]
    for name in public(module):
        member = getattr(module, name)
        place = f"{member.__module__}.{member.__qualname__}"
        text.append(f"* ``{name}``: ``{place}``")
    return "\n".join([*text, ""])


def headed(title):
    return f"{title}\n{'=' * len(title)}\n"


# -- the pytest plugin: its options and markers are its names --------------------------


class Recorder:
    """Stands for pytest's parser and configuration: keeps what a plugin tells them."""

    def __init__(self):
        self.options = []
        self.markers = []
        self.stash = {}

    def getgroup(self, name):
        return self

    def addoption(self, name, **keywords):
        self.options.append((name, keywords))

    def addinivalue_line(self, name, line):
        self.markers.append(line)
        if len(self.markers) == 2:
            raise StopIteration  # the rest would change this process


def plugin(module):
    """The options, (name, keywords of addoption), and markers, as text, of a plugin."""
    recorder = Recorder()
    module.pytest_addoption(recorder)
    try:
        module.pytest_configure(recorder)
    except StopIteration:
        pass
    return recorder.options, recorder.markers


def plugin_tables(module):
    options, markers = plugin(module)
    text = [underlined("Options")]
    for name, keywords in options:
        value = keywords.get("metavar") or "|".join(keywords["choices"])
        default = keywords.get("default")
        text.append(f".. option:: {name}={value}\n\n   {keywords['help']}.")
        if default:
            text.append(f"   Default: ``{default}``.")
        text.append("")
    text.append(underlined("Markers"))
    for line in markers:
        signature, does = re.fullmatch(r"(\w+\(.*?\)): (.*)", line).groups()
        text.append(f"``@pytest.mark.{signature}``\n   {does}.\n")
    return "\n".join(text)


def underlined(title):
    return f"{title}\n{'-' * len(title)}\n"


# -- docstrings ------------------------------------------------------------------------


def parameters(member):
    """The names of what a function takes."""
    try:
        names = list(inspect.signature(member).parameters)
    except (TypeError, ValueError):
        return []
    return [name for name in names if name not in ("self", "args", "kwargs")]


def paragraphs(lines, names):
    """A docstring's lines, with a paragraph for each argument that it explains.

    The docstrings say "loop: the running one. file: a path", which reads well as text;
    on a page each argument begins a line. What they call docs/a-page.md is a link.
    """
    text = re.sub(r"\*(?=args\b|kwargs\b)", r"\\*", "\n".join(lines))
    text = re.sub(r"\bdocs/([\w/-]+)\.md\b", r":doc:`/\1`", text)
    if names:
        known = "|".join(map(re.escape, names))
        text = re.sub(
            rf"(?:(?<=\n)|(?<=[.;] )|(?<=\A))((?:(?:{known}), )*(?:{known})): (?=\S)",
            lambda found: f"\n\n*{found[1]}*: ",
            text,
        )
        text = re.sub(r"(?<=[.;])\s(?=Raises )", "\n\n", text)
    return text.split("\n")
