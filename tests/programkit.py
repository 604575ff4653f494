"""Running a program until it says that it is ready, and stopping it."""

import contextlib
import re
import subprocess
import sys
import threading

import support


@contextlib.contextmanager
def program(*argv, banner, timeout=support.PATIENCE, **env):
    """Run a Python program that prints a line that matches *banner* when it is ready.

    argv: arguments of the interpreter.  banner: a regular expression, searched in each
    line of stdout and stderr, which are one stream; None waits for none.  env: added to
    the environment.
    Gives a Program; the program is killed at the end if the test has not ended it.
    """
    process = subprocess.Popen(
        [sys.executable, *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=support.script_environment({"PYTHONUNBUFFERED": "1", **env}),
    )
    running = Program(process)
    try:
        if banner is not None:
            running.wait_for_line(banner, timeout)
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        running.finish()


class Program:
    """A running program and what it has printed."""

    def __init__(self, process):
        self.process = process
        self.match = None  # of the banner
        self._lines = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with self.process.stdout as stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line.decode(errors="replace").rstrip())
                    self._changed.notify_all()
        with self._changed:
            self._lines.append(None)
            self._changed.notify_all()

    @property
    def output(self):
        """All that it has printed so far, as text."""
        with self._changed:
            return "\n".join(line for line in self._lines if line is not None)

    def _ready(self, pattern):
        for line in self._lines:
            if line is None:
                return True
            match = re.search(pattern, line)
            if match:
                self.match = match
                return True
        return False

    def wait_for_line(self, pattern, timeout=support.PATIENCE):
        """Wait for a line that the pattern is found in; return the match."""
        self.match = None
        with self._changed:
            self._changed.wait_for(lambda: self._ready(pattern), timeout)
        assert self.match, f"no line matches {pattern!r}:\n{self.output}"
        return self.match

    def end(self, signum, timeout=support.PATIENCE):
        """Send the signal, wait for the end; return the exit status."""
        self.process.send_signal(signum)
        return self.finish(timeout)

    def finish(self, timeout=support.PATIENCE):
        """Wait for the end of the program and of its output; return the status."""
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return status
