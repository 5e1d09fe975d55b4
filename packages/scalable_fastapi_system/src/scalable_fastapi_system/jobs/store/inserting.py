"""Inserting jobs in somebody's session: the caller's transaction decides whether they exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.infra.database.base import UTCDateTime
from scalable_fastapi_system.jobs.limits import decode
from scalable_fastapi_system.jobs.records import NewJob
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.jobs.store.base import Inserted
from scalable_fastapi_system.jobs.store.clock import backend_of, database_now
from scalable_fastapi_system.jobs.tables import NEVER, jobs


async def insert_jobs(session: AsyncSession, rows: Sequence[NewJob]) -> list[Inserted]:
    """Inserts jobs; one whose unique key a live job holds gives that one instead."""
    values = await _values(session, rows)
    plain = [value for row, value in zip(rows, values, strict=True) if row.unique_key is None]
    if plain:
        await session.execute(_insert_for(session), plain)
    return [
        Inserted(row.id, True) if row.unique_key is None else await _insert_unique(session, row, value)
        for row, value in zip(rows, values, strict=True)
    ]


async def insert_or_find(session: AsyncSession, row: NewJob) -> Inserted:
    """Inserts a job whose id was chosen outside; where the id is taken, that job is the answer."""
    return await _insert_unique(session, row, (await _values(session, [row]))[0])


async def _insert_unique(session: AsyncSession, row: NewJob, values: dict[str, Any]) -> Inserted:
    for _ in range(5):  # the one that held the key may end between our insert and our look
        if await _try_insert(session, values):
            return Inserted(row.id, True)
        condition = jobs.c.id == row.id
        if row.unique_key is not None:
            condition |= jobs.c.unique_key == row.unique_key
        found = (await session.execute(select(jobs.c.id).where(condition).limit(1))).scalar_one_or_none()
        if found is not None:
            return Inserted(found, False)
    raise RuntimeError(f"the unique key {row.unique_key!r} keeps changing hands")


async def _try_insert(session: AsyncSession, values: dict[str, Any]) -> bool:
    if backend_of(session) == "mysql":
        try:
            async with session.begin_nested():
                await session.execute(_insert_for(session), values)
        except IntegrityError:
            return False
        return True
    statement = _insert_for(session).on_conflict_do_nothing().returning(jobs.c.id)
    return (await session.execute(statement, values)).scalar_one_or_none() is not None


# On PostgreSQL the present is the database's, without asking for it first.
_POSTGRESQL_INSERT = postgresql_insert(jobs).values(
    created_at=func.now(), run_at=func.coalesce(bindparam("not_before", type_=UTCDateTime()), func.now())
)
_SQLITE_INSERT = sqlite_insert(jobs)
_MYSQL_INSERT = insert(jobs)


def _insert_for(session: AsyncSession) -> Any:
    backend = backend_of(session)
    if backend == "postgresql":
        return _POSTGRESQL_INSERT
    return _SQLITE_INSERT if backend == "sqlite" else _MYSQL_INSERT


async def _values(session: AsyncSession, rows: Sequence[NewJob]) -> list[dict[str, Any]]:
    if backend_of(session) == "postgresql":
        return [{**_columns(row), "not_before": NEVER if row.waits_for else row.run_at} for row in rows]
    now = await database_now(session)
    return [
        {**_columns(row), "created_at": now, "run_at": NEVER if row.waits_for else row.run_at or now}
        for row in rows
    ]


def _columns(row: NewJob) -> dict[str, Any]:
    is_waiting = row.waits_for > 0 or row.run_at is not None
    return {
        "id": row.id,
        "deadline_at": row.deadline_at,
        "owner_id": row.owner_id,
        "attempt": 0,
        "waits_for": row.waits_for,
        "timeout_seconds": row.timeout_seconds,
        "state": int(JobState.SCHEDULED if is_waiting else JobState.QUEUED),
        "priority": row.priority,
        "max_attempts": row.max_attempts,
        "needs_success": row.needs_success,
        "queue": row.queue,
        "kind": row.kind,
        "then_id": row.then_id,
        "concurrency_key": row.concurrency_key,
        "unique_key": row.unique_key,
        "request_id": row.request_id,
        "traceparent": row.traceparent,
        "args": decode(row.args),
    }
