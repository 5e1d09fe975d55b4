"""Why a job does not run yet: each rule that can hold it back, by its name."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

from scalable_fastapi_system.jobs import (
    JobContext,
    JobRegistry,
    JobState,
    RetryJobError,
    call,
    enqueue_chain,
    job,
)
from scalable_fastapi_system.jobs.runner import ROLLOUT_SECONDS
from scalable_fastapi_system.jobs.tables import jobs
from scalable_fastapi_system.kit.clock import utc_now
from sqlalchemy import update

from tests.integration.jobs.harness import Lab


async def rule(lab: Lab, job_id: UUID) -> str | None:
    reason = await lab.client.why(job_id)
    return None if reason is None else reason.rule


async def test_before_any_worker_the_rules_of_the_job_itself(any_lab: Lab, registry: JobRegistry) -> None:
    @job("idle", registry=registry)
    async def idle(ctx: JobContext) -> None: ...

    client = any_lab.client
    assert await rule(any_lab, (await client.enqueue_now(idle)).id) == "no_worker"
    assert await rule(any_lab, (await client.enqueue_now(idle, delay_seconds=3600)).id) == "not_due"
    async with any_lab.resources.database.transaction() as session:
        chain = await enqueue_chain(session, [call(idle), call(idle)])
    assert await rule(any_lab, chain[1].id) == "waits_for_jobs"
    await client.pause_queue("default")
    assert await rule(any_lab, chain[0].id) == "queue_paused"
    await client.cancel(chain[0].id)
    assert await rule(any_lab, chain[0].id) is None


async def test_beside_a_worker_the_rules_of_the_fleet(any_lab: Lab, registry: JobRegistry) -> None:
    may_end = asyncio.Event()

    @job("hold", registry=registry, concurrency_key="{key}")
    async def hold(ctx: JobContext, *, key: str) -> None:
        await may_end.wait()

    @job("later", registry=registry, max_attempts=2)
    async def later(ctx: JobContext) -> None:
        raise RetryJobError("not now", delay_seconds=3600)

    client = any_lab.client
    worker = await any_lab.start_worker(max_jobs=2)
    failed = await client.enqueue_now(later)
    await any_lab.until(failed.id, lambda one: one.failures == 1, timeout_seconds=20)
    assert await rule(any_lab, failed.id) == "backoff"
    running = await client.enqueue_now(hold, key="a")
    await any_lab.until(running.id, lambda one: one.state is JobState.RUNNING, timeout_seconds=20)
    assert await rule(any_lab, running.id) == "running"
    assert await rule(any_lab, (await client.enqueue_now(hold, key="a")).id) == "concurrency_key"
    assert await rule(any_lab, (await client.enqueue_now("nobody.knows")).id) == "unknown_kind"
    second = await client.enqueue_now(hold, key="b")
    await any_lab.until(second.id, lambda one: one.state is JobState.RUNNING, timeout_seconds=20)
    async with asyncio.timeout(20):  # the list of workers is as new as the last beat
        while [one.running for one in await client.workers() if one.id == worker.worker_id] != [2]:
            await asyncio.sleep(0.02)
    third = await client.enqueue_now(hold, key="c")
    assert await rule(any_lab, third.id) == "no_free_slot"
    may_end.set()
    await any_lab.ended(third.id, timeout_seconds=20)


async def test_arguments_of_another_version_wait_for_it_and_then_fail(
    any_lab: Lab, registry: JobRegistry
) -> None:
    newer = JobRegistry()

    @job("ship", registry=registry, max_attempts=1)
    async def ship(ctx: JobContext, *, number: int) -> None: ...

    @job("ship", registry=newer, max_attempts=1)
    async def ship_newly(ctx: JobContext, *, number: int, carrier: str) -> None: ...

    any_lab.client.registry = newer
    handle = await any_lab.client.enqueue_now(ship_newly, number=1, carrier="van")
    await any_lab.start_worker()
    left = await any_lab.until(
        handle.id, lambda one: one.attempt > 0 and one.state is JobState.SCHEDULED, timeout_seconds=20
    )
    assert left.failures == 0
    assert await rule(any_lab, handle.id) in {"unknown_arguments", "about_to_start", "running"}
    async with any_lab.resources.database.transaction() as session:
        created_at = utc_now() - timedelta(seconds=ROLLOUT_SECONDS + 1)
        await session.execute(update(jobs).where(jobs.c.id == handle.id).values(created_at=created_at))
    ended = await any_lab.ended(handle.id, timeout_seconds=30)
    assert ended.state is JobState.FAILED
    assert ended.error["type"] == "ValidationException"
    assert "carrier" in ended.error["message"]
