"""What the log is told of an outage of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from scalable_fastapi_system.infra.redis import RedisAwayError, RedisConnections
from scalable_fastapi_system.infra.settings import Settings
from structlog.testing import capture_logs


class Clock:
    """A clock that goes on when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_an_outage_is_told_when_it_begins_once_a_minute_and_at_its_end(
    make_settings: Callable[..., Settings],
) -> None:
    clock = Clock()
    settings = make_settings(redis={"redis_url": "redis://127.0.0.1:1/0"}).redis
    redis = RedisConnections(settings, monotonic=clock)
    works = False

    async def ask(_client: object) -> str:
        if not works:
            raise RedisConnectionError("refused")
        return "PONG"

    with capture_logs() as lines:
        for _ in range(90):
            with pytest.raises(RedisAwayError):
                await redis.call(ask)
            clock.now += settings.retry_after_failure_seconds
        works = True
        assert await redis.call(ask) == "PONG"
        assert await redis.call(ask) == "PONG"

    assert settings.retry_after_failure_seconds == 1.0
    assert [line["event"] for line in lines] == ["redis is away", "redis is away", "redis answers again"]
    assert redis.failures == 90


async def test_an_end_that_a_ping_finds_is_told_too(make_settings: Callable[..., Settings]) -> None:
    redis = RedisConnections(make_settings(redis={"redis_url": "redis://127.0.0.1:1/0"}).redis)

    with capture_logs() as lines:
        assert await redis.ping() is False  # nobody listens there
        assert redis.is_away
        redis.note_success()

    assert [line["event"] for line in lines] == ["redis is away", "redis answers again"]
    assert not redis.is_away


async def test_a_ping_does_not_end_the_pause_for_others(make_settings: Callable[..., Settings]) -> None:
    redis = RedisConnections(make_settings(redis={"redis_url": "redis://127.0.0.1:1"}).redis)

    async def never(_client: object) -> None:
        raise AssertionError("this call was to be refused at once")

    assert not await redis.ping()
    assert redis.is_away
    asked = asyncio.ensure_future(redis.ping())
    await asyncio.sleep(0)
    with pytest.raises(RedisAwayError):
        await redis.call(never)
    assert not await asked
    await redis.stop()
