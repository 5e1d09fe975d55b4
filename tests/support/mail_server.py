"""A mail server for tests, in a thread of this process: takes every message and keeps it."""

from __future__ import annotations

import socketserver
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Any


class _Conversation(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server: Any = self.server
        self._say("220 test ESMTP")
        sender, recipients = "", []
        while line := self.rfile.readline().decode("latin-1").strip():
            verb = line.upper()
            if server.owner.is_refusing and verb.startswith("MAIL"):
                self._say("451 come back later")
            elif verb.startswith("EHLO"):
                self._say("250-test\r\n250 8BITMIME")
            elif verb.startswith("MAIL FROM:"):
                sender, recipients = line[10:], []
                self._say("250 ok")
            elif verb.startswith("RCPT TO:"):
                recipients.append(line[8:].strip("<> "))
                self._say("250 ok")
            elif verb == "DATA":
                self._say("354 go on")
                raw = b""
                while (piece := self.rfile.readline()) not in (b".\r\n", b""):
                    raw += piece
                server.owner.take(raw, sender, recipients)
                self._say("250 ok")
            elif verb == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 ok")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    owner: MailServer


class MailServer:
    """`with MailServer() as server`: `url`, `messages`, `is_refusing`."""

    def __init__(self) -> None:
        self._server = _Listener(("127.0.0.1", 0), _Conversation)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._arrived = threading.Condition()
        self.messages: list[EmailMessage] = []
        self.is_refusing = False

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self._server.server_address[1]}"

    def take(self, raw: bytes, sender: str, recipients: list[str]) -> None:
        letter = message_from_bytes(raw, policy=policy.default)
        assert isinstance(letter, EmailMessage)
        assert sender
        assert recipients == [letter["To"]]
        with self._arrived:
            self.messages.append(letter)
            self._arrived.notify_all()

    def wait_for(self, count: int, *, timeout_seconds: float = 15.0) -> list[EmailMessage]:
        """The messages, once there are so many. Blocks the thread."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.messages) >= count, timeout_seconds), self.messages
            return list(self.messages)

    def __enter__(self) -> MailServer:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
