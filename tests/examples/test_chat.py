"""examples/chat: who is in a room gets what is said there; the end of the server."""

import contextlib
import socket

import examplekit
import pytest
import support

pytestmark = pytest.mark.packaged

CHAT = "chat/chat.py"
READY = r"lines on port (\d+), WebSocket on port (\d+)"


@pytest.mark.limit(200)
def test_500_clients(loop_kind):
    output = examplekit.run(loop_kind, CHAT, "--demo", timeout=180)
    assert output.splitlines() == [
        "500 clients in 25 rooms, half of them by WebSocket",
        "said: 5000, heard: 100000",
        "every member of a room heard all, in the same order",
        "too slow: 1; still there: 0",
    ]


class LineClient:
    """A blocking client over TCP."""

    def __init__(self, ports):
        address = "127.0.0.1", int(ports[1])
        self.sock = socket.create_connection(address, support.PATIENCE)
        self.file = self.sock.makefile("rw", encoding="utf-8", newline="\n")

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.file.close()
        self.sock.close()

    def say(self, text):
        self.file.write(f"{text}\n")
        self.file.flush()

    def hear(self):
        """The next line, "" at the end."""
        return self.file.readline().rstrip("\n")


def websocket_client(ports):
    from websockets.sync.client import connect

    return connect(f"ws://127.0.0.1:{ports[2]}")


@contextlib.contextmanager
def server(kind):
    """A running server; gives it and the match of its ports."""
    ports = "--port", 0, "--websocket-port", 0
    with examplekit.running(kind, CHAT, *ports, banner=READY) as program:
        yield program, program.match


@pytest.mark.parametrize("number", examplekit.ENDING)
def test_a_room(loop_kind, number):
    with server(loop_kind) as (program, ports), contextlib.ExitStack() as stack:
        ann = stack.enter_context(LineClient(ports))
        ann.say("ann hall")
        assert ann.hear() == "* ann joined"
        bob = stack.enter_context(websocket_client(ports))
        bob.send("bob hall")
        assert bob.recv() == "* bob joined" == ann.hear()
        with LineClient(ports) as eve:
            eve.say("eve attic")
            assert eve.hear() == "* eve joined"
            eve.say("nobody hears this")
            assert eve.hear() == "eve: nobody hears this"
        ann.say("grüße")
        assert ann.hear() == "ann: grüße" == bob.recv()
        bob.send("two\nlines")
        assert ann.hear() == "bob: two lines" == bob.recv()
        assert program.end(number) == 0
        assert ann.hear() == "* the server stops" == bob.recv()
        assert ann.hear() == ""
        stopped = "stopped; joined 3, said 3, too slow 0"
        assert program.output.splitlines()[1:] == [stopped]


@pytest.mark.parametrize(
    "texts, answer",
    [
        (["ann"], "* the first message is NAME ROOM"),
        (["ann hall!"], "* the first message is NAME ROOM"),
        (["taken hall"], "* taken is here already"),
        (["ann hall", "x" * 3000], "* a line has at most 1000 bytes"),
    ],
)
def test_what_is_refused(loop_kind, texts, answer):
    with server(loop_kind) as (program, ports), LineClient(ports) as taken:
        taken.say("taken attic")
        assert taken.hear() == "* taken joined"
        with LineClient(ports) as client:
            for text in texts[:-1]:
                client.say(text)
                assert client.hear() == "* ann joined"
            client.say(texts[-1])
            heard = [client.hear(), client.hear()]
            assert heard == [answer, ""]
        assert program.end(examplekit.ENDING[0]) == 0


def test_a_websocket_of_bytes_is_refused(loop_kind):
    with server(loop_kind) as (program, ports), websocket_client(ports) as client:
        client.send(b"ann hall")
        assert client.recv() == "* messages are text"
        assert program.end(examplekit.ENDING[0]) == 0


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--port", "70000"], "--port: '70000' is no port, which is 0 to 65535"),
        (["--patience", "0"], "--patience: 0 is not above 0"),
        (["--rooms"], "unrecognized arguments: --rooms"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    assert said in examplekit.refused(CHAT, *arguments)
