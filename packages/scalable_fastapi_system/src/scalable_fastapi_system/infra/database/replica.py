"""Reads that may lag: from a replica while it answers, from the primary while it does not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.database.manager import DatabaseManager

_log = structlog.get_logger("database")

# What begins a transaction that only reads. PostgreSQL is told in the BEGIN itself, by the session's engine.
_READ_ONLY = {
    "mysql": "START TRANSACTION READ ONLY",
    "sqlite": "PRAGMA query_only=ON",  # the connection is closed with its transaction
}


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


class ReadingSession(Session):
    """The synchronous half of a session that only reads: the database refuses writes in each of its transactions."""


@event.listens_for(ReadingSession, "after_begin")
def _refuse_writes(_session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    statement = _READ_ONLY.get(connection.dialect.name)
    if statement is not None and not transaction.nested:  # a savepoint is within what was told already
        connection.exec_driver_sql(statement)


async def ask(session: AsyncSession) -> None:
    """Takes the session's connection and has its server answer: one that has just died is noticed at once."""
    connection = await session.connection()
    if connection.dialect.name == "postgresql":  # elsewhere the statement of `_refuse_writes` has asked
        await session.execute(text("SELECT 1"))
