"""Tells of clients that were cut off: each one in the metric, the log a line at once and then one a second.

Five hundred at a time are what an attack looks like: a line for each would fill the log, and a third of what ending them costs
was writing it.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally

import structlog
from prometheus_client import Counter

HEAD, ANSWER, REST = "head", "answer", "rest"
_SECONDS_BETWEEN_LINES = 1.0
_MOST_CLIENTS = 5  # named in a line
_log = structlog.get_logger("api.connection")
_total = Counter(
    "http_connections_cut_off_total",
    "Connections ended because the client was too slow, by what was waited for.",
    ["waiting_for"],
)
_by_kind = {kind: _total.labels(kind) for kind in (HEAD, ANSWER, REST)}


class CutOffs:
    """One process's, for one loop at a time."""

    def __init__(self) -> None:
        # Of the line to come; None where none is to come.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kinds: Tally[str] = Tally()
        self._clients: dict[str, None] = {}

    def note(self, kind: str, client: str | None, loop: asyncio.AbstractEventLoop) -> None:
        """One was cut off while this was waited for."""
        _by_kind[kind].inc()
        if self._loop is not loop:
            self._loop = loop
            self._kinds.clear()
            self._clients.clear()
            _log.info("cut off a slow client", waiting_for=kind, client=client)
            loop.call_later(_SECONDS_BETWEEN_LINES, self._tell, loop)
            return
        self._kinds[kind] += 1
        if client is not None and len(self._clients) < _MOST_CLIENTS:
            self._clients[client] = None

    def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            return
        if not self._kinds:
            self._loop = None
            return
        _log.info(
            "cut off slow clients",
            count=self._kinds.total(),
            waiting_for=dict(self._kinds),
            clients=list(self._clients),
        )
        self._kinds.clear()
        self._clients.clear()
        loop.call_later(_SECONDS_BETWEEN_LINES, self._tell, loop)
