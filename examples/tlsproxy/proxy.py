"""Take TLS (or plain) connections and pass them on to another server.

    python proxy.py 0.0.0.0:8443 127.0.0.1:8080 --cert chain.pem --key key.pem
    python proxy.py 127.0.0.1:5432 db.example.org:5432 --upstream-tls
    python proxy.py --demo

With --cert the clients speak TLS, which ends here; with --upstream-tls the connection
to the server is TLS (--upstream-ca names who is trusted, otherwise the system's). With
neither it is a TCP proxy. SIGHUP reads the certificate again, for connections from then
on; SIGINT and SIGTERM let connections go on for --grace seconds.
"""

import argparse
import asyncio
import contextlib
import signal
import socket
import ssl
import sys

PIECE = 64 * 1024  # bytes that are read at a time
HIGH = 64 * 1024  # bytes that may wait to be written, each way


class Proxy:
    """Passes connections on, a bounded number at a time; counts what it does."""

    def __init__(self, target, options, server_tls=None, client_tls=None):
        self.target = target  # (host, port)
        self.options = options
        self.server_tls = server_tls  # ssl.SSLContext or None
        self.client_tls = client_tls
        self.tasks = set()
        self.closing = False
        self.taken = self.refused = self.failed = self.broken = 0
        self.up = self.down = 0  # bytes to the server, and from it

    async def start(self, host, port):
        """Listen; return the port."""
        tls = {}
        if self.server_tls is not None:
            tls = {
                "ssl": self.server_tls,
                "ssl_handshake_timeout": self.options.timeout,
            }
        self.server = await asyncio.start_server(
            self.serve, host, port, limit=PIECE, backlog=1000, **tls
        )
        return self.server.sockets[0].getsockname()[1]

    async def stop(self, grace):
        """Take nobody any more; end, in so many seconds at most."""
        self.closing = True
        self.server.close()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=grace)
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        """Pass one connection on until both sides have ended."""
        task = asyncio.current_task()
        self.tasks.add(task)
        try:
            if len(self.tasks) > self.options.connections:
                self.refused += 1
                return
            self.taken += 1
            await self.connect_and_pass(reader, writer)
        except asyncio.CancelledError:
            if not self.closing:
                raise
        finally:
            self.tasks.discard(task)
            await self.close(writer)

    async def connect_and_pass(self, reader, writer):
        """Connect to the server, and pass on both ways."""
        host, port = self.target
        tls = {}
        if self.client_tls is not None:
            tls = {"ssl": self.client_tls, "server_hostname": host}
        try:
            server_reader, server_writer = await asyncio.wait_for(
                asyncio.open_connection(host, port, limit=PIECE, **tls),
                self.options.timeout,
            )
        except (OSError, asyncio.TimeoutError) as error:
            self.failed += 1
            print(f"{host}:{port}: {error or 'timed out'}", file=sys.stderr, flush=True)
            return
        for end in writer, server_writer:
            end.transport.set_write_buffer_limits(high=HIGH)
            sock = end.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = [
            asyncio.ensure_future(self.pump(reader, writer, server_writer, "up")),
            asyncio.ensure_future(
                self.pump(server_reader, server_writer, writer, "down")
            ),
        ]
        try:
            await self.both(ways)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await self.close(server_writer)

    async def both(self, ways):
        """Wait until both ways have ended, or one so that the other is of no use."""
        waiting = set(ways)
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, return_when=asyncio.FIRST_COMPLETED
            )
            for way in done:
                error = way.exception()
                if isinstance(error, (OSError, asyncio.TimeoutError)):
                    self.broken += 1
                    return
                if error is not None:
                    raise error
                if not way.result():
                    return

    async def pump(self, reader, source, writer, count):
        """Pass on one way until its end; return whether the other way can go on.

        reader and source: of the side that is read; writer: of the other.

        No more is read while the other side does not take what was read before: so who
        sends is held back by TCP, and nothing piles up here.
        """
        timeout = self.options.idle
        while True:
            data = await asyncio.wait_for(reader.read(PIECE), timeout)
            if not data:
                break
            setattr(self, count, getattr(self, count) + len(data))
            writer.write(data)
            await asyncio.wait_for(writer.drain(), timeout)
        # TLS, in asyncio, closes both ways at once; without it, what is half-closed on
        # one side is half-closed on the other.
        if writer.can_write_eof():
            writer.write_eof()
            return source.can_write_eof()
        return False

    async def close(self, writer):
        """Close, with what is still to be written, in --timeout seconds."""
        writer.close()
        try:
            await asyncio.wait_for(writer.wait_closed(), self.options.timeout)
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError):
            writer.transport.abort()


