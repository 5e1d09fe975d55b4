"""Accepts the connections that wait behind one that has just been accepted.

uvloop accepts one connection in each turn of its loop (libuv does since 1.45). A turn of a busy process takes some tens of
milliseconds, so that new connections, a kubelet's probes among them, wait seconds before they are read, and nobody can be
refused either. Here each connection that the loop accepts brings up to `MOST_AT_ONCE` others with it; one look that finds
none is what that costs otherwise.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence

import structlog

MOST_AT_ONCE = 64
STOP_SECONDS = 1.0
_log = structlog.get_logger("api.connection")


class Acceptor:
    """Takes over what waits at these listening sockets, by the running loop. It stops where they are closed."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        tls: ssl.SSLContext | None = None,
        most_at_once: int = MOST_AT_ONCE,
    ) -> None:
        self._sockets = list(sockets)
        self._make_protocol = make_protocol
        self._tls = tls
        self._most_at_once = most_at_once
        self._tasks: set[asyncio.Task[None]] = set()

    def take_more(self) -> None:
        """Accepts what waits. Never raises: what it cannot take, the loop comes to by itself."""
        for listening in self._sockets:
            for _ in range(self._most_at_once):
                try:
                    taken, _ = listening.accept()
                except OSError:  # nobody waits; or the listener is closed, or files have run out
                    break
                taken.setblocking(False)
                if taken.family != socket.AF_UNIX:
                    taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                task = asyncio.get_running_loop().create_task(self._serve(taken))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Takes no more, and waits until those that were taken are connections like all others, which are told of the end."""
        self._sockets = []
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)

    async def _serve(self, taken: socket.socket) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(self._make_protocol, taken, ssl=self._tls)
        except OSError as error:  # it has gone again, or a handshake failed
            _log.debug("a connection that was taken did not come about", reason=str(error))
            taken.close()
