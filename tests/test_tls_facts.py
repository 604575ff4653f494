"""What an SSLProtocol has in its dict, changed while a connection is in use.

C code remembers what it found there. Each test first lets it find everything, by some
data both ways, then changes something, and sees that the change counts.
"""

import contextlib

import pytest
import support
from streamkit import PY, BufferedRecorder, Recorder, on_loop, pattern, settle, until
from tlskit import connected, sslproto_of

pytestmark = pytest.mark.skipif(
    PY < (3, 11), reason="asyncio.sslproto is another program there: C code stays out"
)

EXCHANGES = 3


@contextlib.asynccontextmanager
async def used(loop, certificates, factory=Recorder):
    """A connection over which data went both ways."""
    async with connected(loop, certificates, factory) as (transport, protocol, peer):
        for n in range(1, EXCHANGES + 1):
            peer.send_raw(peer.records(b"in"))
            await until(lambda n=n: protocol.data == b"in" * n, "data")
            transport.write(b"out")
            await peer.got(b"out" * n)
        protocol.data.clear()
        peer.data.clear()
        yield transport, protocol, peer


async def exchange(transport, protocol, peer):
    """Both directions work."""
    protocol.data.clear()
    peer.data.clear()
    peer.send_raw(peer.records(b"to it"))
    await until(lambda: protocol.data == b"to it", "data")
    transport.write(b"from it")
    await peer.got(b"from it")


@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
@on_loop
async def test_another_protocol(loop, certificates, factory):
    async with used(loop, certificates) as (transport, first, peer):
        second = factory()
        transport.set_protocol(second)
        await exchange(transport, second, peer)
        assert not first.data
        transport.set_protocol(first)
        await exchange(transport, first, peer)


@on_loop
async def test_reading_is_paused_again_and_again(loop, certificates):
    async with used(loop, certificates) as (transport, protocol, peer):
        for _ in range(5):
            transport.pause_reading()
            protocol.data.clear()
            peer.send_raw(peer.records(b"wait"))
            await settle(loop)
            assert not protocol.data
            transport.resume_reading()
            await until(lambda: protocol.data == b"wait", "data")


@on_loop
async def test_limits_count_at_once(loop, certificates):
    async with used(loop, certificates) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=100, low=0)
        protocol.calls.clear()
        with contextlib.closing(peer.sock):
            for n in range(200):
                transport.write(pattern(10_000, n))
                if ("pause_writing",) in protocol.calls:
                    break
            assert ("pause_writing",) in protocol.calls
            transport.abort()
            await settle(loop)


@pytest.mark.parametrize(
    "name", ["buffer_updated", "_do_read", "_write_appdata", "_do_write"]
)
@on_loop
async def test_a_function_of_its_own(loop, certificates, name):
    async with used(loop, certificates) as (transport, protocol, peer):
        sslproto = sslproto_of(transport)
        original = getattr(sslproto, name)
        calls = []

        def instead(*args):
            calls.append(name)
            return original(*args)

        setattr(sslproto, name, instead)
        await exchange(transport, protocol, peer)
        assert calls
        delattr(sslproto, name)
        calls.clear()
        await exchange(transport, protocol, peer)
        assert not calls


def pause(sslproto, times):
    """Ends with True; so often that the interpreter has made its stores fast ones."""
    for n in range(times):
        sslproto._app_reading_paused = n % 2 == 1


@on_loop
async def test_attributes_stored_by_fast_instructions(loop, certificates):
    async with used(loop, certificates) as (transport, protocol, peer):
        sslproto = sslproto_of(transport)
        for _ in range(3):
            pause(sslproto, 1000)
            protocol.data.clear()
            peer.send_raw(peer.records(b"wait"))
            await settle(loop)
            assert not protocol.data
            sslproto._app_reading_paused = False
            peer.send_raw(peer.records(b"more"))
            await until(lambda: protocol.data == b"waitmore", "data")


