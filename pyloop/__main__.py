"""``python -m pyloop``: run a program that need not know of pyloop on its loop."""

import os
import sys

folder: str | None = None

if __name__ == "__main__":
    # For -m, python looks into the working directory first. What the command line needs
    # is not to come from there: a program's folder may have an argparse.py of its own.
    if not getattr(sys.flags, "safe_path", sys.flags.isolated):
        try:
            if sys.path[0] == os.getcwd():
                folder = sys.path.pop(0)
        except OSError:  # it is gone: python has put nothing there
            pass

    from pyloop._command import main

    main(folder)
