"""Sphinx's configuration of the site. build.py says how it is built."""

import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, _here)

import reference  # noqa: E402

import pyloop  # noqa: E402

project = "pyloop"
author = "the pyloop authors"
copyright = author
version = release = pyloop.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["files"]

# "page.md#a-heading" has to be a heading, as the slug that forges make of it.
myst_heading_anchors = 4

# A block without a language is what a program prints.
highlight_language = "none"
copybutton_exclude = ".linenos, .gp, .go"

# Docstrings have strings in quotes, which stay as they are written.
smartquotes = False
# `What is written so`, too, is code.
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"pyloop {release}"
html_static_path = [os.path.join(_here, "static")]
html_css_files = ["pyloop.css"]
html_js_files = ["pyloop.js"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}


def _on_docstring(app, what, name, member, options, lines):
    callable_ = what in ("function", "method")
    names = reference.parameters(member) if callable_ else ()
    lines[:] = reference.paragraphs(lines, names)


def setup(app):
    app.connect("autodoc-process-docstring", _on_docstring)
