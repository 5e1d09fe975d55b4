"""Ends that are not plain: a cancel that meets another end, a handler that cancels itself, errors that cannot be told."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from scalable_fastapi_system.infra.settings.models import TracingSettings
from scalable_fastapi_system.infra.tracing import configure_tracing, stop_tracing
from scalable_fastapi_system.jobs import (
    Backoff,
    FailJobError,
    JobContext,
    JobRegistry,
    JobState,
    SnoozeJobError,
    job,
)

from tests.integration.jobs.harness import Lab


@pytest.mark.parametrize("error", [ValueError("broken"), SnoozeJobError(60)], ids=["failure", "snooze"])
async def test_a_job_that_would_wait_again_is_cancelled_if_that_was_asked_for(
    any_lab: Lab, registry: JobRegistry, error: Exception
) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    @job("stubborn", registry=registry, max_attempts=5)
    async def stubborn(ctx: JobContext) -> None:
        begun.set()
        await may_end.wait()
        raise error

    worker = await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(stubborn)
    await begun.wait()
    worker._helpers[0].cancel()  # no beat tells the handler of the cancel before it ends
    await any_lab.client.cancel(handle.id)
    may_end.set()
    ended = await any_lab.ended(handle.id)
    assert ended.state is JobState.CANCELLED
    assert ended.finished_at is not None


async def test_a_handler_in_a_thread_is_told_to_stop_when_its_time_is_over(
    any_lab: Lab, registry: JobRegistry
) -> None:
    told: list[float] = []

    @job("overtime", registry=registry, timeout_seconds=0.2, max_attempts=1)
    def overtime(ctx: Any) -> None:
        deadline = time.monotonic() + 20
        while not ctx.is_cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
        told.append(deadline - time.monotonic())

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(overtime)
    assert (await any_lab.ended(handle.id)).state is JobState.FAILED
    async with asyncio.timeout(30):
        while not told:
            await asyncio.sleep(0.01)
    assert told[0] > 0


async def test_a_handler_that_is_cancelled_from_inside_has_failed(
    any_lab: Lab, registry: JobRegistry
) -> None:
    attempts: list[int] = []

    @job("self_cancelling", registry=registry, max_attempts=1)
    async def self_cancelling(ctx: JobContext) -> None:
        attempts.append(ctx.attempt)
        part = asyncio.ensure_future(asyncio.sleep(60))
        part.cancel()
        await part

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(self_cancelling)
    ended = await any_lab.ended(handle.id)
    assert (ended.state, attempts) == (JobState.FAILED, [1])
    assert ended.error["type"] == "CancelledError"


@pytest.mark.parametrize("is_plain", [False, True], ids=["loop", "thread"])
async def test_what_is_raised_and_is_no_exception_is_a_failure_all_the_same(
    any_lab: Lab, registry: JobRegistry, is_plain: bool
) -> None:
    class PanicException(BaseException):
        """As pyo3 names it, and derives it."""

    attempts: list[int] = []

    async def panics(ctx: JobContext) -> None:
        attempts.append(ctx.attempt)
        raise PanicException("index out of bounds")

    def panics_in_thread(ctx: Any) -> None:
        attempts.append(ctx.attempt)
        raise PanicException("index out of bounds")

    panicking = job("panicking", registry=registry, max_attempts=2, backoff=Backoff(0.01, 0.01))(
        panics_in_thread if is_plain else panics
    )
    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(panicking)
    ended = await any_lab.ended(handle.id)
    assert (ended.state, attempts) == (JobState.FAILED, [1, 2])
    assert "PanicException" in ended.error["type"]


async def test_an_error_that_cannot_be_told_is_a_failure_all_the_same(
    any_lab: Lab, registry: JobRegistry
) -> None:
    class UntellableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even that")

    @job("untellable", registry=registry, max_attempts=1)
    async def untellable(ctx: JobContext) -> None:
        raise UntellableError

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(untellable)
    ended = await any_lab.ended(handle.id)
    assert ended.state is JobState.FAILED
    assert "UntellableError" in ended.error["type"]


async def test_a_long_error_stays_within_its_limit_whatever_its_letters(
    any_lab: Lab, registry: JobRegistry
) -> None:
    @job("talkative", registry=registry, max_attempts=1)
    async def talkative(ctx: JobContext) -> None:
        raise FailJobError("\N{GRINNING FACE}" * 100_000)

    await any_lab.start_worker()
    handle = await any_lab.client.enqueue_now(talkative)
    ended = await any_lab.ended(handle.id)
    assert len(json.dumps(ended.error, ensure_ascii=False).encode()) <= 8 * 1024
    assert "100000 characters" in ended.error["message"]


async def test_the_span_of_an_attempt_that_failed_is_an_error_with_the_type_and_without_the_message(
    lab: Lab, registry: JobRegistry
) -> None:
    exporter = InMemorySpanExporter()
    traced = lab.settings.model_copy(update={"tracing": TracingSettings(enabled=True, sample_ratio=1.0)})
    configure_tracing(traced, component="test", exporter=exporter)

    @job("mixed", registry=registry, max_attempts=2, backoff=Backoff(0.01, 0.01))
    async def mixed(ctx: JobContext, *, fails: bool) -> None:
        if fails:
            raise ValueError("of someone@example.com")

    try:
        await lab.start_worker()
        for fails in (True, False):
            handle = await lab.client.enqueue_now(mixed, fails=fails)
            await lab.ended(handle.id)
    finally:
        stop_tracing()
    spans = [span for span in exporter.get_finished_spans() if span.name == "job mixed"]
    seen = [
        (
            (span.attributes or {})["job.outcome"],
            span.status.status_code,
            span.status.description,
            (span.attributes or {}).get("error.type"),
        )
        for span in spans
    ]
    assert seen == [
        ("retried", StatusCode.ERROR, "ValueError", "ValueError"),
        ("failed", StatusCode.ERROR, "ValueError", "ValueError"),
        ("succeeded", StatusCode.UNSET, None, None),
    ]
    assert not any("someone@example.com" in span.to_json() for span in spans)
