"""examples/tlsproxy: what is passed on, each way, and how connections end."""

import shutil
import signal
import socket
import ssl
import sys

import examplekit
import pytest
import support

PROXY = "tlsproxy/proxy.py"

DEMO = """\
plain to plain: 19603202 bytes echoed, 20 half-closed; the flood was held back
TLS to plain: 19603202 bytes echoed, 0 half-closed; the flood was held back
plain to TLS: 19603202 bytes echoed, 0 half-closed; the flood was held back
TLS to TLS: 19603202 bytes echoed, 0 half-closed; the flood was held back
"""

READY = r"127\.0\.0\.1:(\d+) -> "


@pytest.mark.packaged
def test_demo(loop_kind):
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")
    if sys.version_info < (3, 11):
        pytest.skip("TLS of Python 3.10 loses what is not read when the peer ends")
    assert examplekit.run(loop_kind, PROXY, "--demo") == DEMO


def connect(address):
    sock = socket.create_connection(address)
    sock.settimeout(support.PATIENCE)
    return sock


def test_half_closed_both_ways_and_a_signal(loop_kind):
    """What has begun goes on after SIGTERM, though its client has ended one way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(support.PATIENCE)
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        arguments = "127.0.0.1:0", target, "--grace", support.PATIENCE
        with examplekit.running(loop_kind, PROXY, *arguments, banner=READY) as proxy:
            with connect(("127.0.0.1", int(proxy.match[1]))) as client:
                server, _ = listener.accept()
                with server, server.makefile("rb") as stream:
                    client.sendall(b"question")
                    client.shutdown(socket.SHUT_WR)
                    assert stream.read() == b"question"
                    proxy.process.send_signal(signal.SIGTERM)
                    server.sendall(b"answer" * 1000)
                with client.makefile("rb") as stream:
                    assert stream.read() == b"answer" * 1000
            assert proxy.finish() == 0
            assert proxy.output.splitlines()[-1] == (
                "stopped by SIGTERM: 1 connections, 8 bytes up, 6000 bytes down; "
                "0 refused, 0 without a server, 0 broken off"
            )


@pytest.mark.packaged
def test_the_certificate_is_read_again(loop_kind, tmp_path):
    trustme = pytest.importorskip("trustme", reason="trustme is not installed")
    cert = tmp_path / "both.pem"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{nobody.getsockname()[1]}"
        authorities = [trustme.CA(), trustme.CA()]
        contexts = []
        for authority in authorities:
            contexts.append(ssl.create_default_context())
            authority.configure_trust(contexts[-1])
        pem = authorities[0].issue_cert("127.0.0.1")
        pem.private_key_and_cert_chain_pem.write_to_path(cert)
        arguments = "127.0.0.1:0", target, "--cert", cert
        with examplekit.running(loop_kind, PROXY, *arguments, banner=READY) as proxy:
            address = "127.0.0.1", int(proxy.match[1])
            for round, context in enumerate(contexts):
                if round:
                    pem = authorities[1].issue_cert("127.0.0.1")
                    pem.private_key_and_cert_chain_pem.write_to_path(cert)
                    proxy.process.send_signal(signal.SIGHUP)
                    proxy.wait_for_line("the certificate was read again")
                with connect(address) as sock:
                    with context.wrap_socket(sock, server_hostname="127.0.0.1") as tls:
                        assert tls.recv(1) == b""  # the target refuses
            assert proxy.end(signal.SIGTERM) == 0
            assert "2 without a server" in proxy.output


@pytest.mark.packaged
@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "two addresses are needed"),
        (["a:1"], "two addresses are needed"),
        (["a:1", "--demo"], "--demo has addresses of its own"),
        (["a", "b:1"], "argument LISTEN: 'a' is not HOST:PORT"),
        (["a:1", "b:x"], "argument TARGET: 'b:x': 'x' is no port"),
        (["a:1", "b:1", "--key", "k"], "--key without --cert"),
        (["a:1", "b:1", "--cert", "missing"], "missing: "),
        (["a:1", "b:1", "--upstream-ca", "c"], "--upstream-ca without --upstream-tls"),
        (["a:1", "b:1", "--idle", "0"], "argument --idle: 0 is not above 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    assert said in examplekit.refused(PROXY, *arguments)
