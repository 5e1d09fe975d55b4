"""Cases 13 to 15: what may happen to the API between a client's request and its answer."""

from __future__ import annotations

import asyncio
import time
import uuid

from tests.chaos.checker import Ledger, check, settle
from tests.chaos.client import ChaosClient
from tests.chaos.scale import Scale
from tests.chaos.world import World

_BEFORE_DEATH = 20


async def _ended(world: World, ledger: Ledger) -> None:
    """The client sees its connection break before the process can be seen to have ended."""
    until = time.monotonic() + 10
    while world.api.is_running and time.monotonic() < until:
        await asyncio.sleep(0.05)
    ledger.expect(world.api.exit_code == 77 or not world.api.is_running, "the API was not killed")


async def killed_after_commit(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """13 API killed between COMMIT and push."""
    await world.start_worker()
    await world.start_api(CHAOS_EXIT_AT=f"after_commit:{_BEFORE_DEATH}")
    await client.sign_in()
    while await client.post() == 202:
        pass
    disturbed = time.monotonic()
    await _ended(world, ledger)
    rows = await world.query("SELECT count(*) AS n FROM jobs")
    ledger.expect(
        rows[0]["n"] == _BEFORE_DEATH + 1,
        f"{rows[0]['n']} rows for {_BEFORE_DEATH} promises and one commit without an answer",
    )
    while True:
        rows = await world.query("SELECT count(*) AS n FROM jobs WHERE state < 3")
        if rows[0]["n"] == 0 or time.monotonic() - disturbed > 30:
            break
        await asyncio.sleep(0.1)
    ledger.recovery_seconds = time.monotonic() - disturbed
    ledger.expect(rows[0]["n"] == 0, "the job without a push did not run within 30 s")
    rows = await world.query("SELECT count(*) AS n FROM chaos_effects")
    ledger.note(f"{rows[0]['n']} effects, the unpushed job's among them")
    ledger.expect(rows[0]["n"] == _BEFORE_DEATH + 1, "the job without a push left no effect")
    await check(world, client, ledger)


async def killed_before_commit(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """14 API killed before COMMIT."""
    await world.start_worker()
    await world.start_api(CHAOS_EXIT_AT=f"before_commit:{_BEFORE_DEATH}")
    await client.sign_in()
    while await client.post() == 202:
        pass
    await asyncio.sleep(3)
    ledger.recovery_seconds = await settle(world, client.record.accepted, ledger)
    rows = await world.query("SELECT count(*) AS n FROM jobs")
    ledger.expect(rows[0]["n"] == _BEFORE_DEATH, f"{rows[0]['n']} rows for {_BEFORE_DEATH} promises")
    await check(world, client, ledger)


async def one_key(world: World, client: ChaosClient, ledger: Ledger, scale: Scale) -> None:
    """15 one hundred concurrent POSTs with one key."""
    await world.start_worker()
    await world.start_api()
    await client.sign_in()
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    statuses = await asyncio.gather(*(client.post(headers=headers) for _ in range(100)))
    told = {status: statuses.count(status) for status in set(statuses)}
    ledger.note(f"answers: {told}")
    ledger.expect(set(statuses) <= {202, 409}, f"other answers: {told}")
    ledger.expect(len(client.record.accepted) == 1, f"{len(client.record.accepted)} jobs were promised")
    rows = await world.query("SELECT count(*) AS n FROM jobs")
    ledger.expect(rows[0]["n"] == 1, f"{rows[0]['n']} jobs were made")
    ledger.recovery_seconds = await settle(world, client.record.accepted, ledger)
    await check(world, client, ledger)


CASES = (killed_after_commit, killed_before_commit, one_key)
