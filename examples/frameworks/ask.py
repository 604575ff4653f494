"""Start a server, ask it one question, stop it: python ask.py COMMAND ...

PORT in the command stands for a port that is free.
"""

import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).parent


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def ask(url, server, seconds=30):
    """Return what the server answers, once it listens."""
    last = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=seconds) as answer:
                return answer.read().decode()
        except urllib.error.URLError:
            if server.poll() is not None or time.monotonic() > last:
                raise
            time.sleep(0.05)


def main():
    port = free_port()
    command = [word.replace("PORT", str(port)) for word in sys.argv[1:]]
    command[0] = sys.executable if command[0] == "python" else command[0]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL) as server:
        try:
            print(ask(f"http://127.0.0.1:{port}/", server))
        finally:
            server.send_signal(signal.SIGINT)


main()
