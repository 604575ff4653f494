"""What `monitor.py --demo` probes: services on loopback, good, bad and dead ones.

Of ten targets four answer, three refuse, two take connections and say nothing, and one
does not even take them. They share a few ports, so that a thousand targets need no
more descriptors than the probes that are under way.
"""

import asyncio
import contextlib
import random
import socket

import monitor

# Out of ten targets.
SHARES = {"answers": 4, "refuses": 3, "silent": 2, "deaf": 1}
PORTS = 5  # of each of these
EXPECTED = {
    "answers": "up", "refuses": "refused", "silent": "silent", "deaf": "unreachable"
}  # fmt: skip


async def answer(reader, writer):
    """A service that is well."""
    writer.write(b"ready\r\n")
    with contextlib.suppress(ConnectionError):
        await reader.read()  # until the visitor hangs up
    writer.close()


async def say_nothing(reader, writer):
    """A service that hangs."""
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()


def closed_port(stack):
    """A port on which nothing listens; it is kept, so that nobody else takes it."""
    sock = stack.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    return sock.getsockname()[1]


def deaf_port(stack):
    """A listening port whose queue is full: the kernel answers nobody (on Linux)."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = listener.getsockname()
    for _ in range(3):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(address)
    return address[1]


class Targets:
    """Services of each kind; `all` has so many targets that lead to them."""

    def __init__(self, count):
        self.count = count
        self.stack = contextlib.ExitStack()
        self.servers = []
        self.all = []

    async def __aenter__(self):
        ports = {
            "answers": [await self._serve(answer) for _ in range(PORTS)],
            "refuses": [closed_port(self.stack) for _ in range(PORTS)],
            "silent": [await self._serve(say_nothing) for _ in range(PORTS)],
            "deaf": [deaf_port(self.stack) for _ in range(PORTS)],
        }
        kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
        for number in range(self.count):
            kind = kinds[number % len(kinds)]
            port = ports[kind][number // len(kinds) % PORTS]
            name = f"{kind}-{number:04}"
            self.all.append(monitor.Target(name, "127.0.0.1", port))
        random.Random(1).shuffle(self.all)
        self.first_port = ports["answers"][0]
        return self

    async def _serve(self, handler):
        server = await asyncio.start_server(handler, "127.0.0.1", 0, backlog=1000)
        self.servers.append(server)
        return server.sockets[0].getsockname()[1]

    def stop_one(self):
        """One of the ports that answered refuses from now on."""
        self.servers[0].close()

    async def __aexit__(self, *exc_info):
        for server in self.servers:
            server.close()
            await server.wait_closed()
        self.stack.close()

    def expected(self):
        """What the first round and the second have to find: name: status, of each."""
        first = {
            target.name: EXPECTED[target.name.partition("-")[0]] for target in self.all
        }
        stopped = {t.name: "refused" for t in self.all if t.port == self.first_port}
        return first, {**first, **stopped}


async def run(options):
    """Two rounds, a service being stopped between them; return the exit status."""
    options.rounds, options.interval = 2, 0.001
    options.expect, options.send = "ready", None
    async with Targets(options.demo) as targets:
        first, second = targets.expected()
        watched = monitor.Monitor(targets.all, options)
        seen = []

        def between():
            seen.append({name: r.status for name, r in watched.results.items()})
            targets.stop_one()

        if not await monitor.watch(watched, options, between):
            return 0
        seen.append({name: r.status for name, r in watched.results.items()})
    if seen != [first, second]:
        print("the services are not what they were found to be")
        return 1
    print("every probe found what is there")
    return 0
