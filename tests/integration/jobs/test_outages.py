"""Stores that go away and come back: nothing accepted is lost, no worker ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import JobContext, JobHandle, JobRegistry, JobState, job
from scalable_fastapi_system.kit.errors import ServiceUnavailableException

from hack.dev.redis_server import Redis
from tests.integration.jobs.conftest import FAST
from tests.integration.jobs.harness import Lab, running_lab
from tests.support.databases import DisposableDatabase


@pytest.fixture
def work(registry: JobRegistry) -> Any:
    @job("work", registry=registry)
    async def work(ctx: JobContext, *, seconds: float = 0.0) -> int:
        await asyncio.sleep(seconds)
        return ctx.attempt

    work.backoff.base_seconds = 0.05
    return work


@pytest.fixture
async def fragile(
    make_settings: Callable[..., Settings],
    disposable_database: DisposableDatabase,
    disposable_redis: Redis,
    registry: JobRegistry,
) -> AsyncIterator[Lab]:
    settings = make_settings(
        database={**disposable_database.section, "connect_timeout_seconds": 2},
        redis={
            "redis_url": disposable_redis.url(),
            "command_timeout_seconds": 0.3,
            "connect_timeout_seconds": 0.3,
        },
        jobs=FAST,
    )
    async with running_lab(settings, registry) as lab:
        yield lab


async def all_succeed(lab: Lab, handles: list[JobHandle], *, timeout_seconds: float = 20) -> None:
    for handle in handles:
        ended = await lab.ended(handle.id, timeout_seconds=timeout_seconds)
        assert ended.state is JobState.SUCCEEDED


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_jobs_are_taken_and_done_without_redis(
    fragile: Lab, disposable_redis: Redis, work: Any, how: str
) -> None:
    worker = await fragile.start_worker()
    await all_succeed(fragile, [await fragile.client.enqueue_now(work)])
    if how == "kill":
        disposable_redis.kill()
    else:
        disposable_redis.child.freeze()
    handles = [await fragile.client.enqueue_now(work) for _ in range(20)]
    await all_succeed(fragile, handles)
    assert not worker.channel.is_up
    if how == "kill":
        disposable_redis.start()
    else:
        disposable_redis.child.thaw()
    async with asyncio.timeout(30):
        while not worker.channel.is_up:
            await asyncio.sleep(0.05)
    await all_succeed(fragile, [await fragile.client.enqueue_now(work) for _ in range(5)])


async def test_a_redis_that_is_full_refuses_no_job(fragile: Lab, disposable_redis: Redis, work: Any) -> None:
    await fragile.start_worker()
    disposable_redis.command("CONFIG", "SET", "maxmemory", "1")
    handles = [await fragile.client.enqueue_now(work) for _ in range(10)]
    await all_succeed(fragile, handles)


async def test_hints_that_are_lost_are_pushed_again(fragile: Lab, disposable_redis: Redis, work: Any) -> None:
    handles = [await fragile.client.enqueue_now(work) for _ in range(50)]
    disposable_redis.flush()
    worker = await fragile.start_worker()
    await all_succeed(fragile, handles)
    async with asyncio.timeout(30):  # a busy machine may have taken it for away
        while not worker.channel.is_up:
            await asyncio.sleep(0.05)


async def test_a_crashed_database_costs_no_worker_and_no_job(
    fragile: Lab, disposable_database: DisposableDatabase, work: Any
) -> None:
    worker = await fragile.start_worker()
    handles = [await fragile.client.enqueue_now(work, seconds=2) for _ in range(10)]
    await fragile.until(handles[-1].id, lambda found: found.state is not JobState.QUEUED)
    await asyncio.to_thread(disposable_database.kill)
    with pytest.raises(ServiceUnavailableException):
        await fragile.client.enqueue_now(work)
    await asyncio.sleep(1.5)
    await asyncio.to_thread(disposable_database.start)
    await all_succeed(fragile, handles)
    await all_succeed(fragile, [await until_accepted(fragile, work)])
    assert fragile.workers == [worker]
    assert not fragile._tasks[worker].done()


async def test_a_lost_answer_to_a_claim_is_noticed(fragile: Lab, work: Any) -> None:
    worker = fragile.new_worker()
    is_lost = False
    for name in ("claim", "claim_next"):
        claim = getattr(worker.engine.store, name)

        async def claim_and_lose_the_answer(*arguments: Any, claim: Any = claim, **options: Any) -> Any:
            nonlocal is_lost
            answer = await claim(*arguments, **options)
            if getattr(answer, "claims", answer) and not is_lost:
                is_lost = True
                raise ConnectionResetError("the answer is lost")
            return answer

        setattr(worker.engine.store, name, claim_and_lose_the_answer)
    await fragile.start_worker(worker)
    handle = await fragile.client.enqueue_now(work)
    ended = await fragile.ended(handle.id)
    # taken back at once: no lease had to run out, nobody was blamed for a crash
    assert (ended.result, ended.crashes) == (2, 0)


async def test_a_lost_answer_to_an_end_is_not_a_lost_job(fragile: Lab, work: Any) -> None:
    worker = fragile.new_worker()
    original = worker.engine.store.finish
    calls = 0

    async def finish_and_lose_the_answer(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        answer = await original(*arguments, **options)
        if calls == 1:
            raise ConnectionResetError("the answer is lost")
        return answer

    worker.engine.store.finish = finish_and_lose_the_answer  # type: ignore[method-assign]
    await fragile.start_worker(worker)
    handle = await fragile.client.enqueue_now(work)
    ended = await fragile.ended(handle.id)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    await asyncio.sleep(0.2)
    assert calls == 2


async def until_accepted(lab: Lab, work: Any) -> JobHandle:
    async with asyncio.timeout(30):
        while True:
            try:
                return await lab.client.enqueue_now(work)
            except ServiceUnavailableException:
                await asyncio.sleep(0.1)
