"""examples/probes: each probe says what is there."""

import re
import socket
import threading

import examplekit
import pytest
import support

MONITOR = "probes/monitor.py"


def summary(output):
    """The lines of what a monitor printed, without its times."""
    text = re.sub(r" in \d+\.\d+ s$", "", output, flags=re.M)
    return re.sub(r" +p50 .*$", "", text, flags=re.M).splitlines()


class Service:
    """A listening socket that greets a number of visitors with the same line."""

    def __init__(self, greeting, visitors):
        self.greeting = greeting
        self.visitors = visitors
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def serve(self):
        with self.listener:
            for _ in range(self.visitors):
                visitor, _ = self.listener.accept()
                with visitor:
                    visitor.sendall(self.greeting)
                    visitor.settimeout(support.PATIENCE)
                    visitor.recv(1)


@pytest.mark.packaged
def test_a_thousand_probes(loop_kind):
    probed = examplekit.run(loop_kind, MONITOR, "--demo", "--concurrency", 300)
    lines = summary(probed)
    assert lines[:5] == [
        "round 1: 1000 probes",
        "  up             400",
        "  silent         200",
        "  unreachable    100",
        "  refused        300",
    ]
    assert lines[5:10] == [
        "round 2: 1000 probes",
        "  up             320",
        "  silent         200",
        "  unreachable    100",
        "  refused        380",
    ]
    changes = [f"  answers-{n:04}: was up, is refused" for n in range(1000)]
    assert lines[10:-1] == [line for line in changes if line in lines]
    assert len(lines[10:-1]) == 80
    assert lines[-1] == "every probe found what is there"


def test_what_is_there_is_named(loop_kind):
    well, ill = Service(b"220 hello\r\n", 1), Service(b"550 no\r\n", 1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        targets = [
            f"well=127.0.0.1:{well.port}",
            f"ill=127.0.0.1:{ill.port}",
            f"closed=127.0.0.1:{closed.getsockname()[1]}",
        ]
        options = ["--expect", "220", "--verbose", "--timeout", support.PATIENCE]
        printed = probe_beside(loop_kind, [well, ill], [*targets, *options])
    assert summary(printed) == [
        "round 1: 3 probes",
        "  up               1",
        "  wrong            1",
        "  refused          1",
        "  closed: refused",
        "  ill: wrong 550 no",
    ]


def probe_beside(kind, services, arguments):
    """Run the monitor while these services serve in turn."""
    threads = [threading.Thread(target=service.serve) for service in services]
    for thread in threads:
        thread.start()
    try:
        return examplekit.run(kind, MONITOR, *arguments, status=1)
    finally:
        for thread in threads:
            thread.join(support.PATIENCE)


@pytest.mark.parametrize("number", examplekit.ENDING)
def test_a_signal_ends_it(loop_kind, number):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(support.PATIENCE)
        port = silent.getsockname()[1]
        target = f"silent=127.0.0.1:{port}"
        options = "--rounds", 2, "--expect", "x", "--timeout", 0.01, "--interval", 1e6
        program = MONITOR, target, *options
        # Which it is depends on how fast this machine connects: in 10 ms, or not.
        found = "(silent|unreachable) +1 "
        with examplekit.running(loop_kind, *program, banner=found) as monitor:
            assert monitor.end(number) == 0
            assert monitor.output.splitlines()[-1] == (
                f"stopped by {number.name} after 1 rounds"
            )


@pytest.mark.packaged
@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "there are no targets"),
        (["host"], "'host' is not NAME=HOST:PORT"),
        (["=host:1"], "'=host:1' is not NAME=HOST:PORT"),
        (["host:0"], "'host:0': '0' is no port, which is 1 to 65535"),
        (["a=h:1", "a=h:2"], "two targets are named 'a'"),
        (["h:1", "--timeout", "0"], "argument --timeout: 0 is not above 0"),
        (["h:1", "--demo"], "--demo"),
        (["--file", "missing"], "--file: "),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    assert said in examplekit.refused(MONITOR, *arguments)
