"""The site of docs/ (make docs): its menu, its links, its API reference.

Sphinx is not needed here; docs/site/build.py, which runs it, follows every link again.
"""

import ast
import dataclasses
import http.server
import importlib
import inspect
import pathlib
import re
import textwrap
import threading

import pytest
import support

ROOT = pathlib.Path(support.PROJECT_DIR)
DOCS = ROOT / "docs"


@pytest.fixture
def site(monkeypatch):
    """Import one of the modules in docs/site."""
    monkeypatch.syspath_prepend(str(DOCS / "site"))
    return importlib.import_module


# --- pages --------------------------------------------------------------------------


def written():
    return {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def test_the_index_leads_to_every_page():
    """By as many links as it takes, as somebody follows them who has no site."""
    seen = set()
    left = [DOCS / "index.md"]
    while left:
        page = left.pop()
        if page in seen:
            continue
        seen.add(page)
        for link in re.findall(r"\]\(([^)#:\s]+\.md)", page.read_text()):
            target = (page.parent / link).resolve()
            if target.is_relative_to(DOCS):
                left.append(target)
    assert {path.relative_to(DOCS).as_posix() for path in seen} == written()


def test_the_menu_has_every_page_once(site):
    pages = site("pages")
    names = {name.rpartition(".")[0] for name in pages.sources()}
    assert "tutorial" in names
    listed = [name for part in pages.menu(names).values() for name in part]
    assert sorted(listed) == sorted(names - {"index"})


def test_the_menu_names_pages_that_exist(site):
    pages = site("pages")
    names = {name.rpartition(".")[0] for name in pages.sources()}
    wanted = {name for listed in pages.MENU.values() for name in listed}
    plain = {name for name in wanted | {*pages.TITLES} if "*" not in name}
    assert plain - names == {"api/index"}


def test_a_page_that_the_menu_does_not_name_is_in_it(site):
    menu = site("pages").menu({"index", "usage", "new", "internals/new"})
    assert menu["How to"] == ["new"]
    assert menu["Working on pyloop"] == ["internals/new"]


@pytest.mark.parametrize(
    ("link", "becomes"),
    [
        ("[x](../usage.md#switches)", "[x](../usage.md#switches)"),
        ("[x](overview.md)", "[x](overview.md)"),
        ("[x](../../CHANGELOG.md)", "[x](../changelog.md)"),
        ("[x\ny](../../benchmarks/README.md)", "[x\ny](../benchmarks.md)"),
        ("[`x`](../../setup.py)", "[`x`](../files/setup.py)"),
        ("[x](../../examples/)", "x"),
        ("[x](https://libuv.org)", "[x](https://libuv.org)"),
        ("[x](missing.md)", "[x](missing.md)"),
        ("```\n[x](../../CHANGELOG.md)\n```\n", "```\n[x](../../CHANGELOG.md)\n```\n"),
    ],
)
def test_the_links_of_a_copy(site, tmp_path, link, becomes):
    pages = site("pages")
    copy = pages.Copy(DOCS / "internals/threads.md", "internals/threads.md", tmp_path)
    assert (
        pages.outside_of_code(link, lambda text: pages.LINK.sub(copy.redirected, text))
        == becomes
    )


def test_what_is_wrong_with_a_built_site_is_found(site, tmp_path):
    (tmp_path / "a.html").write_text(
        '<html lang="en"><h1 id="here">A</h1><a href="#here"><a href="b.html#there">'
        '<a href="b.html#gone"><a href="c.html"><img src="a.html"><a href="x:y">'
        '<a href="https://libuv.org/#part"></html>'
    )
    (tmp_path / "b.html").write_text('<html><h1 id="there">B</h1><h1>C</h1></html>')
    found = site("check").Site(tmp_path)
    assert found.problems() == [
        "a.html: b.html#gone: there is no such anchor",
        "a.html: c.html: there is no such file",
        "a.html: x:y: what kind of link?",
        "a.html: a.html: no alternative text",
        "b.html: its language is not said",
        "b.html: 2 headings of the first level",
    ]
    assert list(found.outside) == ["https://libuv.org/"]


class Answers(http.server.BaseHTTPRequestHandler):
    """404 to what is called /gone, and 200 to all else."""

    def do_GET(self):
        self.send_response(404 if self.path == "/gone" else 200)
        self.end_headers()

    def log_message(self, *args):
        pass


def test_addresses_outside_are_asked_for(site, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        here = f"http://127.0.0.1:{server.server_port}"
        nowhere = f"http://127.0.0.1:{support.free_port()}/"
        asked = dict.fromkeys((f"{here}/there", f"{here}/gone", nowhere), "a.html")
        try:
            wrong = site("check").ask_for(asked)
        finally:
            server.shutdown()
            thread.join()
    assert wrong == [f"a.html: {here}/gone: 404"]
    said = capsys.readouterr().out
    assert "3 addresses outside, 1 of them wrong, 1 not to be asked from here" in said
    assert nowhere in said


def test_what_makes_the_site_is_held_to_versions():
    lines = (DOCS / "requirements.txt").read_text().splitlines()
    named = [line for line in lines if not line.startswith("#")]
    assert named and all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in named)


# --- the tables of results ----------------------------------------------------------


def test_the_tables_are_those_of_the_results(site):
    tables = site("tables")
    text = tables.PAGE.read_text()
    assert {found[2] for found in tables.MARK.finditer(text)} == {*tables.MAKERS}
    assert {path.stem for path in (DOCS / "results").glob("*.json")} <= {*tables.MAKERS}
    assert text == tables.filled(text), "run: python docs/site/tables.py"


def test_a_table_of_suites(site):
    counts = {"run": 9, "passed": 7, "failed": 2, "skipped": 1, "seconds": 3}
    better = {**counts, "passed": 8, "failed": 1}
    results = {
        "versions": {"python": "3.13.0", "pyloop": "0.1.0", "libuv": "1.53.0"},
        "suites": {
            "websockets": {
                "version": "16.0",
                "asyncio": counts,
                "pyloop": better,
                "differences": ["test_x"],
            }
        },
    }
    assert list(site("tables").compat(results)) == [
        "| suite | loop | run | passed | failed | skipped | seconds |",
        "|---|---|---|---|---|---|---|",
        "| websockets 16.0 | asyncio | 9 | 7 | 2 | 1 | 3 |",
        "| websockets 16.0 | pyloop | 9 | 8 | 1 | 1 | 3 |",
        "",
        "Python 3.13.0, pyloop 0.1.0, libuv 1.53.0. Tests that pass on asyncio and not "
        "on pyloop: 1.",
    ]


def test_pythons_are_in_their_order(site):
    names = ["3.9.1", "3.10.13", "3.13.0", "3.13.5, free-threaded", "3.14.8"]
    assert sorted(names[::-1], key=site("tables").by_version) == names


# --- the API reference --------------------------------------------------------------


ALIASES = "pyloop.loop"  # other names for what other modules have


def public_modules():
    files = (ROOT / "pyloop").glob("[!_]*.py")
    return {"pyloop", *(f"pyloop.{file.stem}" for file in files)} - {ALIASES}


def public_names():
    """Every public function and class: its name with the module's, and itself."""
    for name in sorted(public_modules()):
        module = importlib.import_module(name)
        for member in getattr(module, "__all__", ()):
            yield f"{name}.{member}", getattr(module, member)


def functions():
    """Every public function, also those of public classes, but for Loop's."""
    for name, member in public_names():
        if inspect.isfunction(member):
            yield pytest.param(member, id=name)
        if inspect.isclass(member) and name != "pyloop.Loop":
            for part, found in vars(member).items():
                if not part.startswith("_") and inspect.isfunction(found):
                    yield pytest.param(found, id=f"{name}.{part}")


def test_the_reference_has_every_public_name(site):
    reference = site("reference")
    assert set(reference.MODULES) == public_modules()
    pages = reference.pages()
    for name, _ in public_names():
        page = pages[f"api/{name.rpartition('.')[0]}.rst"]
        assert re.search(rf":: {re.escape(name)}(\(\))?\n", page), name


def test_the_reference_has_the_names_of_uvloop(site):
    reference = site("reference")
    assert reference.ALIASES == ALIASES
    page = reference.pages()[f"api/{ALIASES}.rst"]
    names = importlib.import_module(ALIASES).__all__
    assert not [name for name in names if f"* ``{name}``: ``" not in page]
    assert "* ``TCPTransport``: ``pyloop._core.SocketTransport``" in page


def test_the_reference_has_every_method_of_the_loop(site):
    reference = site("reference")
    alone, own, inherited = reference.loop_methods()
    page = reference.pages()["api/loop.rst"]
    assert "metrics" in alone  # on Python 3.10 there are more, which came later
    assert f":members: {', '.join(alone)}\n" in page
    assert {"call_soon", "sock_recv", "close", "run_forever"} <= {*own}
    assert not [name for name in own if f"pyloop.Loop.{name}\n" not in page]
    assert not [name for name in inherited if f"``{name}``" not in page]


def test_the_reference_has_the_plugin_s_options_and_markers(site):
    page = site("reference").pages()["api/pyloop.pytest.rst"]
    for option in ("--loop", "--loop-leaks", "--loop-block-limit"):
        assert f".. option:: {option}=" in page
    assert "``@pytest.mark.loop_leaks(" in page
    assert "``@pytest.mark.loop_block_limit(seconds)``" in page


@pytest.mark.parametrize("function", [*functions()])
def test_a_docstring_says_what_is_taken_and_raised(function):
    text = function.__doc__
    assert text and text.splitlines()[0].rstrip().endswith((".", ":", ";", ","))
    parameters = dict(inspect.signature(function).parameters)
    parameters.pop("self", None)
    parameters.pop("enabled", None)  # of trace_*(): "With enabled=False ..." or nothing
    for name, parameter in parameters.items():
        assert re.search(rf"\b{name}\b", text), f"what is {name}?"
        if "float" in str(parameter.annotation) and name != "rate":
            assert "second" in text, f"of what unit is {name}?"
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            raised = ast.unparse(node.exc.func)
            assert raised in text, f"it raises {raised}"


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(member, id=name)
        for name, member in public_names()
        if inspect.isclass(member)
    ],
)
def test_a_class_and_its_fields_have_docstrings(cls):
    assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    if dataclasses.is_dataclass(cls):
        after = dict(zip(tree.body, tree.body[1:], strict=False))
        for node in tree.body:
            if isinstance(node, ast.AnnAssign):
                doc = after.get(node)
                said = isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
                assert said, f"what is {node.target.id}?"
    for name, member in vars(cls).items():
        if isinstance(member, property) and not name.startswith("_"):
            assert member.__doc__, name


def test_every_method_of_the_loop_that_is_pyloop_s_own_has_a_docstring(site):
    import pyloop

    alone, own, _ = site("reference").loop_methods()
    for name in (*alone, *own):
        method = getattr(pyloop.Loop, name)
        assert method.__doc__, name
        for parameter in site("reference").parameters(method):
            assert re.search(rf"\b{parameter}\b", method.__doc__), (name, parameter)
