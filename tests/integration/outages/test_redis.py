"""Redis goes away and comes back under steady requests: nobody sees an error, nothing is restarted (rows 6 and 30)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from tests.integration.outages.conftest import World


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_requests_go_on_without_redis_and_it_is_used_again_when_it_is_back(
    world: World, how: str
) -> None:
    async with world.asking():
        await world.more()
        if how == "killed":
            await asyncio.to_thread(world.redis.kill)
        else:
            world.redis.child.freeze()
        await world.until_report(status="degraded", redis="unhealthy", database="healthy")
        await world.more()
        assert world.api.status("/health/ready") == 200
        if how == "killed":
            await asyncio.to_thread(world.redis.start)
        else:
            world.redis.child.thaw()
        await world.until_report(status="healthy", redis="healthy")
        await world.more()
    good = {(200, None)}
    expected = dict.fromkeys(world.answers, good) | {"job": {(202, None)}}
    assert world.seen() == expected
    assert world.strange == []
    await world.all_jobs_succeed()
    assert world.pids() == world.started_pids


async def test_the_quota_holds_through_an_outage_of_redis(start_world: Callable[..., World]) -> None:
    world = await asyncio.to_thread(start_world, RATE_LIMIT__ROUTES='{"GET /": "20/day"}')
    async with httpx.AsyncClient(base_url=world.api.url, timeout=60) as http:

        async def ask(times: int) -> list[int]:
            return [(await http.get("/")).status_code for _ in range(times)]

        assert await ask(5) == [200] * 5
        await asyncio.to_thread(world.redis.kill)
        assert await ask(20) == [200] * 15 + [429] * 5
        await asyncio.to_thread(world.redis.start)
        await world.until_report(redis="healthy")
        assert await ask(5) == [429] * 5
    await world.http.aclose()
