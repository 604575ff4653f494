"""Run a program, which need not know of it, on the event loop of that name.

python run_on.py asyncio|pyloop|uvloop PROGRAM [ARGUMENTS]
"""

import importlib
import os
import runpy
import sys


def main():
    """Install the loop's policy, then be the program."""
    loop, program = sys.argv[1:3]
    if loop != "asyncio":
        importlib.import_module(loop).install()
    sys.argv[:3] = [program]
    sys.path.insert(0, os.path.dirname(os.path.abspath(program)))
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
