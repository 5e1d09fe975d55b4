"""Reads that may lag: from a replica while it answers, from the primary while it does not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.database.manager import DatabaseManager

_log = structlog.get_logger("database")


class Replica:
    """A second server for reads, and whether it is worth asking."""

    def __init__(self, database: DatabaseManager, *, retry_seconds: float) -> None:
        """`retry_seconds`: how long one that failed is left alone; then one caller tries it for all."""
        self.database = database
        self._retry_seconds = retry_seconds
        self._left_alone_until: float | None = None

    @property
    def is_away(self) -> bool:
        """Whether the last try failed."""
        return self._left_alone_until is not None

    def is_worth_trying(self) -> bool:
        """Whether to ask it now. Of those who come while it is away, one in each `retry_seconds` is told yes."""
        if self._left_alone_until is None:
            return True
        now = time.monotonic()
        if now < self._left_alone_until:
            return False
        self._left_alone_until = now + self._retry_seconds
        return True

    def failed(self, error: BaseException) -> None:
        """Notes that it cannot be reached; logs it once an outage."""
        if self._left_alone_until is None:
            _log.warning("the read replica is away, reads go to the primary", reason=type(error).__name__)
        self._left_alone_until = time.monotonic() + self._retry_seconds

    def worked(self) -> None:
        """Notes that it answers; logs the end of an outage."""
        if self._left_alone_until is not None:
            _log.info("the read replica is back")
            self._left_alone_until = None


async def begin_read_only(session: AsyncSession, backend: str, *, is_replica: bool) -> None:
    """Takes a connection for the session and has the database refuse writes in its transaction.

    A replica is asked at once, so that one that has just died is noticed while there is the primary to turn to.
    """
    if backend == "postgresql" and is_replica:
        await session.execute(text("SET TRANSACTION READ ONLY"))
    elif backend == "postgresql":
        # In the BEGIN itself, which goes out with the first statement.
        await session.connection(execution_options={"postgresql_readonly": True})
    elif backend == "mysql":
        await session.execute(text("START TRANSACTION READ ONLY"))
    else:
        await session.execute(text("PRAGMA query_only=ON"))  # the connection is closed with its session
