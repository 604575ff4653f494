"""aiosmtpd as the server and aiosmtplib as the client, both on the loop under test.

aiosmtpd makes STARTTLS with asyncio's own SSLProtocol, over the loop's transport.
"""

import asyncio
import contextlib
import email.message
import email.policy
import os
import smtplib
import warnings

import aiosmtplib
import pytest
import support

with warnings.catch_warnings():  # it imports what Python 3.15 deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from aiosmtpd.controller import Controller, UnixSocketUnthreadedController
    from aiosmtpd.smtp import SMTP, AuthResult

TEXT = "Grüße\n.\n..two dots\n" * 3


class Inbox:
    """aiosmtpd's handler: keeps the envelopes that it is given."""

    def __init__(self):
        self.envelopes = []

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.endswith("@nowhere.example"):
            return "550 nobody lives there"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        await asyncio.sleep(0)
        self.envelopes.append(envelope)
        return "250 kept"

    def messages(self):
        return [
            email.message_from_bytes(envelope.content, policy=email.policy.default)
            for envelope in self.envelopes
        ]


def letter(subject, *parts, recipient="you@example.org"):
    message = email.message.EmailMessage()
    message["From"] = "me@example.org"
    message["To"] = recipient
    message["Subject"] = subject
    message.set_content(TEXT)
    for part in parts:
        message.add_attachment(part, maintype="application", subtype="octet-stream")
    return message


