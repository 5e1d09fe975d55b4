"""The end of an attempt in somebody's session, behind its fence, and what follows for jobs that waited for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.jobs.limits import decode
from scalable_fastapi_system.jobs.records import Claim, Ending, Hint, Outcome
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.jobs.store.clock import database_now
from scalable_fastapi_system.jobs.store.deliveries import plan_deliveries
from scalable_fastapi_system.jobs.store.reading import hints_for
from scalable_fastapi_system.jobs.tables import NEVER, job_attempts, jobs


async def finish_job(
    session: AsyncSession, ending: Ending, *, worker_id: str, has_webhooks: bool = False
) -> tuple[bool, list[Hint]]:
    """Writes one ending if this attempt still owns the job. Whether it did, and the hints that follow.

    has_webhooks: the owner has endpoints that may want to hear of it.
    """
    claim = ending.claim
    now = await database_now(session)
    state, outcome = ending.state, ending.outcome
    values: dict[str, Any] = {"state": int(state), "lease_expires_at": None}
    if state.is_terminal:
        values |= {"finished_at": now, "unique_key": None}
    else:
        values |= {"run_at": now + timedelta(seconds=ending.delay_seconds), "worker_id": None}
    if ending.outcome is Outcome.SUCCEEDED:
        values |= {"result": decode(ending.result), "error": None}
    elif ending.error is not None:
        values["error"] = decode(ending.error)
    if ending.progress is not None:
        values["progress"] = decode(ending.progress)
    if ending.outcome in {Outcome.FAILED, Outcome.RETRIED}:
        values["failures"] = jobs.c.failures + 1
    elif ending.outcome is Outcome.INTERRUPTED:
        values["interruptions"] = jobs.c.interruptions + 1
    done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
        update(jobs).where(*_fence(claim.job_id, claim.attempt, worker_id)).values(values)
    )
    if not done.rowcount:
        return False, []
    if not state.is_terminal and await _cancel_as_asked(session, claim, now):
        state, outcome = JobState.CANCELLED, Outcome.CANCELLED
    if outcome not in {Outcome.SUCCEEDED, Outcome.SNOOZED}:
        started_at = select(jobs.c.started_at).where(jobs.c.id == claim.job_id).scalar_subquery()
        await session.execute(
            insert(job_attempts).values(
                job_id=claim.job_id,
                attempt=claim.attempt,
                started_at=started_at,
                ended_at=now,
                outcome=outcome.value,
                worker_id=worker_id,
                error=decode(ending.error),
            )
        )
    hints: list[Hint] = []
    if state.is_terminal:
        if claim.then_id is not None:
            hints += await release_waiting(session, [(claim.job_id, state is JobState.SUCCEEDED)])
        if has_webhooks:
            hints += await plan_deliveries(session, [claim.job_id])
    else:
        hints.append(
            Hint(
                claim.job_id,
                claim.attempt,
                claim.queue,
                claim.owner_id or 0,
                claim.priority,
                ending.delay_seconds,
            )
        )
    return True, hints


async def _cancel_as_asked(session: AsyncSession, claim: Claim, now: datetime) -> bool:
    """Cancels the job, which would wait for its next try, if that was asked for while it ran. Whether it did."""
    error = {"type": "Cancelled", "message": "cancelled while it ran", "attempt": claim.attempt}
    done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
        update(jobs)
        .where(jobs.c.id == claim.job_id, jobs.c.cancel_requested_at.is_not(None))
        .values(state=int(JobState.CANCELLED), finished_at=now, unique_key=None, error=error)
    )
    return bool(done.rowcount)


async def owns(session: AsyncSession, *, job_id: UUID, attempt: int, worker_id: str) -> bool:
    """Whether this attempt owns the job, locked until the transaction ends so that it stays so."""
    done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
        update(jobs).where(*_fence(job_id, attempt, worker_id)).values(worker_id=worker_id)
    )
    return bool(done.rowcount)


def _fence(job_id: UUID, attempt: int, worker_id: str) -> tuple[Any, ...]:
    return (
        jobs.c.id == job_id,
        jobs.c.state == int(JobState.RUNNING),
        jobs.c.attempt == attempt,
        jobs.c.worker_id == worker_id,
    )


async def release_waiting(session: AsyncSession, ended: Sequence[tuple[UUID, bool]]) -> list[Hint]:
    """Counts ended jobs (id, whether it succeeded) off those that wait for them; gives the hints of what is free now.

    One that needs success and does not get it is cancelled, and with it what waits for it in turn.
    """
    released: list[UUID] = []
    cancelled: list[UUID] = []
    wave = dict(ended)
    while wave:
        rows = await session.execute(
            select(jobs.c.id, jobs.c.then_id).where(jobs.c.id.in_(list(wave)), jobs.c.then_id.is_not(None))
        )
        counts: Counter[UUID] = Counter()
        unsuccessful: set[UUID] = set()
        for job_id, then_id in rows:
            counts[then_id] += 1
            if not wave[job_id]:
                unsuccessful.add(then_id)
        wave = {}
        for then_id, count in sorted(counts.items()):
            if then_id in unsuccessful and await _cancel_waiting(session, then_id):
                wave[then_id] = False
                cancelled.append(then_id)
                continue
            if await _count_off(session, then_id, count):
                released.append(then_id)
    hints = await hints_for(session, released) if released else []
    if cancelled:
        hints += await plan_deliveries(session, cancelled)
    return hints


async def _cancel_waiting(session: AsyncSession, job_id: UUID) -> bool:
    done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state == int(JobState.SCHEDULED), jobs.c.needs_success.is_(True))
        .values(
            state=int(JobState.CANCELLED),
            finished_at=await database_now(session),
            unique_key=None,
            error={"type": "Cancelled", "message": "a job that this one needs did not succeed"},
        )
    )
    return bool(done.rowcount)


async def _count_off(session: AsyncSession, job_id: UUID, count: int) -> bool:
    """Whether the job is free to run with this."""
    await session.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state == int(JobState.SCHEDULED), jobs.c.waits_for > 0)
        .values(waits_for=jobs.c.waits_for - literal_column(str(int(count))))
    )
    done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
        update(jobs)
        .where(
            jobs.c.id == job_id,
            jobs.c.state == int(JobState.SCHEDULED),
            jobs.c.waits_for <= 0,
            jobs.c.run_at >= NEVER,
        )
        .values(state=int(JobState.QUEUED), waits_for=0, run_at=await database_now(session))
    )
    return bool(done.rowcount)
