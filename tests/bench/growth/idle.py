"""Connections that are kept open after one request and say nothing more, as many clients' pools do."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from hack.dev.errors import DevError

_REQUEST = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_PATIENCE_SECONDS = 30.0


@contextlib.contextmanager
def idle_connections(port: int, count: int) -> Iterator[None]:
    """Holds so many. Raises DevError where the server does not answer one, or has closed one by the end."""
    with contextlib.ExitStack() as stack:
        held = [_open(stack, port) for _ in range(count)]
        yield
        closed = sum(_is_closed(connection) for connection in held)
        if closed:
            raise DevError(f"the server closed {closed} of {count} idle connections meanwhile")


def _open(stack: contextlib.ExitStack, port: int) -> socket.socket:
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_SECONDS)
        stack.enter_context(connection)
        connection.sendall(_REQUEST)
        answer = connection.recv(65_536)
    except OSError as error:
        raise DevError(f"an idle connection cannot be opened: {error}") from error
    if not answer.startswith(b"HTTP/1.1 200"):
        raise DevError(f"an idle connection is answered {answer[:40]!r}")
    connection.setblocking(False)
    return connection


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
