"""Redis gone and back: no caller sees an error, memory stands in, and nothing old survives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis as Client
from scalable_fastapi_system.infra.cache import CacheManager
from scalable_fastapi_system.infra.redis import RedisAwayError

from tests.integration.cache.conftest import MakeCache, listening, remembers, until

if TYPE_CHECKING:
    from hack.dev.redis_server import Redis

PAUSE_SECONDS = 0.2
TIMEOUT_SECONDS = 0.3
READS = 50


@pytest.fixture
def make_one(make_cache: MakeCache, disposable_redis: Redis) -> MakeCache:
    def make(**cache: float) -> CacheManager:
        return make_cache(
            url=disposable_redis.url(),
            redis={"retry_after_failure_seconds": PAUSE_SECONDS, "command_timeout_seconds": TIMEOUT_SECONDS},
            **cache,
        )

    return make


async def answers(cache: CacheManager) -> None:
    """Waits until Redis is used again."""

    async def is_back() -> bool:
        await cache.get("anything")
        return not cache.redis.is_away and cache.is_listening

    await until(is_back, 10)


async def test_nothing_fails_while_redis_is_away_and_memory_stands_in(
    make_one: MakeCache, disposable_redis: Redis
) -> None:
    cache = make_one()
    await listening(cache)
    await cache.set_many({"known": "from redis", "tagged": 1}, tags=["t"])
    await remembers(cache, "known")
    disposable_redis.kill()
    assert await cache.get("known") == "from redis"
    assert await cache.get("unknown", "default") == "default"
    await cache.set("k", "new", ttl=3600)
    assert await cache.get("k") == "new"
    assert await cache.get_many(["k", "known", "unknown"]) == {"k": "new", "known": "from redis"}
    assert await cache.delete("k") == 1
    assert await cache.get("k") is None
    await cache.invalidate_tag("t")
    assert await cache.get("known") is None
    await cache.set("p:1", 1)
    await cache.delete_prefix("p:")
    assert await cache.get("p:1") is None

    async def load() -> str:
        await asyncio.sleep(0.01)
        return "loaded"

    assert await asyncio.gather(*(cache.get_or_load("l", load) for _ in range(5))) == ["loaded"] * 5
    await cache.clear()
    assert await cache.get("l") is None
    assert await cache.health_check() == "unhealthy"
    disposable_redis.start()
    await answers(cache)
    assert await cache.health_check() == "healthy"
    await cache.set("k", "newest")
    assert await make_one().get("k") == "newest"


async def test_a_frozen_redis_costs_one_time_out_and_then_nothing(
    make_one: MakeCache, disposable_redis: Redis
) -> None:
    cache = make_one(memory_ttl_seconds=0)  # memory answers for Redis alone, and not before it
    await listening(cache)
    await cache.set("k", 1)
    await remembers(cache, "k")
    disposable_redis.child.freeze()
    try:
        await cache.get("absent")  # learns of it
        started = time.monotonic()
        for _ in range(READS):
            assert await cache.get("k") == 1
        # Far from a time-out for each; a pause of the machine may let one or two of them ask again.
        assert time.monotonic() - started < READS * TIMEOUT_SECONDS / 2
    finally:
        disposable_redis.child.thaw()
    await answers(cache)


@pytest.mark.parametrize("change", ["delete", "set", "tag", "prefix", "clear"])
async def test_what_was_changed_meanwhile_is_not_old_afterwards(
    make_one: MakeCache, disposable_redis: Redis, change: str
) -> None:
    """Redis comes back with its data: the classic way to serve a deleted entry for an hour.

    The process that changed it asks its cache for nothing more, as a worker may that has done its job.
    """
    # Memory believes for longer than is waited below, so that what is seen there was heard.
    cache, other = make_one(), make_one(memory_ttl_seconds=120)
    await listening(cache, other)
    await cache.set("p:k", "old", ttl=3600, tags=["t"])
    await remembers(other, "p:k")
    disposable_redis.stop()
    assert await other.get("p:k") == "old"
    if change == "delete":
        await cache.delete("p:k")
    elif change == "set":
        await cache.set("p:k", "new", ttl=3600)
    elif change == "tag":
        await cache.invalidate_tag("t")
    elif change == "prefix":
        await cache.delete_prefix("p:")
    else:
        await cache.clear()
    disposable_redis.start()
    await answers(other)

    async def is_gone() -> bool:
        return await other.get("p:k") is None

    await until(is_gone)
    assert await cache.get("p:k") is None


async def test_so_many_changes_that_they_are_not_all_remembered_void_everything(
    make_one: MakeCache, disposable_redis: Redis
) -> None:
    cache = make_one()
    await cache.set("untouched", 1)
    disposable_redis.stop()
    await cache.delete(*(f"k{number}" for number in range(10_001)))
    disposable_redis.start()
    await asyncio.sleep(PAUSE_SECONDS)
    assert await cache.get("untouched") is None
    await cache.set("untouched", 2)
    assert await make_one().get("untouched") == 2


async def test_a_redis_that_comes_back_empty_is_filled_again(
    make_one: MakeCache, disposable_redis: Redis
) -> None:
    cache = make_one()
    await listening(cache)
    await cache.set("k", 1)
    disposable_redis.command("FLUSHALL")
    disposable_redis.stop()
    disposable_redis.start()
    loads = 0

    async def load() -> int:
        nonlocal loads
        loads += 1
        return 2

    await answers(cache)
    assert await cache.get_or_load("k", load) == 2
    assert await cache.get_or_load("k", load) == 2
    assert loads == 1


async def test_redis_away_from_the_start_is_found_later(make_one: MakeCache, disposable_redis: Redis) -> None:
    disposable_redis.stop()
    cache = make_one()
    await cache.start()
    await cache.set("k", 1)
    assert await cache.get("k") == 1
    disposable_redis.start()
    await answers(cache)
    await cache.set("k", 2)
    assert await make_one().get("k") == 2


async def test_a_load_that_an_outage_overtakes_still_answers(
    make_one: MakeCache, disposable_redis: Redis
) -> None:
    cache = make_one()

    async def load() -> str:
        disposable_redis.kill()
        return "value"

    assert await cache.get_or_load("k", load) == "value"
    assert await cache.get("k") == "value"


async def test_a_redis_that_refuses_writes_is_like_none(make_one: MakeCache, disposable_redis: Redis) -> None:
    cache = make_one()
    await cache.set("k", "old", ttl=3600)
    assert disposable_redis.command("REPLICAOF", "127.0.0.1", "1") == "+OK"  # as in a failover
    await cache.set("k", "new", ttl=3600)
    assert await cache.get("k") == "new"
    assert disposable_redis.command("REPLICAOF", "NO", "ONE") == "+OK"
    await asyncio.sleep(PAUSE_SECONDS)
    assert await cache.get("k") is None


@pytest.mark.parametrize("is_told_at_once", [True, False])
async def test_nobody_reads_what_another_caller_is_still_making_known(
    cache: CacheManager, other: CacheManager, monkeypatch: pytest.MonkeyPatch, is_told_at_once: bool
) -> None:
    await other.set("k", "old")
    cache.note_missed("k")
    drop, read = cache.shared.drop, cache.shared.read
    begun, gate = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def held_drop(*arguments: Any) -> int:
        begun.set()
        await gate.wait()
        if not is_told_at_once and not seen:
            seen.append("failed")
            raise RedisAwayError("no answer")
        gone = await drop(*arguments)
        seen.append("dropped")
        return gone

    async def seen_read(keys: Sequence[str]) -> Any:
        seen.extend(keys)
        return await read(keys)

    monkeypatch.setattr(cache.shared, "drop", held_drop)
    monkeypatch.setattr(cache.shared, "read", seen_read)
    settling = asyncio.create_task(cache.get("something else"))
    await begun.wait()
    reading = asyncio.create_task(cache.get("k"))
    for _ in range(5):
        await asyncio.sleep(0)  # it comes as far as it can
    gate.set()
    assert await asyncio.gather(settling, reading) == [None, None]
    assert "dropped" in seen
    assert seen.index("dropped") < seen.index("k")


async def test_a_lock_that_a_frozen_redis_gives_when_it_goes_on_is_given_up(
    make_one: MakeCache, disposable_redis: Redis
) -> None:
    cache = make_one()
    await listening(cache)
    loads = 0

    async def load() -> int:
        nonlocal loads
        loads += 1
        return loads

    # From here on the server has the script, and a request for a lock is one message.
    await cache.get_or_load("known", load)
    disposable_redis.child.freeze()
    try:
        assert await cache.get_or_load("k", load) == 2
    finally:
        disposable_redis.child.thaw()
    await until(lambda: not cache._missed, 10)
    async with Client.from_url(disposable_redis.url()) as client:
        assert await client.keys("sfs:cache:l:*") == []
    assert await cache.get_or_load("k", load) == 3
    assert await make_one().get("k") == 3
