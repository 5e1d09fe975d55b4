"""The manager without Redis: memory is all there is."""

from __future__ import annotations

import asyncio
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from asyncpg.pgproto import pgproto
from pydantic import BaseModel
from scalable_fastapi_system.infra.cache import CacheManager, CacheValueError
from scalable_fastapi_system.infra.cache.codec import decode, encode
from scalable_fastapi_system.infra.settings import Settings


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(make_settings: Callable[..., Settings], clock: Clock) -> CacheManager:
    return CacheManager(make_settings(), monotonic=clock)


async def test_everything_works_in_memory(cache: CacheManager) -> None:
    await cache.start()
    await cache.set("a", {"x": 1}, ttl=60, tags=["t"])
    await cache.set_many({"b": 2, "c": 3})
    assert await cache.get("a") == {"x": 1}
    assert await cache.get_many(["a", "b", "absent"]) == {"a": {"x": 1}, "b": 2}
    assert await cache.delete("b", "absent") == 1
    await cache.invalidate_tag("t")
    await cache.delete_prefix("c")
    assert await cache.get_many("abc") == {}
    assert await cache.health_check() == "healthy"
    await cache.stop()


async def test_lives_are_counted_by_the_clock(cache: CacheManager, clock: Clock) -> None:
    await cache.set("short", 1, ttl=10)
    await cache.set("default", 1)
    clock.at += 9.9
    assert await cache.get("short") == 1
    clock.at += 0.1
    assert await cache.get("short") is None
    clock.at += 290
    assert await cache.get("default") is None


async def test_an_empty_name_is_not_everything(cache: CacheManager) -> None:
    with pytest.raises(ValueError, match="clear"):
        await cache.delete_prefix("")
    with pytest.raises(ValueError, match="empty"):
        await cache.invalidate_tag("")


Point = namedtuple("Point", "x y")


UUID_TEXT = "018f6d1c-0f5e-7cc0-8000-000000000001"


@dataclass
class Data:
    x: int


class Model(BaseModel):
    price: Decimal


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Point(1, 2), [1, 2]),
        (Data(1), {"x": 1}),
        (Model(price=Decimal("1.10")), {"price": "1.10"}),
        ([Model(price=Decimal(2))], [{"price": "2"}]),
        ({"b", "a"}, ["a", "b"]),
        (Decimal("0.1"), "0.1"),
        ("é", "é"),
        (2**63, 2**63),
        (pgproto.UUID(UUID_TEXT), UUID_TEXT),
    ],
)
def test_values_come_back_as_plain_json(value: Any, plain: Any) -> None:
    assert decode(encode(value)) == plain


@pytest.mark.parametrize("value", [object(), b"bytes", 2**70, {"deep": [object()]}, lambda: None])
def test_what_json_cannot_say_is_refused_by_name(value: Any) -> None:
    with pytest.raises(CacheValueError, match=type(value).__name__):
        encode(value)


# -- loads that hang ------------------------------------------------------------------------------------------


async def turns() -> None:
    """Lets every task come as far as it can by itself."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_refresh_that_hangs_gives_way_to_another_after_six_lock_times(
    cache: CacheManager, clock: Clock
) -> None:
    loads: list[str] = []
    gate = asyncio.Event()

    async def read(value: str) -> Any:
        async def load() -> str:
            loads.append(value)
            if value == "hanging":
                await gate.wait()
            return value

        return await cache.get_or_load("k", load, ttl=10, stale_seconds=1000)

    assert await read("old") == "old"
    clock.at += 11
    assert await read("hanging") == "old"
    await turns()
    clock.at += 59
    assert await read("too early") == "old"
    await turns()
    assert loads == ["old", "hanging"]
    clock.at += 1
    assert await read("new") == "old"
    await turns()
    assert await read("too late") == "new"
    gate.set()
    await turns()
    assert await cache.get("k") == "new", "what hung is older than what is there"
    assert loads == ["old", "hanging", "new"]


async def test_refreshes_that_hang_do_not_become_ever_more(cache: CacheManager, clock: Clock) -> None:
    hanging = 0

    async def hang() -> None:
        nonlocal hanging
        hanging += 1
        try:
            await asyncio.Event().wait()
        finally:
            hanging -= 1

    async def load() -> str:
        return "old"

    await cache.get_or_load("s", load, ttl=10, stale_seconds=10_000)
    clock.at += 11
    for _ in range(6):
        assert await cache.get_or_load("s", hang, ttl=10, stale_seconds=10_000) == "old"
        await turns()
        clock.at += 60
    assert hanging == 2
    await cache.stop()
    assert hanging == 0


async def test_those_who_wait_for_a_load_that_hangs_get_what_another_one_loads(
    cache: CacheManager, clock: Clock
) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def load() -> str:
        return "new"

    stuck, *waiting = (asyncio.create_task(cache.get_or_load("k", hang)) for _ in range(4))
    await turns()
    clock.at += 60
    async with asyncio.timeout(5):
        assert await cache.get_or_load("k", load) == "new"
        assert await asyncio.gather(*waiting) == ["new"] * 3
    assert not stuck.done()
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck


# -- warming --------------------------------------------------------------------------------------------------


async def settle() -> None:
    await asyncio.sleep(0.02)


async def test_warming_happens_at_the_start_and_by_schedule(make_settings: Callable[..., Settings]) -> None:
    cache = CacheManager(make_settings())
    runs: list[str] = []

    async def once() -> None:  # the guide's `warm_cache`
        runs.append("once")
        await cache.set("user:1", {"id": 1}, ttl=3600)

    async def often() -> Mapping[str, Any]:
        runs.append("often")
        return {"config": len(runs)}

    cache.warm(once)
    cache.warm(often, every_seconds=0.03, ttl=1800)
    assert runs == []
    await cache.start()
    await settle()
    assert set(runs) == {"often", "once"}
    assert await cache.get("user:1") == {"id": 1}
    async with asyncio.timeout(30):
        while runs.count("often") < 3:
            await asyncio.sleep(0.01)
    assert runs.count("once") == 1
    await cache.stop()
    count = len(runs)
    await asyncio.sleep(0.05)
    assert len(runs) == count


async def test_a_warming_function_that_fails_has_its_next_turn(
    make_settings: Callable[..., Settings],
) -> None:
    cache = CacheManager(make_settings())
    runs: list[int] = []

    async def failing() -> Mapping[str, Any]:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("the database is away")
        return {"k": len(runs)}

    await cache.start()
    cache.warm(failing, every_seconds=0.01)  # registered late: it begins at once
    async with asyncio.timeout(30):
        while await cache.get("k") is None:
            await asyncio.sleep(0.005)
    await cache.stop()


def test_a_period_is_positive(cache: CacheManager) -> None:
    async def nothing() -> None: ...

    with pytest.raises(ValueError, match="every_seconds"):
        cache.warm(nothing, every_seconds=0)
