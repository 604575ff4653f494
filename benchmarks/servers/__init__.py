"""Servers to be loaded from another process, and the load itself."""
