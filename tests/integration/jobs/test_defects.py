"""Attempts at which what runs the handler fails: each is counted and ends the job in time, and none is lost or ended twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scalable_fastapi_system.jobs import Backoff, JobContext, JobRegistry, JobState, RetryJobError, job
from scalable_fastapi_system.jobs import runner as runner_module

from tests.integration.jobs.harness import Lab


class Broken(Backoff):
    """What a product may write: a back-off of its own, with a mistake in it."""

    def delay_seconds(self, failures: int, random: Any) -> float:
        raise AttributeError("no such pause")


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "_PAUSE_OF_A_DEFECT", Backoff(0.01, 0.01))


@pytest.mark.usefixtures("_no_pause")
async def test_a_back_off_that_raises_ends_the_job_after_its_attempts(
    any_lab: Lab, registry: JobRegistry
) -> None:
    attempts: list[int] = []

    @job("unlucky", registry=registry, max_attempts=3, backoff=Broken())
    async def unlucky(ctx: JobContext) -> None:
        attempts.append(ctx.attempt)
        raise ValueError("what the handler raised")

    worker = await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(unlucky)
    ended = await any_lab.ended(handle.id, timeout_seconds=15)
    assert (ended.state, ended.failures, attempts) == (JobState.FAILED, 3, [1, 2, 3])
    # The last attempt asks for no pause: its error is the handler's own.
    assert ended.error["message"] == "what the handler raised"
    assert not worker.engine.running


@pytest.mark.usefixtures("_no_pause")
async def test_what_failed_is_told_with_what_the_handler_raised(any_lab: Lab, registry: JobRegistry) -> None:
    may_go_on = asyncio.Event()

    @job("told", registry=registry, max_attempts=2, backoff=Broken())
    async def told(ctx: JobContext) -> str:
        if ctx.attempt == 1:
            raise ValueError("what the handler raised")
        await may_go_on.wait()
        return "done"

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(told)
    retried = await any_lab.until(handle.id, lambda one: one.failures == 1, timeout_seconds=15)
    assert (retried.error["type"], retried.error["message"]) == ("AttributeError", "no such pause")
    assert "ValueError: what the handler raised" in retried.error["traceback"]
    may_go_on.set()
    ended = await any_lab.ended(handle.id, timeout_seconds=15)
    assert (ended.state, ended.result, ended.attempt) == (JobState.SUCCEEDED, "done", 2)


@pytest.mark.usefixtures("_no_pause")
async def test_a_pause_that_is_no_number_is_a_failure_too(any_lab: Lab, registry: JobRegistry) -> None:
    @job("paused", registry=registry, max_attempts=2)
    async def paused(ctx: JobContext) -> None:
        raise RetryJobError(delay_seconds="soon")  # type: ignore[arg-type]

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(paused)
    ended = await any_lab.ended(handle.id, timeout_seconds=15)
    assert (ended.state, ended.failures, ended.attempt) == (JobState.FAILED, 2, 2)


@pytest.mark.usefixtures("_no_pause")
async def test_a_span_that_cannot_be_made_does_not_keep_a_job_for_ever(
    any_lab: Lab, registry: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_span(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("no span")

    @job("spanned", registry=registry, max_attempts=2)
    async def spanned(ctx: JobContext) -> None: ...

    monkeypatch.setattr(runner_module, "job_span", broken_span)
    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(spanned)
    ended = await any_lab.ended(handle.id, timeout_seconds=15)
    assert (ended.state, ended.failures, ended.error["message"]) == (JobState.FAILED, 2, "no span")


async def test_what_a_transaction_has_finished_stays_finished(
    any_lab: Lab, registry: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = runner_module._attempt

    async def broken(*args: Any) -> Any:
        await attempt(*args)
        raise RuntimeError("a defect after the commit")

    @job("finished", registry=registry, max_attempts=3)
    async def finished(ctx: JobContext) -> None:
        async with ctx.transaction():
            ctx.result = "stored"

    monkeypatch.setattr(runner_module, "_attempt", broken)

    worker = await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(finished)
    ended = await any_lab.ended(handle.id, timeout_seconds=15)
    async with asyncio.timeout(10):
        while worker.engine.running:
            await asyncio.sleep(0.01)
    ended = await any_lab.client.get(handle.id)
    assert (ended.state, ended.result, ended.attempt, ended.failures) == (JobState.SUCCEEDED, "stored", 1, 0)


@pytest.mark.parametrize("what", ["drain", "cancel"])
async def test_a_handler_that_was_told_to_stop_is_handed_back_or_cancelled_all_the_same(
    any_lab: Lab, registry: JobRegistry, what: str
) -> None:
    begun = asyncio.Event()

    @job("stopped", registry=registry, max_attempts=1, backoff=Broken())
    async def stopped(ctx: JobContext) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("told to stop") from None

    worker = await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(stopped)
    await asyncio.wait_for(begun.wait(), 15)
    if what == "cancel":
        await any_lab.client.cancel(handle.id)
        ended = await any_lab.ended(handle.id, timeout_seconds=15)
        assert (ended.state, ended.failures) == (JobState.CANCELLED, 0)
        return
    await any_lab.stop_worker(worker)
    left = await any_lab.client.get(handle.id)
    assert (left.state, left.failures, left.interruptions) == (JobState.QUEUED, 0, 1)
