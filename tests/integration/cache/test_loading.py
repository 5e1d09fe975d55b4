"""Loading once, stale while it loads, stale on errors, and values that were overtaken by a change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from scalable_fastapi_system.infra.cache import CacheManager, loading
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import NotFoundException

from tests.integration.cache.conftest import MakeCache, listening, until


@pytest.fixture(params=["memory", "redis"])
def any_cache(
    request: pytest.FixtureRequest, make_cache: MakeCache, make_settings: Callable[..., Settings]
) -> CacheManager:
    """With Redis and without: what a caller sees is the same."""
    return make_cache() if request.param == "redis" else CacheManager(make_settings())


class Source:
    """What is loaded: counts, waits and fails as it is told."""

    def __init__(self) -> None:
        self.loads = 0
        self.value: Any = "value"
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def load(self) -> Any:
        self.loads += 1
        value = self.value
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return value


@pytest.fixture
def source() -> Source:
    return Source()


async def tick() -> None:
    await asyncio.sleep(0.02)


async def test_what_is_missing_is_loaded_once_and_kept(any_cache: CacheManager, source: Source) -> None:
    results = await asyncio.gather(*(any_cache.get_or_load("k", source.load) for _ in range(100)))
    assert results == ["value"] * 100
    assert await any_cache.get_or_load("k", source.load) == "value"
    assert await any_cache.get("k") == "value"
    assert source.loads == 1


async def test_the_result_has_the_same_types_when_loaded_and_when_cached(any_cache: CacheManager) -> None:
    async def load() -> Any:
        return {"pair": (1, 2), 5: {"x"}}

    first = await any_cache.get_or_load("k", load)
    assert first == await any_cache.get_or_load("k", load) == {"pair": [1, 2], "5": ["x"]}


async def test_no_caller_can_change_what_another_gets(any_cache: CacheManager) -> None:
    async def load() -> list[int]:
        return [1]

    (await any_cache.get_or_load("k", load)).append(2)
    (await any_cache.get("k")).append(3)
    assert await any_cache.get_or_load("k", load) == [1]


async def test_an_error_reaches_all_who_waited_and_is_not_kept(
    any_cache: CacheManager, source: Source
) -> None:
    source.error = RuntimeError("broken")
    results = await asyncio.gather(
        *(any_cache.get_or_load("k", source.load) for _ in range(10)), return_exceptions=True
    )
    assert [str(error) for error in results] == ["broken"] * 10
    assert source.loads == 1
    source.error = None
    await tick()
    assert await any_cache.get_or_load("k", source.load) == "value"


async def test_a_cancelled_leader_hands_over(any_cache: CacheManager, source: Source) -> None:
    source.gate = asyncio.Event()
    leader = asyncio.create_task(any_cache.get_or_load("k", source.load))
    await until(lambda: source.loads == 1)
    waiting = [asyncio.create_task(any_cache.get_or_load("k", source.load)) for _ in range(5)]
    await tick()
    leader.cancel()
    await until(lambda: source.loads == 2)
    source.gate.set()
    assert await asyncio.gather(*waiting) == ["value"] * 5
    assert source.loads == 2
    with pytest.raises(asyncio.CancelledError):
        await leader


async def test_a_cancelled_waiter_disturbs_nobody(any_cache: CacheManager, source: Source) -> None:
    source.gate = asyncio.Event()
    leader, waiter = (asyncio.create_task(any_cache.get_or_load("k", source.load)) for _ in range(2))
    await until(lambda: source.loads == 1)
    await tick()
    waiter.cancel()
    await tick()
    source.gate.set()
    assert await leader == "value"


async def test_none_is_kept_for_its_own_life(any_cache: CacheManager, source: Source) -> None:
    def read(key: str, negative_ttl: float) -> Awaitable[Any]:
        return any_cache.get_or_load(key, source.load, ttl=60, negative_ttl=negative_ttl)

    source.value = None
    assert await read("short", 0.1) is None
    assert await read("long", 60) is None
    source.value = "there"
    await asyncio.sleep(0.12)
    assert await read("short", 0.1) == "there"
    assert await read("long", 60) is None


async def test_none_is_not_kept_where_that_is_wished(any_cache: CacheManager, source: Source) -> None:
    source.value = None
    for _ in range(3):
        assert await any_cache.get_or_load("k", source.load, negative_ttl=0) is None
    assert source.loads == 3


async def test_stale_is_given_while_one_refreshes_in_the_background(
    any_cache: CacheManager, source: Source
) -> None:
    def read(ttl: float = 60) -> Awaitable[Any]:
        return any_cache.get_or_load("k", source.load, ttl=ttl, stale_seconds=30)

    source.value = "old"
    assert await read(0.1) == "old"
    await asyncio.sleep(0.12)
    source.value, source.gate = "new", asyncio.Event()
    assert await asyncio.gather(*(read() for _ in range(20))) == ["old"] * 20
    await until(lambda: source.loads == 2)
    assert await read() == "old"
    source.gate.set()

    async def is_new() -> bool:
        return bool(await read() == "new")

    await until(is_new)
    assert source.loads == 2


async def test_in_the_foreground_one_caller_refreshes_and_the_others_get_stale(
    any_cache: CacheManager, source: Source
) -> None:
    def read() -> Awaitable[Any]:
        return any_cache.get_or_load(
            "k", source.load, ttl=0.1, stale_seconds=30, is_refreshed_in_background=False
        )

    source.value = "old"
    await read()
    await asyncio.sleep(0.12)
    source.value, source.gate = "new", asyncio.Event()
    one = asyncio.create_task(read())
    await until(lambda: source.loads == 2)
    assert not one.done()
    if any_cache.redis.is_configured:
        # Without a listener memory is not believed: they wait for the refresh in their own process.
        source.gate.set()
    else:
        assert await asyncio.gather(*(read() for _ in range(5))) == ["old"] * 5
        source.gate.set()
    assert await one == "new"


async def test_processes_give_stale_while_another_one_refreshes(
    cache: CacheManager, other: CacheManager, source: Source
) -> None:
    def read(manager: CacheManager, ttl: float = 60) -> Awaitable[Any]:
        return manager.get_or_load("k", source.load, ttl=ttl, stale_seconds=30)

    source.value = "old"
    await read(cache, 0.1)
    await asyncio.sleep(0.12)
    source.value, source.gate = "new", asyncio.Event()
    assert await read(cache) == "old"
    await until(lambda: source.loads == 2)
    for _ in range(5):
        assert await read(other) == "old"
    assert source.loads == 2
    source.gate.set()

    async def is_new() -> bool:
        return bool(await read(other) == "new")

    await until(is_new)
    assert source.loads == 2


async def test_stale_answers_where_loading_fails_and_the_source_is_left_in_peace(
    any_cache: CacheManager, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(key: str) -> Awaitable[Any]:
        return any_cache.get_or_load(key, source.load, ttl=0.1, stale_on_error_seconds=30)

    await read("long pause")
    await read("short pause")
    await asyncio.sleep(0.12)
    source.error = RuntimeError("the database is away")
    monkeypatch.setattr(loading, "ERROR_PAUSE_SECONDS", 30.0)
    for _ in range(10):
        assert await read("long pause") == "value"
    assert source.loads == 3
    monkeypatch.setattr(loading, "ERROR_PAUSE_SECONDS", 0.1)
    assert await read("short pause") == "value"
    source.error, source.value = None, "new"
    await asyncio.sleep(0.12)
    assert await read("short pause") == "new"
    assert await read("long pause") == "value"


async def test_stale_is_not_given_while_nothing_fails(any_cache: CacheManager, source: Source) -> None:
    def read(ttl: float) -> Awaitable[Any]:
        return any_cache.get_or_load("k", source.load, ttl=ttl, stale_on_error_seconds=30)

    await read(0.1)
    await asyncio.sleep(0.12)
    source.value = "new"
    assert await read(60) == "new"
    assert await any_cache.get("k") == "new"


async def test_not_found_is_an_answer_that_no_stale_value_hides(
    any_cache: CacheManager, source: Source
) -> None:
    await any_cache.get_or_load("k", source.load, ttl=0.1, stale_on_error_seconds=30)
    await asyncio.sleep(0.12)
    source.error = NotFoundException()
    with pytest.raises(NotFoundException):
        await any_cache.get_or_load("k", source.load, ttl=0.1, stale_on_error_seconds=30)


async def test_stale_values_end(any_cache: CacheManager, source: Source) -> None:
    await any_cache.get_or_load("k", source.load, ttl=0.1, stale_on_error_seconds=0.1)
    await asyncio.sleep(0.22)
    source.error = RuntimeError("away")
    with pytest.raises(RuntimeError):
        await any_cache.get_or_load("k", source.load, ttl=0.1, stale_on_error_seconds=0.1)


@pytest.mark.parametrize("change", ["delete", "set", "tag", "prefix", "clear"])
async def test_a_value_loaded_before_a_change_is_not_kept_after_it(
    any_cache: CacheManager, source: Source, change: str
) -> None:
    source.value, source.gate = "old", asyncio.Event()
    early = asyncio.create_task(any_cache.get_or_load("p:k", source.load, tags=["t"]))
    await until(lambda: source.loads == 1)
    source.value = "new"
    changes: dict[str, Callable[[], Awaitable[Any]]] = {
        "delete": lambda: any_cache.delete("p:k"),
        "set": lambda: any_cache.set("p:k", "new", tags=["t"]),
        "tag": lambda: any_cache.invalidate_tag("t"),
        "prefix": lambda: any_cache.delete_prefix("p:"),
        "clear": any_cache.clear,
    }
    await changes[change]()
    late = asyncio.create_task(any_cache.get_or_load("p:k", source.load, tags=["t"]))
    await tick()
    source.gate.set()
    assert await early == "old"
    assert await late == "new"
    assert await any_cache.get_or_load("p:k", source.load, tags=["t"]) == "new"


@pytest.mark.parametrize("change", ["delete", "set", "tag", "prefix", "clear"])
async def test_a_change_in_another_process_overtakes_a_load_in_this_one(
    cache: CacheManager, other: CacheManager, source: Source, change: str
) -> None:
    await listening(cache)
    source.value, source.gate = "old", asyncio.Event()
    early = asyncio.create_task(cache.get_or_load("p:k", source.load, tags=["t"]))
    await until(lambda: source.loads == 1)
    source.value = "new"
    changes: dict[str, Callable[[], Awaitable[Any]]] = {
        "delete": lambda: other.delete("p:k"),
        "set": lambda: other.set("p:k", "new", tags=["t"]),
        "tag": lambda: other.invalidate_tag("t"),
        "prefix": lambda: other.delete_prefix("p:"),
        "clear": other.clear,
    }
    await changes[change]()
    await tick()
    late = asyncio.create_task(cache.get_or_load("p:k", source.load, tags=["t"]))
    await tick()
    source.gate.set()
    assert await early == "old"
    assert await late == "new"
    assert await cache.get("p:k") == await other.get("p:k") == "new"


async def test_a_load_longer_than_its_lock_stays_the_only_one(make_cache: MakeCache, source: Source) -> None:
    # Renewed each second, so that a busy machine has two more to do it in.
    one, two = make_cache(lock_seconds=3), make_cache(lock_seconds=3)
    source.gate = asyncio.Event()
    first = asyncio.create_task(one.get_or_load("k", source.load))
    await until(lambda: source.loads == 1)
    second = asyncio.create_task(two.get_or_load("k", source.load))
    await asyncio.sleep(3.5)
    assert source.loads == 1
    source.gate.set()
    assert await asyncio.gather(first, second) == ["value", "value"]
    assert source.loads == 1


async def test_a_stuck_load_is_given_up_after_six_lock_times(make_cache: MakeCache, source: Source) -> None:
    one, two = make_cache(lock_seconds=0.1), make_cache(lock_seconds=0.1)

    async def stuck() -> None:
        await asyncio.Event().wait()

    first = asyncio.create_task(one.get_or_load("k", stuck))
    await tick()
    assert await asyncio.wait_for(two.get_or_load("k", source.load), 30) == "value"
    first.cancel()


async def test_a_value_that_json_cannot_say_is_an_error_at_the_first_use(any_cache: CacheManager) -> None:
    async def load() -> object:
        return object()

    with pytest.raises(TypeError, match="object"):
        await any_cache.get_or_load("k", load)
    assert await any_cache.get_or_load("k", Source().load) == "value", "the lock was given up"


class EntriesFirst:
    """A client whose SCAN comes by the entries before the locks; between the two, `between` happens."""

    def __init__(self, client: Any, between: Callable[[], Awaitable[None]]) -> None:
        self._client = client
        self._between = between

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def scan(self, cursor: int, *, match: str, count: int) -> tuple[int, list[bytes]]:
        if cursor == 0:
            return 1, [name for name in await self._client.keys(match) if b":c:" in name]
        await self._between()
        return 0, [name for name in await self._client.keys(match) if b":l:" in name]


async def test_an_old_value_stored_during_the_walk_over_a_prefix_does_not_survive_it(
    cache: CacheManager, other: CacheManager, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.value, source.gate = "old", asyncio.Event()
    loading = asyncio.create_task(other.get_or_load("p:k", source.load))
    await until(lambda: source.loads == 1)

    async def load_ends() -> None:
        assert source.gate is not None
        source.gate.set()
        await loading

    call = cache.redis.call

    async def walking(operation: Callable[[Any], Awaitable[Any]], **limits: Any) -> Any:
        return await call(lambda client: operation(EntriesFirst(client, load_ends)), **limits)

    monkeypatch.setattr(cache.redis, "call", walking)
    await cache.delete_prefix("p:")
    assert await loading == "old"
    assert await cache.get("p:k") is None
    assert await other.get("p:k") is None


async def test_a_refresh_that_hangs_keeps_nobody_in_its_process_from_the_new_value(
    make_cache: MakeCache, source: Source
) -> None:
    cache, gate = make_cache(lock_seconds=0.1), asyncio.Event()

    def read(load: Callable[[], Awaitable[Any]], ttl: float) -> Awaitable[Any]:
        # The old value may be given for longer than the new one is waited for.
        return cache.get_or_load("k", load, ttl=ttl, stale_seconds=60)

    async def hang() -> str:
        await gate.wait()
        return "late"

    async def is_new() -> bool:
        return bool(await read(source.load, 60) == "new")

    source.value = "old"
    assert await read(source.load, 0.05) == "old"
    await asyncio.sleep(0.06)
    assert await read(hang, 0.05) == "old"
    source.value = "new"
    await until(is_new)
    gate.set()
    await until(lambda: not cache.flights._tasks)
    assert await cache.get("k") == "new"


async def test_a_load_that_fails_when_the_stale_value_has_ended_is_an_error(
    any_cache: CacheManager, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, later = any_cache.now, 0.0
    monkeypatch.setattr(any_cache, "now", lambda: now() + later)

    async def fail_late() -> None:
        nonlocal later
        later = 31.0
        raise RuntimeError("the database is away")

    def read(load: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        return any_cache.get_or_load("k", load, ttl=0.05, stale_on_error_seconds=30)

    await read(source.load)
    await asyncio.sleep(0.06)
    with pytest.raises(RuntimeError, match="away"):
        await read(fail_late)
    assert any_cache.redis.failures == 0


async def test_none_is_not_kept_for_less_than_redis_can_count(
    any_cache: CacheManager, source: Source
) -> None:
    source.value = None
    for _ in range(2):
        assert await any_cache.get_or_load("k", source.load, negative_ttl=0.0001) is None
    assert source.loads == 2
    assert any_cache.redis.failures == 0
