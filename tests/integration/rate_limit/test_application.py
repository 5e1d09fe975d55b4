"""The whole application: what its callers see while Redis is there, away and back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
from redis.asyncio import Redis as RedisClient
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.settings import Settings

from tests.integration.rate_limit.conftest import within_a_window

if TYPE_CHECKING:
    from hack.dev.redis_server import Redis

LIMITS = {"anonymous": "1000/day", "auth": "10/day"}


@asynccontextmanager
async def client_of(settings: Settings, *, address: str = "203.0.113.9") -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that has started, as one process of several would."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app, client=(address, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


async def sign_in(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post(
        "/auth/login", data={"username": "nobody", "password": "x" * 12}, headers=headers
    )


async def test_the_quota_is_shared_by_processes_and_told_in_every_answer(
    make_settings: Callable[..., Settings], redis_url: str
) -> None:
    await within_a_window()
    settings = make_settings(
        redis={"redis_url": redis_url},
        rate_limit={**LIMITS, "anonymous": "10/day", "store_timeout_seconds": 5.0},
    )
    async with client_of(settings) as one, client_of(settings) as two:
        answers = [await (one, two)[number % 2].get("/") for number in range(14)]
        assert (await one.get("/health/live")).status_code == 200
    assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 4
    assert all(answer.headers["ratelimit-policy"] == '"anonymous";q=10;w=86400' for answer in answers)
    left = [int(answer.headers["ratelimit"].split(";r=")[1].split(";")[0]) for answer in answers]
    assert left == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0, 0]
    refused = answers[-1]
    assert refused.json()["message"] == "Rate limit exceeded"
    assert int(refused.headers["retry-after"]) > 0


async def test_an_outage_adds_no_error_and_no_wait_and_keeps_the_limit_of_signing_in(
    make_settings: Callable[..., Settings], disposable_redis: Redis
) -> None:
    await within_a_window()
    settings = make_settings(redis={"redis_url": disposable_redis.url()}, rate_limit=LIMITS)
    async with client_of(settings) as client:
        assert (await client.get("/")).status_code == 200
        for end, begin in (
            (disposable_redis.child.freeze, disposable_redis.child.thaw),
            (disposable_redis.kill, disposable_redis.start),
        ):
            end()
            try:
                waits: list[float] = []
                for _ in range(100):
                    started = time.perf_counter()
                    assert (await client.get("/")).status_code == 200
                    waits.append(time.perf_counter() - started)
                # The first learns of it. What else the machine does is not the limiter's.
                assert sorted(waits)[len(waits) // 2] < 0.05
            finally:
                begin()
        disposable_redis.kill()
        statuses = [(await sign_in(client)).status_code for _ in range(30)]
        assert statuses.count(401) <= 10
        assert set(statuses) <= {401, 429}
        assert statuses[-1] == 429
        disposable_redis.start()


async def test_a_spoofed_address_changes_neither_the_limit_nor_what_is_written_down(
    make_settings: Callable[..., Settings], redis_url: str
) -> None:
    await within_a_window()

    async def keys_after(settings: Settings, forwarded: str) -> set[str]:
        async with client_of(settings) as client, RedisClient.from_url(redis_url) as redis:
            await redis.flushdb()
            await client.get("/", headers={"x-forwarded-for": forwarded})
            return {key.decode() for key in await redis.keys("sfs:limit:*")}

    options: dict[str, Any] = {
        "redis": {"redis_url": redis_url}, "rate_limit": {**LIMITS, "store_timeout_seconds": 5.0},
    }  # fmt: skip
    strict = make_settings(**options)
    keys = [await keys_after(strict, f"198.51.100.{number}") for number in range(3)]
    assert keys[0] == keys[1] == keys[2]
    assert "203.0.113.9" in str(keys[0])
    trusting = make_settings(**options, security={"trusted_proxies": ["203.0.113.0/24"]})
    assert "198.51.100.7" in str(await keys_after(trusting, "6.6.6.6, 198.51.100.7"))
    assert "6.6.6.6" not in str(await keys_after(trusting, "6.6.6.6, 198.51.100.7"))
