"""docs/moving-from-uvloop.md: uvloop's names are pyloop's, by the package itself.

Where uvloop is installed, its names and its methods' parameters are read from it; what
the page says of them is tried wherever pyloop is.
"""

import asyncio
import inspect
import pathlib
import re
import socket
import subprocess
import sys
import types
import warnings

import pytest
import support

pytestmark = pytest.mark.pyloop_only

PAGE = pathlib.Path(support.PROJECT_DIR, "docs", "moving-from-uvloop.md")

#: A parameter of uvloop's that asyncio, and so pyloop, has from a version on.
LATER_IN_ASYNCIO = {
    "ssl_shutdown_timeout": (3, 11),
    "timeout": (3, 12),
    "cleanup_socket": (3, 13),
}
#: And one that asyncio has no longer.
REMOVED_IN_ASYNCIO = {"reuse_address": (3, 11)}
#: Positional parameters of other names than asyncio's.
ANOTHER_NAME = {"fileobj", "proto_factory", "buf", "bufs"}


@pytest.fixture
def pyloop():
    import pyloop

    return pyloop


@pytest.fixture(scope="module")
def uvloop():
    """The package, which has made what it makes once: a pipe, its policy's class."""
    package = pytest.importorskip("uvloop", reason="there is no uvloop to compare with")
    package.new_event_loop().close()
    with warnings.catch_warnings():  # from 3.14 on its policy's base is deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        hasattr(package, "EventLoopPolicy")
    return package


def public(holder):
    """The public names of a package or a module, but those of modules it imports."""
    names = {*dir(holder), *getattr(holder, "__all__", ())}
    return {
        name
        for name in names
        if not name.startswith("_")
        and not isinstance(getattr(holder, name), types.ModuleType)
    }


# --- beside uvloop itself -----------------------------------------------------------


def test_every_public_name_of_the_package_is_there(pyloop, uvloop):
    assert {"Loop", "install", "run"} <= public(uvloop)
    assert not [name for name in public(uvloop) if not hasattr(pyloop, name)]
    assert isinstance(pyloop.__version__, str)
    assert pyloop.loop.Loop is pyloop.Loop


def test_every_name_of_the_module_is_there_or_explained(pyloop, uvloop):
    unlike = set()
    for name in public(uvloop.loop):
        try:
            getattr(pyloop.loop, name)
        except AttributeError as error:
            assert "unlike uvloop.loop: " in str(error)
            unlike.add(name)
    assert not unlike & public(pyloop.loop)
    page = PAGE.read_text()
    documented = set(re.findall(r"`uvloop\.loop\.(\w+)(?:\(\))?`", page))
    assert set(pyloop.loop.__all__) <= documented


def loops(pyloop, uvloop):
    """A loop of each, whose attributes are what a program finds."""
    made = uvloop.new_event_loop(), pyloop.new_event_loop()
    for loop in made:
        loop.close()
    return made


def test_every_method_of_the_loop_is_there(pyloop, uvloop):
    theirs, ours = loops(pyloop, uvloop)
    names = [name for name in dir(theirs) if not name.startswith("_")]
    names = [name for name in names if hasattr(theirs, name)]
    assert "sock_recv" in names
    assert not [name for name in names if not hasattr(ours, name)]


TRANSPORTS = (
    "Handle",
    "ReadUnixTransport",
    "Server",
    "TCPTransport",
    "TimerHandle",
    "UDPTransport",
    "UVProcessTransport",
    "UnixTransport",
    "WriteUnixTransport",
)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_every_method_of_its_objects_is_there(pyloop, uvloop, name):
    theirs, ours = getattr(uvloop.loop, name), getattr(pyloop.loop, name)
    missing = public(theirs) - public(ours)
    # Each of uvloop's pipes has what both have; asyncio's have what they can do.
    other_way = {
        "ReadUnixTransport": {
            name
            for name in public(pyloop.loop.WriteUnixTransport)
            if "write" in name or name == "abort"
        },
        "WriteUnixTransport": {"is_reading", "pause_reading", "resume_reading"},
    }
    assert missing <= other_way.get(name, set())


