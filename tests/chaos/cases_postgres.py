"""Cases 10 to 12: what Postgres may do to us."""

from __future__ import annotations

import asyncio
import time

import asyncpg

from tests.chaos import handlers
from tests.chaos.checker import Ledger, check, settle
from tests.chaos.client import ChaosClient
from tests.chaos.scale import Scale
from tests.chaos.world import World


async def postgres_crash(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """10 Postgres `-m immediate` under load: no 202 without a row."""
    await world.start_api()
    await client.sign_in()
    for _ in range(2):
        await world.start_worker()
    posting = asyncio.create_task(client.keep_posting(clients=6, seconds=scale.long_seconds))
    for _ in range(2):
        await asyncio.sleep(scale.long_seconds / 4)
        await world.crash_postgres()
        await world.start_postgres()
    disturbed = time.monotonic()
    await posting
    await settle(world, client.record.accepted, ledger)
    ledger.recovery_seconds = time.monotonic() - disturbed
    rows = await world.query(
        "SELECT count(*) AS n FROM unnest($1::uuid[]) a(id) LEFT JOIN jobs j USING (id) WHERE j.id IS NULL",
        list(client.record.accepted),
    )
    ledger.expect(rows[0]["n"] == 0, f"{rows[0]['n']} answers of 202 without a row")
    await check(world, client, ledger)


async def postgres_down(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """11 Postgres down 30 s: 503, workers reconnect without restart."""
    await world.start_api()
    await client.sign_in()
    for _ in range(2):
        await world.start_worker()
    pids = [child.pid for child in world.workers]
    await client.enqueue(handlers.effect, 20, seconds=scale.postgres_outage_seconds / 2)
    posting = asyncio.create_task(
        client.keep_posting(clients=3, seconds=scale.postgres_outage_seconds + 8, pause_seconds=0.1)
    )
    await asyncio.sleep(3)
    await asyncio.to_thread(world.postgres.stop)
    accepted = len(client.record.accepted)
    await asyncio.sleep(scale.postgres_outage_seconds)
    ledger.expect(len(client.record.accepted) - accepted <= 3, "something was accepted without a database")
    await world.start_postgres()
    back = time.monotonic()
    before = len(client.record.accepted)
    while len(client.record.accepted) == before and time.monotonic() - back < 15:
        await asyncio.sleep(0.05)
    ledger.note(f"writes recovered after {time.monotonic() - back:.1f} s")
    await posting
    await settle(world, client.record.accepted, ledger)
    ledger.recovery_seconds = time.monotonic() - back
    ledger.expect([child.pid for child in world.workers] == pids, "a worker was restarted")
    ledger.expect(all(child.is_running for child in world.workers), "a worker ended")
    ledger.expect(set(client.record.refused) <= {503}, f"other answers than 503: {client.record.refused}")
    ledger.expect(client.record.refused[503] > 0, "no 503 was given")
    rows = await world.query("SELECT sum(crashes) AS crashes FROM jobs")
    ledger.note(f"{rows[0]['crashes']} jobs blamed for a crash")
    ledger.expect(rows[0]["crashes"] == 0, "living workers were taken for dead")
    await check(world, client, ledger)


async def terminated_backends(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """12 backends terminated at 1/s: rate at least 80 %."""
    for _ in range(2):
        await world.start_worker(JOBS__CONCURRENCY="20")

    async def rate() -> float:
        """Jobs ended a second, of work that is mostly waiting: the workers' own speed and not the machine's."""
        before = await _succeeded(world)
        await asyncio.sleep(scale.long_seconds)
        return (await _succeeded(world) - before) / scale.long_seconds

    # more than two calm and disturbed stretches can do
    await client.enqueue(handlers.effect, round(80 * 3 * scale.long_seconds), seconds=0.5)
    await asyncio.sleep(2)
    calm = await rate()
    killing = asyncio.create_task(_terminate_backends(world))
    disturbed = await rate()
    killing.cancel()
    ledger.note(f"{calm:.0f} jobs/s calm, {disturbed:.0f} jobs/s disturbed: {disturbed / calm:.0%}")
    ledger.expect(disturbed >= 0.8 * calm, "the rate fell below 80 %")
    ledger.recovery_seconds = await settle(world, client.record.accepted, ledger)
    await check(world, client, ledger)


async def _succeeded(world: World) -> int:
    for _ in range(50):
        try:
            rows = await world.query("SELECT count(*) AS n FROM jobs WHERE state = 3")
        except (OSError, asyncpg.PostgresError):  # the killer does not spare us
            await asyncio.sleep(0.05)
            continue
        count: int = rows[0]["n"]
        return count
    raise AssertionError("Postgres does not answer")


async def _terminate_backends(world: World) -> None:
    """Ends one connection of the workers a second, picked at random."""
    connection = await world.connect(is_superuser=True)
    try:
        while True:
            await connection.fetchval(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE usename = 'app' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
            )
            await asyncio.sleep(1)
    finally:
        await connection.close()


CASES = (postgres_crash, postgres_down, terminated_backends)
