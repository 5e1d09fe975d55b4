"""Batches: shared flushes, own answers, nobody left waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from scalable_fastapi_system.jobs.batching import Batcher
from scalable_fastapi_system.kit.errors import ServiceUnavailableException


async def test_concurrent_callers_share_a_flush_and_get_their_own_answers() -> None:
    sizes: list[int] = []

    async def flush(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        await asyncio.sleep(0.01)
        return [item * 2 for item in items]

    batcher: Batcher[int, int] = Batcher(flush, max_size=60)
    first = asyncio.create_task(_ask(batcher, 0))
    await asyncio.sleep(0.005)
    rest = await asyncio.gather(*(_ask(batcher, number) for number in range(1, 101)))
    assert await first == 0
    assert rest == [number * 2 for number in range(1, 101)]
    assert sizes == [1, 60, 40]


async def test_an_error_goes_to_every_waiter_and_the_next_batch_works() -> None:
    calls = 0

    async def flush(items: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ServiceUnavailableException("away", retry_after_seconds=3)
        return list(items)

    batcher: Batcher[int, int] = Batcher(flush)
    results = await asyncio.gather(*(_ask(batcher, number) for number in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [ServiceUnavailableException] * 5
    assert all(result.headers == {"Retry-After": "3"} for result in results)  # type: ignore[union-attr]
    assert len({id(result) for result in results}) == 5
    assert await batcher.submit(7) == 7


async def test_a_flush_that_answers_too_little_is_an_error() -> None:
    async def flush(items: Sequence[int]) -> list[int]:
        return list(items)[:-1]

    batcher: Batcher[int, int] = Batcher(flush)
    with pytest.raises(RuntimeError, match="1 gave 0"):
        await batcher.submit(1)


async def test_what_was_submitted_is_flushed_though_its_caller_has_gone() -> None:
    seen: list[int] = []

    async def flush(items: Sequence[int]) -> list[int]:
        seen.extend(items)
        return list(items)

    batcher: Batcher[int, int] = Batcher(flush)
    batcher.submit(1).cancel()
    batcher.submit(2)
    await batcher.drain()
    assert seen == [1, 2]
    assert batcher.size == 0


async def _ask(batcher: Batcher[int, int], number: int) -> int:
    return await batcher.submit(number)
