"""The published types: mypy on programs, stubtest.

mypy judges every version of Python that is supported from any of them; stubtest
compares the stub with the extension of the version that runs.
"""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

pyloop = pytest.importorskip("pyloop", reason="the extension is not built")

TREE = os.path.dirname(os.path.dirname(os.path.abspath(pyloop.__file__)))
VERSIONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]

needs_mypy = pytest.mark.skipif(
    importlib.util.find_spec("mypy") is None,
    reason="mypy is not installed; the extra 'test' of pyproject.toml has it",
)

# Each line that ends in "# E: CODE" is an error of that code, and the only one.
PROGRAM = """
import asyncio
import socket
from asyncio import AbstractServer, BaseProtocol, Future, Handle, Task, TimerHandle
from typing import Any

from typing_extensions import assert_type

import pyloop
from pyloop import EventLoopPolicy, Loop


def no_arguments() -> None: ...
def two_arguments(number: int, text: str) -> bool: return True


async def answer() -> int:
    return 42


def public_names() -> None:
    assert_type(pyloop.__version__, str)
    assert_type(pyloop.libuv_version, str)
    assert_type(pyloop.new_event_loop(), Loop)
    assert_type(pyloop.run(answer()), int)
    assert_type(pyloop.run(answer(), debug=True), int)
    pyloop.run(answer)  # E: arg-type
    pyloop.install()
    policy: asyncio.AbstractEventLoopPolicy = EventLoopPolicy()
    loop: asyncio.BaseEventLoop = Loop()


def scheduling(loop: Loop) -> None:
    handle: Handle = loop.call_soon(no_arguments)
    timer: TimerHandle = loop.call_later(1, two_arguments, 1, "one")
    timer = loop.call_at(loop.time() + 1.5, two_arguments, 1, "one", context=None)
    handle = loop.call_soon_threadsafe(two_arguments, 1, "one")
    assert_type(timer.when(), float)
    assert_type(handle.cancelled(), bool)
    loop.call_soon(no_arguments, 1)  # E: arg-type
    loop.call_soon(two_arguments, "one", 1)  # E: arg-type
    loop.call_soon(two_arguments, 1)  # E: arg-type
    loop.call_later("soon", no_arguments)  # E: arg-type
    loop.call_at(1.0, no_arguments).deadline  # E: attr-defined


def tasks(loop: Loop) -> None:
    assert_type(loop.create_future(), "Future[Any]")
    assert_type(loop.create_task(answer()), Task[int])
    assert_type(loop.create_task(answer(), name="answer"), Task[int])
    assert_type(loop.run_until_complete(answer()), int)


def descriptors(loop: Loop, sock: socket.socket) -> None:
    loop.add_reader(sock, no_arguments)
    loop.add_writer(0, two_arguments, 1, "one")
    assert_type(loop.remove_reader(sock), bool)
    assert_type(loop.remove_writer(0), bool)
    loop.add_reader("stdin", no_arguments)  # E: arg-type
    loop.add_reader(0, two_arguments, 1)  # E: arg-type


def signals(loop: Loop) -> None:
    loop.add_signal_handler(15, two_arguments, 1, "one")
    loop.add_signal_handler(15, two_arguments)  # E: arg-type
    assert_type(loop.remove_signal_handler(15), bool)


async def sockets(loop: Loop, sock: socket.socket) -> None:
    assert_type(await loop.sock_recv(sock, 10), bytes)
    assert_type(await loop.sock_recv_into(sock, bytearray(10)), int)
    assert_type(await loop.sock_recvfrom(sock, 10), tuple[bytes, Any])
    assert_type(await loop.sock_sendto(sock, b"x", ("::1", 1)), int)
    connection, address = await loop.sock_accept(sock)
    assert_type(connection, socket.socket)
    task = loop.create_task(loop.sock_recv(sock, 10))
    assert_type(task, Task[bytes])
    assert_type(await asyncio.wait_for(loop.sock_recv(sock, 10), 1), bytes)
    await asyncio.gather(loop.sock_sendall(sock, b"x"), loop.sock_connect(sock, "x"))
    await loop.sock_sendall(sock, "text")  # E: arg-type


async def datagrams(loop: Loop) -> None:
    transport, protocol = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("::1", 0), allow_broadcast=True
    )
    assert_type(transport, asyncio.DatagramTransport)
    assert_type(protocol, asyncio.DatagramProtocol)
    transport.sendto(b"x", ("::1", 1))
    transport.sendto("text")  # E: arg-type


async def names(loop: Loop) -> None:
    for family, kind, proto, canonical, address in await loop.getaddrinfo("::1", 80):
        assert_type(canonical, str)
    assert_type(await loop.getnameinfo(("::1", 80)), tuple[str, str])
    await loop.getaddrinfo("::1")  # E: call-arg


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")


async def streams(loop: Loop) -> None:
    server: AbstractServer = await loop.create_server(Echo, "::1", 0)
    transport, protocol = await loop.create_connection(Echo, "::1", 80)
    assert_type(transport, asyncio.Transport)
    assert_type(protocol, Echo)
    server = await loop.create_unix_server(Echo, "path")
    transport, protocol = await loop.create_unix_connection(Echo, "path")
    assert_type(protocol, Echo)
    await loop.create_unix_server(Echo, "path", spelling=1)  # E: call-arg
"""

# Of the version that it names on: what older versions do not have.
LATER = {
    "3.11": "with asyncio.Runner(loop_factory=pyloop.new_event_loop) as runner: ...\n",
    "3.12": "asyncio.run(answer(), loop_factory=pyloop.new_event_loop)\n"
    "asyncio.run(answer(), loop_factory=pyloop.Loop)\n",
}


def run_module(name, *arguments, cwd):
    """The output and the status of `python -m name arguments`; it finds pyloop."""
    done = subprocess.run(
        [sys.executable, "-m", name, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "MYPYPATH": TREE, "PYTHONPATH": TREE},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout, done.returncode


@pytest.fixture(scope="session")
def mypy_cache(tmp_path_factory):
    """A cache that the runs of mypy share, outside of the tree."""
    return tmp_path_factory.mktemp("mypy-cache")


def marked_errors(text):
    """The line numbers and codes of the errors that a program's marks announce."""
    return {
        (number, mark[1])
        for number, line in enumerate(text.splitlines(), 1)
        if (mark := re.search(r"# E: ([\w-]+)$", line))
    }


@needs_mypy
@pytest.mark.limit(300)
@pytest.mark.parametrize("version", VERSIONS)
def test_programs_and_the_package_are_typed(version, tmp_path, mypy_cache):
    text = PROGRAM + "".join(
        added
        for since, added in LATER.items()
        if VERSIONS.index(since) <= VERSIONS.index(version)
    )
    (tmp_path / "program.py").write_text(text)
    output, status = run_module(
        "mypy",
        "--strict",
        f"--python-version={version}",
        f"--cache-dir={mypy_cache}",
        "program.py",
        os.path.join(TREE, "pyloop"),
        cwd=tmp_path,
    )
    found = re.findall(r"^(.+):(\d+): error: .*\[([\w-]+)\]$", output, re.M)
    expected = {("program.py", line, code) for line, code in marked_errors(text)}
    assert status == 1, output
    assert {(path, int(line), code) for path, line, code in found} == expected, output


@needs_mypy
@pytest.mark.limit(300)
def test_the_stub_is_what_the_extension_has(tmp_path):
    output, status = run_module("mypy.stubtest", "pyloop", cwd=tmp_path)
    assert status == 0, output
