"""What `scraper.py --demo` scrapes: the web site of examples/crawler, on loopback."""

import os
import subprocess
import sys

import scraper

CRAWLER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crawler")
SEED = 7


def run(options):
    """Serve the site, scrape it, compare; return the exit status."""
    sys.path.append(CRAWLER)
    import website

    plan = website.Plan.make(SEED)
    command = [sys.executable, os.path.join(CRAWLER, "website.py"), "--seed", str(SEED)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as site:
        try:
            options.start = site.stdout.readline().split()[0]
            results = scraper.scrape_with(options)
        finally:
            site.terminate()
    for name in ("pages", "redirects", "missing", "timed out", "errors"):
        print(f"{name}: {len(results[name])}")
    asked = sum(count for _, count in results["workers"].values())
    print(f"addresses asked: {asked}, by {len(results['workers'])} workers")
    print(
        f"loops: {', '.join(sorted({loop for loop, _ in results['workers'].values()}))}"
    )
    wanted = {path for path in plan.links if path not in plan.late}
    if (
        set(results["pages"]) != wanted
        or results["redirects"] != {"/": "/page/0", **plan.redirects}
        or set(results["missing"]) != plan.missing
        or set(results["timed out"]) != plan.late
    ):
        print("the site is not what was found")
        return 1
    print("every page was found")
    return 0
