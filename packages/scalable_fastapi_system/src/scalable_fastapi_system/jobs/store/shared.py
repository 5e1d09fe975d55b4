"""`SharedStore`: the rarer work on the tables, through SQLAlchemy for every database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import CursorResult, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.jobs.records import Hint, Orders, WorkerFacts
from scalable_fastapi_system.jobs.store.base import QueueCount
from scalable_fastapi_system.jobs.store.clock import database_now
from scalable_fastapi_system.jobs.store.deliveries import deliveries_being_tried, owners_with_endpoints
from scalable_fastapi_system.jobs.store.overview import count_live
from scalable_fastapi_system.jobs.tables import (
    cron_runs,
    job_attempts,
    job_queues,
    job_workers,
    jobs,
    webhook_deliveries,
)

_log = structlog.get_logger("jobs.schedules")

_PURGE_BATCH = 1000
_WORKER_FORGOTTEN_SECONDS = 3600.0


class SharedStore:
    """See `JobStore`: the list of workers, counts, schedules, retention."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    async def now(self) -> datetime:
        async with self._database.transaction() as session:
            return await database_now(session)

    async def beat(self, facts: WorkerFacts) -> Orders:
        async with self._database.transaction() as session:
            now = await database_now(session)
            state = {
                "seen_at": now,
                "running": facts.running,
                "is_draining": facts.is_draining,
                "concurrency": facts.concurrency,
                "queues": list(facts.queues),
                "kinds": list(facts.kinds),
            }
            done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
                update(job_workers).where(job_workers.c.id == facts.worker_id).values(state)
            )
            if not done.rowcount:
                await session.execute(
                    insert(job_workers).values(
                        id=facts.worker_id,
                        started_at=now,
                        hostname=facts.hostname,
                        version=facts.version,
                        **state,
                    )
                )
                forgotten = now - timedelta(seconds=_WORKER_FORGOTTEN_SECONDS)
                await session.execute(delete(job_workers).where(job_workers.c.seen_at < forgotten))
            paused = (
                await session.execute(select(job_queues.c.name).where(job_queues.c.paused_at.is_not(None)))
            ).scalars()
            drain = (
                await session.execute(
                    select(job_workers.c.drain_requested_at).where(job_workers.c.id == facts.worker_id)
                )
            ).scalar_one()
            owners = await owners_with_endpoints(session)
            return Orders(frozenset(paused), drain is not None, owners)

    async def leave(self, worker_id: str) -> None:
        async with self._database.transaction() as session:
            await session.execute(delete(job_workers).where(job_workers.c.id == worker_id))

    async def count(self) -> list[QueueCount]:
        async with self._database.transaction() as session:
            return await count_live(session)

    async def due_slots(self, schedules: Sequence[Any]) -> list[Hint]:
        from scalable_fastapi_system.jobs.engine import is_store_away
        from scalable_fastapi_system.jobs.schedules import take_due_slots

        hints: list[Hint] = []
        attempts = self._database.settings.jobs.default_max_attempts
        for schedule in schedules:
            try:
                async with self._database.transaction() as session:
                    hints += await take_due_slots(session, schedule, default_max_attempts=attempts)
            except IntegrityError:
                continue  # another worker took the slot; ours was rolled back
            except Exception as error:
                if is_store_away(error):
                    raise
                # Its arguments do not fit its handler, no day fits its expression, the database does not take its row:
                # the others, each in a transaction of its own, run all the same.
                _log.exception("schedule cannot be kept", schedule=schedule.name)
        return hints

    async def purge(self, *, older_than: timedelta) -> int:
        total = 0
        after: UUID | None = None
        async with self._database.transaction() as session:
            tried = await deliveries_being_tried(session)
        while True:
            async with self._database.transaction() as session:
                before = await database_now(session) - older_than
                page = select(jobs.c.id, jobs.c.finished_at).order_by(jobs.c.id).limit(_PURGE_BATCH)
                rows = (await session.execute(page if after is None else page.where(jobs.c.id > after))).all()
                if not rows:
                    break
                after = rows[-1].id
                old = [row.id for row in rows if row.finished_at is not None and row.finished_at < before]
                if old and tried:
                    told = await session.execute(
                        select(webhook_deliveries.c.id, webhook_deliveries.c.job_id).where(
                            webhook_deliveries.c.job_id.in_(old)
                        )
                    )
                    kept = {job_id for delivery_id, job_id in told if delivery_id in tried}
                    old = [job_id for job_id in old if job_id not in kept]
                for table, column in (
                    (job_attempts, job_attempts.c.job_id),
                    (webhook_deliveries, webhook_deliveries.c.job_id),
                    (cron_runs, cron_runs.c.job_id),
                    (jobs, jobs.c.id),
                ):
                    if old:
                        await session.execute(delete(table).where(column.in_(old)))
                total += len(old)
        return total
