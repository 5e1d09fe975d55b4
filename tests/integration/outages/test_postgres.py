"""Postgres goes away and comes back under steady requests: 503 and never 500, and it mends itself (rows 29 and 33)."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.outages.conftest import World

NEEDS_DATABASE = ("read", "login", "job")
NEEDS_NONE = ("live", "no store")
AWAY = (503, "SERVICE_UNAVAILABLE")


@pytest.mark.parametrize("how", ["restarted", "crashed", "frozen"])
async def test_an_outage_of_postgres_is_a_503_where_it_is_needed_and_is_over_when_it_is_back(
    world: World, how: str
) -> None:
    async with world.asking():
        await world.more()
        if how == "restarted":
            await asyncio.to_thread(world.postgres.stop)
        elif how == "crashed":
            await asyncio.to_thread(world.postgres.kill)
        else:
            world.postgres.child.freeze()
        try:
            await world.until_ready_is(503)
            await world.until_report(status="degraded", database="unhealthy", redis="healthy")
            await world.more(good=False, kinds=NEEDS_DATABASE, by=2)
            await world.more(kinds=NEEDS_NONE)
        finally:
            if how == "frozen":
                world.postgres.child.thaw()
            else:
                await asyncio.to_thread(world.postgres.start)
        await world.until_ready_is(200)
        await world.until_report(status="healthy", database="healthy")
        await world.more()
    seen = world.seen()
    for name in NEEDS_NONE:
        assert seen.pop(name) == {(200, None)}
    assert seen.pop("job") == {(202, None), AWAY}
    for answers in seen.values():
        assert answers <= {(200, None), AWAY}
    assert world.strange == []
    await world.all_jobs_succeed()
    assert world.pids() == world.started_pids


async def test_one_connection_that_crashes_takes_no_request_with_it_for_long(world: World) -> None:
    """As an out-of-memory killer ends one backend: Postgres then ends all sessions and recovers by itself."""
    async with world.asking():
        await world.more()
        await asyncio.to_thread(crash_a_backend, world)
        await world.more()
    for name, answers in world.seen().items():
        assert answers <= {(200, None), (202, None), AWAY}, name
    assert world.strange == []
    await world.all_jobs_succeed()
    assert world.pids() == world.started_pids


def crash_a_backend(world: World) -> None:
    """SIGKILL to a process that serves a client."""
    children = world.postgres.child._family()[1:]
    served = [child for child in children if " 127.0.0.1(" in " ".join(child.cmdline())]
    assert served, [child.cmdline() for child in children]
    served[0].kill()
