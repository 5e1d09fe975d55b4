"""What `/health` tells of the stores is asked once, however many want to know."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from scalable_fastapi_system.infra import health
from scalable_fastapi_system.infra.health import StoreHealth


class Store:
    """Answers when it is let to."""

    def __init__(self) -> None:
        self.asked = 0
        self.state = "healthy"
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def health_check(self) -> str:
        self.asked += 1
        await self.may_answer.wait()
        return self.state


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
async def asked(store: Store) -> StoreHealth:
    cache: Any = Store()
    database: Any = store
    return StoreHealth(database, cache)


async def test_many_who_ask_at_once_are_one_question_and_its_answer_lasts_a_second(
    clock: Any, store: Store, asked: StoreHealth
) -> None:
    assert await asyncio.gather(*(asked.states() for _ in range(50))) == [("healthy", "healthy")] * 50
    store.state = "unhealthy"
    clock.now += 0.9
    assert await asked.states() == ("healthy", "healthy")
    assert store.asked == 1
    clock.now += 0.2
    assert await asked.states() == ("unhealthy", "healthy")
    assert store.asked == 2


async def test_while_a_slow_store_is_asked_others_get_the_last_answer_for_a_while(
    clock: Any, store: Store, asked: StoreHealth
) -> None:
    await asked.states()
    store.may_answer.clear()
    store.state = "unhealthy"
    clock.now += 1.5
    first = asyncio.ensure_future(asked.states())
    await asyncio.sleep(0)
    assert await asked.states() == ("healthy", "healthy")
    clock.now += health.STALE_SECONDS
    late = asyncio.ensure_future(asked.states())
    await asyncio.sleep(0)
    assert not late.done()
    first.cancel()  # its client has left
    store.may_answer.set()
    assert await late == ("unhealthy", "healthy")
    assert store.asked == 2
