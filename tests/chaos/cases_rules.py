"""Cases 18 to 20: cancels at every moment, clocks that disagree, an owner who wants everything."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from uuid import UUID

from scalable_fastapi_system.jobs import JobState

from tests.chaos import handlers
from tests.chaos.checker import Ledger, check, settle
from tests.chaos.client import ChaosClient
from tests.chaos.scale import Scale
from tests.chaos.world import World


async def cancels(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """18 cancel while queued / running / finishing."""
    for _ in range(2):
        await world.start_worker()
    count = scale.backlog // 10
    ids = await client.enqueue(handlers.effect, count, seconds=0.3)
    first_end: dict[UUID, JobState] = {}
    slowest_seconds = 0.0

    async def cancel(job_id: UUID) -> None:
        nonlocal slowest_seconds
        await asyncio.sleep(random.uniform(0, count * 0.3 / 100))
        change = await client.jobs.cancel(job_id)
        asked = time.monotonic()
        while not (state := (await client.jobs.get(job_id)).state).is_terminal:
            await asyncio.sleep(0.1)
        if change.state is JobState.RUNNING:
            slowest_seconds = max(slowest_seconds, time.monotonic() - asked)
        first_end[job_id] = state

    room = asyncio.Semaphore(40)

    async def cancel_in_turn(job_id: UUID) -> None:
        async with room:
            await cancel(job_id)

    await asyncio.gather(*(cancel_in_turn(job_id) for job_id in random.sample(ids, count // 2)))
    ledger.recovery_seconds = await settle(world, ids, ledger)
    await asyncio.sleep(2)
    rows = await world.query("SELECT id, state FROM jobs")
    changed = [row["id"] for row in rows if row["id"] in first_end and first_end[row["id"]] != row["state"]]
    ledger.expect(not changed, f"{len(changed)} jobs changed their end")
    tally = {state.label: list(first_end.values()).count(state) for state in set(first_end.values())}
    ledger.note(
        f"of {len(first_end)} cancelled: {tally}; the slowest running one took {slowest_seconds:.1f} s"
    )
    ledger.expect(
        slowest_seconds <= 3, "a running job was not cancelled within 2 s (and a second of measuring)"
    )
    await check(world, client, ledger, may_fail=True)


async def clocks(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """19 three workers with clocks 5 s apart: one run a cron slot."""
    for skew in ("-5", "0", "5"):
        await world.start_worker(CHAOS_CLOCK_SKEW_SECONDS=skew, CHAOS_CRON="1")
    await asyncio.sleep(scale.long_seconds)
    rows = await world.query("SELECT slot_at, job_id FROM cron_runs ORDER BY slot_at")
    slots = [row["slot_at"] for row in rows]
    for row in rows:
        client.record.accepted[row["job_id"]] = 0.0
    gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(slots)]
    ledger.note(f"{len(slots)} slots in {scale.long_seconds:.0f} s, {2} s apart each")
    ledger.expect(len(slots) >= scale.long_seconds / 2 - 3, "slots are missing")
    ledger.expect(set(gaps) == {2.0}, f"gaps between slots: {sorted(set(gaps))}")
    ledger.recovery_seconds = await settle(world, client.record.accepted, ledger)
    for row in await world.query("SELECT count(*) AS n FROM jobs WHERE kind = 'chaos.tick'"):
        extra = await world.query("SELECT count(*) AS n FROM cron_runs")
        ledger.expect(row["n"] == extra[0]["n"], f"{row['n']} jobs for {extra[0]['n']} slots")
    await check(world, client, ledger)


async def one_owner_wants_all(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """20 one owner's 100 000 jobs, another's one."""
    await client.enqueue(handlers.plain, scale.crowd, owner_id=1)
    await world.start_worker()
    waits: list[float] = []
    for _ in range(10):
        await asyncio.sleep(0.3)
        (job_id,) = await client.enqueue(handlers.plain, 1, owner_id=2)
        rows: list[object] = []
        deadline = time.monotonic() + 30
        while not rows and time.monotonic() < deadline:
            rows = await world.query(
                "SELECT extract(epoch FROM started_at - created_at)::float8 AS waited FROM jobs "
                "WHERE id = $1 AND started_at IS NOT NULL",
                job_id,
            )
            await asyncio.sleep(0.02)
        waits.append(rows[0]["waited"] if rows else 30.0)  # type: ignore[index]
    left = await world.query("SELECT count(*) AS n FROM jobs WHERE state < 3 AND owner_id = 1")
    ledger.note(
        f"the other's job waited {max(waits) * 1000:.0f} ms at the most, with {left[0]['n']} left of the first's"
    )
    ledger.expect(left[0]["n"] > 0, "the first owner's jobs were over too soon to tell")
    ledger.expect(max(waits) <= 1.0, f"the other owner waited {max(waits):.1f} s")
    ledger.recovery_seconds = await settle(world, client.record.accepted, ledger, timeout_seconds=600)
    await check(world, client, ledger, has_effects=False)


CASES = (cancels, clocks, one_owner_wants_all)
