"""Run two cells in a kernel that kernels/pyloop/kernel.json describes."""

import pathlib
import subprocess
import sys

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

CELLS = [
    "import asyncio; print(type(asyncio.get_running_loop()).__module__)",
    "await asyncio.sleep(0.1, 'slept')",
]


def show(message):
    """Print what a cell prints, and its value; end with its traceback."""
    content = message["content"]
    if message["msg_type"] == "stream":
        print(content["text"], end="")
    elif message["msg_type"] == "execute_result":
        print(content["data"]["text/plain"])
    elif message["msg_type"] == "error":
        sys.exit("\n".join(content["traceback"]))


def main():
    folder = pathlib.Path(__file__).with_name("kernels")
    specs = KernelSpecManager(kernel_dirs=[str(folder)])
    manager = KernelManager(kernel_name="pyloop", kernel_spec_manager=specs)
    manager.start_kernel(stderr=subprocess.DEVNULL)  # its log
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        for cell in CELLS:
            client.execute_interactive(cell, output_hook=show, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


main()