def parameters(function):
    """A signature's parameters, or None of something without a signature."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def lacking(theirs, ours):
    """The parameters by name of a function of theirs that ours does not take."""
    expected, found = parameters(theirs), parameters(ours)
    if not expected or not found:
        return set()
    if any(given.kind == given.VAR_KEYWORD for given in found.values()):
        return set()
    by_name = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    return {n for n, given in expected.items() if given.kind in by_name} - set(found)


def explained(name):
    """Whether a parameter has another name, or none, in this Python's asyncio."""
    if name in ANOTHER_NAME:
        return True
    if name in LATER_IN_ASYNCIO:
        return sys.version_info < LATER_IN_ASYNCIO[name]
    return name in REMOVED_IN_ASYNCIO and sys.version_info >= REMOVED_IN_ASYNCIO[name]


def test_methods_take_what_asyncio_takes_of_uvloops_parameters(pyloop, uvloop):
    pairs = [(uvloop.Loop, pyloop.Loop)]
    pairs += [(getattr(uvloop.loop, n), getattr(pyloop.loop, n)) for n in TRANSPORTS]
    wrong = [
        (ours.__name__, name, parameter)
        for theirs, ours in pairs
        for name in sorted(public(theirs) & public(ours))
        for parameter in lacking(getattr(theirs, name), getattr(ours, name))
        if not explained(parameter)
    ]
    assert not wrong
    assert not lacking(uvloop.run, pyloop.run)


def test_the_page_names_every_parameter_that_differs():
    page = PAGE.read_text()
    for name in [*LATER_IN_ASYNCIO, *REMOVED_IN_ASYNCIO]:
        assert f"`{name}`" in page


# --- what the names are -------------------------------------------------------------


def test_the_number_of_libuv_is_that_of_its_text(pyloop):
    number = pyloop.loop.libuv_get_version()
    text = ".".join(str(number >> shift & 0xFF) for shift in (16, 8, 0))
    assert pyloop.libuv_version.partition("-")[0] == text


@pytest.mark.parametrize("name", ["libuv_get_loop_t_ptr", "UVHandle", "AddrInfo"])
def test_a_name_without_an_equivalent_says_why(pyloop, name):
    with pytest.raises(AttributeError, match=f"'{name}', unlike uvloop.loop: "):
        getattr(pyloop.loop, name)


def test_the_module_is_found_by_the_package(pyloop):
    """Imported for those who ask only; and nothing else is made up."""
    program = (
        "import sys, pyloop as uvloop; assert 'pyloop.loop' not in sys.modules\n"
        "assert uvloop.loop.Loop is uvloop.Loop and not hasattr(uvloop, 'no')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_name_that_neither_has(pyloop):
    with pytest.raises(AttributeError) as caught:
        pyloop.loop.no_such_name  # noqa: B018
    assert str(caught.value) == "module 'pyloop.loop' has no attribute 'no_such_name'"


def test_the_classes_are_those_of_what_a_loop_makes(pyloop, tmp_path):
    module = pyloop.loop

    async def main():
        loop = asyncio.get_running_loop()
        assert type(loop) is module.Loop
        handle = loop.call_soon(print)
        handle.cancel()
        assert type(handle) is module.Handle
        timer = loop.call_later(60, print)
        timer.cancel()
        assert type(timer) is module.TimerHandle

        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        assert isinstance(server, module.Server)
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(asyncio.Protocol, *address)
        assert type(transport) is module.TCPTransport
        assert type(transport.get_extra_info("socket")) is module.PseudoSocket
        transport.abort()
        server.close()

        ends = socket.socketpair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ends[0])
        assert type(transport) is module.UnixTransport
        transport.abort()
        ends[1].close()

        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        assert type(transport) is module.UDPTransport
        transport.abort()

        transport, _ = await loop.subprocess_exec(
            asyncio.SubprocessProtocol, sys.executable, "-c", "input()"
        )
        assert type(transport) is module.UVProcessTransport
        pipes = [transport.get_pipe_transport(number) for number in (0, 1)]
        assert type(pipes[0]) is module.WriteUnixTransport
        assert type(pipes[1]) is module.ReadUnixTransport
        assert type(pipes[0].get_protocol()) is module.WriteSubprocessPipeProto
        assert type(pipes[1].get_protocol()) is module.ReadSubprocessPipeProto
        transport.kill()
        await transport._wait()
        transport.close()
        await asyncio.sleep(0)

    pyloop.run(main())
