"""Webhook deliveries are planned in the transaction that ends a job, so that an end and its telling stand or fall together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

import orjson
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.jobs.records import Hint, NewJob
from scalable_fastapi_system.jobs.states import LIVE_STATES, JobState
from scalable_fastapi_system.jobs.store.clock import database_now
from scalable_fastapi_system.jobs.store.inserting import insert_jobs
from scalable_fastapi_system.jobs.tables import jobs, webhook_deliveries, webhook_endpoints
from scalable_fastapi_system.kit.ids import new_id

DELIVER_KIND = "webhooks.deliver"
DELIVER_QUEUE = "default"
MAX_DELIVERY_ATTEMPTS = 12


async def plan_deliveries(session: AsyncSession, job_ids: Iterable[UUID]) -> list[Hint]:
    """For jobs that have just ended: a delivery to each endpoint of their owners that wants to hear of it."""
    ended = (
        await session.execute(
            select(
                jobs.c.id, jobs.c.owner_id, jobs.c.kind, jobs.c.state, jobs.c.traceparent, jobs.c.request_id
            ).where(jobs.c.id.in_(list(job_ids)), jobs.c.owner_id.is_not(None))
        )
    ).all()
    if not ended:
        return []
    endpoints = (
        await session.execute(
            select(webhook_endpoints.c.id, webhook_endpoints.c.owner_id, webhook_endpoints.c.kinds).where(
                webhook_endpoints.c.owner_id.in_({row.owner_id for row in ended}),
                webhook_endpoints.c.disabled_at.is_(None),
            )
        )
    ).all()
    if not endpoints:
        return []
    now = await database_now(session)
    rows = [
        {
            "id": new_id(),
            "endpoint_id": endpoint.id,
            "job_id": row.id,
            "created_at": now,
            "attempts": 0,
            "event": f"task.{JobState(row.state).label}",
        }
        for row in ended
        for endpoint in endpoints
        if endpoint.owner_id == row.owner_id and (not endpoint.kinds or row.kind in endpoint.kinds)
    ]
    if not rows:
        return []
    await session.execute(insert(webhook_deliveries), rows)
    told = {row.id: row for row in ended}
    return await enqueue_deliveries(
        session,
        [
            delivery_job(row["id"], told[row["job_id"]].traceparent, told[row["job_id"]].request_id)
            for row in rows
        ],
    )


async def enqueue_deliveries(session: AsyncSession, rows: Sequence[NewJob]) -> list[Hint]:
    """Inserts jobs made by `delivery_job`; the hints of them."""
    await insert_jobs(session, rows)
    return [Hint(row.id, 0, row.queue) for row in rows]


async def owners_with_endpoints(session: AsyncSession) -> frozenset[int]:
    """Whose jobs' ends are to be told."""
    found = await session.execute(
        select(webhook_endpoints.c.owner_id).where(webhook_endpoints.c.disabled_at.is_(None)).distinct()
    )
    return frozenset(owner_id for owner_id in found.scalars() if owner_id is not None)


async def deliveries_being_tried(session: AsyncSession) -> set[UUID]:
    """The deliveries whose job has not ended."""
    found = await session.execute(
        select(jobs.c.args).where(
            jobs.c.kind == DELIVER_KIND, jobs.c.state.in_([int(state) for state in LIVE_STATES])
        )
    )
    return {UUID(args["delivery_id"]) for args in found.scalars()}


def delivery_job(delivery_id: UUID, traceparent: str | None, request_id: str | None) -> NewJob:
    """The job that sends one delivery, in the trace and under the request of what it tells about."""
    return NewJob(
        id=new_id(),
        kind=DELIVER_KIND,
        queue=DELIVER_QUEUE,
        args=orjson.dumps({"delivery_id": str(delivery_id)}).decode(),
        max_attempts=MAX_DELIVERY_ATTEMPTS,
        traceparent=traceparent,
        request_id=request_id,
    )
