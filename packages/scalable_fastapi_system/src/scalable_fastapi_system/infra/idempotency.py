"""The answers kept under idempotency keys: who holds a key now, and what was answered.

A key is claimed in a transaction of its own, so that every other request sees at once that it is held. The answer is
written by `keep` in the transaction of the request's own effect: both are there or neither. A claim carries its
holder's id and an end; a process that died holds its key until then, and a holder that was overtaken writes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Column,
    CursorResult,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Uuid,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.infra.database.base import JSONColumn, UTCDateTime, metadata
from scalable_fastapi_system.infra.database.manager import DatabaseManager
from scalable_fastapi_system.kit.clock import utc_now

KEPT_FOR = timedelta(hours=24)
# A process that dies in the middle of a request blocks its key for so long; a living one renews it in good time.
LEASE_SECONDS = 30.0

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    # of the caller, the route and the key: what a caller chose as a key is not stored
    Column("digest", String(64), primary_key=True),
    Column("created_at", UTCDateTime(), nullable=False, index=True),
    Column("held_until", UTCDateTime(), nullable=False),
    Column("holder", Uuid(), nullable=False),
    # null until there is an answer
    Column("status", SmallInteger(), nullable=True),
    Column("fingerprint", String(64), nullable=True),
    Column("headers", JSONColumn(), nullable=True),
    Column("body", LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb"), nullable=True),
)
_keys = idempotency_keys.c


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it was given. fingerprint: of the request, in hex; headers: names and values."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Held:
    """Another request is at work under the key. retry_after_seconds: a whole number, at least 1."""

    retry_after_seconds: int


async def claim(database: DatabaseManager, *, digest: str, holder: UUID) -> KeptAnswer | Held | None:
    """Takes the key for this holder. None: it is the holder's; else what stands in the way."""
    now = utc_now()
    values: dict[str, Any] = {
        "digest": digest, "created_at": now, "held_until": now + timedelta(seconds=LEASE_SECONDS), "holder": holder,
        "status": None, "fingerprint": None, "headers": None, "body": None,
    }  # fmt: skip
    async with database.transaction() as session:
        if await _changes(session, _insert_new(database.backend, values)):
            return None
    # Another transaction: on MySQL the row that was in the way is locked as for a reader until the first one ends, and two
    # that then both want to write it would be a deadlock.
    async with database.transaction() as session:
        # The write comes first: a SQLite transaction that has read may not be able to write any more.
        is_free = or_(_keys.status.is_(None) & (_keys.held_until < now), _keys.created_at < now - KEPT_FOR)
        taken_over = update(idempotency_keys).where(_keys.digest == digest, is_free).values(values)
        if await _changes(session, taken_over):
            return None
        row = (await session.execute(select(idempotency_keys).where(_keys.digest == digest))).one_or_none()
    if row is None:
        return Held(1)  # its holder gave it up between the two looks
    if row.status is None:
        return Held(max(1, min(math.ceil((row.held_until - now).total_seconds()), math.ceil(LEASE_SECONDS))))
    return KeptAnswer(row.status, [(name, value) for name, value in row.headers], row.body, row.fingerprint)


async def keep(session: AsyncSession, answer: KeptAnswer, *, digest: str, holder: UUID) -> bool:
    """Writes the answer in the session's transaction. False where another request has taken the key over."""
    statement = (
        update(idempotency_keys)
        .where(_keys.digest == digest, _keys.holder == holder, _keys.status.is_(None))
        .values(
            status=answer.status,
            fingerprint=answer.fingerprint,
            headers=[list(header) for header in answer.headers],
            body=answer.body,
        )
    )
    return await _changes(session, statement) == 1


async def renew(database: DatabaseManager, *, digest: str, holder: UUID) -> None:
    """Holds the key for another while, because the request is still at work."""
    until = utc_now() + timedelta(seconds=LEASE_SECONDS)
    async with database.transaction() as session:
        await session.execute(
            update(idempotency_keys)
            .where(_keys.digest == digest, _keys.holder == holder, _keys.status.is_(None))
            .values(held_until=until)
        )


async def release(database: DatabaseManager, *, digest: str, holder: UUID) -> None:
    """Gives the key back: nothing was done under it. An answer that was kept all the same stays."""
    async with database.transaction() as session:
        await session.execute(
            delete(idempotency_keys).where(
                _keys.digest == digest, _keys.holder == holder, _keys.status.is_(None)
            )
        )


async def purge(database: DatabaseManager) -> int:
    """Deletes what is older than `KEPT_FOR`; how many keys that were."""
    async with database.transaction() as session:
        return await _changes(
            session, delete(idempotency_keys).where(_keys.created_at < utc_now() - KEPT_FOR)
        )


def _insert_new(backend: str, values: dict[str, Any]) -> Any:
    if backend == "postgresql":
        return postgresql_insert(idempotency_keys).values(values).on_conflict_do_nothing()
    if backend == "sqlite":
        return sqlite_insert(idempotency_keys).values(values).on_conflict_do_nothing()
    return insert(idempotency_keys).values(values).prefix_with("IGNORE")


async def _changes(session: AsyncSession, statement: Any) -> int:
    done: CursorResult[Any] = await session.execute(statement)  # type: ignore[assignment]
    return done.rowcount
