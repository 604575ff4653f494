"""examples/ai_chat: every token, and no answer that nobody is there to take."""

import http.client
import importlib.util
import json

import examplekit
import pytest
import support

SERVER = "ai_chat/server.py"

pytestmark = [
    pytest.mark.packaged,
    pytest.mark.skipif(
        importlib.util.find_spec("aiohttp") is None, reason="aiohttp is not installed"
    ),
]

DEMO = """\
answers that the clients had whole: 90
answers that the clients had left: 60
answers that the clients had cancelled: 30
answers of the model: 90 cancelled, 90 finished
tokens: fewer than 18000
a client that reads nothing: the model waits
"""


def test_demo(loop_kind):
    assert examplekit.run(loop_kind, SERVER, "--demo") == DEMO


@pytest.mark.parametrize("number", examplekit.ENDING)
def test_a_signal_lets_an_answer_end(loop_kind, number):
    arguments = "--port", 0, "--pause", 0.01, "--length", 50, "--grace", 20
    ready = r"http://127\.0\.0\.1:(\d+)/"
    with examplekit.running(loop_kind, SERVER, *arguments, banner=ready) as server:
        port = int(server.match[1])
        asking = http.client.HTTPConnection("127.0.0.1", port, support.PATIENCE)
        asking.request("POST", "/chat", json.dumps({"prompt": "x"}))
        response = asking.getresponse()
        first = response.readline()
        server.process.send_signal(number)
        rest = response.read()
        asking.close()
        assert (first + rest).count(b"event: token") == 50
        assert rest.endswith(b"event: done\ndata: 50\n\n")
        assert server.finish() == 0
        last = f"stopped by {number.name}; answers: 1 finished; tokens: 50"
        assert server.output.splitlines()[-1] == last


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"prompt": ""}', b'{"prompt": 1}', b"\xff"]
)
def test_what_is_no_prompt_is_refused(loop_kind, body):
    ready = r"http://127\.0\.0\.1:(\d+)/"
    with examplekit.running(loop_kind, SERVER, "--port", 0, banner=ready) as server:
        port = int(server.match[1])
        asking = http.client.HTTPConnection("127.0.0.1", port, support.PATIENCE)
        asking.request("POST", "/chat", body)
        assert asking.getresponse().status == 400
        asking.close()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--port", "70000"], "argument --port: 70000 is above 65535"),
        (["--slots", "0"], "argument --slots: 0 is below 1"),
        (["--stall", "0"], "argument --stall: 0 is below 0.01"),
        (["--pause", "x"], "argument --pause: invalid float value: 'x'"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    assert said in examplekit.refused(SERVER, *arguments)
