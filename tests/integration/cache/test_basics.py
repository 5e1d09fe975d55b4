"""The cache on a real Redis: values, many, tags, prefixes, lives, and memory that other processes keep honest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis
from scalable_fastapi_system.infra.cache import CacheManager, CacheValueError

from tests.integration.cache.conftest import MakeCache, listening, remembers, until


async def test_the_guides_operations(cache: CacheManager) -> None:
    user = {"name": "John", "email": "john@example.com"}
    await cache.set("user:123", user, ttl=3600)
    assert await cache.get("user:123") == user
    await cache.delete("user:123")
    assert await cache.get("user:123") is None
    assert await cache.get("user:123", 0) == 0
    await cache.set("memory:user:1", user)
    await cache.clear()
    assert await cache.get("memory:user:1") is None


async def test_a_value_is_seen_by_other_processes(cache: CacheManager, other: CacheManager) -> None:
    await cache.set("k", [1, 2.5, "three", None, True, {"four": 4}])
    assert await other.get("k") == [1, 2.5, "three", None, True, {"four": 4}]


async def test_what_is_more_than_json_comes_back_as_plain_types(cache: CacheManager) -> None:
    await cache.set(
        "k",
        {
            "moment": datetime(2026, 5, 1, 12, tzinfo=UTC),
            "day": date(2026, 5, 1),
            "id": UUID(int=7),
            "price": Decimal("1.10"),
            "pair": (1, 2),
            "set": {2, 1},
            3: "number as key",
        },
    )
    assert await cache.get("k") == {
        "moment": "2026-05-01T12:00:00+00:00",
        "day": "2026-05-01",
        "id": "00000000-0000-0000-0000-000000000007",
        "price": "1.10",
        "pair": [1, 2],
        "set": [1, 2],
        "3": "number as key",
    }


async def test_a_value_that_json_cannot_say_is_refused(cache: CacheManager) -> None:
    with pytest.raises(CacheValueError, match="object"):
        await cache.set("k", {"x": object()})
    assert await cache.get("k") is None


async def test_none_is_a_value(cache: CacheManager) -> None:
    await cache.set("k", None)
    assert await cache.get("k", "default") is None


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), timedelta(0)])
async def test_a_life_that_is_none_is_refused(cache: CacheManager, ttl: Any) -> None:
    with pytest.raises(ValueError, match="lives"):
        await cache.set("k", 1, ttl=ttl)


async def test_an_entry_is_gone_after_its_life(cache: CacheManager, other: CacheManager) -> None:
    await cache.set("short", 1, ttl=timedelta(milliseconds=80))
    await cache.set("long", 1, ttl=timedelta(minutes=1))
    await asyncio.sleep(0.1)
    for manager in (cache, other):
        assert await manager.get_many(["short", "long"]) == {"long": 1}


async def test_many_at_once(cache: CacheManager, other: CacheManager) -> None:
    await cache.set_many({f"k{number}": number for number in range(2500)}, ttl=60, tags=["numbers"])
    found = await other.get_many(["k0", "k2499", "absent", "k0"])
    assert found == {"k0": 0, "k2499": 2499}
    assert await other.delete(*(f"k{number}" for number in range(2500)), "absent") == 2500
    assert await cache.get_many(["k0", "k1"]) == {}
    assert await cache.get_many([]) == {}


async def test_a_tag_voids_everything_that_has_it(cache: CacheManager, other: CacheManager) -> None:
    await cache.set("a", 1, tags=["user:1", "list, of = things\n%"])
    await cache.set("b", 2, tags=["user:2"])
    await cache.set("c", 3)
    await other.invalidate_tag("user:1")
    assert await cache.get_many(["a", "b", "c"]) == {"b": 2, "c": 3}
    await cache.set("a", 4, tags=["list, of = things\n%"])
    assert await other.get("a") == 4
    await other.invalidate_tag("list, of = things\n%")
    assert await cache.get("a") is None


async def test_what_was_voided_stays_so_when_the_tag_is_used_again(
    cache: CacheManager, other: CacheManager
) -> None:
    await cache.set("a", 1, tags=["t"])
    await other.invalidate_tag("t")
    await cache.set("b", 2, tags=["t"])
    assert await other.get_many(["a", "b"]) == {"b": 2}


async def test_a_prefix_is_deleted_letter_by_letter(cache: CacheManager, other: CacheManager) -> None:
    await cache.set_many({"user:1:a": 1, "user:1:b": 2, "user:12": 3, "us*r:1": 4, "us*r[x]^\\": 5})
    assert await other.delete_prefix("user:1:") == 2
    assert sorted(await cache.get_many(["user:1:a", "user:12", "us*r:1"])) == ["us*r:1", "user:12"]
    assert await other.delete_prefix("us*r") == 2
    assert await cache.get_many(["user:12", "us*r:1", "us*r[x]^\\"]) == {"user:12": 3}


async def test_clear_empties_the_cache_and_nothing_else(
    cache: CacheManager, other: CacheManager, redis_url: str
) -> None:
    async with Redis.from_url(redis_url) as client:
        await client.set("somebody:else", "x")
        await cache.set_many({f"k{number}": number for number in range(3000)})
        await other.clear()
        assert await cache.get("k1") is None
        left = await client.keys("sfs:cache:c:*")
        assert left == []
        assert await client.get("somebody:else") == b"x"
    await cache.set("k1", "new")
    assert await other.get("k1") == "new"


async def test_every_key_in_redis_has_a_life(cache: CacheManager, redis_url: str) -> None:
    await cache.set("a", 1, ttl=5, tags=["t"])
    await cache.get_or_load("b", _one, ttl=5, tags=["t"])
    async with Redis.from_url(redis_url) as client:
        lives = {key: await client.ttl(key) for key in await client.keys("*")}
    assert len(lives) >= 4
    assert all(0 < life <= 120 for life in lives.values()), lives


async def _one() -> int:
    return 1


@pytest.mark.parametrize("name", [7, b"k", "a\ud800"])
async def test_a_name_that_redis_cannot_be_told_is_refused_and_does_no_harm(
    cache: CacheManager, name: Any
) -> None:
    await cache.set("k", "kept")
    attempts: list[Callable[[], Awaitable[Any]]] = [
        lambda: cache.set(name, 1),
        lambda: cache.set_many({"k": 1, name: 2}),
        lambda: cache.set("k", 1, tags=[name]),
        lambda: cache.delete("k", name),
        lambda: cache.delete_prefix(name),
        lambda: cache.invalidate_tag(name),
        lambda: cache.get_or_load(name, _one),
        lambda: cache.get_or_load("l", _one, tags=[name]),
    ]
    for attempt in attempts:
        with pytest.raises((TypeError, ValueError)):
            await attempt()
        assert await cache.get("k") == "kept"
    assert await cache.delete("k") == 1


async def test_memory_answers_without_redis_and_hears_what_others_change(
    make_cache: MakeCache, other: CacheManager, redis_url: str
) -> None:
    # Memory believes for longer than a message is waited for, so that what is seen was heard.
    cache = make_cache(memory_ttl_seconds=120)
    await listening(cache, other)
    async with Redis.from_url(redis_url) as client:

        async def trips() -> int:
            return int((await client.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0))

        await cache.set_many({"k": "old", "t": "old", "p:1": "old"}, tags=["tag"])
        await remembers(cache, "k")
        before = await trips()
        for _ in range(50):
            assert await cache.get("k") == "old"
        assert await trips() == before

    async def sees(key: str, value: Any) -> None:
        async def is_seen() -> bool:
            return bool(await cache.get(key) == value)

        await until(is_seen)

    await other.set("k", "new")
    await sees("k", "new")
    await other.delete("k")
    await sees("k", None)
    assert await cache.get("t") == "old"
    await other.invalidate_tag("tag")
    await sees("t", None)
    await other.set("p:1", "new")
    await sees("p:1", "new")
    await other.delete_prefix("p:")
    await sees("p:1", None)
    await other.set("k", "newer")
    await sees("k", "newer")
    await other.clear()
    await sees("k", None)


async def test_memory_is_not_believed_while_nobody_listens(cache: CacheManager, other: CacheManager) -> None:
    await cache.set("k", "old")
    assert await cache.get("k") == "old"
    await other.set("k", "new")
    assert await cache.get("k") == "new"


async def test_a_missed_message_is_mended_by_memorys_time_limit(
    make_cache: MakeCache, redis_url: str
) -> None:
    cache = make_cache(memory_ttl_seconds=0.2)
    await listening(cache)
    await cache.set("k", "old")
    assert await cache.get("k") == "old"
    async with Redis.from_url(redis_url) as client:
        raw = await client.get("sfs:cache:c:k")
        await client.set("sfs:cache:c:k", raw.replace(b"old", b"new"), keepttl=True)  # without a word
    await asyncio.sleep(0.25)
    assert await cache.get("k") == "new"


async def test_one_manager_serves_several_loops_and_threads(
    make_cache: MakeCache,
) -> None:
    cache = make_cache()

    def in_a_loop_of_its_own(number: int) -> list[int]:
        async def run() -> list[int]:
            await cache.set(f"k{number}", number)
            return [await cache.get(f"k{number}") for _ in range(20)]

        return asyncio.run(run())

    results = await asyncio.gather(*(asyncio.to_thread(in_a_loop_of_its_own, number) for number in range(6)))
    assert results == [[number] * 20 for number in range(6)]
    assert cache.redis._by_loop == {}, "each loop closed its own connections"
    assert await cache.get_many([f"k{number}" for number in range(6)]) == {f"k{n}": n for n in range(6)}


async def test_health_tells_of_redis(cache: CacheManager) -> None:
    assert await cache.health_check() == "healthy"
