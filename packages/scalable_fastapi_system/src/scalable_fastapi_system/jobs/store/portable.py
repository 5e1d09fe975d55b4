"""`PortableStore`: the engine's tables through SQLAlchemy Core, for SQLite and MySQL.

A claim is an update that names the attempt it saw: of two workers that saw the same row one changes it. That needs
no lock that a database may lack. It costs a statement a job, which is enough for development and small installations.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, case, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.jobs.limits import decode, encode
from scalable_fastapi_system.jobs.records import (
    Claim,
    ClaimResult,
    Ending,
    Hint,
    NewJob,
    Renewal,
    SweepReport,
)
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.jobs.store.base import FinishReport, Inserted, SweepRules
from scalable_fastapi_system.jobs.store.clock import database_now
from scalable_fastapi_system.jobs.store.ending import finish_job
from scalable_fastapi_system.jobs.store.inserting import insert_jobs
from scalable_fastapi_system.jobs.store.reading import hints_for, next_of_keys
from scalable_fastapi_system.jobs.store.shared import SharedStore
from scalable_fastapi_system.jobs.store.sweeping import sweep
from scalable_fastapi_system.jobs.tables import jobs

_CLAIMED = (
    jobs.c.id, jobs.c.attempt, jobs.c.kind, jobs.c.queue, jobs.c.args, jobs.c.owner_id, jobs.c.priority,
    jobs.c.max_attempts, jobs.c.failures, jobs.c.crashes, jobs.c.created_at, jobs.c.run_at, jobs.c.deadline_at,
    jobs.c.timeout_seconds, jobs.c.concurrency_key, jobs.c.then_id, jobs.c.request_id, jobs.c.traceparent,
)  # fmt: skip
_WAITING = (int(JobState.SCHEDULED), int(JobState.QUEUED))


class PortableStore(SharedStore):
    """See `JobStore`."""

    def __init__(self, database: DatabaseManager) -> None:
        super().__init__(database)
        self._last_lane: dict[str, int] = {}

    async def start(self) -> None:
        """Nothing to open: sessions come from the database manager."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def insert(self, rows: Sequence[NewJob]) -> list[Inserted]:
        async with self._database.transaction() as session:
            return await insert_jobs(session, rows)

    # -- claiming -----------------------------------------------------------------------------------

    async def claim(
        self, job_ids: Sequence[UUID], *, worker_id: str, kinds: Sequence[str], lease_seconds: float
    ) -> ClaimResult:
        result = ClaimResult()
        async with self._database.transaction() as session:
            now = await database_now(session)
            rows = await session.execute(
                select(*_CLAIMED).where(jobs.c.id.in_(list(job_ids)), jobs.c.state.in_(_WAITING))
            )
            found = {row.id: row for row in rows}
            for job_id in job_ids:
                row = found.get(job_id)
                if row is None:
                    continue
                if row.run_at > now:
                    delay_seconds = (row.run_at - now).total_seconds()
                    result.early.append(
                        Hint(job_id, row.attempt, row.queue, row.owner_id or 0, row.priority, delay_seconds)
                    )
                elif row.kind not in kinds:
                    result.foreign.append(job_id)
                elif await self._take(session, row, now, worker_id, lease_seconds):
                    result.claims.append(_claim_of(row))
                elif row.concurrency_key is not None:
                    result.blocked.append(job_id)
        return result

    async def claim_next(
        self,
        queues: Sequence[str],
        limit: int,
        *,
        worker_id: str,
        kinds: Sequence[str],
        lease_seconds: float,
    ) -> list[Claim]:
        claims: list[Claim] = []
        async with self._database.transaction() as session:
            now = await database_now(session)
            for queue in queues:
                for row in await self._candidates(session, queue, limit - len(claims), kinds):
                    if await self._take(session, row, now, worker_id, lease_seconds):
                        claims.append(_claim_of(row))
                        self._last_lane[queue] = row.owner_id or 0
                if len(claims) >= limit:
                    break
        return claims

    async def _candidates(
        self, session: AsyncSession, queue: str, limit: int, kinds: Sequence[str]
    ) -> Sequence[Any]:
        """The heads of all owners' lines first, beginning after the owner served last."""
        lane = func.coalesce(jobs.c.owner_id, 0)
        place = func.row_number().over(
            partition_by=(jobs.c.priority, lane), order_by=(jobs.c.run_at, jobs.c.id)
        )
        running = jobs.alias("running")
        is_blocked = exists().where(
            running.c.concurrency_key == jobs.c.concurrency_key, running.c.state == int(JobState.RUNNING)
        )
        ranked = (
            select(jobs.c.id, place.label("place"), lane.label("lane"))
            .where(
                jobs.c.state == int(JobState.QUEUED),
                jobs.c.queue == queue,
                jobs.c.kind.in_(list(kinds)),
                or_(jobs.c.concurrency_key.is_(None), ~is_blocked),
            )
            .subquery()
        )
        is_before = case((ranked.c.lane > self._last_lane.get(queue, -1), 0), else_=1)
        statement = (
            select(*_CLAIMED)
            .join(ranked, ranked.c.id == jobs.c.id)
            .order_by(jobs.c.priority, ranked.c.place, is_before, ranked.c.lane)
            .limit(limit)
        )
        return (await session.execute(statement)).all()

    async def _take(
        self, session: AsyncSession, row: Any, now: datetime, worker_id: str, lease_seconds: float
    ) -> bool:
        conditions = [jobs.c.id == row.id, jobs.c.attempt == row.attempt, jobs.c.state.in_(_WAITING)]
        if row.concurrency_key is not None:
            # The subquery sees a snapshot; on SQLite writers are one at a time, on MySQL the lock below makes them so.
            await self._lock_key(session, row.concurrency_key)
            busy = select(func.count()).where(
                jobs.c.concurrency_key == row.concurrency_key, jobs.c.state == int(JobState.RUNNING)
            )
            if (await session.execute(busy)).scalar_one():
                return False
        done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
            update(jobs)
            .where(*conditions)
            .values(
                state=int(JobState.RUNNING),
                attempt=jobs.c.attempt + 1,
                worker_id=worker_id,
                started_at=now,
                lease_expires_at=now + timedelta(seconds=lease_seconds),
            )
        )
        return bool(done.rowcount)

    async def _lock_key(self, session: AsyncSession, key: str) -> None:
        """Makes the claims of one concurrency key wait for each other: they all lock the key's rows."""
        if self._database.backend != "sqlite":
            await session.execute(
                select(jobs.c.id)
                .where(
                    jobs.c.concurrency_key == key,
                    jobs.c.state.in_([int(JobState.QUEUED), int(JobState.RUNNING)]),
                )
                .order_by(jobs.c.id)
                .with_for_update()
            )
            return
        # SQLite: the first write of a transaction takes the one lock there is
        await session.execute(
            update(jobs)
            .where(jobs.c.concurrency_key == key, jobs.c.state == int(JobState.QUEUED))
            .values(waits_for=0)
        )

    # -- running ------------------------------------------------------------------------------------

    async def finish(
        self, endings: Sequence[Ending], *, worker_id: str, webhook_owners: frozenset[int]
    ) -> FinishReport:
        report = FinishReport()
        async with self._database.transaction() as session:
            keys: set[str] = set()
            for ending in endings:
                is_written, hints = await finish_job(
                    session,
                    ending,
                    worker_id=worker_id,
                    has_webhooks=ending.claim.owner_id in webhook_owners,
                )
                if is_written:
                    report.written.add(ending.claim.job_id)
                    report.hints += hints
                    if ending.claim.concurrency_key is not None:
                        keys.add(ending.claim.concurrency_key)
            report.hints += await next_of_keys(session, keys)
        return report

    async def renew(
        self, running: Sequence[tuple[UUID, int]], *, worker_id: str, lease_seconds: float | None
    ) -> Renewal:
        attempts = dict(running)
        async with self._database.transaction() as session:
            now = await database_now(session)
            rows = await session.execute(
                select(jobs.c.id, jobs.c.attempt, jobs.c.cancel_requested_at).where(
                    jobs.c.id.in_(list(attempts)),
                    jobs.c.state == int(JobState.RUNNING),
                    jobs.c.worker_id == worker_id,
                )
            )
            mine = {row.id: row for row in rows if attempts[row.id] == row.attempt}
            if mine and lease_seconds is not None:
                await session.execute(
                    update(jobs)
                    .where(
                        jobs.c.id.in_(list(mine)),
                        jobs.c.state == int(JobState.RUNNING),
                        jobs.c.worker_id == worker_id,
                    )
                    .values(lease_expires_at=now + timedelta(seconds=lease_seconds))
                )
        cancelled = {job_id for job_id, row in mine.items() if row.cancel_requested_at is not None}
        return Renewal(cancelled=cancelled, lost=set(attempts) - set(mine))

    async def save_progress(self, progress: Sequence[tuple[UUID, int, str]], *, worker_id: str) -> None:
        async with self._database.transaction() as session:
            for job_id, attempt, snapshot in progress:
                await session.execute(
                    update(jobs)
                    .where(
                        jobs.c.id == job_id,
                        jobs.c.attempt == attempt,
                        jobs.c.state == int(JobState.RUNNING),
                        jobs.c.worker_id == worker_id,
                    )
                    .values(progress=decode(snapshot))
                )

    async def release_strays(self, keep: Sequence[UUID], *, worker_id: str) -> list[Hint]:
        async with self._database.transaction() as session:
            strays = (
                await session.execute(
                    select(jobs.c.id).where(
                        jobs.c.state == int(JobState.RUNNING),
                        jobs.c.worker_id == worker_id,
                        jobs.c.id.not_in(list(keep)),
                    )
                )
            ).scalars()
            ids = list(strays)
            if not ids:
                return []
            await session.execute(
                update(jobs)
                .where(
                    jobs.c.id.in_(ids),
                    jobs.c.state == int(JobState.RUNNING),
                    jobs.c.worker_id == worker_id,
                )
                .values(state=int(JobState.QUEUED), worker_id=None, lease_expires_at=None)
            )
            return await hints_for(session, ids)

    async def sweep(self, rules: SweepRules) -> SweepReport | None:
        async with self._database.transaction() as session:
            return await sweep(session, rules)


def _claim_of(row: Any) -> Claim:
    values = row._asdict()
    values["job_id"] = values.pop("id")
    values["attempt"] += 1
    values["args"] = encode(values["args"]).decode()
    return Claim(**values)
