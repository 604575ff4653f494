"""Functions of other modules and classes, in whose place are ours for a time."""

from __future__ import annotations

from typing import Any

__all__ = ["Replaced"]


class Replaced:
    """What was replaced. True if anything is, at the moment."""

    def __init__(self) -> None:
        # (the module or class, the name there, what was there, ours)
        self._made: list[tuple[Any, str, Any, Any]] = []

    def __bool__(self) -> bool:
        return bool(self._made)

    def put(self, place: Any, name: str, ours: Any) -> None:
        """Set an attribute, and remember what is in its place."""
        self._made.append((place, name, vars(place)[name], ours))
        setattr(place, name, ours)

    def restore(self) -> None:
        """Put back what was there, where ours still is; the last one first."""
        while self._made:
            place, name, original, ours = self._made.pop()
            if vars(place).get(name) is ours:
                setattr(place, name, original)
