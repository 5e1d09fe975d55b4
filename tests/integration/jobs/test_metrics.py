"""What is counted of jobs where they are enqueued."""

from __future__ import annotations

from prometheus_client import REGISTRY
from scalable_fastapi_system.jobs import JobClient, JobContext, JobRegistry, job

from tests.integration.jobs.harness import Lab


def enqueued(kind: str, due: str) -> float | None:
    labels = {"kind": kind, "queue": "slow", "due": due}
    return REGISTRY.get_sample_value("jobs_enqueued_total", labels)


async def test_a_kind_is_shown_before_its_first_job_and_planned_ones_are_told_apart(
    lab: Lab, registry: JobRegistry
) -> None:
    """A rate does not see the value that a series begins with; and that no worker is there is no fault for a planned job."""

    @job("counted.first", queue="slow", registry=registry)
    async def first(ctx: JobContext) -> None: ...

    client = JobClient(lab.resources, registry=registry, is_worker=True)
    await client.start()
    try:
        assert (enqueued("counted.first", "now"), enqueued("counted.first", "later")) == (0, None)
        await client.enqueue_now(first)
        await client.enqueue_now(first, delay_seconds=3600)
    finally:
        await client.stop()
    assert (enqueued("counted.first", "now"), enqueued("counted.first", "later")) == (1, 1)
