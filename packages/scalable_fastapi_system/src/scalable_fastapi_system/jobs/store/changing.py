"""Cancels and retries in somebody's session. The hints that they give are to be pushed once it has committed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.jobs.records import Hint
from scalable_fastapi_system.jobs.states import LIVE_STATES, REPLAYABLE_STATES, JobState
from scalable_fastapi_system.jobs.store.clock import database_now
from scalable_fastapi_system.jobs.store.deliveries import plan_deliveries
from scalable_fastapi_system.jobs.store.ending import release_waiting
from scalable_fastapi_system.jobs.store.reading import hints_for
from scalable_fastapi_system.jobs.tables import NEVER, jobs


@dataclass(frozen=True, slots=True)
class Change:
    """What a cancel or a retry did: the job's state after it, whether it changed anything, the hints to push."""

    state: JobState
    has_changed: bool
    hints: tuple[Hint, ...] = ()


async def cancel_job(session: AsyncSession, *, job_id: UUID) -> Change:
    """Cancels a job that waits, at once; asks for the cancel of one that runs; leaves an ended one as it is."""
    now = await database_now(session)
    done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state.in_([int(JobState.SCHEDULED), int(JobState.QUEUED)]))
        .values(
            state=int(JobState.CANCELLED),
            finished_at=now,
            cancel_requested_at=now,
            unique_key=None,
            error={"type": "Cancelled", "message": "cancelled before it ran"},
        )
    )
    if done.rowcount:
        hints = await release_waiting(session, [(job_id, False)])
        hints += await plan_deliveries(session, [job_id])
        return Change(JobState.CANCELLED, True, tuple(hints))
    asked: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
        update(jobs)
        .where(
            jobs.c.id == job_id,
            jobs.c.state == int(JobState.RUNNING),
            jobs.c.cancel_requested_at.is_(None),
        )
        .values(cancel_requested_at=now)
    )
    return Change(await _state_of(session, job_id), bool(asked.rowcount))


async def retry_job(session: AsyncSession, *, job_id: UUID) -> Change:
    """Queues a failed, cancelled or quarantined job again with all its attempts; one that waits for a retry runs now.

    One whose turn has not come, since what it waited for has not ended, waits for that again.
    """
    waits_for = await _count_unfinished(session, job_id)
    now = await database_now(session)
    fresh = {
        "state": int(JobState.SCHEDULED if waits_for else JobState.QUEUED),
        "run_at": NEVER if waits_for else now,
        "failures": 0,
        "crashes": 0,
        "finished_at": None,
        "cancel_requested_at": None,
        "progress": None,
        "waits_for": waits_for,
        "deadline_at": None,
    }
    done: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state.in_([int(state) for state in REPLAYABLE_STATES]))
        .values(fresh)
    )
    if not done.rowcount:
        done = await session.execute(  # type: ignore[assignment]
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.state == int(JobState.SCHEDULED), jobs.c.waits_for == 0)
            .values(state=int(JobState.QUEUED), run_at=now)
        )
    else:
        await _rearm_waiting(session, job_id)
    state = await _state_of(session, job_id)
    if not done.rowcount:
        return Change(state, False)
    return Change(state, True, tuple(await hints_for(session, [job_id])))


async def _count_unfinished(session: AsyncSession, job_id: UUID) -> int:
    """How many jobs the job is to come after have not ended. They are locked: one that ended now would not count itself off."""
    unfinished = await session.execute(
        select(jobs.c.id)
        .where(
            jobs.c.then_id == job_id,
            jobs.c.state.in_([int(state) for state in LIVE_STATES]),
        )
        .order_by(jobs.c.id)
        .with_for_update()
    )
    return len(unfinished.all())


async def _rearm_waiting(session: AsyncSession, job_id: UUID) -> None:
    """Makes what waited for a job wait again, now that the job gets another chance."""
    then_id = (await session.execute(select(jobs.c.then_id).where(jobs.c.id == job_id))).scalar_one()
    while then_id is not None:
        # A batch's callback has counted the job off already, so it counts once more.
        await session.execute(
            update(jobs)
            .where(
                jobs.c.id == then_id,
                jobs.c.state == int(JobState.SCHEDULED),
                jobs.c.waits_for > 0,
                jobs.c.needs_success.is_(False),
            )
            .values(waits_for=jobs.c.waits_for + 1)
        )
        # A step of a chain was cancelled for the want of it.
        revived: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
            update(jobs)
            .where(
                jobs.c.id == then_id,
                jobs.c.state == int(JobState.CANCELLED),
                jobs.c.needs_success.is_(True),
                jobs.c.run_at >= NEVER,
                jobs.c.cancel_requested_at.is_(None),
            )
            .values(state=int(JobState.SCHEDULED), finished_at=None, error=None)
        )
        if not revived.rowcount:
            return
        then_id = (await session.execute(select(jobs.c.then_id).where(jobs.c.id == then_id))).scalar_one()


async def _state_of(session: AsyncSession, job_id: UUID) -> JobState:
    return JobState((await session.execute(select(jobs.c.state).where(jobs.c.id == job_id))).scalar_one())