@on_loop
async def test_another_dict(loop, certificates):
    async with used(loop, certificates) as (transport, first, peer):
        sslproto = sslproto_of(transport)
        old = sslproto.__dict__
        sslproto.__dict__ = dict(old)
        await exchange(transport, first, peer)
        second = Recorder()
        transport.set_protocol(second)
        await exchange(transport, second, peer)
        third = Recorder()
        old["_app_protocol"] = third
        await exchange(transport, second, peer)
        sslproto.__dict__ = old
        transport.set_protocol(third)  # which transport was given it is known by class
        await exchange(transport, third, peer)


@pytest.mark.parametrize("how", ["update", "pop", "setdefault", "or"])
@on_loop
async def test_a_dict_changed_by_its_methods(loop, certificates, how):
    async with used(loop, certificates) as (transport, first, peer):
        attributes = sslproto_of(transport).__dict__
        second = Recorder()
        if how == "update":
            attributes.update(_app_protocol=second)
        elif how == "pop":
            assert attributes.pop("_app_protocol") is first
            attributes["_app_protocol"] = second
        elif how == "setdefault":
            del attributes["_app_protocol"]
            attributes.setdefault("_app_protocol", second)
        else:
            attributes |= {"_app_protocol": second}
        del first
        await exchange(transport, second, peer)


@on_loop
async def test_a_protocol_that_has_lost_everything(loop, certificates):
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))
    async with used(loop, certificates) as (transport, _protocol, peer):
        sslproto = sslproto_of(transport)
        kept = dict(sslproto.__dict__)
        sslproto.__dict__.clear()
        peer.send_raw(peer.records(b"data"))
        await until(lambda: told, "an error")
        with pytest.raises(AttributeError):
            transport.write(b"data")
        sslproto.__dict__.update(kept)
    assert all(isinstance(exc, AttributeError) for exc in told)


@on_loop
async def test_another_ssl_object_inside(loop, certificates):
    class Counting:
        def __init__(self, real):
            self.real, self.calls = real, []

        def __getattr__(self, name):
            self.calls.append(name)
            return getattr(self.real, name)

    async with used(loop, certificates) as (transport, protocol, peer):
        tls = transport.get_extra_info("ssl_object")
        tls._sslobj = between = Counting(tls._sslobj)
        await exchange(transport, protocol, peer)
        assert {"read", "write"} <= set(between.calls)
        tls._sslobj = between.real
        between.calls.clear()
        await exchange(transport, protocol, peer)
        assert not between.calls


@on_loop
async def test_two_connections_do_not_mix(loop, certificates):
    async with (
        used(loop, certificates) as (transport, protocol, peer),
        used(loop, certificates) as (transport2, protocol2, peer2),
    ):
        for _ in range(3):
            transport.pause_reading()
            await exchange(transport2, protocol2, peer2)
            transport.resume_reading()
            await exchange(transport, protocol, peer)


WITHOUT_WATCHERS = """
import ctypes

kind = ctypes.PYFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)
callback = kind(lambda event, dict, key, value: 0)
taken = 0
try:
    while True:
        ctypes.pythonapi.PyDict_AddWatcher(callback)
        taken += 1
except RuntimeError:
    assert taken > 0

import asyncio, pyloop, ssl, sys

async def answer(reader, writer):
    while line := await reader.readline():
        writer.write(line)
        writer.write(line)

async def main(ca, chain, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    address = server.sockets[0].getsockname()
    trust = ssl.create_default_context(cafile=ca)
    reader, writer = await asyncio.open_connection(
        *address, ssl=trust, server_hostname="localhost"
    )
    for n in range(50):
        line = b"%d\\n" % n
        writer.write(line)
        assert await reader.readexactly(2 * len(line)) == 2 * line
    writer.close()
    await writer.wait_closed()
    server.close()

pyloop.run(main(*sys.argv[1:]))
print("done")
"""


@pytest.mark.pyloop_only
@pytest.mark.skipif(PY < (3, 12), reason="dicts have no watchers there")
def test_no_watcher_is_left_for_pyloop(certificates):
    """Others have them all; TLS works without."""
    files = certificates.ca_path, certificates.chain_path, certificates.key_path
    assert support.run_script(WITHOUT_WATCHERS, *files).stdout == "done\n"
