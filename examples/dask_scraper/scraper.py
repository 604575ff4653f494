"""Scrape a web site from several processes, which Dask distributed runs.

    python scraper.py http://127.0.0.1:8080/ --workers 4
    python scraper.py http://127.0.0.1:8080/ --scheduler tcp://10.0.0.1:8786
    python scraper.py --demo

A page is a task. The task is a coroutine, which a worker runs on its event loop, so
that no thread waits for a page; how many it has under way is what Dask calls its
threads (--concurrency). What came back is gathered here: every new link is a new task.
The results are printed as JSON. SIGINT and SIGTERM end it, and its processes before.
"""

import argparse
import asyncio
import hashlib
import html.parser
import json
import signal
import sys
import urllib.parse

import aiohttp
from distributed import Client, LocalCluster, as_completed, get_worker


class Links(html.parser.HTMLParser):
    """Collects where the links of a page lead."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        if tag == "a":
            self.found += [value for name, value in attributes if name == "href"]


# -- in the workers ----------------------------------------------------------------


def session_of(worker):
    """Return a worker's one HTTP session."""
    if not hasattr(worker, "scraper_session"):
        worker.scraper_session = aiohttp.ClientSession()
    return worker.scraper_session


async def close_session(dask_worker):
    """What each worker is asked to do at the end."""
    if hasattr(dask_worker, "scraper_session"):
        await dask_worker.scraper_session.close()
        del dask_worker.scraper_session


async def fetch(url, patience):
    """Fetch one page; return a dict of what is to be known about it.

    patience: in seconds; a page that takes longer has the status "timed out", and one
    that cannot be had "error".
    """
    worker = get_worker()
    loop = type(asyncio.get_running_loop()).__module__
    page = {"url": url, "worker": str(worker.name), "loop": loop, "links": []}
    try:
        answer = request(session_of(worker), url)
        status, final, body = await asyncio.wait_for(answer, patience)
    except asyncio.TimeoutError:
        return {**page, "status": "timed out"}
    except aiohttp.ClientError as error:
        return {**page, "status": "error", "why": repr(error)}
    links = Links()
    if status == 200:
        links.feed(body.decode())
    page["links"] = [urllib.parse.urljoin(final, link) for link in links.found]
    digest = hashlib.sha256(body).hexdigest()
    return {**page, "status": status, "final": final, "digest": digest}


async def request(session, url):
    """What `fetch` does, however long it takes."""
    async with session.get(url) as response:
        return response.status, str(response.url), await response.read()


# -- here --------------------------------------------------------------------------


class Scrape:
    """One scrape of a site; `results` has what it found."""

    def __init__(self, client, start, patience):
        self.client = client
        self.start = start
        self.patience = patience
        self.seen = set()
        self.waiting = as_completed(with_results=True)
        self.results = {
            "pages": {},  # path: digest of the body
            "redirects": {},  # path: path that it led to
            "missing": [],
            "timed out": [],
            "errors": {},  # path: what went wrong
            "workers": {},  # name: module of its loop, number of addresses it has asked
        }

    def add(self, url):
        """Give an address of the site that was not seen yet to the workers."""
        url = urllib.parse.urldefrag(url).url
        if url.startswith(self.start) and url not in self.seen:
            self.seen.add(url)
            # Not pure: the next scrape is to see the page as it is then.
            self.waiting.add(self.client.submit(fetch, url, self.patience, pure=False))

    def note(self, page):
        """Note what became of an address, and give away what it links to."""
        path = urllib.parse.urlsplit(page["url"]).path
        self.results["workers"].setdefault(page["worker"], [page["loop"], 0])[1] += 1
        if page["status"] == "timed out":
            self.results["timed out"].append(path)
        elif page["status"] == 404:
            self.results["missing"].append(path)
        elif page["status"] != 200:
            self.results["errors"][path] = page.get("why", f"status {page['status']}")
        elif page["final"] != page["url"]:
            self.results["redirects"][path] = urllib.parse.urlsplit(page["final"]).path
            self.add(page["final"])
        else:
            self.results["pages"][path] = page["digest"]
            for link in page["links"]:
                self.add(link)

    def run(self):
        """Scrape until no task is left; return the results."""
        self.add(self.start)
        try:
            for _, page in self.waiting:
                self.note(page)
        finally:
            self.client.run(close_session)
        self.results["missing"].sort()
        self.results["timed out"].sort()
        return self.results


def scrape_with(options):
    """Scrape on the workers of a scheduler, or on a cluster for this once."""
    if options.scheduler is not None:
        with Client(options.scheduler, timeout=10) as client:
            client.upload_file(__file__)  # for workers that cannot import it
            return Scrape(client, options.start, options.timeout).run()
    with LocalCluster(
        n_workers=options.workers,
        threads_per_worker=options.concurrency,
        dashboard_address=None,
        protocol="tcp",
    ) as cluster:
        with Client(cluster) as client:
            return Scrape(client, options.start, options.timeout).run()


def positive(convert):
    """An argument's type: what convert makes of it, if that is above 0."""

    def parse(text):
        number = convert(text)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return number

    parse.__name__ = convert.__name__
    return parse


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start", nargs="?", help="the front page, ending in a slash")
    parser.add_argument("--demo", action="store_true", help="scrape a generated site")
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="use its workers; otherwise some are made",
    )
    parser.add_argument("--workers", type=positive(int), default=2, help="processes")
    parser.add_argument(
        "--concurrency", type=positive(int), default=12, help="pages a worker has"
    )
    parser.add_argument(
        "--timeout", type=positive(float), default=1.5, help="seconds a page gets"
    )
    options = parser.parse_args()
    if (options.start is None) != options.demo:
        parser.error("give either a start page or --demo")
    if not options.demo and not options.start.startswith(("http://", "https://")):
        parser.error(f"{options.start!r} is no http:// or https:// address")
    return options


def main():
    """Read the arguments, scrape, print the results."""
    options = parse_arguments()
    # By SIGTERM as by SIGINT: the cluster's processes are ended before this one is.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if options.demo:
        import demo

        sys.exit(demo.run(options))
    json.dump(scrape_with(options), sys.stdout)


if __name__ == "__main__":
    main()
