"""What a process says to PostgreSQL and to Redis, read off the wire by proxies between it and them.

Counted is what the servers are really sent, whatever library sent it: statements with their text, commands with their
name, and round trips: how often a connection speaks up again after it was answered.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

_SSL_REQUEST = 80877103


@dataclass
class Traffic:
    """What was sent through one proxy."""

    spoken: list[str] = field(default_factory=list)
    round_trips: int = 0


class _Parser:
    """Cuts what one connection sends into statements or commands."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Takes the next bytes; what is not whole yet waits."""
        self._rest += data
        while (used := self._take(self._rest)) > 0:
            self._rest = self._rest[used:]

    def _take(self, data: bytes) -> int:
        raise NotImplementedError


class PostgresParser(_Parser):
    """The frontend's half of PostgreSQL's protocol 3."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__(traffic)
        self._has_begun = False
        self._statements: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}

    def _take(self, data: bytes) -> int:
        if not self._has_begun:  # the first message has no type
            if len(data) < 8 or len(data) < (size := int.from_bytes(data[:4])):
                return 0
            self._has_begun = int.from_bytes(data[4:8]) != _SSL_REQUEST
            return size
        if len(data) < 5 or len(data) < (size := 1 + int.from_bytes(data[1:5])):
            return 0
        self._note(data[:1], data[5:size])
        return size

    def _note(self, kind: bytes, body: bytes) -> None:
        if kind == b"Q":
            self.traffic.spoken.append(body[:-1].decode())
        elif kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._statements[name] = text.decode()
        elif kind == b"B":
            portal, name, _ = body.split(b"\0", 2)
            self._portals[portal] = self._statements[name]
        elif kind == b"E":
            self.traffic.spoken.append(self._portals[body.split(b"\0", 1)[0]])


class RedisParser(_Parser):
    """A client's half of RESP: arrays of bulk strings."""

    def _take(self, data: bytes) -> int:
        end = data.find(b"\r\n")
        if end < 0:
            return 0
        at, words = end + 2, []
        for _ in range(int(data[1:end])):
            end = data.find(b"\r\n", at)
            if end < 0:
                return 0
            size = int(data[at + 1 : end])
            at = end + 2 + size + 2
            if at > len(data):
                return 0
            words.append(data[end + 2 : end + 2 + size])
        self.traffic.spoken.append(words[0].decode().upper())
        return at


@contextlib.contextmanager
def proxy(target_port: int, parser: type[_Parser]) -> Iterator[tuple[int, Traffic]]:
    """The port to connect to in place of the server's, and what goes through it. Threads of its own serve it."""
    traffic = Traffic()
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = [listener]

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", target_port))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            open_sockets.extend((client, server))
            turn = _Turn(traffic, parser(traffic))
            for pump in (
                (client, server, turn.client_says),
                (server, client, turn.server_says),
            ):
                threading.Thread(target=_pump, args=pump, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], traffic
    finally:
        for one in open_sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class _Turn:
    """Whose turn it is on one connection."""

    def __init__(self, traffic: Traffic, parser: _Parser) -> None:
        self._traffic = traffic
        self._parser = parser
        self._is_server_next = False

    def client_says(self, data: bytes) -> None:
        if not self._is_server_next:
            self._is_server_next = True
            self._traffic.round_trips += 1
        self._parser.feed(data)

    def server_says(self, _data: bytes) -> None:
        self._is_server_next = False


def _pump(source: socket.socket, target: socket.socket, note: object) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            note(data)  # type: ignore[operator]
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