@contextlib.asynccontextmanager
async def serving(inbox, *, ssl_context=None, **options):
    """Serve SMTP on the running loop; gives the port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(inbox, loop=loop, enable_SMTPUTF8=True, **options),
        "127.0.0.1",
        0,
        ssl=ssl_context,
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


def client(port, **options):
    options.setdefault("start_tls", False)
    return aiosmtplib.SMTP(
        hostname="localhost", port=port, timeout=support.PATIENCE, **options
    )


def test_letters_with_attachments(loop):
    inbox = Inbox()
    parts = [os.urandom(1000), os.urandom(2_000_000)]

    async def main():
        async with serving(inbox) as port, client(port) as smtp:
            for number in range(3):
                errors, answer = await smtp.send_message(letter(f"{number}", *parts))
                assert (errors, answer) == ({}, "kept")

    support.run(loop, main())
    for number, message in enumerate(inbox.messages()):
        assert message["Subject"] == str(number)
        text, *attached = message.iter_parts()
        assert text.get_content().replace("\r\n", "\n") == TEXT
        assert [part.get_content() for part in attached] == parts


def test_starttls_and_a_login(loop, certificates):
    inbox = Inbox()
    seen = []

    def authenticate(server, session, envelope, mechanism, data):
        seen.append((mechanism, data.login, data.password, session.ssl is not None))
        return AuthResult(success=data.password == b"right", handled=False)

    async def main():
        options = {
            "tls_context": certificates.server_context(),
            "require_starttls": True,
            "auth_required": True,
            "authenticator": authenticate,
        }
        tls = {"start_tls": True, "tls_context": certificates.client_context()}
        async with serving(inbox, **options) as port:
            async with client(port, **tls) as smtp:
                with pytest.raises(aiosmtplib.SMTPAuthenticationError):
                    await smtp.login("user", "wrong")
                await smtp.login("user", "right")
                await smtp.send_message(letter("secret", os.urandom(500_000)))
                assert smtp.get_transport_info("cipher") is not None
            async with client(port) as smtp:
                with pytest.raises(aiosmtplib.SMTPSenderRefused, match="STARTTLS"):
                    await smtp.send_message(letter("in the open"))

    support.run(loop, main())
    assert [login for _, login, _, _ in seen] == [b"user"] * len(seen)
    assert seen[-1][2:] == (b"right", True)
    assert [message["Subject"] for message in inbox.messages()] == ["secret"]


def test_tls_from_the_beginning(loop, certificates):
    inbox = Inbox()

    async def main():
        context = certificates.server_context()
        async with serving(inbox, ssl_context=context) as port:
            tls = {"use_tls": True, "tls_context": certificates.client_context()}
            async with client(port, start_tls=None, **tls) as smtp:
                await smtp.send_message(letter("first", os.urandom(300_000)))
                await smtp.send_message(letter("second"))

    support.run(loop, main())
    assert [message["Subject"] for message in inbox.messages()] == ["first", "second"]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "starttls"])
def test_many_clients(loop, certificates, tls):
    inbox = Inbox()

    async def one(port, number):
        options = {}
        if tls:
            context = certificates.client_context()
            options = {"start_tls": True, "tls_context": context}
        async with client(port, **options) as smtp:
            for turn in range(5):
                await smtp.send_message(letter(f"{number} {turn}"))

    async def main():
        options = {"tls_context": certificates.server_context()} if tls else {}
        async with serving(inbox, **options) as port:
            await asyncio.gather(*[one(port, number) for number in range(50)])

    support.run(loop, main())
    subjects = {message["Subject"] for message in inbox.messages()}
    assert subjects == {f"{n} {turn}" for n in range(50) for turn in range(5)}


def test_refused_recipients_and_broken_commands(loop):
    inbox = Inbox()

    async def main():
        async with serving(inbox) as port, client(port) as smtp:
            message = letter("x", recipient="you@example.org, gone@nowhere.example")
            errors, _ = await smtp.send_message(message)
            assert errors == {"gone@nowhere.example": (550, "nobody lives there")}
            with pytest.raises(aiosmtplib.SMTPRecipientsRefused):
                await smtp.send_message(letter("x", recipient="a@nowhere.example"))
            response = await smtp.execute_command(b"NONSENSE")
            assert response.code == 500
            response = await smtp.execute_command(b"NOOP", b"x" * 2000)
            assert response.code == 500
            await smtp.noop()

    support.run(loop, main())
    assert len(inbox.envelopes) == 1


def test_the_server_ends_what_says_nothing(loop):
    async def main():
        async with serving(Inbox(), timeout=0.1) as port, client(port) as smtp:
            while smtp.is_connected:
                await asyncio.sleep(0.01)
            with pytest.raises(aiosmtplib.SMTPServerDisconnected):
                await smtp.noop()

    support.run(loop, main())


def test_the_client_gives_up(loop):
    async def main():
        release = asyncio.Event()

        class Slow(Inbox):
            async def handle_DATA(self, server, session, envelope):
                await release.wait()
                return await super().handle_DATA(server, session, envelope)

        async with serving(Slow()) as port:
            smtp = client(port)
            await smtp.connect()
            smtp.timeout = 0.1
            with pytest.raises(aiosmtplib.SMTPTimeoutError):
                await smtp.send_message(letter("x"))
            smtp.close()
            release.set()

    support.run(loop, main())


def test_a_unix_socket(loop, tmp_path):
    inbox = Inbox()
    path = str(tmp_path / "smtp")
    controller = UnixSocketUnthreadedController(inbox, path, loop=loop)
    controller.begin()

    async def main():
        smtp = aiosmtplib.SMTP(socket_path=path, start_tls=False)
        async with smtp:
            await smtp.send_message(letter("over a path", os.urandom(100_000)))

    support.run(loop, main())
    support.run(loop, controller.finalize())
    assert [message["Subject"] for message in inbox.messages()] == ["over a path"]


def test_python_s_own_client_and_a_server_in_a_thread(new_loop, certificates):
    """The controller runs the loop under test in its thread; smtplib blocks in ours."""
    inbox = Inbox()
    controller = Controller(
        inbox,
        loop=new_loop(),
        hostname="127.0.0.1",
        port=support.free_port(),
        tls_context=certificates.server_context(),
        require_starttls=True,
    )
    controller.start()
    try:
        for number in range(5):
            with smtplib.SMTP("localhost", controller.port) as smtp:
                smtp.starttls(context=certificates.client_context())
                smtp.send_message(letter(f"{number}", os.urandom(100_000)))
    finally:
        controller.stop()
    assert [m["Subject"] for m in inbox.messages()] == [str(n) for n in range(5)]
