"""Requests of one identity from a process of its own: `python requests.py REDIS_URL RATE TRIES AT_ONCE`.

Prints "ready", waits for a line, asks, and prints how many requests were admitted.
"""

from __future__ import annotations

import asyncio
import sys

from scalable_fastapi_system.infra.rate_limit import Decision, Policy, RateLimiter
from scalable_fastapi_system.infra.redis import RedisConnections
from scalable_fastapi_system.infra.settings import RedisSettings


async def main(url: str, rate: str, tries: int, at_once: int) -> None:
    redis = RedisConnections(
        RedisSettings(redis_url=url, command_timeout_seconds=10, connect_timeout_seconds=10)
    )
    limiter = RateLimiter(redis, store_timeout_seconds=10)
    policy = Policy.parse("user", rate)
    await redis.ping()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    left = tries
    count = 0

    async def ask() -> None:
        nonlocal left, count
        while left > 0:
            left -= 1
            decision = limiter.check(policy, "user:1", "/things/{id}")
            if not isinstance(decision, Decision):
                decision = await decision
            count += decision.is_allowed
            await asyncio.sleep(0)

    await asyncio.gather(*(ask() for _ in range(at_once)))
    assert redis.failures == 0
    await redis.stop()  # and not the limiter: what is leased lapses, as in a process that is killed
    print(count)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
