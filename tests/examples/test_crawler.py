"""examples/crawler: the crawl finds what the site is made of."""

import json
import os
import signal
import socket
import sys

import examplekit
import pytest
import support

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


@pytest.mark.parametrize("number", examplekit.ENDING)
def test_a_signal_ends_it(loop_kind, number):
    """While a site says nothing that the crawler would wait for."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(support.PATIENCE)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        program = "crawler/crawler.py", url, "--timeout", 1000
        with examplekit.running(loop_kind, *program, banner=None) as crawler:
            visitor, _ = silent.accept()
            with visitor:
                assert visitor.recv(3) == b"GET"
                assert crawler.end(number) == 128 + number
            assert crawler.output == f"crawler: stopped by {number.name}"


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "the following arguments are required: start"),
        (["127.0.0.1"], "'127.0.0.1' is not http://HOST/, with a slash at its end"),
        (["http://host/a"], "'http://host/a' is not http://HOST/"),
        (["http://host/", "--workers", "0"], "--workers: 0 is not above 0"),
        (["http://host/", "--pages", "many"], "--pages: invalid int value: 'many'"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    assert said in examplekit.refused("crawler/crawler.py", *arguments)
