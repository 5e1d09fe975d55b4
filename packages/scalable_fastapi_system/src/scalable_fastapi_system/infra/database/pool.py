"""SQLAlchemy's asyncio pool, but for what it does after a burst.

SQLAlchemy closes every connection beyond `pool_size` the moment it comes back. Under a steady load that needs some of
them it opens and closes connections all the time, and opening one costs as much as dozens of transactions. Here they
stay until the load has not needed them for a while.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

LINGER_SECONDS = 30.0


class LingeringPool(AsyncAdaptedQueuePool):
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
