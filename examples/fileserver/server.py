"""Serve the files of a folder over HTTP/1.1; the kernel copies them to the sockets.

    python server.py FOLDER --port 8080
    python server.py --demo

GET and HEAD, connections that are kept, one byte range of a file, and conditional
requests (If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, If-Range: RFC
9110). What is not a regular file within the folder is refused, wherever a link or `..`
leads. SIGINT and SIGTERM let what is being sent go on for --grace seconds.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import email.utils
import http
import mimetypes
import os
import re
import signal
import stat
import sys
import urllib.parse

HEAD_BYTES = 16 * 1024  # of a request, above which it is refused
PIECE = 1 << 20  # bytes that a client has --timeout seconds to take
REQUEST = re.compile(r"([A-Z]+) (/[^ ]*) HTTP/1\.([01])")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Refused(Exception):
    """A request that is answered by a status and a line of text."""

    def __init__(self, status, **headers):
        super().__init__(status)
        self.status = http.HTTPStatus(status)
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}


@dataclasses.dataclass
class Request:
    """What a client has asked for; headers have names in lower case."""

    method: str
    path: str
    headers: dict
    keep: bool  # whether the connection is to be kept afterwards

    @classmethod
    def parse(cls, head):
        """Make one of the bytes up to the empty line."""
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        found = REQUEST.fullmatch(first)
        if found is None:
            raise Refused(400)
        headers = {}
        for line in lines:
            name, colon, text = line.partition(":")
            if not colon or not name or name != name.strip():
                raise Refused(400)
            headers[name.lower()] = text.strip()
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            raise Refused(413)  # bodies are read by nobody here
        wish = headers.get("connection", "").lower()
        keep = wish != "close" if found[3] == "1" else wish == "keep-alive"
        path = urllib.parse.unquote(found[2].partition("?")[0], errors="strict")
        return cls(found[1], path, headers, keep)


# -- files -------------------------------------------------------------------------


@dataclasses.dataclass
class Served:
    """An open file, and what is said of it."""

    file: object
    size: int
    modified: int  # in seconds
    tag: str
    kind: str


def open_file(root, path):
    """Open what a request's path names below root; Refused if that is not to be had.

    root: as os.path.realpath() gives it. Blocks as disks do: for a thread.
    """
    parts = [part for part in path.split("/") if part]
    if "\0" in path or ".." in parts:
        raise Refused(403)
    real = os.path.realpath(os.path.join(root, *parts))
    if os.path.isdir(real):
        real = os.path.realpath(os.path.join(real, "index.html"))
    if os.path.commonpath([root, real]) != root:
        raise Refused(403)
    try:
        # Not the last link, which is new if there is one; and a FIFO must not block.
        number = os.open(
            real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except PermissionError:
        raise Refused(403) from None
    except OSError:
        raise Refused(404) from None
    file = os.fdopen(number, "rb")
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode):
        file.close()
        raise Refused(403)
    tag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
    kind = mimetypes.guess_type(real)[0] or "application/octet-stream"
    return Served(file, found.st_size, int(found.st_mtime), tag, kind)


def seconds(text):
    """The time that a header names; None if that is none."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return None


def has_tag(text, served):
    """Whether a list of entity tags has the file's."""
    return text == "*" or served.tag in [tag.strip() for tag in text.split(",")]


def precondition(request, served):
    """The status that a request's conditions come to: 200, 304 or 412."""
    headers = request.headers
    if "if-match" in headers:
        if not has_tag(headers["if-match"], served):
            return 412
    elif "if-unmodified-since" in headers:
        since = seconds(headers["if-unmodified-since"])
        if since is not None and served.modified > since:
            return 412
    if "if-none-match" in headers:
        return 304 if has_tag(headers["if-none-match"], served) else 200
    since = seconds(headers.get("if-modified-since"))
    return 304 if since is not None and served.modified <= since else 200


