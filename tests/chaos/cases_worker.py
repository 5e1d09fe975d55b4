"""Cases 6 to 9, 16 and 17: what may happen to a worker."""

from __future__ import annotations

import asyncio
import json
import random
import time

import httpx

from tests.chaos import handlers
from tests.chaos.checker import Ledger, check, settle
from tests.chaos.client import ChaosClient
from tests.chaos.scale import Scale
from tests.chaos.world import LEASE_SECONDS, World


async def killed_workers(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """6 worker SIGKILL, again and again."""
    for _ in range(3):
        await world.start_worker(JOBS__MAX_CRASHES="1000")
    world.supervise()
    producing = asyncio.create_task(
        client.keep_enqueueing(handlers.effect, rate=150, seconds=scale.long_seconds)
    )
    while not producing.done():
        await asyncio.sleep(2.5)
        await asyncio.to_thread(random.choice(world.workers).kill)
    disturbed = time.monotonic()
    await producing
    await settle(world, client.record.accepted, ledger)
    ledger.recovery_seconds = time.monotonic() - disturbed
    ledger.note(f"{world.restarts} restarts")
    await check(world, client, ledger)


async def frozen_worker(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """7 SIGSTOP past the lease, then SIGCONT: the late finish changes 0 rows."""
    frozen = await world.start_worker()
    await client.enqueue(handlers.effect, 40, seconds=1.0)
    await _running(world, 40)
    frozen.freeze()
    disturbed = time.monotonic()
    await world.start_worker()
    await settle(world, client.record.accepted, ledger)
    ledger.recovery_seconds = time.monotonic() - disturbed
    attempts = await world.query("SELECT min(attempt) AS least FROM jobs")
    ledger.expect(attempts[0]["least"] == 2, "a job was not taken over")
    frozen.thaw()
    await asyncio.sleep(3)
    before = await world.query("SELECT id, state, attempt, worker_id FROM jobs ORDER BY id")
    await asyncio.sleep(1)
    after = await world.query("SELECT id, state, attempt, worker_id FROM jobs ORDER BY id")
    ledger.expect(before == after, "the late worker changed a row")
    ledger.expect(
        all(row["worker_id"] != _worker_id(world, frozen) for row in after), "the late worker ended a job"
    )
    lost = sum(1 for line in _events(world, frozen) if line.get("event") == "job lost")
    ledger.note(f"the thawed worker gave up {lost} jobs")
    await check(world, client, ledger)


async def drained_worker(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """8 SIGTERM in a long job."""
    first = await world.start_worker()
    await client.enqueue(handlers.effect, 10, seconds=6.0)
    await _running(world, 10)
    second = await world.start_worker()
    disturbed = time.monotonic()
    drain_seconds = await world.stop_worker(first)
    ledger.note(f"the drain took {drain_seconds:.1f} s of its 2 s grace and the hand-over")
    ledger.expect(drain_seconds < 5, "the drain was slow")
    await _running(world, 10)
    ledger.recovery_seconds = time.monotonic() - disturbed - drain_seconds
    await settle(world, client.record.accepted, ledger)
    rows = await world.query(
        "SELECT sum(failures) AS failures, sum(crashes) AS crashes, sum(interruptions) AS interruptions FROM jobs"
    )
    ledger.expect(rows[0]["failures"] == rows[0]["crashes"] == 0, "a drain was counted as a failure")
    ledger.expect(rows[0]["interruptions"] == 10, f"{rows[0]['interruptions']} interruptions for 10 jobs")
    ledger.expect(second.is_running, "the second worker ended")
    await check(world, client, ledger)


async def rolling_deploys(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """9 twenty rolling deploys over one job."""
    worker = await world.start_worker(JOBS__DRAIN_SECONDS="0")
    (job_id,) = await client.enqueue(handlers.effect, 1, seconds=12.0)
    for _ in range(scale.rollouts):
        fresh = await world.start_worker(JOBS__DRAIN_SECONDS="0")
        await _running(world, 1)
        await world.stop_worker(worker)
        worker = fresh
    disturbed = time.monotonic()
    await settle(world, client.record.accepted, ledger)
    ledger.recovery_seconds = time.monotonic() - disturbed
    rows = await world.query(
        "SELECT state, attempt, failures, crashes, interruptions FROM jobs WHERE id = $1", job_id
    )
    row = rows[0]
    ledger.note(f"attempt {row['attempt']}, {row['interruptions']} interruptions, {row['failures']} failures")
    ledger.expect(row["failures"] == row["crashes"] == 0, "a deploy was counted as a failure")
    await check(world, client, ledger)


async def a_job_that_kills(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """16 a job that `os._exit`s: quarantined after 3, bystanders succeed."""
    await world.start_worker()
    world.supervise()
    bystanders = await client.enqueue(handlers.effect, 30, seconds=2.0)
    killers = await client.enqueue(handlers.exit_process, 1)
    disturbed = time.monotonic()
    streaming = asyncio.create_task(
        client.keep_enqueueing(handlers.effect, rate=20, seconds=scale.long_seconds)
    )
    await settle(world, killers, ledger, timeout_seconds=120)
    ledger.recovery_seconds = time.monotonic() - disturbed
    await streaming
    await settle(world, client.record.accepted, ledger)
    rows = await world.query("SELECT state, crashes FROM jobs WHERE id = ANY($1::uuid[])", killers)
    ledger.expect(rows[0]["state"] == 6, "the killer is not quarantined")
    ledger.expect(rows[0]["crashes"] == 3, f"the killer was tried {rows[0]['crashes']} times")
    rows = await world.query("SELECT max(crashes) AS most FROM jobs WHERE id = ANY($1::uuid[])", bystanders)
    ledger.note(f"{world.restarts} restarts; a bystander was blamed {rows[0]['most']} times at the most")
    for killer in killers:
        del client.record.accepted[killer]
    await check(world, client, ledger)


async def a_job_that_blocks(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """17 event loop blocked past the lease."""
    blocked = await world.start_worker(
        JOBS__HEALTH_PORT=str(18_000 + random.randrange(1000)), JOBS__MAX_LOOP_BLOCK_SECONDS="5"
    )
    port = blocked.environment["JOBS__HEALTH_PORT"]
    await client.enqueue(handlers.effect, 20, seconds=3.0)
    await client.enqueue(handlers.block_loop, 1, seconds=3 * LEASE_SECONDS)
    await _running(world, 21)
    disturbed = time.monotonic()
    await world.start_worker()
    seen_after: float | None = None
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as http:
        while time.monotonic() - disturbed < 3 * LEASE_SECONDS:
            if (await http.get("/health/live")).status_code == 503:
                seen_after = time.monotonic() - disturbed
                break
            await asyncio.sleep(0.2)
    ledger.expect(seen_after is not None, "the probe did not see it")
    if seen_after is not None:
        ledger.note(f"seen by /health/live after {seen_after:.1f} s (limit set to 5 s)")
    await settle(world, client.record.accepted, ledger)
    ledger.recovery_seconds = time.monotonic() - disturbed
    ledger.expect("time.sleep(seconds)" in world.log_of(blocked), "the log does not say where it stood")
    await asyncio.sleep(3 * LEASE_SECONDS)  # the block ends, and what it held comes too late
    await check(world, client, ledger)


CASES = (killed_workers, frozen_worker, drained_worker, rolling_deploys, a_job_that_kills, a_job_that_blocks)


async def _running(world: World, count: int, *, timeout_seconds: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        rows = await world.query("SELECT count(*) AS n FROM jobs WHERE state = 2")
        if rows[0]["n"] >= count:
            return
        assert time.monotonic() < deadline, f"{rows[0]['n']} of {count} jobs run"
        await asyncio.sleep(0.05)


def _events(world: World, child: object) -> list[dict[str, object]]:
    events: list[dict[str, object]] = []
    for line in world.log_of(child).splitlines():  # type: ignore[arg-type]
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def _worker_id(world: World, child: object) -> object:
    return next(line["worker_id"] for line in _events(world, child) if line.get("event") == "worker started")
