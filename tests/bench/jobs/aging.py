"""How our rate holds when the tables age: a million ended jobs, and a transaction that keeps vacuum from its work."""

from __future__ import annotations

import asyncio
import statistics
import time

from tests.bench.jobs.stage import Stage

_HISTORY = """
INSERT INTO jobs (id, created_at, run_at, started_at, finished_at, state, attempt, max_attempts, queue, kind, args, result)
SELECT gen_random_uuid(), now() - interval '1 day', now() - interval '1 day', now() - interval '1 day',
  now() - interval '1 day', 3, 1, 5, 'default', 'noop', '{}', NULL
FROM generate_series(1, $1)"""
_ROUNDS = 3


async def rate(stage: Stage, jobs: int) -> float:
    """Jobs a second that one worker does of a fresh backlog."""
    stage.tally.clear()
    await asyncio.to_thread(stage.redis.flush)
    await stage.run("ours", "enqueue", str(jobs), "noop")
    async with stage.workers("ours", 1):
        return await stage.until_run(jobs)


async def long_history(stage: Stage, *, rows: int, jobs: int) -> str:
    """The rate with so many ended rows, beside the rate without."""
    await stage.clear("ours")
    without = [await rate(stage, jobs) for _ in range(_ROUNDS)]
    connection = await stage.connect("ours")
    await connection.execute("SET statement_timeout = 0")
    await connection.execute(_HISTORY, rows, timeout=600)
    await connection.execute("ANALYZE jobs", timeout=600)
    await connection.close()
    with_history = [await rate(stage, jobs) for _ in range(_ROUNDS)]
    before, after = statistics.median(without), statistics.median(with_history)
    return f"with {rows} rows of history: {after:.0f}/s beside {before:.0f}/s without, {after / before:.0%}"


async def held_transaction(stage: Stage, *, seconds: float, jobs: int) -> str:
    """The rate at the end of a transaction held open while the worker runs all the time, beside the rate before it."""
    await stage.clear("ours")
    before = statistics.median([await rate(stage, jobs) for _ in range(_ROUNDS)])
    holder = await stage.connect("ours")
    held = holder.transaction(isolation="repeatable_read")
    await held.start()
    await holder.fetchval("SELECT count(*) FROM jobs")
    began = time.monotonic()
    total = 0
    rates: list[float] = []
    while time.monotonic() - began < seconds:
        rates.append(await rate(stage, jobs))
        total += jobs
    after = statistics.median(rates[-_ROUNDS:])
    await held.rollback()
    await holder.close()
    return (
        f"with a transaction held open for {seconds:.0f} s and {total} jobs done meanwhile: {after:.0f}/s beside "
        f"{before:.0f}/s before, {after / before:.0%}"
    )