def part_of(request, served):
    """The bytes that are asked for: (status, offset, count)."""
    headers = request.headers
    found = RANGE.fullmatch(headers.get("range", ""))
    whole = 200, 0, served.size
    if found is None or found[0] == "bytes=-" or request.method != "GET":
        return whole  # several ranges, too, may be answered by all of it
    condition = headers.get("if-range", served.tag)
    if condition != served.tag and seconds(condition) != served.modified:
        return whole
    if not found[1]:  # so many at the end
        count = min(int(found[2]), served.size)
        first, last = served.size - count, served.size - 1
    else:
        first = int(found[1])
        last = min(int(found[2]) if found[2] else served.size, served.size - 1)
        if found[2] and int(found[2]) < first:
            return whole  # no valid range
    if first >= served.size:
        raise Refused(416, Content_Range=f"bytes */{served.size}")
    return 206, first, last - first + 1


# -- connections -------------------------------------------------------------------


class FileServer:
    """Serves the files below a folder; `counts` has the answers of each status."""

    def __init__(self, root, timeout=10.0, connections=1000):
        self.root = os.path.realpath(root)
        self.timeout = timeout
        self.connections = connections
        self.tasks = {}  # of a connection: whether it is in the middle of an answer
        self.counts = {}
        self.sent = 0  # bytes of files
        self.closing = False

    async def start(self, host, port):
        """Listen; return the port."""
        self.server = await asyncio.start_server(
            self.serve, host, port, limit=HEAD_BYTES, backlog=1000
        )
        return self.server.sockets[0].getsockname()[1]

    async def stop(self, grace):
        """End: idle connections now, those with an answer in so many seconds."""
        self.closing = True
        self.server.close()
        for task, busy in self.tasks.items():
            if not busy:
                task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=grace)
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        """Answer what one connection asks for."""
        task = asyncio.current_task()
        self.tasks[task] = True
        try:
            if len(self.tasks) > self.connections:
                await self.refuse(writer, Refused(503, Retry_After="1"), keep=False)
                return
            while await self.answer_one(task, reader, writer):
                pass
        except (ConnectionError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()  # gone, or as good as gone
        except asyncio.CancelledError:
            writer.transport.abort()
            if not self.closing:
                raise
        finally:
            del self.tasks[task]
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def answer_one(self, task, reader, writer):
        """Answer one request; return whether there may be another."""
        self.tasks[task] = False
        try:
            head = reader.readuntil(b"\r\n\r\n")
            head = await asyncio.wait_for(head, self.timeout)
        except asyncio.LimitOverrunError:
            await self.refuse(writer, Refused(431), keep=False)
            await self.linger(reader, writer)
            return False
        self.tasks[task] = True
        keep = False
        try:
            request = Request.parse(head)
            keep = request.keep and not self.closing
            if request.method not in ("GET", "HEAD"):
                raise Refused(405, Allow="GET, HEAD")
            await self.answer(writer, request, keep)
        except UnicodeDecodeError:
            await self.refuse(writer, Refused(400), keep)
        except Refused as refused:
            keep = keep and refused.status != 413
            await self.refuse(writer, refused, keep)
            if refused.status == 413:
                await self.linger(reader, writer)
        return keep and not self.closing

    async def linger(self, reader, writer):
        """Read what a client still sends: closing before would reset the connection,
        and the answer might be lost with it."""

        async def read_on():
            while await reader.read(HEAD_BYTES):
                pass

        writer.write_eof()
        await asyncio.wait_for(read_on(), self.timeout)

    async def answer(self, writer, request, keep):
        """Send a file, or what of it is asked for."""
        loop = asyncio.get_running_loop()
        served = await loop.run_in_executor(None, open_file, self.root, request.path)
        with served.file:
            status = precondition(request, served)
            if status == 412:
                raise Refused(412)
            headers = {
                "Last-Modified": email.utils.formatdate(served.modified, usegmt=True),
                "ETag": served.tag,
                "Accept-Ranges": "bytes",
            }
            if status == 304:
                self.write_head(writer, status, headers, keep)
                await asyncio.wait_for(writer.drain(), self.timeout)
                return
            status, offset, count = part_of(request, served)
            headers["Content-Type"] = served.kind
            headers["Content-Length"] = count
            if status == 206:
                last = offset + count - 1
                headers["Content-Range"] = f"bytes {offset}-{last}/{served.size}"
            self.write_head(writer, status, headers, keep)
            if request.method == "GET":
                await self.send(writer, served.file, offset, count)
            await asyncio.wait_for(writer.drain(), self.timeout)

    async def send(self, writer, file, offset, count):
        """Let the kernel send so many bytes of a file, a piece in --timeout seconds."""
        loop = asyncio.get_running_loop()
        end = offset + count
        while offset < end:
            size = min(PIECE, end - offset)
            piece = loop.sendfile(writer.transport, file, offset, size)
            sent = await asyncio.wait_for(piece, self.timeout)
            if not sent:  # the file is shorter than it was: the length cannot be kept
                raise ConnectionAbortedError
            offset += sent
            self.sent += sent

    async def refuse(self, writer, refused, keep):
        """Answer by a status and its name."""
        body = f"{refused.status.value} {refused.status.phrase}\n".encode()
        headers = {"Content-Type": "text/plain", "Content-Length": len(body)}
        self.write_head(writer, refused.status, {**headers, **refused.headers}, keep)
        writer.write(body)
        await asyncio.wait_for(writer.drain(), self.timeout)

    def write_head(self, writer, status, headers, keep):
        """Write the head of an answer, and count it."""
        status = http.HTTPStatus(status)
        self.counts[status.value] = self.counts.get(status.value, 0) + 1
        lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
        lines += [f"{name}: {text}" for name, text in headers.items()]
        lines += [f"Connection: {'keep-alive' if keep else 'close'}", "", ""]
        writer.write("\r\n".join(lines).encode("latin-1"))


# -- the program -------------------------------------------------------------------


async def run(options):
    """Serve until a signal comes; return the exit status."""
    loop = asyncio.get_running_loop()
    stopped = loop.create_future()

    def stop(number):
        if not stopped.done():
            stopped.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    server = FileServer(options.folder, options.timeout, options.connections)
    try:
        port = await server.start(options.host, options.port)
    except OSError as error:
        print(f"server.py: {error}", file=sys.stderr)
        return 1
    print(f"{server.root} is on http://{options.host}:{port}/", flush=True)
    name = signal.Signals(await stopped).name
    await server.stop(options.grace)
    answers = ", ".join(f"{n} times {s}" for s, n in sorted(server.counts.items()))
    print(f"stopped by {name}; answered {answers or 'nothing'}", flush=True)
    return 0


def at_least(convert, least):
    """A type of argument: a number of that kind, not below another."""

    def parse(text):
        number = convert(text)
        if not least <= number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return number

    parse.__name__ = convert.__name__
    return parse


def arguments():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", nargs="?", help="what is served")
    add("--host", default="127.0.0.1")
    add("--port", type=at_least(int, 0), default=8080, help="0 takes a free one")
    add("--timeout", type=at_least(float, 0.01), default=10.0, metavar="SECONDS",
        help="that a client has to ask, and to take a mebibyte")  # fmt: skip
    add("--connections", type=at_least(int, 1), default=1000, help="at a time")
    add("--grace", type=at_least(float, 0), default=5.0, metavar="SECONDS",
        help="that answers have to end after a signal")  # fmt: skip
    add("--demo", action="store_true", help="serve files of its own, and ask for them")
    return parser


def main():
    """Read the arguments and serve."""
    parser = arguments()
    options = parser.parse_args()
    if options.demo == (options.folder is not None):
        parser.error("give either a folder or --demo")
    if options.demo:
        import demo

        return asyncio.run(demo.run())
    if not os.path.isdir(options.folder):
        parser.error(f"{options.folder!r} is no folder")
    if options.port > 65535:
        parser.error(f"argument --port: {options.port} is above 65535")
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
