"""Messages to users: an interface, SMTP, and the terminal in development.

Another way of delivery (a provider's HTTP interface, say) is a class with `send` and a line in `sender_of`. Messages are
sent by jobs, so a mail server that is away delays them and loses none.
"""

from __future__ import annotations

import asyncio
import smtplib
import ssl
import sys
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Protocol
from urllib.parse import unquote, urlsplit

from scalable_fastapi_system.infra.settings import MailSettings, Settings

_SMTP_PORT, _SMTPS_PORT = 587, 465


@dataclass(frozen=True, slots=True)
class Message:
    """A plain-text message to one address."""

    to: str
    subject: str
    text: str


class MessageSender(Protocol):
    """Delivers messages."""

    async def send(self, message: Message) -> None:
        """Hands the message over, or raises: then it will be tried again."""


class TerminalSender:
    """Writes messages to standard error, for whoever develops. Not for production: they hold secrets."""

    async def send(self, message: Message) -> None:
        sys.stderr.write(f"\n--- message to {message.to}: {message.subject}\n{message.text}\n---\n")
        sys.stderr.flush()


class SmtpSender:
    """Hands messages to a mail server, in a thread. TLS from the start, or as soon as the server offers it."""

    def __init__(self, mail: MailSettings) -> None:
        parts = urlsplit(str(mail.smtp_url))
        self._is_tls = parts.scheme == "smtps"
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (_SMTPS_PORT if self._is_tls else _SMTP_PORT)
        self._user = unquote(parts.username or "")
        self._password = unquote(parts.password or "")
        self._sender = mail.sender
        self._timeout_seconds = mail.timeout_seconds

    async def send(self, message: Message) -> None:
        """Raises OSError or smtplib.SMTPException where the server is away or refuses."""
        await asyncio.to_thread(self._send, message)

    def _send(self, message: Message) -> None:
        letter = EmailMessage()
        letter["From"], letter["To"], letter["Subject"] = self._sender, message.to, message.subject
        letter["Date"] = formatdate(localtime=False)
        letter["Message-ID"] = make_msgid(domain=self._sender.rpartition("@")[2] or None)
        letter["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notes in answer to it
        letter.set_content(message.text)
        context = ssl.create_default_context()
        with self._connect(context) as server:
            if not self._is_tls and server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
            if self._user:
                if not self._is_tls and not isinstance(server.sock, ssl.SSLSocket):
                    raise smtplib.SMTPNotSupportedError("the server offers no TLS to send a password over")
                server.login(self._user, self._password)
            server.send_message(letter)

    def _connect(self, context: ssl.SSLContext) -> smtplib.SMTP:
        if self._is_tls:
            return smtplib.SMTP_SSL(self._host, self._port, timeout=self._timeout_seconds, context=context)
        server = smtplib.SMTP(self._host, self._port, timeout=self._timeout_seconds)
        server.ehlo()
        return server


def sender_of(settings: Settings) -> MessageSender | None:
    """How messages are delivered here; None where production has no mail server."""
    if settings.mail.smtp_url is not None:
        return SmtpSender(settings.mail)
    return None if settings.is_production else TerminalSender()
