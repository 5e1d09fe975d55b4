"""asyncpg's pools for jobs, and the insert that worker and client share."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import asyncpg
from asyncpg.pool import PoolAcquireContext

from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.database.connecting import keep_session
from scalable_fastapi_system.infra.database.fair_pool import FairPool
from scalable_fastapi_system.infra.database.urls import asyncpg_dsn
from scalable_fastapi_system.jobs.records import NewJob
from scalable_fastapi_system.jobs.store import postgres_sql as sql
from scalable_fastapi_system.jobs.store.base import Inserted
from scalable_fastapi_system.jobs.tables import NEVER


async def create_pool(database: DatabaseManager, *, size: int, waits_for_disk: bool = True) -> asyncpg.Pool:
    """A pool of asyncpg's own on the running loop, with the limits of the settings; JSON stays text."""
    settings = database.settings.database
    options: dict[str, Any] = {}
    if settings.prepared_statements:
        timeout_ms = str(round(settings.statement_timeout_seconds * 1000))
        options["server_settings"] = {"statement_timeout": timeout_ms, "jit": "off"}
        if not waits_for_disk:
            options["server_settings"]["synchronous_commit"] = "off"
    else:
        options["statement_cache_size"] = 0
    return await _Pool(
        asyncpg_dsn(database.url),
        min_size=1,
        max_size=size,
        timeout=settings.connect_timeout_seconds,
        command_timeout=settings.statement_timeout_seconds,
        reset=keep_session,
        **options,
    )


class _Acquired(PoolAcquireContext):  # type: ignore[misc] # asyncpg has no types
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        if isinstance(exc_val, asyncpg.ReadOnlySQLTransactionError):
            await self.pool.expire_connections()
        await super().__aexit__(exc_type, exc_val, exc_tb)


class _Pool(FairPool):
    """Opens its connections anew when one takes no writes: after a failover they lead to the old primary."""

    def acquire(self, *, timeout: float | None = None) -> PoolAcquireContext:
        return _Acquired(self, timeout)


async def insert_rows(executor: Any, rows: Sequence[NewJob]) -> list[Inserted]:
    """Inserts jobs in one statement; `executor` is a pool or a connection."""
    columns = (
        [row.id for row in rows],
        [row.run_at for row in rows],
        [row.deadline_at for row in rows],
        [row.owner_id for row in rows],
        [row.waits_for for row in rows],
        [row.timeout_seconds for row in rows],
        [row.priority for row in rows],
        [row.max_attempts for row in rows],
        [row.needs_success for row in rows],
        [row.queue for row in rows],
        [row.kind for row in rows],
        [row.then_id for row in rows],
        [row.concurrency_key for row in rows],
        [row.unique_key for row in rows],
        [row.request_id for row in rows],
        [row.traceparent for row in rows],
        [row.args for row in rows],
    )
    for _ in range(5):  # a job that held a unique key may end between our insert and our look
        new = {row[0] for row in await executor.fetch(sql.INSERT, *columns, NEVER)}
        if len(new) == len(rows):
            return [Inserted(row.id, True) for row in rows]
        rest = [row for row in rows if row.id not in new]
        found = await executor.fetch(sql.HOLDERS, [row.unique_key for row in rest], [row.id for row in rest])
        by_key = {row["unique_key"]: row["id"] for row in found}
        by_id = {row["id"] for row in found}
        answers: list[Inserted] = []
        for row in rows:
            if row.id in new:
                answers.append(Inserted(row.id, True))
            elif row.unique_key is not None and row.unique_key in by_key:
                answers.append(Inserted(by_key[row.unique_key], False))
            elif row.id in by_id:
                answers.append(Inserted(row.id, False))
        if len(answers) == len(rows):
            return answers
    raise RuntimeError("a unique key keeps changing hands")
