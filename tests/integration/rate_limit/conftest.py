"""Limiters of several "processes" on one Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from scalable_fastapi_system.infra.rate_limit import Decision, Policy, RateLimiter
from scalable_fastapi_system.infra.redis import RedisConnections
from scalable_fastapi_system.infra.settings import RedisSettings

# The machine that runs the tests may be busy; where Redis answers, these tests wait for it.
PATIENT_SECONDS = 5.0
DAY_SECONDS = 86_400

MakeLimiter = Callable[..., RateLimiter]


@pytest.fixture
async def make_limiter(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[MakeLimiter]:
    """Limiters, stopped at the end. Each is like one more process."""
    made: list[tuple[RateLimiter, RedisConnections]] = []
    is_redis_there = "disposable_redis" not in request.fixturenames
    patient = {"command_timeout_seconds": PATIENT_SECONDS, "connect_timeout_seconds": PATIENT_SECONDS}

    def make(
        *, url: str = redis_url, store_timeout_seconds: float = PATIENT_SECONDS, **redis: Any
    ) -> RateLimiter:
        values = {**patient, **redis} if is_redis_there else redis
        connections = RedisConnections(RedisSettings(redis_url=url, **values))
        limiter = RateLimiter(connections, store_timeout_seconds=store_timeout_seconds)
        made.append((limiter, connections))
        return limiter

    yield make
    for limiter, connections in made:
        await limiter.stop()
        await connections.stop()
    if is_redis_there:
        # A refusal of Redis hides behind the process's own count; here it must show.
        assert [connections.failures for _, connections in made] == [0] * len(made)


async def within_a_window(seconds: float = 60.0, *, window_seconds: int = DAY_SECONDS) -> None:
    """Waits, where need be, so that no aligned window ends within so many seconds."""
    left = window_seconds - time.time() % window_seconds
    if left < seconds:
        await asyncio.sleep(left + 0.1)


async def decide(
    limiter: RateLimiter, policy: Policy, identity: str = "user:1", route: str = "/r"
) -> Decision:
    found: Decision | Awaitable[Decision] = limiter.check(policy, identity, route)
    return found if isinstance(found, Decision) else await found


async def admitted(limiter: RateLimiter, policy: Policy, tries: int, **who: str) -> int:
    """How many of so many requests, one after the other, are."""
    return sum([(await decide(limiter, policy, **who)).is_allowed for _ in range(tries)])
