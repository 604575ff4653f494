"""Crawl a web site from one address: an ordinary asyncio and aiohttp program.

    python crawler.py http://127.0.0.1:8080/

It follows every link within the site, gives up on pages that take too long, then
fetches all it got once more, several times over, to see that nothing changed and how
fast that goes. What it found is printed as JSON; SIGINT or SIGTERM ends it without
that, with status 130 or 143.
"""

import argparse
import asyncio
import hashlib
import html.parser
import json
import signal
import statistics
import sys
import time
import urllib.parse

import aiohttp


class Links(html.parser.HTMLParser):
    """Collects where the links of a page lead."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        if tag == "a":
            self.found += [value for name, value in attributes if name == "href"]


class Progress:
    """One line on a terminal that is drawn over itself; nothing elsewhere."""

    WIDTH = 30
    INTERVAL = 0.05  # seconds between two drawings

    def __init__(self, label):
        self.label = label
        self.drawn = 0.0
        self.terminal = sys.stderr.isatty()

    def show(self, what, done, total):
        """Draw `done` of `total`, unless the last drawing was just now."""
        now = time.monotonic()
        if not self.terminal or (now - self.drawn < self.INTERVAL and done < total):
            return
        self.drawn = now
        filled = self.WIDTH * done // max(total, 1)
        bar = "#" * filled + "-" * (self.WIDTH - filled)
        sys.stderr.write(f"\r{self.label:<10} {what:<8} [{bar}] {done}/{total} \x1b[K")
        sys.stderr.flush()

    def close(self):
        """Leave the line to whatever is printed next."""
        if self.terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class Crawler:
    """One crawl; `results` has what it found."""

    def __init__(self, session, start, options, progress):
        self.session = session
        self.start = start
        self.options = options
        self.progress = progress
        self.queue = asyncio.Queue()
        self.slots = asyncio.Semaphore(options.connections)
        self.seen = set()
        self.done = 0
        self.results = {
            "pages": {},  # path: digest of the body
            "redirects": {},  # path: path that it led to
            "missing": [],
            "timed out": [],
            "errors": {},  # path: what went wrong
        }

    def add(self, url):
        """Queue a page of the site that was not seen yet."""
        url = urllib.parse.urldefrag(url).url
        if len(self.seen) >= self.options.pages:
            return
        if url.startswith(self.start) and url not in self.seen:
            self.seen.add(url)
            self.queue.put_nowait(url)

    async def get(self, url, patience):
        """One request: the status, the address it ended at, the body and its text.

        The text is None of what is no HTML.

        `patience` is in seconds, from when a slot is free; then it is a TimeoutError.
        """
        async with self.slots:
            return await asyncio.wait_for(self.request(url), patience)

    async def request(self, url):
        """What `get` does, however long it takes."""
        async with self.session.get(url) as response:
            body = await response.read()
            text = None
            if response.content_type == "text/html":
                text = body.decode(response.get_encoding(), "replace")
            return response.status, str(response.url), body, text

    async def visit(self, url):
        """Fetch a page, note what became of it and queue what it links to."""
        path = urllib.parse.urlsplit(url).path
        try:
            status, final, body, text = await self.get(url, self.options.timeout)
        except asyncio.TimeoutError:
            self.results["timed out"].append(path)
            return
        except aiohttp.ClientError as error:
            self.results["errors"][path] = repr(error)
            return
        if status == 404:
            self.results["missing"].append(path)
        elif status != 200:
            self.results["errors"][path] = f"status {status}"
        elif final != url:
            self.results["redirects"][path] = urllib.parse.urlsplit(final).path
            self.add(final)
        else:
            self.results["pages"][path] = hashlib.sha256(body).hexdigest()
            links = Links()
            links.feed(text or "")
            for link in links.found:
                self.add(urllib.parse.urljoin(url, link))

    async def work(self):
        """Take addresses off the queue, for ever."""
        while True:
            url = await self.queue.get()
            try:
                await self.visit(url)
            finally:
                self.done += 1
                self.progress.show("crawl", self.done, len(self.seen))
                self.queue.task_done()

    async def crawl(self):
        """Visit all that can be reached; the workers end when the queue is empty."""
        self.add(self.start)
        workers = [
            asyncio.create_task(self.work()) for _ in range(self.options.workers)
        ]
        empty = asyncio.create_task(self.queue.join())
        try:
            # No worker ends by itself: one that does has failed, and so has the crawl.
            done, _ = await asyncio.wait(
                [*workers, empty], return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
        finally:
            for task in [*workers, empty]:
                task.cancel()
            await asyncio.gather(*workers, empty, return_exceptions=True)

    async def retry(self):
        """Give what timed out a second chance, all at once and half as long."""
        late = self.results["timed out"]
        patience = self.options.timeout / 2
        answers = await asyncio.gather(
            *(
                self.get(urllib.parse.urljoin(self.start, path), patience)
                for path in late
            ),
            return_exceptions=True,
        )
        self.results["timed out twice"] = sorted(
            path
            for path, answer in zip(late, answers, strict=True)
            if isinstance(answer, asyncio.TimeoutError)
        )

    async def fetch_again(self, path):
        """Fetch a known page; it must be what it was."""
        url = urllib.parse.urljoin(self.start, path)
        _, _, body, _ = await self.get(url, self.options.timeout)
        if hashlib.sha256(body).hexdigest() != self.results["pages"][path]:
            self.results["errors"][path] = "the page changed"
        self.done += 1
        self.progress.show("again", self.done, self.total)

    async def measure(self):
        """Fetch every page `rounds` times; note pages a second and what one costs.

        The median of the rounds is taken: what else the machine does now and then is
        not this program's speed.
        """
        paths = list(self.results["pages"])
        self.done, self.total = 0, len(paths) * self.options.rounds
        seconds, used = [], time.process_time()
        for _ in range(self.options.rounds):
            started = time.perf_counter()
            await asyncio.gather(*(self.fetch_again(path) for path in paths))
            seconds.append(time.perf_counter() - started)
        self.results["pages per second"] = len(paths) / statistics.median(seconds)
        self.results["CPU per page"] = (time.process_time() - used) / self.total


async def crawl_site(options):
    """Crawl, try again what timed out, measure; return the results."""
    loop = asyncio.get_running_loop()
    progress = Progress(options.label)
    # The patience is this program's own; the session's would only hide it.
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=options.connections)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        crawler = Crawler(session, options.start, options, progress)
        try:
            started = time.perf_counter()
            await crawler.crawl()
            crawled = time.perf_counter() - started
            await crawler.retry()
            await crawler.measure()
        finally:
            progress.close()
    results = crawler.results
    for name in ("missing", "timed out"):
        results[name].sort()
    results["crawl seconds"] = crawled
    results["event loop"] = f"{type(loop).__module__}.{type(loop).__qualname__}"
    return results


async def run(options):
    """Crawl and print the results; return the exit status."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    stopped_by = []

    def stop(number):
        stopped_by.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        json.dump(await crawl_site(options), sys.stdout)
    except asyncio.CancelledError:
        if not stopped_by:
            raise
        name = signal.Signals(stopped_by[0]).name
        print(f"crawler: stopped by {name}", file=sys.stderr)
        return 128 + stopped_by[0]
    return 0


def above_0(kind):
    """A type of argument: a number of that kind above 0."""

    def parse(text):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse.__name__ = kind.__name__
    return parse


def main():
    """Read the arguments, crawl, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    count, add = above_0(int), parser.add_argument
    add("start", help="the site's front page, ending in a slash")
    add("--workers", type=count, default=32)
    add("--connections", type=count, default=24)
    add("--pages", type=count, default=100_000, help="at most, addresses of all kinds")
    add("--timeout", type=above_0(float), default=1.5, help="seconds a page gets")
    add("--rounds", type=count, default=20, help="of fetching all again")
    add("--label", default="crawler", help="shown beside the progress")
    options = parser.parse_args()
    parts = urllib.parse.urlsplit(options.start)
    if parts.scheme not in ("http", "https") or not parts.path.endswith("/"):
        parser.error(f"{options.start!r} is not http://HOST/, with a slash at its end")
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
