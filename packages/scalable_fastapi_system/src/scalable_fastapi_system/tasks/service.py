"""Tasks as their owners see them: jobs of the engine, reached through a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.infra.database import on_commit
from scalable_fastapi_system.jobs.background import process_data, task_of
from scalable_fastapi_system.jobs.client import Owner
from scalable_fastapi_system.jobs.enqueueing import JobHandle, client_of, enqueue
from scalable_fastapi_system.jobs.records import JobRecord
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.jobs.store import changing, overview, reading
from scalable_fastapi_system.jobs.store.changing import Change
from scalable_fastapi_system.jobs.store.overview import Reason
from scalable_fastapi_system.kit.errors import ConflictException
from scalable_fastapi_system.kit.pagination import Page


async def create(session: AsyncSession, *, owner_id: int, task_data: Mapping[str, Any]) -> JobHandle:
    """Stores a background task. Raises ValidationException where the data name no public kind."""
    kind, arguments = task_of(task_data, client_of(session))
    return await enqueue(session, kind, owner_id=owner_id, **arguments)


async def process(session: AsyncSession, *, owner_id: int, data: Mapping[str, Any]) -> JobHandle:
    """Stores the processing of data."""
    return await enqueue(session, process_data, owner_id=owner_id, data=dict(data))


async def find(session: AsyncSession, *, job_id: UUID, owner: Owner) -> JobRecord:
    """A task. Raises NotFoundException where there is none, or none of this owner's."""
    return await client_of(session).get_in(session, job_id=job_id, owner=owner)


async def find_many(
    session: AsyncSession,
    *,
    owner: Owner,
    limit: int,
    cursor: str | None,
    states: Sequence[JobState],
    kind: str | None,
    queue: str | None,
) -> Page[JobRecord]:
    """Tasks from the newest on. Raises ValidationException for a cursor that is not ours."""
    return await client_of(session).list_in(
        session, owner=owner, limit=limit, cursor=cursor, states=states, kind=kind, queue=queue
    )


async def find_states(session: AsyncSession, *, job_ids: Sequence[UUID]) -> dict[UUID, JobState]:
    """How far tasks are, in one query, for a domain that shows its own things with the state of their task."""
    return await reading.states_of(session, job_ids=job_ids)


async def find_attempts(session: AsyncSession, *, job_id: UUID, owner: Owner) -> list[dict[str, Any]]:
    """The attempts of a task that did not succeed."""
    await find(session, job_id=job_id, owner=owner)
    return await reading.list_attempts(session, job_id=job_id)


async def find_reason(session: AsyncSession, *, job_id: UUID, owner: Owner) -> Reason | None:
    """Why a task is not at work; None once it has ended."""
    return await overview.why_waiting(session, await find(session, job_id=job_id, owner=owner))


async def cancel(session: AsyncSession, *, job_id: UUID, owner: Owner) -> Change:
    """Cancels a waiting task with the commit, and asks a running one to stop."""
    await find(session, job_id=job_id, owner=owner)
    change = await changing.cancel_job(session, job_id=job_id)
    _announce(session, change)
    return change


async def retry(session: AsyncSession, *, job_id: UUID, owner: Owner) -> Change:
    """Queues an ended task again. Raises ConflictException for one that succeeded or still runs."""
    await find(session, job_id=job_id, owner=owner)
    change = await changing.retry_job(session, job_id=job_id)
    if not change.has_changed and change.state is not JobState.QUEUED:
        raise ConflictException(f"A task that is {change.state.label} cannot be retried")
    await client_of(session).notify_in(session)
    _announce(session, change)
    return change


def _announce(session: AsyncSession, change: Change) -> None:
    client = client_of(session)
    if change.hints:
        on_commit(session, lambda: client.push(change.hints))
