"""Reading jobs in somebody's session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.jobs.records import Hint, JobRecord
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.jobs.tables import NEVER, job_attempts, jobs

_READ = (
    jobs.c.id, jobs.c.kind, jobs.c.queue, jobs.c.state, jobs.c.owner_id, jobs.c.priority, jobs.c.attempt,
    jobs.c.max_attempts, jobs.c.failures, jobs.c.crashes, jobs.c.interruptions, jobs.c.created_at, jobs.c.run_at,
    jobs.c.started_at, jobs.c.finished_at, jobs.c.cancel_requested_at, jobs.c.lease_expires_at, jobs.c.deadline_at,
    jobs.c.waits_for, jobs.c.then_id, jobs.c.concurrency_key, jobs.c.unique_key, jobs.c.worker_id, jobs.c.request_id,
    jobs.c.args, jobs.c.progress, jobs.c.result, jobs.c.error,
)  # fmt: skip


def _record(row: Any) -> JobRecord:
    values = row._asdict()
    values["state"] = JobState(values["state"])
    if values["run_at"] >= NEVER:
        values["run_at"] = None
    return JobRecord(**values)


async def get_job(
    session: AsyncSession, *, job_id: UUID, owner_id: int | None, is_any_owner: bool
) -> JobRecord | None:
    """A job, or None where there is none or it is another owner's (the two are not told apart)."""
    statement = select(*_READ).where(jobs.c.id == job_id)
    if not is_any_owner:
        statement = statement.where(jobs.c.owner_id == owner_id)
    row = (await session.execute(statement)).one_or_none()
    return None if row is None else _record(row)


async def list_jobs(
    session: AsyncSession,
    *,
    owner_id: int | None,
    is_any_owner: bool,
    limit: int,
    before_id: UUID | None = None,
    states: Sequence[JobState] = (),
    kind: str | None = None,
    queue: str | None = None,
) -> list[JobRecord]:
    """Jobs from the newest on, after `before_id`; ids carry their time, so their order is the order of making."""
    statement = select(*_READ).order_by(jobs.c.id.desc()).limit(limit)
    if not is_any_owner:
        statement = statement.where(jobs.c.owner_id == owner_id)
    if before_id is not None:
        statement = statement.where(jobs.c.id < before_id)
    if states:
        statement = statement.where(jobs.c.state.in_([int(state) for state in states]))
    if kind is not None:
        statement = statement.where(jobs.c.kind == kind)
    if queue is not None:
        statement = statement.where(jobs.c.queue == queue)
    return [_record(row) for row in await session.execute(statement)]


async def states_of(session: AsyncSession, *, job_ids: Sequence[UUID]) -> dict[UUID, JobState]:
    """The states of those of the jobs that there are."""
    if not job_ids:
        return {}
    statement = select(jobs.c.id, jobs.c.state).where(jobs.c.id.in_(job_ids))
    return {job_id: JobState(state) for job_id, state in await session.execute(statement)}


async def list_attempts(session: AsyncSession, *, job_id: UUID) -> list[dict[str, Any]]:
    """The attempts that did not succeed, in order."""
    statement = select(job_attempts).where(job_attempts.c.job_id == job_id).order_by(job_attempts.c.attempt)
    return [dict(row._mapping) for row in await session.execute(statement)]


async def hints_for(session: AsyncSession, job_ids: Iterable[UUID]) -> list[Hint]:
    """Hints for those of the jobs that are queued."""
    columns = (jobs.c.id, jobs.c.attempt, jobs.c.queue, jobs.c.owner_id, jobs.c.priority)
    statement = select(*columns).where(jobs.c.id.in_(list(job_ids)), jobs.c.state == int(JobState.QUEUED))
    return [
        Hint(job_id, attempt, queue, owner_id or 0, priority)
        for job_id, attempt, queue, owner_id, priority in await session.execute(statement)
    ]


async def next_of_keys(session: AsyncSession, keys: set[str]) -> list[Hint]:
    """Hints of the first queued job of each concurrency key."""
    hints: list[Hint] = []
    for key in sorted(keys):
        row = (
            await session.execute(
                select(jobs.c.id, jobs.c.attempt, jobs.c.queue, jobs.c.owner_id, jobs.c.priority)
                .where(jobs.c.concurrency_key == key, jobs.c.state == int(JobState.QUEUED))
                .order_by(jobs.c.priority, jobs.c.run_at, jobs.c.id)
                .limit(1)
            )
        ).one_or_none()
        if row is not None:
            hints.append(Hint(row.id, row.attempt, row.queue, row.owner_id or 0, row.priority))
    return hints
