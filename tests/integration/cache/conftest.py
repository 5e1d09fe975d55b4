"""Caches of several "processes" on one Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from scalable_fastapi_system.infra.cache import CacheManager
from scalable_fastapi_system.infra.settings import Settings

MakeCache = Callable[..., CacheManager]


@pytest.fixture
async def make_cache(
    request: pytest.FixtureRequest, make_settings: Callable[..., Settings], redis_url: str
) -> AsyncIterator[MakeCache]:
    """Managers with these cache settings, stopped at the end. Each is like one more process."""
    made: list[CacheManager] = []

    def make(*, url: str = redis_url, redis: dict[str, Any] | None = None, **cache: Any) -> CacheManager:
        # Patient, because the machine that runs the tests may be busy.
        patient = {"command_timeout_seconds": 10.0, "connect_timeout_seconds": 10.0}
        values = {"redis_url": url, **patient, **(redis or {})}
        manager = CacheManager(make_settings(redis=values, cache=cache))
        made.append(manager)
        return manager

    yield make
    for manager in made:
        await manager.stop()
    if "disposable_redis" not in request.fixturenames:
        # A refusal of Redis hides behind the memory that stands in; here it must show.
        assert [manager.redis.failures for manager in made] == [0] * len(made)


@pytest.fixture
def cache(make_cache: MakeCache) -> CacheManager:
    return make_cache()


@pytest.fixture
def other(make_cache: MakeCache) -> CacheManager:
    """The cache of another process, as far as Redis can tell."""
    return make_cache()


async def until(is_so: Callable[[], bool | Awaitable[bool]], seconds: float = 30.0) -> None:
    """Waits until it is so; TimeoutError where it never is."""
    async with asyncio.timeout(seconds):
        while True:
            answer = is_so()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.005)


async def listening(*managers: CacheManager) -> None:
    """Starts the managers, and waits until they hear one another."""
    for manager in managers:
        await manager.start()
    await until(lambda: all(manager.is_listening for manager in managers))


async def remembers(manager: CacheManager, key: str) -> None:
    """Waits until the manager has the entry in memory, and has heard what was said about it before."""

    async def is_kept() -> bool:
        await manager.get(key)
        await asyncio.sleep(0.05)
        return manager.memory.get(key) is not None

    await until(is_kept)
