"""What operators and owners ask about the whole: queues, workers, schedules, and why a job does not run yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, delete, func, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.jobs.records import JobRecord
from scalable_fastapi_system.jobs.states import LIVE_STATES, JobState
from scalable_fastapi_system.jobs.store.base import QueueCount
from scalable_fastapi_system.jobs.store.clock import database_now
from scalable_fastapi_system.jobs.tables import NEVER, cron_schedules, job_queues, job_workers, jobs

# A worker that has not beaten for so long is not counted on; it may still be alive.
_ALIVE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as the list shows it."""

    id: str
    hostname: str
    version: str
    queues: list[str]
    kinds: list[str]
    concurrency: int
    running: int
    is_draining: bool
    is_alive: bool
    started_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue: live jobs by state, how long the oldest has been due, and who works on it."""

    name: str
    is_paused: bool
    scheduled: int
    queued: int
    running: int
    oldest_due_seconds: float
    workers: int
    slots: int
    free_slots: int


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule as the tables know it."""

    name: str
    kind: str
    expression: str
    timezone: str
    misfire: str
    last_slot_at: datetime
    is_paused: bool


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a job does not run: the rule by name, and in words."""

    rule: str
    message: str


async def list_workers(session: AsyncSession) -> list[WorkerView]:
    """Every worker that was seen within the last hour."""
    since = await database_now(session) - timedelta(seconds=_ALIVE_SECONDS)
    rows = await session.execute(select(job_workers).order_by(job_workers.c.started_at))
    return [
        WorkerView(
            row.id, row.hostname, row.version, row.queues, row.kinds, row.concurrency, row.running, row.is_draining,
            row.seen_at > since, row.started_at, row.seen_at,
        )
        for row in rows
    ]  # fmt: skip


async def list_queues(session: AsyncSession) -> list[QueueView]:
    """Every queue that has live jobs, workers or a pause."""
    counts: dict[str, dict[int, int]] = {}
    oldest: dict[str, float] = {}
    for one in await count_live(session):
        counts.setdefault(one.queue, {})[one.state] = one.count
        if one.state == JobState.QUEUED:
            oldest[one.queue] = one.oldest_age_seconds
    paused = await paused_queues(session)
    workers = [one for one in await list_workers(session) if one.is_alive and not one.is_draining]
    names = sorted({*counts, *paused, *(queue for worker in workers for queue in worker.queues)})
    views: list[QueueView] = []
    for name in names:
        mine = [worker for worker in workers if name in worker.queues]
        slots = sum(worker.concurrency for worker in mine)
        by_state = counts.get(name, {})
        views.append(
            QueueView(
                name=name,
                is_paused=name in paused,
                scheduled=by_state.get(int(JobState.SCHEDULED), 0),
                queued=by_state.get(int(JobState.QUEUED), 0),
                running=by_state.get(int(JobState.RUNNING), 0),
                oldest_due_seconds=oldest.get(name, 0.0),
                workers=len(mine),
                slots=slots,
                free_slots=max(0, slots - sum(worker.running for worker in mine)),
            )
        )
    return views


async def count_live(session: AsyncSession) -> list[QueueCount]:
    """Live jobs by queue and state, and for how long the oldest has been due.

    One question a state, with the state in its text: so each is answered from the index of that state, whatever the
    length of the history.
    """
    now = await database_now(session)
    counts: list[QueueCount] = []
    for state in LIVE_STATES:
        rows = await session.execute(
            select(jobs.c.queue, func.count(), func.min(jobs.c.run_at))
            .where(jobs.c.state == literal_column(str(int(state))))
            .group_by(jobs.c.queue)
        )
        for queue, count, oldest in rows:
            age_seconds = 0.0 if oldest >= NEVER else max(0.0, (now - oldest).total_seconds())
            counts.append(QueueCount(queue, int(state), count, age_seconds))
    return counts


async def list_schedules(session: AsyncSession) -> list[ScheduleView]:
    """Every schedule that a worker has declared."""
    rows = await session.execute(select(cron_schedules).order_by(cron_schedules.c.name))
    return [
        ScheduleView(
            row.name, row.kind, row.expression, row.timezone, row.misfire, row.last_slot_at, row.paused_at is not None
        )
        for row in rows
    ]  # fmt: skip


async def paused_queues(session: AsyncSession) -> set[str]:
    """The names of paused queues."""
    found = await session.execute(select(job_queues.c.name).where(job_queues.c.paused_at.is_not(None)))
    return set(found.scalars())


async def set_queue_paused(session: AsyncSession, *, name: str, is_paused: bool) -> None:
    """Workers take nothing from a paused queue; they hear of it with their next beat. What runs goes on."""
    await session.execute(delete(job_queues).where(job_queues.c.name == name))
    if is_paused:
        await session.execute(insert(job_queues).values(name=name, paused_at=await database_now(session)))


async def set_schedule_paused(session: AsyncSession, *, name: str, is_paused: bool) -> bool:
    """A paused schedule lets its slots pass. Whether there is such a schedule."""
    done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
        update(cron_schedules)
        .where(cron_schedules.c.name == name)
        .values(paused_at=await database_now(session) if is_paused else None)
    )
    return bool(done.rowcount)


async def ask_to_drain(session: AsyncSession, *, worker_id: str) -> bool:
    """Tells a worker to drain and end, with its next beat. Whether there is such a worker."""
    done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
        update(job_workers)
        .where(job_workers.c.id == worker_id)
        .values(drain_requested_at=await database_now(session))
    )
    return bool(done.rowcount)


async def count_members(session: AsyncSession, *, job_id: UUID) -> dict[JobState, int]:
    """How the jobs stand that a batch's callback (or a chain's step) waits for."""
    rows = await session.execute(
        select(jobs.c.state, func.count()).where(jobs.c.then_id == job_id).group_by(jobs.c.state)
    )
    return {JobState(state): count for state, count in rows}


async def why_waiting(session: AsyncSession, job: JobRecord) -> Reason | None:
    """Why a job is not at work yet, the first rule that holds it back; None for one that has ended."""
    if job.state.is_terminal:
        return None
    if job.state is JobState.RUNNING:
        return Reason("running", f"It runs since {job.started_at} on {job.worker_id}")
    now = await database_now(session)
    if job.waits_for > 0:
        return Reason("waits_for_jobs", f"It waits for {job.waits_for} other jobs to end")
    if job.run_at is not None and job.run_at > now:
        if isinstance(job.error, dict) and job.error.get("type") == "UnknownArguments":
            return Reason("unknown_arguments", str(job.error.get("message")))
        if job.failures:
            return Reason("backoff", f"Attempt {job.attempt} failed; the next is not before {job.run_at}")
        return Reason("not_due", f"It is not to run before {job.run_at}")
    if job.queue in await paused_queues(session):
        return Reason("queue_paused", f"The queue {job.queue!r} is paused")
    if job.concurrency_key is not None:
        holder = (
            await session.execute(
                select(jobs.c.id)
                .where(jobs.c.concurrency_key == job.concurrency_key, jobs.c.state == int(JobState.RUNNING))
                .limit(1)
            )
        ).scalar_one_or_none()
        if holder is not None:
            return Reason("concurrency_key", f"The job {holder} runs with the same concurrency key")
    return await _why_not_taken(session, job)


async def _why_not_taken(session: AsyncSession, job: JobRecord) -> Reason:
    alive = [one for one in await list_workers(session) if one.is_alive and not one.is_draining]
    on_queue = [worker for worker in alive if job.queue in worker.queues]
    if not on_queue:
        return Reason("no_worker", f"No worker takes from the queue {job.queue!r}")
    able = [worker for worker in on_queue if job.kind in worker.kinds]
    if not able:
        return Reason("unknown_kind", f"No worker on the queue {job.queue!r} knows the kind {job.kind!r}")
    if all(worker.running >= worker.concurrency for worker in able):
        return Reason("no_free_slot", f"All {sum(worker.concurrency for worker in able)} slots are taken")
    if job.crashes:
        return Reason("suspect", f"{job.crashes} workers died while they ran it: few such jobs run at once")
    return Reason("about_to_start", "A worker is about to take it")
