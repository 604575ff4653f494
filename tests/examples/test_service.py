"""examples/service: nothing is sold twice, and what was sold is remembered."""

import contextlib
import http.client
import json

import examplekit
import pytest
import servicekit
import support

pytestmark = pytest.mark.packaged

SERVICE = "service/service.py"


def check_demo(output, database):
    first, *lines = output.splitlines()
    assert first.endswith(f"/ over {database}")
    assert lines == [
        "20 items, 500 pieces; 1000 orders, sent twice",
        "sold and confirmed: 500",
        "refused both times: 500",
        "anything else: {}; left: 0",
        "unknown, too few, another's key: [404, 422, 409]",
    ]


@pytest.mark.limit(180)
def test_a_crowd_on_sqlite(loop_kind):
    check_demo(examplekit.run(loop_kind, SERVICE, "--demo"), "SQLite")


@pytest.fixture(scope="module")
def postgres():
    """The URL of a PostgreSQL server of our own."""
    with servicekit.postgres() as server:
        yield f"postgresql://postgres@{server.host}:{server.port}/postgres"


@pytest.mark.limit(180)
def test_a_crowd_on_postgres(loop_kind, postgres):
    demo = SERVICE, "--demo", "--database", postgres
    check_demo(examplekit.run(loop_kind, *demo), "PostgreSQL")


@contextlib.contextmanager
def serving(kind, url):
    """A running service; gives it and a function that makes a request."""
    program = SERVICE, "--port", 0, "--database", url
    with examplekit.running(kind, *program, banner=r"^http://(.*):(\d+)/") as service:
        host, port = service.match.groups()
        client = http.client.HTTPConnection(host, int(port), support.PATIENCE)

        def ask(method, path, body=None):
            headers = {"Content-Type": "application/json"}
            client.request(method, path, body and json.dumps(body), headers)
            answer = client.getresponse()
            return answer.status, json.loads(answer.read())

        with contextlib.closing(client):
            yield service, ask


@pytest.mark.parametrize("number", examplekit.ENDING)
def test_what_was_sold_is_remembered(loop_kind, tmp_path, number):
    url = f"sqlite:{tmp_path / 'shop.db'}"
    tea = {"item": "tea", "quantity": 2}
    with serving(loop_kind, url) as (service, ask):
        assert ask("GET", "/items/tea")[0] == 404
        assert ask("PUT", "/items/tea", {"stock": 5})[0] == 200
        assert ask("PUT", "/items/tea", {"stock": -1})[0] == 422
        assert ask("PUT", "/orders/a", tea) == (201, {"key": "a", **tea})
        # It is idle, and its connection is open: that does not keep it.
        assert service.end(number) == 0
        assert len(service.output.splitlines()) == 1
    with serving(loop_kind, url) as (service, ask):
        assert ask("GET", "/items/tea") == (200, {"name": "tea", "stock": 3})
        assert ask("PUT", "/orders/a", tea) == (200, {"key": "a", **tea})
        assert ask("PUT", "/orders/b", {"item": "tea", "quantity": 4}) == (
            409,
            {"detail": "there are 3 left"},
        )
        assert ask("PUT", "/orders/b", {"item": "tea", "quantity": 3})[0] == 201
        assert ask("GET", "/items?limit=1") == (200, [{"name": "tea", "stock": 0}])
        assert ask("GET", "/items?after=tea") == (200, [])
        assert service.end(number) == 0


def test_a_database_that_is_not_there(loop_kind):
    url = f"postgresql://nobody@127.0.0.1:{support.free_port()}/none"
    program = SERVICE, "--port", 0, "--database", url
    refused = "Connect call failed|Connection refused"
    with examplekit.running(loop_kind, *program, banner=refused) as service:
        assert service.finish() == 3


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--port", "x"], "--port: 'x' is no port, which is 0 to 65535"),
        (["--database", "mysql:shop"], "'mysql:shop' is neither sqlite:PATH nor"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    assert said in examplekit.refused(SERVICE, *arguments)
