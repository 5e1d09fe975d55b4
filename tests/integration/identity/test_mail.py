"""Handing messages to a mail server."""

from __future__ import annotations

import smtplib

import pytest
from scalable_fastapi_system.identity.mail import Message, SmtpSender, sender_of
from scalable_fastapi_system.infra.settings import MailSettings, Settings

from tests.support.mail_server import MailServer

MESSAGE = Message("ada@example.com", "Grüße", "Zeile eins\n\n.\nZeile drei: ü")


async def test_message_arrives_as_it_was_written() -> None:
    with MailServer() as server:
        await SmtpSender(MailSettings(smtp_url=server.url, sender="no-reply@example.com")).send(MESSAGE)
        (letter,) = server.messages
    assert letter["From"] == "no-reply@example.com"
    assert letter["Subject"] == "Grüße"
    assert letter["Auto-Submitted"] == "auto-generated"
    assert letter["Message-ID"].endswith("@example.com>")
    assert letter.get_content().replace("\r\n", "\n") == MESSAGE.text.replace("\n.\n", "\n..\n") + "\n"


async def test_password_is_not_sent_over_a_connection_without_tls() -> None:
    with MailServer() as server:
        url = server.url.replace("smtp://", "smtp://user:secret@")
        with pytest.raises(smtplib.SMTPNotSupportedError, match="TLS"):
            await SmtpSender(MailSettings(smtp_url=url)).send(MESSAGE)
        assert server.messages == []


async def test_line_break_in_an_address_makes_no_further_header() -> None:
    with MailServer() as server:
        evil = Message("ada@example.com\nBcc: everyone@example.com", "x", "y")
        with pytest.raises(ValueError, match="linefeed"):
            await SmtpSender(MailSettings(smtp_url=server.url)).send(evil)
        assert server.messages == []


async def test_server_that_is_away_is_an_error_and_not_a_loss() -> None:
    with MailServer() as server:
        url = server.url
    with pytest.raises(OSError, match="refused"):
        await SmtpSender(MailSettings(smtp_url=url, timeout_seconds=1)).send(MESSAGE)


def test_way_of_delivery_follows_the_settings() -> None:
    production = {
        "environment": "production",
        "database": {"database_url": "postgresql://localhost/x"},
        "security": {"secret_key": "a secret of production, long enough for it"},
    }
    assert sender_of(Settings(_env_file=None, **production)) is None  # type: ignore[arg-type]
    assert type(sender_of(Settings(_env_file=None))).__name__ == "TerminalSender"  # type: ignore[call-arg]
    mail = {"smtp_url": "smtp://localhost", "public_url": "https://app.example.com"}
    assert isinstance(sender_of(Settings(_env_file=None, mail=mail, **production)), SmtpSender)  # type: ignore[arg-type]
