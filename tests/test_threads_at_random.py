"""Random calls from several threads on what belongs to one loop.

asyncio forbids nearly all of them. None may crash, or corrupt the core's structures:
each works or raises, and afterwards the loop runs and closes as ever. A seed chooses
the calls; how the threads' calls fall together is chance.
"""

import asyncio
import contextlib
import functools
import logging
import random
import socket

import pytest
import support
from support import run_once
from test_free_threading import beside, in_threads

pytestmark = pytest.mark.pyloop_only

THREADS = 3
CALLS = 400


def at_random(seed, choices, calls=CALLS):
    """Make calls, of choices(rng) each; they work or are refused."""
    rng = random.Random(seed)
    for _ in range(calls):
        call = rng.choice(choices(rng))
        with contextlib.suppress(RuntimeError, OSError, ValueError):
            call()


class Anything(asyncio.Protocol, asyncio.DatagramProtocol):
    """Of a transport that may be of either kind, and is not listened to."""


# --- the calls ----------------------------------------------------------------


class Handles:
    """The newest of the handles that the threads make."""

    def __init__(self, loop):
        self.loop = loop
        self.places = [loop.call_soon(int) for _ in range(20)]

    def calls(self, rng):
        loop = self.loop
        place = rng.randrange(len(self.places))
        handle = self.places[place]

        def keep(make, *args):
            self.places[place] = make(*args)

        return [
            lambda: keep(loop.call_soon, int),
            lambda: keep(loop.call_later, rng.random() / 1000, int),
            lambda: keep(loop.call_soon_threadsafe, int),
            handle.cancel,
            handle.cancelled,
            handle._run,
            lambda: (repr(handle), handle._callback, handle._args, handle._context),
            lambda: (repr(loop), len(loop._ready), loop._scheduled),
        ]


def calls_of_descriptors(loop, socks, rng):
    sock = rng.choice(socks)
    return [
        lambda: loop.add_reader(sock, int),
        lambda: loop.add_writer(sock, int),
        lambda: loop.remove_reader(sock),
        lambda: loop.remove_writer(sock),
    ]


def calls_of_all_transports(transport, rng):
    return [
        lambda: transport.get_extra_info("socket").fileno(),
        lambda: transport.set_write_buffer_limits(rng.randrange(1000)),
        lambda: transport.set_protocol(Anything()),
        lambda: (repr(transport), transport.get_write_buffer_size()),
        lambda: (transport.is_closing(), transport.is_reading()),
        transport.pause_reading,
        transport.resume_reading,
        rng.choice([transport.get_protocol, transport.close, transport.abort]),
    ]


def calls_of_streams(transport, rng):
    return [
        lambda: transport.write(bytes(rng.choice([1, 100, 100_000]))),
        lambda: transport.writelines([b"ab", b"c"]),
        rng.choice([transport.can_write_eof, transport.write_eof]),
        *calls_of_all_transports(transport, rng),
    ]


def calls_of_endpoints(transport, rng):
    return [
        lambda: transport.sendto(bytes(rng.choice([1, 100, 10_000]))),
        lambda: transport.sendto(b"x", ("127.0.0.1", 9)),
        *calls_of_all_transports(transport, rng),
    ]


class Connections:
    """Makes transports and closes them, again and again, until it is told to end."""

    def __init__(self, loop):
        self.loop = loop
        self.streams = []
        self.endpoints = []
        self.ended = False

    def calls(self, rng):
        return [
            call
            for transports, calls_of in (
                (self.streams, calls_of_streams),
                (self.endpoints, calls_of_endpoints),
            )
            for transport in [*transports]
            for call in calls_of(transport, rng)
        ]

    async def endpoint(self):
        transport, _ = await self.loop.create_datagram_endpoint(
            Anything, ("127.0.0.1", 0), ("127.0.0.1", 9)
        )
        return transport

    async def stream(self, sock):
        return (await self.loop.create_connection(Anything, sock=sock))[0]

    async def run(self):
        while not self.ended:
            self.streams = [await self.stream(sock) for sock in socket.socketpair()]
            self.endpoints = [await self.endpoint()]
            for _ in range(20):
                await asyncio.sleep(0)
            for transport in (*self.streams, *self.endpoints):
                transport.abort()
        self.streams = self.endpoints = ()


# --- the tests ----------------------------------------------------------------


def unexpected_errors(asyncio_log):
    """What was logged, but for a handle that two threads run: it has one context."""
    return [
        line
        for line in asyncio_log.take(logging.ERROR)
        if "cannot enter context" not in f"{line.text} {line.exception_text}"
    ]


@pytest.mark.parametrize("seed", range(4))
def test_anything_from_any_thread(loop, seed, asyncio_log):
    handles = Handles(loop)
    connections = Connections(loop)
    pairs = [socket.socketpair() for _ in range(2)]
    socks = [sock for pair in pairs for sock in pair]

    def choices(rng):
        return [
            loop.close,  # refused: it runs
            *handles.calls(rng),
            *calls_of_descriptors(loop, socks, rng),
            *connections.calls(rng),
        ]

    making = loop.create_task(connections.run())
    beside(
        loop,
        *(functools.partial(at_random, f"{seed} {n}", choices) for n in range(THREADS)),
    )
    connections.ended = True
    support.run(loop, making)
    assert unexpected_errors(asyncio_log) == []
    for sock in socks:
        loop.remove_reader(sock)
        loop.remove_writer(sock)
        sock.close()
    handles.places.clear()
    run_once(loop)


def test_close_while_other_threads_call(loop_kind, asyncio_log):
    """Who comes too late is told that the loop is closed, whatever it calls."""

    def one(number, near, far):
        loop = support.make_loop(loop_kind)
        handles = Handles(loop)

        def run():
            with contextlib.suppress(RuntimeError):
                loop.run_forever()

        def close():
            while not loop.is_closed():
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(loop.stop)
                    loop.close()

        def choices(rng):
            return [
                loop.create_future,
                *handles.calls(rng),
                *calls_of_descriptors(loop, [near, far], rng),
            ]

        in_threads(run, close, close, lambda: at_random(number, choices, calls=60))
        with pytest.raises(RuntimeError, match="^Event loop is closed$"):
            loop.call_soon(int)

    with support.socket_pair() as (near, far):
        for number in range(25):
            one(number, near, far)
    assert unexpected_errors(asyncio_log) == []
