"""What `runner.py --demo` runs: test files of its own, which end in all ways."""

import os
import tempfile

import runner

GOOD = """\
import unittest

class Good(unittest.TestCase):
    def test_one(self):
        self.assertEqual(1 + 1, 2)

    def test_two(self):
        self.assertIn("a", "abc")

    @unittest.skip("not here")
    def test_skipped(self):
        pass
"""

BAD = """\
import unittest

class Bad(unittest.TestCase):
    def test_good(self):
        pass

    def test_failure(self):
        self.assertEqual(1, 2)

    def test_error(self):
        raise ValueError("on purpose")

    @unittest.expectedFailure
    def test_known(self):
        self.fail()
"""

CRASH = """\
import os, unittest

class Crash(unittest.TestCase):
    def test_crash(self):
        os.kill(os.getpid(), 9)
"""

# The process that it starts would outlive it.
HANG = """\
import subprocess, sys, unittest

class Hang(unittest.TestCase):
    def test_hang(self):
        subprocess.run([sys.executable, "-c", "import time; time.sleep(3600)"])
"""

NOISE = """\
import unittest

class Noise(unittest.TestCase):
    def test_noise(self):
        for number in range(20_000):
            print("a line that nobody wants to read, number", number)
"""

FILES = {
    **{f"test_good_{number}.py": GOOD for number in range(4)},
    "test_bad.py": BAD,
    "test_crash.py": CRASH,
    "test_empty.py": "",
    "test_hang.py": HANG,
    "test_noise.py": NOISE,
}


async def run(options):
    """Run them; return the exit status, which is that of the runner."""
    with tempfile.TemporaryDirectory() as folder:
        for name, source in FILES.items():
            with open(os.path.join(folder, name), "w") as file:
                file.write(source)
        options.timeout = min(options.timeout, 10.0)
        here = os.getcwd()
        os.chdir(folder)
        try:
            return await runner.run(sorted(FILES), options)
        finally:
            os.chdir(here)