# -- the program -------------------------------------------------------------------


def contexts(options):
    """The contexts for clients and for the server; OSError if a file is none."""
    server_tls = client_tls = None
    if options.cert is not None:
        server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load(server_tls, options)
    if options.upstream_tls:
        client_tls = ssl.create_default_context(cafile=options.upstream_ca)
    return server_tls, client_tls


def load(context, options):
    """Read the certificate and its key."""
    context.load_cert_chain(options.cert, options.key)


async def run(options, server_tls, client_tls):
    """Pass on until a signal comes; return the exit status."""
    loop = asyncio.get_running_loop()
    stopped = loop.create_future()

    def stop(number):
        if not stopped.done():
            stopped.set_result(number)

    def reload():
        try:
            load(server_tls, options)
        except OSError as error:  # an ssl.SSLError is one: the old one stays
            print(f"{options.cert}: {error}", file=sys.stderr, flush=True)
        else:
            print("the certificate was read again", flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    if server_tls is not None:
        loop.add_signal_handler(signal.SIGHUP, reload)
    proxy = Proxy(options.target, options, server_tls, client_tls)
    try:
        port = await proxy.start(*options.listen)
    except OSError as error:
        print(f"proxy.py: {error}", file=sys.stderr)
        return 1
    print(f"{options.listen[0]}:{port} -> {options.target[0]}:{options.target[1]}")
    sys.stdout.flush()
    name = signal.Signals(await stopped).name
    await proxy.stop(options.grace)
    print(
        f"stopped by {name}: {proxy.taken} connections, {proxy.up} bytes up, "
        f"{proxy.down} bytes down; {proxy.refused} refused, {proxy.failed} without a "
        f"server, {proxy.broken} broken off"
    )
    return 0


def address(text):
    """A type of argument: HOST:PORT."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    if not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: {port!r} is no port")
    return host, int(port)


def above_0(convert):
    """A type of argument: a number of that kind above 0."""

    def parse(text):
        number = convert(text)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return number

    parse.__name__ = convert.__name__
    return parse


def arguments():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("listen", type=address, nargs="?", metavar="LISTEN", help="HOST:PORT to take")
    add(
        "target",
        type=address,
        nargs="?",
        metavar="TARGET",
        help="HOST:PORT of a server",
    )
    add("--cert", help="a certificate and its chain, in PEM: take TLS")
    add("--key", help="its key, if that is in a file of its own")
    add("--upstream-tls", action="store_true", help="speak TLS to the server")
    add("--upstream-ca", help="certificates in PEM, one of which is to have signed its")
    add("--connections", type=above_0(int), default=1000, help="at a time")
    seconds = {"type": above_0(float), "metavar": "SECONDS"}
    add(
        "--timeout",
        default=10.0,
        help="to connect, to shake hands, to close",
        **seconds,
    )
    add("--idle", default=300.0, help="without a byte, after which it ends", **seconds)
    add("--grace", default=5.0, help="for connections after a signal", **seconds)
    add("--demo", action="store_true", help="pass on to servers of its own")
    return parser


def main():
    """Read the arguments and pass on."""
    parser = arguments()
    options = parser.parse_args()
    if options.demo:
        if options.listen is not None:
            parser.error("--demo has addresses of its own")
        import demo

        return asyncio.run(demo.run(options))
    if options.target is None:
        parser.error("two addresses are needed, LISTEN and TARGET, or --demo")
    if options.key is not None and options.cert is None:
        parser.error("--key without --cert")
    if options.upstream_ca is not None and not options.upstream_tls:
        parser.error("--upstream-ca without --upstream-tls")
    try:
        pair = contexts(options)
    except OSError as error:
        names = ", ".join(
            filter(None, (options.cert, options.key, options.upstream_ca))
        )
        parser.error(f"{names}: {error}")
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(run(options, *pair))
    return 1


if __name__ == "__main__":
    sys.exit(main())
