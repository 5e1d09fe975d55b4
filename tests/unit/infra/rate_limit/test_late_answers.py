"""A Redis that does not answer keeps nobody waiting, whatever it was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextvars import ContextVar

import pytest
from scalable_fastapi_system.infra.rate_limit import Decision, Policy, RateLimiter
from scalable_fastapi_system.infra.rate_limit.policies import Rate
from scalable_fastapi_system.infra.rate_limit.store import Ask, Grant, Return
from scalable_fastapi_system.infra.redis import RedisConnections
from scalable_fastapi_system.infra.settings import RedisSettings

POLICY = Policy.parse("user", "1000/day")
LONG_SECONDS = 5.0
REQUEST: ContextVar[str] = ContextVar("request")


class Silence:
    """In the place of `SharedCounts`: grants what is wanted until it is told to be silent."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = asyncio.Event()
        self.contexts: list[str | None] = []

    def keys(self, name: str, rates: Sequence[Rate]) -> tuple[str, ...]:
        return tuple(name for _ in rates)

    async def take(self, asks: Sequence[Ask], returns: Sequence[Return]) -> tuple[float, list[Grant]]:
        self.asked.set()
        self.contexts.append(REQUEST.get(None))
        await self.answers.wait()
        return 1_800_000_000.0, [Grant(ask.want, tuple((ask.want, 0) for _ in ask.rates)) for ask in asks]

    def fall_silent(self) -> None:
        self.answers.clear()
        self.asked.clear()


@pytest.fixture
async def silence() -> Silence:
    return Silence()


@pytest.fixture
async def limiter(silence: Silence) -> AsyncIterator[RateLimiter]:
    made = RateLimiter(RedisConnections(RedisSettings(redis_url="redis://127.0.0.1:1")))
    made._shared = silence  # type: ignore[assignment]
    yield made
    silence.answers.set()
    await made.stop()


async def decide(limiter: RateLimiter, identity: str) -> Decision:
    found: Decision | Awaitable[Decision] = limiter.check(POLICY, identity, "/r")
    return found if isinstance(found, Decision) else await found


async def lease(limiter: RateLimiter) -> None:
    """Only who asks again within a second gets more than was asked for."""
    for _ in range(2):
        await decide(limiter, "user:1")
    assert limiter._leasing


async def test_who_comes_while_a_lease_is_given_back_does_not_wait_for_it(
    limiter: RateLimiter, silence: Silence
) -> None:
    await lease(limiter)
    silence.fall_silent()
    async with asyncio.timeout(LONG_SECONDS):
        await silence.asked.wait()  # the lease that nobody uses goes back
        assert (await decide(limiter, "user:2")).is_allowed
        assert (await decide(limiter, "user:3")).is_allowed


async def test_who_comes_while_the_next_lease_is_fetched_does_not_wait_for_it(
    limiter: RateLimiter, silence: Silence
) -> None:
    await lease(limiter)
    silence.fall_silent()
    async with asyncio.timeout(LONG_SECONDS):
        while not silence.asked.is_set():  # used down to its low water, with nobody waiting
            assert (await decide(limiter, "user:1")).is_allowed
            await asyncio.sleep(0)
        assert (await decide(limiter, "user:2")).is_allowed


async def test_who_asks_redis_for_all_has_nothing_of_the_request_that_it_began_with(
    limiter: RateLimiter, silence: Silence
) -> None:
    REQUEST.set("the first")
    async with asyncio.timeout(LONG_SECONDS):
        await lease(limiter)
        silence.asked.clear()
        await silence.asked.wait()  # the lease goes back
    assert set(silence.contexts) == {None}


async def test_an_answer_that_came_late_is_the_last_late_one(limiter: RateLimiter, silence: Silence) -> None:
    silence.fall_silent()
    async with asyncio.timeout(LONG_SECONDS):
        assert (await decide(limiter, "user:1")).is_allowed
        silence.answers.set()
        await asyncio.sleep(0.05)
        silence.asked.clear()
        assert (await decide(limiter, "user:2")).is_allowed
    assert silence.asked.is_set()
