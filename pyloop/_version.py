"""The one place where the version stands; setup.py and the package read it here."""

__version__ = "0.1.0"
