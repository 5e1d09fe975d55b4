"""The jobs that chaos runs. Each writes its effect in the transaction that ends it, so an effect is there once or never."""

from __future__ import annotations

import asyncio
import os
import time

from scalable_fastapi_system.jobs import JobContext, cron, job
from sqlalchemy import text


async def _effect(ctx: JobContext) -> None:
    async with ctx.transaction() as session:
        await session.execute(
            text("INSERT INTO chaos_effects (job_id, attempt, worker) VALUES (:job_id, :attempt, :worker)"),
            {"job_id": ctx.job_id, "attempt": ctx.attempt, "worker": str(os.getpid())},
        )


@job("chaos.effect", is_public=True, max_attempts=50, timeout_seconds=600)
async def effect(ctx: JobContext, *, seconds: float = 0.0) -> None:
    """Works for a while, then leaves its effect."""
    if seconds:
        await asyncio.sleep(seconds)
    await _effect(ctx)


@job("chaos.plain", max_attempts=50)
async def plain(ctx: JobContext) -> None:
    """Nothing but its end."""


@job("chaos.exit", max_attempts=50)
async def exit_process(ctx: JobContext) -> None:
    """Takes its worker down, without a word."""
    await asyncio.sleep(0.2)
    os._exit(66)


@job("chaos.block", max_attempts=50, timeout_seconds=600)
async def block_loop(ctx: JobContext, *, seconds: float) -> None:
    """Stands on the loop, the first time; then leaves its effect."""
    if ctx.attempt == 1:
        time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    await _effect(ctx)


@cron("* * * * * */2", misfire="skip")
@job("chaos.tick", max_attempts=50)
async def tick(ctx: JobContext) -> None:
    """Every two seconds, where a worker is told to run schedules."""
    await _effect(ctx)
