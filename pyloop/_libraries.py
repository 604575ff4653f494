"""Whose a file is: asyncio's and pyloop's own, or the program's.

Imported with every loop, for what names a transport while the loop runs must not begin
to import: so nothing but what is imported already is needed here.
"""

from __future__ import annotations

import asyncio
import os

from pyloop import _core

__all__ = ["is_library"]

_BEGINNINGS = (
    *(
        os.path.dirname(os.path.abspath(path)) + os.sep
        for path in (asyncio.__file__, _core.__file__)
    ),
    "<frozen ",
)


def is_library(file: str) -> bool:
    """Whether a file is asyncio's, pyloop's or the interpreter's, not the program's."""
    return file.startswith(_BEGINNINGS) or not file
