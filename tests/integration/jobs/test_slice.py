"""A job's way from enqueue to its end, on every store."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest
from scalable_fastapi_system.jobs import (
    FailJobError,
    JobContext,
    JobRegistry,
    JobState,
    enqueue,
    job,
)
from scalable_fastapi_system.jobs.durable import DurableWorker
from scalable_fastapi_system.kit.errors import NotFoundException, ValidationException

from tests.integration.jobs.conftest import ALL_LABS, WAKING_LABS
from tests.integration.jobs.harness import Lab

LABS = ALL_LABS


async def test_a_job_runs_and_its_result_is_kept(any_lab: Lab, registry: JobRegistry) -> None:
    @job("double", registry=registry)
    async def double(ctx: JobContext, *, number: int) -> dict[str, int]:
        await ctx.progress(0.5, "half way")
        return {"number": number * 2, "attempt": ctx.attempt}

    await any_lab.start_worker()
    async with any_lab.resources.database.transaction() as session:
        handle = await enqueue(session, double, owner_id=7, number=21)
    ended = await any_lab.ended(handle.id)
    assert ended.state is JobState.SUCCEEDED
    assert ended.result == {"number": 42, "attempt": 1}
    assert ended.progress == {"fraction": 0.5, "message": "half way"}
    assert ended.owner_id == 7
    assert ended.args == {"number": 21}


async def test_a_rolled_back_enqueue_leaves_nothing(any_lab: Lab, registry: JobRegistry) -> None:
    @job("never", registry=registry)
    async def never(ctx: JobContext) -> None:
        raise AssertionError("it ran")

    await any_lab.start_worker()
    with pytest.raises(RuntimeError, match="changed my mind"):
        async with any_lab.resources.database.transaction() as session:
            handle = await enqueue(session, never)
            raise RuntimeError("changed my mind")
    with pytest.raises(NotFoundException):
        await any_lab.client.get(handle.id)


async def test_arguments_that_do_not_fit_are_refused_at_once(any_lab: Lab, registry: JobRegistry) -> None:
    @job("typed", registry=registry)
    async def typed(ctx: JobContext, *, number: int) -> None: ...

    async with any_lab.resources.database.transaction() as session:
        with pytest.raises(ValidationException, match="number"):
            await enqueue(session, typed, number="many")
        with pytest.raises(ValidationException, match="nummer"):
            await enqueue(session, typed, number=1, nummer=2)


async def test_a_failure_is_tried_again_and_then_final(any_lab: Lab, registry: JobRegistry) -> None:
    seen: list[int] = []

    @job("flaky", registry=registry, max_attempts=3)
    async def flaky(ctx: JobContext) -> None:
        seen.append(ctx.attempt)
        raise ValueError(f"try {ctx.attempt}")

    flaky.backoff.base_seconds = 0.05
    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(flaky)
    ended = await any_lab.ended(handle.id)
    assert ended.state is JobState.FAILED
    assert seen == [1, 2, 3]
    assert ended.failures == 3
    assert ended.error["type"] == "ValueError"
    assert ended.error["message"] == "try 3"
    assert "raise ValueError" in ended.error["traceback"]


async def test_a_job_may_say_that_it_failed_for_good(any_lab: Lab, registry: JobRegistry) -> None:
    @job("hopeless", registry=registry)
    async def hopeless(ctx: JobContext) -> None:
        raise FailJobError("no such customer")

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(hopeless)
    ended = await any_lab.ended(handle.id)
    assert (ended.state, ended.failures) == (JobState.FAILED, 1)


async def test_a_job_that_takes_too_long_has_failed(any_lab: Lab, registry: JobRegistry) -> None:
    @job("slow", registry=registry, timeout_seconds=0.1, max_attempts=1)
    async def slow(ctx: JobContext) -> None:
        await asyncio.sleep(60)

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(slow)
    ended = await any_lab.ended(handle.id)
    assert ended.state is JobState.FAILED
    assert "longer than 0.1 seconds" in ended.error["message"]


@pytest.mark.labs(*WAKING_LABS)
async def test_an_idle_worker_is_woken_and_does_not_find_a_job_by_looking(
    any_lab: Lab, registry: JobRegistry
) -> None:
    @job("stamp", registry=registry)
    async def stamp(ctx: JobContext) -> None: ...

    # Whoever looks at intervals looks once an hour here.
    any_lab.settings.jobs.poll_seconds = any_lab.settings.jobs.reconcile_seconds = 3600.0
    worker = await any_lab.start_worker()
    for _ in range(5):
        handle = await any_lab.client.enqueue_now(stamp)
        if any_lab.resources.database.backend == "sqlite":
            worker.local.wake()  # what the embedded worker's client does
        await any_lab.ended(handle.id)


async def test_a_delayed_job_waits_for_its_time(any_lab: Lab, registry: JobRegistry) -> None:
    @job("later", registry=registry)
    async def later(ctx: JobContext) -> float:
        return time.time()

    await any_lab.start_worker()
    asked = time.time()
    handle = await any_lab.client.enqueue_now(later, delay_seconds=0.6)
    assert await any_lab.state(handle.id) is JobState.SCHEDULED
    ended = await any_lab.ended(handle.id)
    assert ended.result - asked >= 0.6


async def test_a_waiting_job_is_cancelled_at_once(any_lab: Lab, registry: JobRegistry) -> None:
    @job("waits", registry=registry)
    async def waits(ctx: JobContext) -> None: ...

    handle = await any_lab.client.enqueue_now(waits)
    change = await any_lab.client.cancel(handle.id)
    assert change.state is JobState.CANCELLED
    await any_lab.start_worker()
    await asyncio.sleep(0.3)
    assert await any_lab.state(handle.id) is JobState.CANCELLED


async def test_a_running_job_is_cancelled_soon(any_lab: Lab, registry: JobRegistry) -> None:
    told: list[Any] = []

    @job("runs", registry=registry)
    async def runs(ctx: JobContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told.append(ctx.is_cancelled)

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(runs)
    await any_lab.until(handle.id, lambda found: found.state is JobState.RUNNING)
    await any_lab.client.cancel(handle.id)
    ended = await any_lab.ended(handle.id)
    assert ended.state is JobState.CANCELLED
    assert told == [True]


async def test_a_drained_worker_hands_its_job_to_another(any_lab: Lab, registry: JobRegistry) -> None:
    begun = asyncio.Event()

    @job("long", registry=registry)
    async def long(ctx: JobContext) -> int:
        begun.set()
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return ctx.failures

    first = await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(long)
    await asyncio.wait_for(begun.wait(), 20)
    await any_lab.stop_worker(first)
    waiting = await any_lab.client.get(handle.id)
    assert (waiting.state, waiting.interruptions, waiting.failures) == (JobState.QUEUED, 1, 0)
    await any_lab.start_worker()
    ended = await any_lab.ended(handle.id)
    assert (ended.state, ended.result, ended.attempt) == (JobState.SUCCEEDED, 0, 2)


def hold_claims(
    worker: DurableWorker, monkeypatch: pytest.MonkeyPatch, *, loses_cancel: bool
) -> asyncio.Event:
    """Holds back the answer to each claim that got jobs until it is cancelled; told by the event. `loses_cancel`: and gives it then."""
    is_claimed = asyncio.Event()
    for name in ("claim", "claim_next"):
        claim = getattr(worker.engine.store, name)

        async def claim_and_wait(*args: Any, claim: Any = claim, **options: Any) -> Any:
            answer = await claim(*args, **options)
            if getattr(answer, "claims", answer):
                is_claimed.set()
                with contextlib.suppress(*([asyncio.CancelledError] if loses_cancel else [])):
                    await asyncio.Event().wait()
            return answer

        monkeypatch.setattr(worker.engine.store, name, claim_and_wait)
    return is_claimed


async def test_a_claim_whose_answer_a_drain_cuts_off_is_given_back_at_once(
    any_lab: Lab, registry: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job("cut_off", registry=registry)
    async def cut_off(ctx: JobContext) -> int:
        return ctx.attempt

    first = any_lab.new_worker()
    is_claimed = hold_claims(first, monkeypatch, loses_cancel=False)
    await any_lab.start_worker(first)
    handle = await any_lab.client.enqueue_now(cut_off)
    await asyncio.wait_for(is_claimed.wait(), 20)
    assert await any_lab.state(handle.id) is JobState.RUNNING
    await any_lab.stop_worker(first)
    waiting = await any_lab.client.get(handle.id)
    assert (waiting.state, waiting.worker_id) == (JobState.QUEUED, None)
    await any_lab.start_worker()
    ended = await any_lab.ended(handle.id, timeout_seconds=20)
    assert (ended.result, ended.failures, ended.crashes) == (2, 0, 0)


async def test_a_drain_whose_cancel_the_driver_loses_ends_all_the_same(
    any_lab: Lab, registry: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncmy on Python 3.11 loses one that comes with the answer, here that of a claim."""

    @job("late", registry=registry)
    async def late(ctx: JobContext) -> None: ...

    worker = any_lab.new_worker()
    is_claimed = hold_claims(worker, monkeypatch, loses_cancel=True)
    await any_lab.start_worker(worker)
    handle = await any_lab.client.enqueue_now(late)
    await asyncio.wait_for(is_claimed.wait(), 20)
    await any_lab.stop_worker(worker)
    assert await any_lab.state(handle.id) in {JobState.QUEUED, JobState.SUCCEEDED}


async def test_a_job_of_a_dead_worker_is_taken_over(any_lab: Lab, registry: JobRegistry) -> None:
    @job("orphan", registry=registry)
    async def orphan(ctx: JobContext) -> str:
        if ctx.attempt == 1:
            await asyncio.sleep(60)
        return "done"

    first = await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(orphan)
    await any_lab.until(handle.id, lambda found: found.state is JobState.RUNNING)
    await any_lab.kill_worker(first)
    await any_lab.start_worker()
    ended = await any_lab.ended(handle.id)
    assert (ended.state, ended.crashes, ended.failures) == (JobState.SUCCEEDED, 1, 0)


async def test_a_long_version_keeps_no_worker_from_its_work(any_lab: Lab, registry: JobRegistry) -> None:
    any_lab.settings.api.version = "1.2.3+build.20261128.0123456789abcdef0123456789abcdef"
    await any_lab.start_worker()
    (worker,) = await any_lab.client.workers()
    assert worker.version == "1.2.3+build.20261128.0123456789a"
