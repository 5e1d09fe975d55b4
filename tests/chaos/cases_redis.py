"""Cases 1 to 5: what Redis may do to us."""

from __future__ import annotations

import asyncio
import time

from tests.chaos import handlers
from tests.chaos.checker import Ledger, check, settle
from tests.chaos.client import ChaosClient
from tests.chaos.scale import Scale
from tests.chaos.world import World


async def flushall_with_a_backlog(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """1 FLUSHALL with 10 000 queued."""
    await client.enqueue(handlers.effect, scale.backlog)
    await world.redis_command("FLUSHALL")
    disturbed = time.monotonic()
    for _ in range(2):
        await world.start_worker()
    await settle(world, client.record.accepted, ledger)
    ledger.recovery_seconds = time.monotonic() - disturbed
    await check(world, client, ledger)


async def flushall_in_mid_run(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """2 FLUSHALL mid-run, again and again."""
    for _ in range(2):
        await world.start_worker()
    producing = asyncio.create_task(
        client.keep_enqueueing(handlers.effect, rate=200, seconds=scale.long_seconds)
    )
    while not producing.done():
        await asyncio.sleep(1.5)
        await world.redis_command("FLUSHALL")
    await producing
    ledger.recovery_seconds = await settle(world, client.record.accepted, ledger)
    await check(world, client, ledger)


async def delete_the_queue_key(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """3 DEL of the queue key only."""
    for _ in range(2):
        await world.start_worker()
    await client.enqueue(handlers.effect, scale.backlog // 5, seconds=0.2)
    for _ in range(3):
        await asyncio.sleep(0.5)
        await world.redis_command("DEL", "sfs:{jobs}:ready:default")
    disturbed = time.monotonic()
    await settle(world, client.record.accepted, ledger)
    ledger.recovery_seconds = time.monotonic() - disturbed
    await check(world, client, ledger)


async def redis_down(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """4 Redis down 60 s: POSTs still 202."""
    await world.start_api()
    await client.sign_in()
    for _ in range(2):
        await world.start_worker()
    pids = [child.pid for child in world.workers]
    posting = asyncio.create_task(client.keep_posting(clients=4, seconds=scale.outage_seconds + 6))
    await asyncio.sleep(3)
    await asyncio.to_thread(world.redis.kill)
    at_outage = set(client.record.accepted)
    await asyncio.sleep(scale.outage_seconds)
    during = [one for one in client.record.accepted if one not in at_outage]
    rows = await world.query(
        "SELECT count(*) AS n FROM jobs WHERE id = ANY($1::uuid[]) AND state = 3", during
    )
    ledger.note(f"while Redis was down {len(during)} were accepted, {rows[0]['n']} of them done by then")
    ledger.expect(rows[0]["n"] > 0.8 * len(during), "jobs waited for Redis")
    await asyncio.to_thread(world.redis.start)
    await posting
    ledger.recovery_seconds = await settle(world, client.record.accepted, ledger)
    await check(world, client, ledger)
    ledger.expect(not client.record.refused, "a POST was refused")
    ledger.expect(client.record.unknown == 0, "a POST got no answer")
    ledger.expect([child.pid for child in world.workers] == pids, "a worker was restarted")


async def redis_out_of_memory(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """5 Redis out of memory."""
    await world.start_api()
    await client.sign_in()
    for _ in range(2):
        await world.start_worker()
    posting = asyncio.create_task(client.keep_posting(clients=4, seconds=scale.long_seconds))
    await asyncio.sleep(2)
    await world.redis_command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await world.redis_command("CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(scale.long_seconds - 4)
    await world.redis_command("CONFIG", "SET", "maxmemory", "0")
    await posting
    ledger.recovery_seconds = await settle(world, client.record.accepted, ledger)
    await check(world, client, ledger)
    ledger.expect(not client.record.refused, "a POST was refused")


CASES = (flushall_with_a_backlog, flushall_in_mid_run, delete_the_queue_key, redis_down, redis_out_of_memory)
