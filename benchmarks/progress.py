"""A bar on the terminal's last line while measurements run, or lines in a log."""

from __future__ import annotations

import shutil
import sys
import time

WIDTH = 24


class Progress:
    """How much of *total* steps is done, what is under way, and how long is left.

    A context manager; nothing is left of the bar at the end. Where stderr is no
    terminal, each part gets a line as it begins.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.started = time.monotonic()
        self.shown = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self.write("")

    def begin(self, done: int, title: str) -> None:
        """So many steps are done or left out, and the next ones belong to *title*."""
        self.done = done
        if not self.shown:
            print(f"{self.done}/{self.total} {title}", file=sys.stderr, flush=True)

    def show(self, text: str) -> None:
        """Say what is under way."""
        self.write(f"{self.bar()} {self.left()} {text}")

    def step(self) -> None:
        """One more is done."""
        self.done += 1

    def bar(self) -> str:
        filled = WIDTH * self.done // max(self.total, 1)
        return f"[{'#' * filled}{'.' * (WIDTH - filled)}] {self.done}/{self.total}"

    def left(self) -> str:
        """The time that the rest takes if it goes on like this."""
        if not self.done:
            return "--:--"
        spent = time.monotonic() - self.started
        minutes, seconds = divmod(
            round(spent / self.done * (self.total - self.done)), 60
        )
        return f"{minutes:02}:{seconds:02} left"

    def write(self, text: str) -> None:
        if self.shown:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)
