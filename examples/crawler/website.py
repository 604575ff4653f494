"""A web site of generated pages to crawl: an ordinary aiohttp server.

    python website.py [--port 8080]

The same seed makes the same site: which page links where, which pages answer so
late that a visitor gives up, which addresses redirect and which do not exist. The
site prints its address when it is ready and serves until SIGTERM or SIGINT.
"""

import argparse
import asyncio
import dataclasses
import html
import random
import signal

from aiohttp import web

PAGES = 300
LATE_SECONDS = 120
WORDS = (
    "loop timer socket buffer queue handle reader writer server client stream "
    "packet signal thread future task batch poll event kernel"
).split()


@dataclasses.dataclass
class Plan:
    """What a site is made of; paths are what a client asks for, "/page/7"."""

    seed: int
    links: dict  # the path of a page: the paths that it links to
    late: set  # the pages that answer later than anybody waits
    redirects: dict  # a path that redirects: where to
    missing: set  # paths that are linked to and do not exist

    @classmethod
    def make(cls, seed, pages=PAGES):
        """Plan a site in which every page can be reached from page 0."""
        chance = random.Random(seed)
        paths = [f"/page/{number}" for number in range(pages)]
        late = set(chance.sample(paths[1:], pages // 25))
        prompt = [path for path in paths if path not in late]
        redirects = {
            f"/moved/{number}": chance.choice(prompt) for number in range(pages // 12)
        }
        missing = [f"/missing/{number}" for number in range(pages // 20)]

        links = {path: chance.sample(paths, 5) for path in paths}
        # Each address is linked from a page before it that is not late, so that who
        # gives up on the late ones misses nothing else.
        for number, path in enumerate(paths[1:], 1):
            earlier = [page for page in paths[:number] if page not in late]
            links[chance.choice(earlier)].append(path)
        for path in [*redirects, *missing]:
            links[chance.choice(prompt)].append(path)
        return cls(seed, links, late, redirects, set(missing))

    def body(self, path):
        """The HTML of the page at `path`, a few kilobytes of it."""
        chance = random.Random(f"{self.seed} {path}")
        paragraphs = "\n".join(
            f"<p>{html.escape(' '.join(chance.choices(WORDS, k=60)))}.</p>"
            for _ in range(chance.randint(3, 12))
        )
        links = "\n".join(
            f'<li><a href="{html.escape(link)}">{html.escape(link)}</a></li>'
            for link in self.links[path]
        )
        return (
            f"<!doctype html>\n<html><head><title>{html.escape(path)}</title></head>\n"
            f"<body>\n{paragraphs}\n<ul>\n{links}\n</ul>\n</body></html>\n"
        )


def make_app(plan):
    """The aiohttp application that serves the site."""
    bodies = {path: plan.body(path) for path in plan.links}

    async def page(request):
        body = bodies.get(request.path)
        if body is None:
            raise web.HTTPNotFound
        if request.path in plan.late:
            await asyncio.sleep(LATE_SECONDS)
        return web.Response(text=body, content_type="text/html")

    async def moved(request):
        raise web.HTTPFound(plan.redirects[request.path])

    async def front(request):
        raise web.HTTPFound("/page/0")

    app = web.Application()
    app.router.add_get("/", front)
    app.router.add_get("/page/{number}", page)
    app.router.add_get("/moved/{number}", moved)
    return app


async def serve(plan, port):
    """Serve on 127.0.0.1 until a signal comes; print the address and the loop."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    # Visitors hang up on late pages: their handlers are cancelled then.
    runner = web.AppRunner(
        make_app(plan), access_log=None, handler_cancellation=True, shutdown_timeout=1
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    port = runner.addresses[0][1]
    name = f"{type(loop).__module__}.{type(loop).__qualname__}"
    print(f"http://127.0.0.1:{port}/ {name}", flush=True)
    await stopped.wait()
    await runner.cleanup()


def main():
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    asyncio.run(serve(Plan.make(arguments.seed), arguments.port))


if __name__ == "__main__":
    main()
