"""examples/fileserver: every byte, and nothing that is not to be had."""

import os
import socket

import examplekit
import pytest
import support

SERVER = "fileserver/server.py"

DEMO = """\
200: 88
206: 216
304: 64
400: 1
403: 7
404: 2
405: 2
412: 32
413: 1
416: 24
431: 1
73597152 bytes of files were sent, and every one was right
"""


def test_demo(loop_kind):
    assert examplekit.run(loop_kind, SERVER, "--demo") == DEMO


@pytest.mark.parametrize("number", examplekit.ENDING)
def test_a_signal_lets_an_answer_end(loop_kind, number, tmp_path):
    content = os.urandom(100_000) * 80
    (tmp_path / "file").write_bytes(content)
    arguments = tmp_path, "--port", 0, "--grace", support.PATIENCE
    ready = r"http://127\.0\.0\.1:(\d+)/"
    with examplekit.running(loop_kind, SERVER, *arguments, banner=ready) as server:
        address = "127.0.0.1", int(server.match[1])
        with socket.create_connection(address) as idle:
            with socket.create_connection(address) as busy:
                for sock in idle, busy:
                    sock.settimeout(support.PATIENCE)
                    sock.sendall(b"HEAD /file HTTP/1.1\r\n\r\n")
                    assert sock.recv(10_000).endswith(b"\r\n\r\n")
                busy.sendall(b"GET /file HTTP/1.1\r\n\r\n")
                received = busy.recv(100)
                server.process.send_signal(number)
                assert idle.recv(1) == b""
                with busy.makefile("rb") as stream:
                    received += stream.read()
        head, _, body = received.partition(b"\r\n\r\n")
        assert body == content
        assert server.finish() == 0
        last = f"stopped by {number.name}; answered 3 times 200"
        assert server.output.splitlines()[-1] == last


@pytest.mark.packaged
@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "give either a folder or --demo"),
        (["/", "--demo"], "give either a folder or --demo"),
        (["missing"], "'missing' is no folder"),
        (["/", "--port", "70000"], "argument --port: 70000 is above 65535"),
        (["/", "--timeout", "0"], "argument --timeout: 0 is below 0.01"),
        (["/", "--connections", "x"], "invalid int value: 'x'"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    assert said in examplekit.refused(SERVER, *arguments)
