"""``python -m pyloop``: run a program that need not know of pyloop on its loop."""

from pyloop._command import main

if __name__ == "__main__":
    main()
