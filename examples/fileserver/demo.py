"""What `server.py --demo` does: serves a folder of its own and asks for all there is.

Four files are fetched whole, in eight ranges each, and again on the condition that they
have changed; then come requests that must be refused. Nothing is asked by a library, so
that each byte of an answer is looked at.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import tempfile

import server

SIZES = {"empty.bin": 0, "small.txt": 999, "page.html": 65_536, "large.bin": 3_000_003}
CLIENTS = 8  # at a time; each fetches every file

REFUSED = {
    "/missing": 404,
    "/../secret": 403,
    "/a/../../secret": 403,
    "/%2e%2e/secret": 403,
    "/..%2fsecret": 403,
    "/link-out": 403,
    "/fifo": 403,
    "/folder": 404,
    "/%00": 403,
    "/%ff": 400,
}


class Client:
    """One connection, which is kept from request to request."""

    def __init__(self, port):
        self.port = port

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *exc_info):
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def ask(self, path, method="GET", **headers):
        """Send a request; return (status, headers, body)."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().rstrip().split("\r\n")
        got = dict(line.split(": ", 1) for line in lines)
        status = int(first.split()[1])
        bodiless = method == "HEAD" or status == 304
        length = 0 if bodiless else int(got["Content-Length"])
        return status, got, await self.reader.readexactly(length)


def make_folder(root):
    """Write the files; return {name: content}."""
    chance = random.Random(1)
    files = {name: chance.randbytes(size) for name, size in SIZES.items()}
    served = os.path.join(root, "served")
    os.makedirs(os.path.join(served, "folder"))
    for name, content in files.items():
        with open(os.path.join(served, name), "wb") as file:
            file.write(content)
    with open(os.path.join(root, "secret"), "w") as file:
        file.write("not for you\n")
    os.symlink("../secret", os.path.join(served, "link-out"))
    os.mkfifo(os.path.join(served, "fifo"))
    return served, files


async def fetch_all(port, files):
    """Fetch every file, whole and in parts, and whether it has changed."""
    async with Client(port) as client:
        for name, content in files.items():
            status, headers, body = await client.ask(f"/{name}")
            assert (status, body) == (200, content), name
            tag, modified = headers["ETag"], headers["Last-Modified"]
            assert (await client.ask(f"/{name}", If_None_Match=tag))[0] == 304
            assert (await client.ask(f"/{name}", If_Modified_Since=modified))[0] == 304
            assert (await client.ask(f"/{name}", If_Match='"other"'))[0] == 412
            status, headers, body = await client.ask(f"/{name}", "HEAD")
            assert (status, int(headers["Content-Length"])) == (200, len(content))
            if content:
                await fetch_parts(client, name, content, tag)


async def fetch_parts(client, name, content, tag):
    """Fetch a file in eight ranges, one not there, and one of an old version."""
    whole = hashlib.sha256()
    step = -(-len(content) // 8)
    for first in range(0, len(content), step):
        wanted = f"bytes={first}-{first + step - 1}"
        status, headers, body = await client.ask(f"/{name}", Range=wanted, If_Range=tag)
        last = first + len(body) - 1
        assert status == 206
        assert headers["Content-Range"] == f"bytes {first}-{last}/{len(content)}"
        whole.update(body)
    assert whole.digest() == hashlib.sha256(content).digest()
    assert (await client.ask(f"/{name}", Range="bytes=-10"))[2] == content[-10:]
    status, headers, _ = await client.ask(f"/{name}", Range=f"bytes={len(content)}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(content)}")
    old = await client.ask(f"/{name}", Range="bytes=0-9", If_Range='"old"')
    assert old[0] == 200 and old[2] == content


async def be_refused(port):
    """Ask for what is not to be had."""
    for path, status in REFUSED.items():
        async with Client(port) as client:
            assert (await client.ask(path))[0] == status, path
    async with Client(port) as client:
        for method in "DELETE", "POST":
            assert (await client.ask("/small.txt", method))[0] == 405
        assert (await client.ask("/", "POST", Content_Length=9))[0] == 413
    async with Client(port) as client:
        assert (await client.ask("/small.txt", X="x" * server.HEAD_BYTES))[0] == 431


async def run():
    """Do it all; return the exit status."""
    with tempfile.TemporaryDirectory() as root:
        folder, files = make_folder(root)
        serving = server.FileServer(folder, timeout=60.0)
        port = await serving.start("127.0.0.1", 0)
        try:
            await asyncio.gather(*(fetch_all(port, files) for _ in range(CLIENTS)))
            await be_refused(port)
        finally:
            await serving.stop(grace=1.0)
    for status, count in sorted(serving.counts.items()):
        print(f"{status}: {count}")
    print(f"{serving.sent} bytes of files were sent, and every one was right")
    return 0
