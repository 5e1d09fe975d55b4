"""A worker process of one version of a product: `python -m tests.integration.jobs.rolling_worker old|new`.

Both know `orders.ship`; the new one takes an argument more. Only the new one knows `orders.wrap`. Each job writes one row
together with its end, so a job that was done twice has two.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from scalable_fastapi_system.infra.resources import Resources
from scalable_fastapi_system.infra.settings import load_settings
from scalable_fastapi_system.jobs import JobClient, JobContext, JobRegistry, job
from scalable_fastapi_system.jobs.durable import DurableWorker
from sqlalchemy import text


async def _note(ctx: JobContext, version: str) -> None:
    async with ctx.transaction() as session:
        await session.execute(
            text("INSERT INTO effects (job_id, version) VALUES (:job_id, :version)"),
            {"job_id": str(ctx.job_id), "version": version},
        )
        ctx.result = version


def registry_of(version: str) -> JobRegistry:
    """The job kinds as this version of the product declares them."""
    registry = JobRegistry()
    if version == "old":

        @job("orders.ship", registry=registry, max_attempts=2)
        async def ship(ctx: JobContext, *, number: int) -> None:
            await _note(ctx, version)

    else:

        @job("orders.ship", registry=registry, max_attempts=2)
        async def ship_by(ctx: JobContext, *, number: int, carrier: str = "post") -> None:
            await _note(ctx, version)

        @job("orders.wrap", registry=registry, max_attempts=2)
        async def wrap(ctx: JobContext, *, number: int) -> None:
            await _note(ctx, version)

    return registry


async def main(version: str) -> None:
    settings = load_settings()
    resources = Resources(settings)
    registry = registry_of(version)
    await resources.start()
    JobClient(resources, registry=registry, is_worker=True)
    worker = DurableWorker(resources, registry=registry, worker_id=f"{version}:{os.getpid()}")
    try:
        await worker.serve()
    finally:
        await resources.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test, which ends this by SIGTERM
    asyncio.run(main(sys.argv[1]))
