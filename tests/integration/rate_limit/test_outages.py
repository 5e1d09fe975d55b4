"""Without Redis: quick decisions, no error, the quota by the process's own count (row 6)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from scalable_fastapi_system.infra.rate_limit import Decision, Policy, RateLimiter

from tests.integration.rate_limit.conftest import MakeLimiter, admitted, decide, within_a_window

if TYPE_CHECKING:
    from hack.dev.redis_server import Redis

PAUSE_SECONDS = 0.2


@pytest.fixture
def make_one(make_limiter: MakeLimiter, disposable_redis: Redis) -> MakeLimiter:
    def make(**options: float) -> RateLimiter:
        return make_limiter(
            url=disposable_redis.url(),
            retry_after_failure_seconds=PAUSE_SECONDS,
            store_timeout_seconds=options.pop("store_timeout_seconds", 0.04),
            **options,
        )

    return make


async def slowest(limiter: RateLimiter, policy: Policy, tries: int) -> float:
    """Seconds that the slowest of these decisions took."""
    worst = 0.0
    for number in range(tries):
        started = time.perf_counter()
        await decide(limiter, policy, identity=f"user:{number}")
        worst = max(worst, time.perf_counter() - started)
    return worst


@pytest.mark.parametrize("failure", ["frozen", "killed", "never there"])
async def test_a_decision_without_redis_takes_50_ms_at_the_most(
    make_one: MakeLimiter, disposable_redis: Redis, failure: str
) -> None:
    policy, figures = Policy.parse("user", "100/day"), []
    if failure == "never there":
        disposable_redis.stop()
    for _ in range(
        3
    ):  # a busy machine may keep this loop waiting: the best of three is the limiter's own time
        limiter = make_one()
        if failure != "never there":
            await decide(limiter, policy)
        if failure == "frozen":
            disposable_redis.child.freeze()
        elif failure == "killed":
            disposable_redis.kill()
        try:
            figures.append(await slowest(limiter, policy, 200))
        finally:
            if failure == "frozen":
                disposable_redis.child.thaw()
            elif failure == "killed":
                disposable_redis.start()
    assert min(figures) <= 0.05, figures


async def test_the_process_keeps_the_quota_by_its_own_count(
    make_one: MakeLimiter, disposable_redis: Redis
) -> None:
    await within_a_window()
    limiter, auth = make_one(), Policy.parse("auth", "20/day")
    assert await admitted(limiter, auth, 5) == 5
    disposable_redis.kill()
    assert await admitted(limiter, auth, 100) == 15, "what was admitted before counts, too"
    refused = await decide(limiter, auth)
    assert refused.retry_after_seconds > 1
    assert refused.headers()[1][1].startswith(b'"auth";r=0;t=')


async def test_what_was_admitted_meanwhile_is_charged_afterwards(
    make_one: MakeLimiter, disposable_redis: Redis
) -> None:
    await within_a_window()
    one, two, policy = make_one(), make_one(), Policy.parse("user", "60/day")
    assert await admitted(one, policy, 10) == 10
    disposable_redis.stop()  # it comes back with its data
    assert await admitted(one, policy, 20) == 20
    disposable_redis.start()
    await asyncio.sleep(PAUSE_SECONDS)
    assert await admitted(one, policy, 1) == 1
    await asyncio.sleep(PAUSE_SECONDS)
    assert await admitted(two, policy, 100) == 29


async def test_a_redis_that_lost_its_data_gives_nobody_the_quota_again(
    make_one: MakeLimiter, disposable_redis: Redis
) -> None:
    await within_a_window()
    limiter, auth = make_one(store_timeout_seconds=5.0), Policy.parse("auth", "10/day")
    assert await admitted(limiter, auth, 20) == 10
    assert disposable_redis.command("FLUSHALL") == "+OK"
    await asyncio.sleep(1.1)  # the refusal is not remembered any more
    assert await admitted(limiter, auth, 20) == 0


async def test_an_answer_that_comes_too_late_is_used_all_the_same(
    make_one: MakeLimiter, disposable_redis: Redis
) -> None:
    await within_a_window()
    one, two = make_one(), make_one(store_timeout_seconds=5.0)
    policy = Policy.parse("user", "60/day")
    await decide(one, policy)
    disposable_redis.child.freeze()
    assert await admitted(one, policy, 5) == 5
    disposable_redis.child.thaw()
    await asyncio.sleep(PAUSE_SECONDS)
    assert await admitted(one, policy, 1) == 1
    await asyncio.sleep(0.05)
    assert await admitted(two, policy, 100) == 53


async def test_thousands_at_once_decide_without_redis(make_one: MakeLimiter, disposable_redis: Redis) -> None:
    limiter, policy = make_one(), Policy.parse("user", "1000/day")
    await within_a_window()
    await decide(limiter, policy)
    disposable_redis.child.freeze()
    try:
        decisions = await asyncio.gather(*(decide(limiter, policy) for _ in range(2000)))
    finally:
        disposable_redis.child.thaw()
    assert all(isinstance(decision, Decision) for decision in decisions)
    assert sum(decision.is_allowed for decision in decisions) == 999
