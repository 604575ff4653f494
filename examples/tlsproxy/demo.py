"""What `proxy.py --demo` does: certificates, servers, and four proxies in turn.

Each is asked by many clients at a time to have their bytes echoed, then for a flood
that the client takes slowly. The openssl program makes the certificate, for this once.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import ssl
import tempfile

import proxy

CLIENTS = 20
MESSAGES = 10  # of each, up to so many bytes
LONGEST = 200_000
FLOOD = 64 << 20
SOME = 32 << 20  # far above all buffers on the way: the kernel's, and the proxy's


async def make_certificate(folder):
    """Make a key and a certificate for localhost that signs itself; return its path."""
    path = os.path.join(folder, "both.pem")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
        "-days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    )
    process = await asyncio.create_subprocess_exec(
        *command.split(), "-keyout", path, "-out", path + ".crt",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(errors.decode())
    with open(path + ".crt") as certificate, open(path, "a") as both:
        both.write(certificate.read())
    return path


class Upstream:
    """The server behind the proxies: echoes, floods, and knows what half-closed is."""

    async def start(self, tls):
        """Listen, on two ports; return them: (echo, flood)."""
        self.flooded = 0
        self.servers = [
            await asyncio.start_server(handler, "127.0.0.1", 0, ssl=tls)
            for handler in (self.echo, self.flood)
        ]
        return [server.sockets[0].getsockname()[1] for server in self.servers]

    async def echo(self, reader, writer):
        """Send all back; at the client's end how much it was, if that can be said."""
        total = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                total += len(data)
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write(f"{total} bytes".encode())
        await close(writer)

    async def flood(self, reader, writer):
        """Send more than anybody has room for."""
        piece = b"x" * 65536
        with contextlib.suppress(ConnectionError):
            for _ in range(FLOOD // len(piece)):
                writer.write(piece)
                await writer.drain()
                self.flooded += len(piece)
        await close(writer)

    async def stop(self):
        for server in self.servers:
            server.close()
            await server.wait_closed()


async def close(writer):
    """Close, whatever the other side has done."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def converse(port, tls, number):
    """Have bytes echoed; return how many, and whether the end was passed on alone."""
    chance = random.Random(number)
    name = {"server_hostname": "localhost"} if tls else {}
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, **name)
    total = 0
    for _ in range(MESSAGES):
        message = chance.randbytes(chance.randint(1, LONGEST))
        writer.write(message)
        answer = await reader.readexactly(len(message))
        assert hashlib.sha256(answer).digest() == hashlib.sha256(message).digest()
        total += len(message)
    rest = b""
    if writer.can_write_eof():
        writer.write_eof()
        rest = await reader.read()
    await close(writer)
    return total, rest == f"{total} bytes".encode()


async def be_flooded(port, tls, upstream):
    """Take a flood slowly; return how far it was ahead at most."""
    name = {"server_hostname": "localhost"} if tls else {}
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, **name)
    upstream.flooded = taken = ahead = 0
    while data := await reader.read(65536):
        taken += len(data)
        ahead = max(ahead, upstream.flooded - taken)
        await asyncio.sleep(0)
    await close(writer)
    assert taken == FLOOD
    return ahead


async def try_one(name, options, tls_in, tls_out):
    """Run servers, a proxy and clients; print what came of it."""
    server_tls, client_tls = options.contexts
    upstream = Upstream()
    echo, flood = await upstream.start(server_tls if tls_out else None)
    front = [server_tls if tls_in else None, client_tls if tls_out else None]
    ask = client_tls if tls_in else None
    proxies = []
    try:
        ports = []
        for port in echo, flood:
            proxies.append(proxy.Proxy(("localhost", port), options, *front))
            ports.append(await proxies[-1].start("127.0.0.1", 0))
        done = await asyncio.gather(
            *(converse(ports[0], ask, number) for number in range(CLIENTS))
        )
        ahead = await be_flooded(ports[1], ask, upstream)
    finally:
        for one in proxies:
            await one.stop(grace=10.0)
        await upstream.stop()
    total = sum(count for count, _ in done)
    halves = sum(half for _, half in done)
    assert proxies[0].up == total and proxies[1].down == FLOOD
    assert not any(one.failed or one.refused or one.broken for one in proxies)
    held = "held back" if ahead < SOME else f"NOT held back: {ahead} bytes ahead"
    print(f"{name}: {total} bytes echoed, {halves} half-closed; the flood was {held}")
    return ahead < SOME


async def run(options):
    """Try each kind of proxy; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        path = await make_certificate(folder)
        server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_tls.load_cert_chain(path)
        client_tls = ssl.create_default_context(cafile=path + ".crt")
    options.contexts = server_tls, client_tls
    right = True
    for name, tls_in, tls_out in (
        ("plain to plain", False, False),
        ("TLS to plain", True, False),
        ("plain to TLS", False, True),
        ("TLS to TLS", True, True),
    ):
        right &= await try_one(name, options, tls_in, tls_out)
    return 0 if right else 1
