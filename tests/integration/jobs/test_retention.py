"""The retention task: what is old goes, with all that belongs to it; what is young or live stays."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

from scalable_fastapi_system.infra import idempotency
from scalable_fastapi_system.infra.idempotency import idempotency_keys
from scalable_fastapi_system.jobs import JobContext, JobRegistry, JobState, job
from scalable_fastapi_system.jobs.store import create_store
from scalable_fastapi_system.jobs.store.clock import database_now
from scalable_fastapi_system.jobs.store.deliveries import delivery_job, enqueue_deliveries
from scalable_fastapi_system.jobs.tables import job_attempts, jobs, webhook_deliveries
from sqlalchemy import insert, select, update

from tests.integration.jobs.harness import Lab


async def column(lab: Lab, one: Any) -> list[Any]:
    async with lab.resources.database.transaction() as session:
        return list((await session.execute(select(one))).scalars())


async def test_old_jobs_go_with_their_attempts_and_deliveries_and_keys_after_a_day(
    any_lab: Lab, registry: JobRegistry
) -> None:
    @job("fails", registry=registry, max_attempts=1)
    async def fails(ctx: JobContext) -> None:
        raise ValueError("no luck")

    worker = await any_lab.start_worker()
    old, young = [await any_lab.client.enqueue_now(fails) for _ in range(2)]
    waiting = await any_lab.client.enqueue_now(fails, delay_seconds=3600)
    for handle in (old, young):
        await any_lab.ended(handle.id, timeout_seconds=20)
    for digest in ("old", "young"):
        assert await idempotency.claim(any_lab.resources.database, digest=digest, holder=uuid4()) is None
    async with any_lab.resources.database.transaction() as session:
        now = await database_now(session)
        await session.execute(
            insert(webhook_deliveries),
            [
                {"id": uuid4(), "endpoint_id": uuid4(), "job_id": handle.id, "created_at": now, "attempts": 1, "event": "x"}
                for handle in (old, young)
            ],
        )  # fmt: skip
        long_ago = now - timedelta(days=any_lab.settings.jobs.retention_days, minutes=1)
        await session.execute(update(jobs).where(jobs.c.id == old.id).values(finished_at=long_ago))
        await session.execute(
            update(idempotency_keys)
            .where(idempotency_keys.c.digest == "old")
            .values(created_at=now - idempotency.KEPT_FOR - timedelta(minutes=1))
        )

    worker.reconciler._purge_at = float("-inf")  # the hour is over
    async with asyncio.timeout(30):
        while await column(any_lab, idempotency_keys.c.digest) != ["young"]:
            await asyncio.sleep(0.05)
    assert set(await column(any_lab, jobs.c.id)) == {young.id, waiting.id}
    assert await column(any_lab, job_attempts.c.job_id) == [young.id]
    assert await column(any_lab, webhook_deliveries.c.job_id) == [young.id]


async def test_a_job_is_kept_while_its_end_is_being_told(any_lab: Lab, registry: JobRegistry) -> None:
    @job("told", registry=registry)
    async def told(ctx: JobContext) -> None: ...

    handles = [await any_lab.client.enqueue_now(told) for _ in range(2)]
    delivery_id = uuid4()
    async with any_lab.resources.database.transaction() as session:
        long_ago = await database_now(session) - timedelta(days=3)
        await session.execute(update(jobs).values(state=int(JobState.SUCCEEDED), finished_at=long_ago))
        await session.execute(
            insert(webhook_deliveries).values(
                id=delivery_id,
                endpoint_id=uuid4(),
                job_id=handles[0].id,
                created_at=long_ago,
                attempts=3,
                event="x",
            )
        )
        delivering = delivery_job(delivery_id, None, None)
        await enqueue_deliveries(session, [delivering])

    store = create_store(any_lab.resources.database)
    assert await store.purge(older_than=timedelta(days=1)) == 1
    assert set(await column(any_lab, jobs.c.id)) == {handles[0].id, delivering.id}
    assert await column(any_lab, webhook_deliveries.c.id) == [delivery_id]
    async with any_lab.resources.database.transaction() as session:
        await session.execute(
            update(jobs)
            .where(jobs.c.id == delivering.id)
            .values(state=int(JobState.FAILED), finished_at=long_ago)
        )
    assert await store.purge(older_than=timedelta(days=1)) == 2
    assert await column(any_lab, webhook_deliveries.c.id) == []
