"""Warming by one process of all."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.integration.cache.conftest import MakeCache, until


async def test_one_of_all_processes_warms_at_a_time(make_cache: MakeCache) -> None:
    runs: list[int] = []
    caches = [make_cache() for _ in range(4)]

    async def warm_users() -> dict[str, Any]:
        runs.append(1)
        return {"user:1": {"id": 1}}

    for cache in caches:
        cache.warm(warm_users, ttl=60)
    for cache in caches:
        await cache.start()

    async def is_warm() -> bool:
        return await caches[3].get("user:1") == {"id": 1}

    await until(is_warm)
    await asyncio.sleep(0.1)
    assert len(runs) == 1


async def test_by_schedule_the_turn_goes_round(make_cache: MakeCache) -> None:
    runs: list[int] = []
    caches = [make_cache() for _ in range(3)]
    loop = asyncio.get_running_loop()

    async def warm() -> None:
        runs.append(1)

    began = loop.time()
    for cache in caches:
        cache.warm(warm, every_seconds=0.2)
        await cache.start()
    await asyncio.sleep(1.1)
    await until(lambda: len(runs) >= 3, 30)
    # A turn is claimed for nine tenths of the period; the first comes at once, and one more is for rounding.
    assert len(runs) <= (loop.time() - began) / 0.18 + 2, "about one run in each period, not three"
