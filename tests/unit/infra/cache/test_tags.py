"""Tags: one that is a str alone is one tag and not its letters, and a template names arguments that there are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scalable_fastapi_system.infra.cache import CacheManager, cache_response


async def test_a_tag_may_be_said_alone(manager: CacheManager) -> None:
    async def load() -> int:
        return 2

    async def warm() -> dict[str, int]:
        return {"d": 4}

    @cache_response(tags="products")
    async def find() -> int:
        calls.append(1)
        return len(calls)

    calls: list[int] = []
    await manager.set("a", 1, tags="products")
    await manager.get_or_load("b", load, tags="products")
    await manager.set_many({"c": 3}, tags="products")
    manager.warm(warm, tags="products")
    await manager.start()
    while await manager.get("d") is None:
        await asyncio.sleep(0.01)
    assert await find() == 1
    await manager.set("e", 5, tags=["other"])

    await manager.invalidate_tag("products")
    await manager.stop()
    assert await manager.get_many("abcde") == {"e": 5}
    assert await find() == 2


async def test_a_parameter_to_be_ignored_may_be_said_alone(manager: CacheManager) -> None:
    @cache_response(ignore="ab")
    async def find(a: int, b: int, ab: int) -> list[int]:
        return [a, b, ab]

    assert await find(1, 2, 3) == await find(1, 2, 4) == [1, 2, 3]
    assert await find(2, 2, 3) == [2, 2, 3]


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("product:{id}", "find has no parameter id, which the tag 'product:{id}' names"),
        ("product:{product_id:{width}}", "no parameter width"),
        ("product:{id.hex}", "no parameter id"),
        ("product:{}", "the tag 'product:{}'"),
        ("product:{0}", "the tag 'product:{0}'"),
        ("product:{product_id", "the tag 'product:{product_id'"),
        ("product:{product_id!x}", "the tag 'product:{product_id!x}'"),
    ],
)
def test_a_template_that_names_no_parameter_is_refused_where_it_is_written(tag: str, message: str) -> None:
    async def find(product_id: int, **more: Any) -> int:
        return product_id

    with pytest.raises(ValueError, match="tag") as refused:
        cache_response(tags=[tag])(find)
    assert message in str(refused.value)


async def test_a_template_may_take_a_parameter_apart(manager: CacheManager) -> None:
    @cache_response(tags=["{{page}}:{page:>3}", "{more[kind]}", "{page.real!r}"])
    async def find(page: int, **more: str) -> int:
        return page

    await find(7, kind="book")
    (entry,) = manager.memory._entries.values()
    assert entry.tags[1:] == ("{page}:  7", "book", "7")
