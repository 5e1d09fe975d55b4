"""The reconciler's sweep in portable SQL."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, exists, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.jobs.records import Hint, SweepReport
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.jobs.store.base import SweepRules
from scalable_fastapi_system.jobs.store.clock import database_now
from scalable_fastapi_system.jobs.store.deliveries import plan_deliveries
from scalable_fastapi_system.jobs.store.ending import release_waiting
from scalable_fastapi_system.jobs.store.reading import hints_for
from scalable_fastapi_system.jobs.store.silence import blame, crash_note, state_after_crash
from scalable_fastapi_system.jobs.tables import job_attempts, job_workers, jobs


async def sweep(session: AsyncSession, rules: SweepRules) -> SweepReport:
    """One sweep, in the caller's transaction."""
    report = SweepReport()
    now = await database_now(session)
    touched = await _recover_silent(session, now, rules, report) if rules.may_judge else []
    due = (
        await session.execute(
            select(jobs.c.id)
            .where(jobs.c.state == int(JobState.SCHEDULED), jobs.c.run_at <= now)
            .order_by(jobs.c.run_at)
            .limit(rules.limit)
        )
    ).scalars()
    due_ids = list(due)
    if due_ids:
        await session.execute(
            update(jobs)
            .where(jobs.c.id.in_(due_ids), jobs.c.state == int(JobState.SCHEDULED))
            .values(state=int(JobState.QUEUED))
        )
        report.promoted = len(due_ids)
    report.hints += await hints_for(session, [*touched, *due_ids])
    report.hints += await _overdue(session, now, rules, report)
    return report


async def _recover_silent(
    session: AsyncSession, now: datetime, rules: SweepRules, report: SweepReport
) -> list[UUID]:
    """Requeues the jobs of workers that fell silent; gives the ids that are queued again."""
    silent = await _silent_rows(session, now, rules)
    requeued: list[UUID] = []
    ended: list[tuple[UUID, bool]] = []
    for row, is_blamed in silent:
        crashes = row.crashes + is_blamed
        state = state_after_crash(
            crashes, is_blamed=is_blamed, is_cancelled=row.cancel_requested_at is not None, rules=rules
        )
        error = crash_note(row.worker_id, row.attempt, crashes, state)
        values: dict[str, Any] = {
            "state": int(state), "crashes": crashes, "lease_expires_at": None, "run_at": now, "error": error,
        }  # fmt: skip
        if state.is_terminal:
            values |= {"finished_at": now, "unique_key": None}
        if not is_blamed:
            values["interruptions"] = jobs.c.interruptions + 1
        done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
            update(jobs)
            .where(
                jobs.c.id == row.id,
                jobs.c.attempt == row.attempt,
                jobs.c.state == int(JobState.RUNNING),
            )
            .values(values)
        )
        if not done.rowcount:
            continue
        await session.execute(
            insert(job_attempts).values(
                job_id=row.id,
                attempt=row.attempt,
                started_at=row.started_at,
                ended_at=now,
                outcome="crashed" if is_blamed else "interrupted",
                worker_id=row.worker_id,
                error=error,
            )
        )
        report.crashed += 1
        report.quarantined += state is JobState.QUARANTINED
        (ended.append((row.id, False)) if state.is_terminal else requeued.append(row.id))
    if ended:
        report.hints += await release_waiting(session, ended)
        report.hints += await plan_deliveries(session, [job_id for job_id, _ in ended])
    return requeued


async def _silent_rows(session: AsyncSession, now: datetime, rules: SweepRules) -> list[tuple[Any, bool]]:
    """What silent workers ran, each with whether it may have been the cause.

    A worker that beats and let a lease expire did not crash: it lost sight of that job. Of a worker that does not
    beat every job is taken back, also those whose lease has seconds to go, so that the cause is looked for among all.
    """
    is_running = jobs.c.state == int(JobState.RUNNING)
    workers = set(
        (
            await session.execute(
                select(jobs.c.worker_id)
                .where(is_running, jobs.c.lease_expires_at < now)
                .distinct()
                .limit(rules.limit)
            )
        ).scalars()
    )
    if not workers:
        return []
    since = now - timedelta(seconds=rules.silent_seconds)
    alive = set(
        (
            await session.execute(
                select(job_workers.c.id).where(
                    job_workers.c.id.in_(list(workers)), job_workers.c.seen_at > since
                )
            )
        ).scalars()
    )
    rows = await session.execute(
        select(
            jobs.c.id, jobs.c.attempt, jobs.c.crashes, jobs.c.worker_id, jobs.c.started_at, jobs.c.then_id,
            jobs.c.cancel_requested_at,
        )
        .where(
            is_running,
            jobs.c.worker_id.in_(list(workers)),
            or_(jobs.c.worker_id.in_(list(workers - alive)), jobs.c.lease_expires_at < now),
        )
        .order_by(jobs.c.id)
        .limit(rules.limit)
    )  # fmt: skip
    found = rows.all()
    return list(zip(found, blame([(row.worker_id, row.crashes) for row in found], alive), strict=True))


async def _overdue(
    session: AsyncSession, now: datetime, rules: SweepRules, report: SweepReport
) -> list[Hint]:
    before = now - timedelta(seconds=rules.overdue_seconds)
    running = jobs.alias("running")
    is_blocked = exists().where(
        running.c.concurrency_key == jobs.c.concurrency_key, running.c.state == int(JobState.RUNNING)
    )
    rows = await session.execute(
        select(jobs.c.id, jobs.c.attempt, jobs.c.queue, jobs.c.owner_id, jobs.c.priority)
        .where(
            jobs.c.state == int(JobState.QUEUED),
            jobs.c.queue.in_(rules.queues),
            jobs.c.kind.in_(rules.kinds),
            jobs.c.run_at < before,
            or_(jobs.c.concurrency_key.is_(None), ~is_blocked),
        )
        .order_by(jobs.c.priority, jobs.c.run_at)
        .limit(rules.limit)
    )
    hints = [Hint(row.id, row.attempt, row.queue, row.owner_id or 0, row.priority) for row in rows]
    report.overdue = len(hints)
    return hints
