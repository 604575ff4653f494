"""Parameters: each public method takes what asyncio's of this Python version takes.

Names, kinds and defaults, as inspect.signature() tells them; and calls that make use of
the names, which C code has to be written for.
"""

import asyncio
import inspect
from asyncio import selector_events, unix_events

import pytest
import support
from streamkit import Recorder, connected, on_loop, pending, tcp_pair

pyloop = pytest.importorskip("pyloop", reason="the extension is not built")

from pyloop import _core  # noqa: E402

# Of each pair, every public method of asyncio's is compared.
OURS_AND_ASYNCIOS = [
    (pyloop.Loop, asyncio.SelectorEventLoop),
    (_core.Handle, asyncio.Handle),
    (_core.TimerHandle, asyncio.TimerHandle),
    (_core.SocketTransport, selector_events._SelectorSocketTransport),
    (_core.DatagramTransport, selector_events._SelectorDatagramTransport),
    (_core.ReadPipeTransport, unix_events._UnixReadPipeTransport),
    (_core.WritePipeTransport, unix_events._UnixWritePipeTransport),
]


def public_methods():
    for ours, asyncios in OURS_AND_ASYNCIOS:
        for name in dir(asyncios):
            if callable(getattr(asyncios, name)) and not name.startswith("_"):
                yield pytest.param(ours, asyncios, name, id=f"{ours.__name__}.{name}")


def parameters(method):
    """The parameters behind self: name, kind and default of each."""
    found = [*inspect.signature(method).parameters.values()][1:]
    return [(parameter.name, parameter.kind, parameter.default) for parameter in found]


@pytest.mark.parametrize(("ours", "asyncios", "name"), [*public_methods()])
def test_signatures_are_asyncios(ours, asyncios, name):
    found, known = (parameters(getattr(cls, name)) for cls in (ours, asyncios))
    if name == "create_task":  # what a version's Task takes, it takes
        assert [parameter[:2] for parameter in found] == [
            ("coro", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            ("kwargs", inspect.Parameter.VAR_KEYWORD),
        ]
    else:
        assert found == known


@pytest.mark.parametrize(
    "ours",
    [
        pytest.param(member, id=name)
        for name, member in vars(_core).items()
        if isinstance(member, type)
    ],
)
def test_what_is_public_says_what_it_does(ours):
    for name, member in vars(ours).items():
        if callable(member) and not name.startswith("_"):
            assert member.__doc__, name
            inspect.signature(member)


@on_loop
async def test_servers_are_asyncios_own(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    assert type(server) is asyncio.Server
    server.close()
    await server.wait_closed()


# --- calls by name ------------------------------------------------------------------


@on_loop
async def test_watching_by_name(loop):
    ready = []
    left, right = tcp_pair()
    with left, right:
        right.send(b"x")
        loop.add_reader(fd=left, callback=lambda: ready.append("read"))
        loop.add_writer(left, callback=lambda: ready.append("write"))
        await asyncio.sleep(0.001)
        assert {"read", "write"} <= set(ready)
        assert loop.remove_reader(fd=left) is True
        assert loop.remove_writer(fd=left) is True


@on_loop
async def test_writing_by_name(loop):
    async with connected() as (transport, _, peer):
        transport.write(data=b"one ")
        transport.writelines(list_of_data=[b"two ", b"three"])
        assert pending(peer) == b"one two three"
        other = Recorder()
        transport.set_protocol(protocol=other)
        assert transport.get_protocol() is other
        other.transport = transport
        transport.abort()
        await other.lost


@pytest.mark.parametrize(
    ("method", "given", "named"),
    [
        ("add_reader", (), {}),
        ("add_reader", (0,), {}),
        ("add_reader", (), {"fd": 0}),
        ("add_reader", (0, print), {"fd": 0}),
        ("add_reader", (0, print), {"context": None}),
        ("add_writer", (0, print), {"spelling": 1}),
        ("remove_reader", (), {}),
        ("remove_reader", (0, 1), {}),
        ("remove_reader", (0,), {"fd": 0}),
        ("remove_writer", (), {"file": 0}),
    ],
)
def test_wrong_arguments_of_the_loop(loop, method, given, named):
    with pytest.raises(TypeError):
        getattr(loop, method)(*given, **named)


@pytest.mark.parametrize(
    ("method", "given", "named"),
    [
        ("write", (), {}),
        ("write", (b"", b""), {}),
        ("write", (b"",), {"data": b""}),
        ("writelines", (), {"lines": []}),
        ("set_protocol", (), {}),
    ],
)
def test_wrong_arguments_of_a_transport(loop, method, given, named):
    async def main():
        async with connected() as (transport, _, _):
            with pytest.raises(TypeError):
                getattr(transport, method)(*given, **named)

    support.run(loop, main())
