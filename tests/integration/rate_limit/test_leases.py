"""Leases: how seldom Redis is asked, and that nothing of the quota is lost or given twice."""

from __future__ import annotations

import asyncio
import threading

import pytest
from redis.asyncio import Redis
from scalable_fastapi_system.infra.rate_limit import Decision, Policy

from tests.integration.rate_limit.conftest import MakeLimiter, admitted, decide, within_a_window


async def round_trips(url: str) -> int:
    async with Redis.from_url(url) as client:
        stats = await client.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


async def test_leased_quota_is_given_out_at_once_and_redis_is_seldom_asked(
    make_limiter: MakeLimiter, redis_url: str
) -> None:
    await within_a_window()
    limiter, policy = make_limiter(), Policy.parse("user", "1000000/day")
    before, at_once = await round_trips(redis_url), 0
    for number in range(5000):
        decision = limiter.check(policy, "user:1", "/r")
        if isinstance(decision, Decision):
            at_once += 1
        else:
            decision = await decision
        assert decision.is_allowed
        if number % 10 == 0:
            await asyncio.sleep(0)
    assert at_once > 4900
    assert await round_trips(redis_url) - before <= 40


async def test_a_small_quota_is_asked_for_one_by_one(make_limiter: MakeLimiter, redis_url: str) -> None:
    await within_a_window()
    limiter, policy = make_limiter(), Policy.parse("auth", "20/day")
    before = await round_trips(redis_url)
    assert await admitted(limiter, policy, 10) == 10
    assert await round_trips(redis_url) - before == 10
    other = make_limiter()
    assert await admitted(other, policy, 50) == 10


async def test_those_who_wait_at_one_moment_wait_for_one_round_trip(
    make_limiter: MakeLimiter, redis_url: str
) -> None:
    await within_a_window()
    limiter, policy = make_limiter(), Policy.parse("user", "100/day")
    await decide(limiter, policy)
    before = await round_trips(redis_url)
    decisions = await asyncio.gather(
        *(decide(limiter, policy, identity=f"user:{number % 50}") for number in range(200))
    )
    assert all(decision.is_allowed for decision in decisions)
    assert await round_trips(redis_url) - before <= 2


async def test_a_refusal_is_remembered_so_that_a_flood_does_not_reach_redis(
    make_limiter: MakeLimiter, redis_url: str
) -> None:
    await within_a_window()
    limiter, policy = make_limiter(), Policy.parse("anonymous", "5/day")
    assert await admitted(limiter, policy, 6) == 5
    before = await round_trips(redis_url)
    assert await admitted(limiter, policy, 1000) == 0
    assert await round_trips(redis_url) - before <= 2


async def test_what_a_process_has_leased_and_does_not_use_is_given_back(make_limiter: MakeLimiter) -> None:
    await within_a_window()
    one, two, policy = make_limiter(), make_limiter(), Policy.parse("user", "400/day")
    assert await admitted(one, policy, 50) == 50
    await asyncio.sleep(2.5)
    assert await admitted(two, policy, 500) == 350


async def test_the_end_of_a_process_gives_back_at_once(make_limiter: MakeLimiter) -> None:
    await within_a_window()
    one, two, policy = make_limiter(), make_limiter(), Policy.parse("user", "400/day")
    assert await admitted(one, policy, 50) == 50
    await one.stop()
    assert await admitted(two, policy, 500) == 350


async def test_a_lease_ends_with_its_window(make_limiter: MakeLimiter) -> None:
    limiter, policy = make_limiter(), Policy.parse("user", "200/second")
    loop = asyncio.get_running_loop()
    end = loop.time() + 3.0
    per_second: dict[int, int] = {}
    import time

    while loop.time() < end:
        if (await decide(limiter, policy)).is_allowed:
            # The server and this test are on one machine and have one clock.
            per_second[int(time.time())] = per_second.get(int(time.time()), 0) + 1
        await asyncio.sleep(0)
    assert max(per_second.values()) <= 200 + 2  # a request may be counted here just after its window


async def test_what_is_told_agrees_between_processes(make_limiter: MakeLimiter) -> None:
    await within_a_window()
    one, two, policy = make_limiter(), make_limiter(), Policy.parse("user", "20/day")
    remaining = [(await decide(limiter, policy)).remaining for limiter in (one, two, one, two)]
    assert remaining == [19, 18, 17, 16]


async def test_several_rates_hold_together_across_processes(make_limiter: MakeLimiter) -> None:
    await within_a_window(10, window_seconds=3600)
    one, two, policy = make_limiter(), make_limiter(), Policy.parse("user", "10/hour;15/day")
    assert await admitted(one, policy, 8) == 8
    assert await admitted(two, policy, 8) == 2
    refused = await decide(two, policy)
    assert refused.policy.rates[refused.rate].name == "user-3600s"
    assert 1 <= refused.retry_after_seconds <= 3601


async def test_a_caller_who_leaves_while_waiting_costs_nobody_else(make_limiter: MakeLimiter) -> None:
    await within_a_window()
    limiter, policy = make_limiter(), Policy.parse("auth", "10/day")
    waiting = [asyncio.ensure_future(decide(limiter, policy)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in waiting[:3]:
        task.cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(result, Decision) and result.is_allowed for result in results) == 2
    assert await admitted(limiter, policy, 20) == 8


async def test_one_limiter_serves_several_loops_and_threads(make_limiter: MakeLimiter) -> None:
    await within_a_window()
    limiter, policy = make_limiter(), Policy.parse("user", "500/day")
    counts: list[int] = []

    def in_a_loop_of_its_own() -> None:
        counts.append(asyncio.run(admitted(limiter, policy, 200)))

    threads = [threading.Thread(target=in_a_loop_of_its_own) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sum(counts) == pytest.approx(500, abs=1)
    assert sum(counts) <= 500


async def test_everything_in_redis_ends_by_itself(make_limiter: MakeLimiter, redis_url: str) -> None:
    limiter = make_limiter()
    await decide(limiter, Policy.parse("user", "10/minute;100/hour"))
    async with Redis.from_url(redis_url) as client:
        lives = {key: await client.ttl(key) for key in await client.keys("*")}
    assert len(lives) == 2
    assert all(0 < life <= 7200 for life in lives.values()), lives
