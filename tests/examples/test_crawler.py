"""examples/crawler: the crawl finds what the site is made of."""

import json
import os
import signal
import sys

import examplekit
import pytest

sys.path.insert(0, os.path.join(examplekit.EXAMPLES, "crawler"))

pytestmark = pytest.mark.packaged


def test_crawl(loop_kind):
    import demo
    import website

    plan = website.Plan.make(seed=7)
    assert (len(plan.links), len(plan.late), len(plan.missing)) == (300, 12, 15)
    server = "crawler/website.py", "--seed", 7
    ready = r"(http://127\.0\.0\.1:\d+/) "
    with examplekit.running(loop_kind, *server, banner=ready) as site:
        crawl = "crawler/crawler.py", site.match[1], "--rounds", 2
        results = json.loads(examplekit.run(loop_kind, *crawl))
        assert site.end(signal.SIGTERM) == 0
    assert results["event loop"].split(".")[0] == loop_kind
    assert [*demo.differences(results, plan)] == []
    assert len(results["pages"]) == 288
