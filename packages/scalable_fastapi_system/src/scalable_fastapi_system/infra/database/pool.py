"""SQLAlchemy's asyncio pools, but for what they do after a burst and when a task is cancelled.

SQLAlchemy closes every connection beyond `pool_size` the moment it comes back. Under a steady load that needs some of
them it opens and closes connections all the time, and opening one costs as much as dozens of transactions. Here they
stay until the load has not needed them for a while.

A task that is cancelled while it closes a connection is nothing to report as an error, which is what SQLAlchemy does unless
the close is a termination: that one closes in order too, and cuts the connection off where it is cancelled or takes 2 s.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, NullPool, Pool

LINGER_SECONDS = 30.0


class _TerminatingPool(Pool):
    def _close_connection(self, connection: DBAPIConnection, *, terminate: bool = False) -> None:
        del terminate
        super()._close_connection(connection, terminate=True)


class AsyncNullPool(_TerminatingPool, NullPool):
    """Keeps no connection: each is opened when it is asked for and closed when it comes back."""


class LingeringPool(_TerminatingPool, AsyncAdaptedQueuePool):
    """Keeps `pool_size` connections; up to `max_overflow` more until none of those was needed for half a minute."""

    def __init__(self, creator: Any, pool_size: int = 5, max_overflow: int = 10, **options: Any) -> None:
        super().__init__(creator, pool_size=pool_size + max_overflow, max_overflow=0, **options)
        self._kept = pool_size
        self._crowded_at = float("-inf")

    @property
    def kept(self) -> int:
        """How many connections stay for good."""
        return self._kept

    @property
    def open_count(self) -> int:
        """How many connections there are, used and idle."""
        return self.checkedin() + self.checkedout()

    def recreate(self) -> LingeringPool:
        """The same, empty."""
        fresh = super().recreate()
        assert isinstance(fresh, LingeringPool)  # noqa: S101 - it is made by the class of `self`
        fresh._kept = self._kept
        return fresh

    def _do_get(self) -> ConnectionPoolEntry:
        record = super()._do_get()
        if self.checkedout() > self._kept:
            self._crowded_at = time.monotonic()
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        is_one_too_many = self.checkedin() >= self._kept
        if is_one_too_many and time.monotonic() - self._crowded_at >= LINGER_SECONDS:
            try:
                record.close()
            finally:
                self._dec_overflow()
            return
        super()._do_return_conn(record)
