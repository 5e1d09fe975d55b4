"""`invalidate`: it forgets the entry that is meant, or says that it cannot tell which one that is."""

from __future__ import annotations

import inspect
import sys
import uuid
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from scalable_fastapi_system.identity.principal import Principal
from scalable_fastapi_system.infra.cache import CacheManager, cache_response
from sqlalchemy.ext.asyncio import AsyncSession


class Shop:
    """Its answers are numbered, so that it shows which were computed anew."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.count = 0

    @cache_response(ignore=("self",))
    async def number(self, a: int = 0, b: int = 0) -> int:
        """A number for each a and b."""
        self.count += 1
        return self.count

    @classmethod
    @cache_response(ignore=("cls",))
    async def of_all(cls, a: int = 0) -> str:
        return str(uuid.uuid4())


async def test_a_method_forgets_by_the_arguments_that_it_is_called_with(manager: CacheManager) -> None:
    shop = Shop()
    assert [await shop.number(), await shop.number(1), await shop.number(1, 2)] == [1, 2, 3]
    await shop.number.invalidate(1)
    assert [await shop.number(), await shop.number(1), await shop.number(1, 2)] == [1, 4, 3]
    await shop.number.invalidate()
    await shop.number.invalidate(b=2, a=1)
    assert [await shop.number(), await shop.number(1), await shop.number(1, 2)] == [5, 4, 6]
    await shop.number.invalidate_all()
    assert [await shop.number(), await shop.number(1), await shop.number(1, 2)] == [7, 8, 9]
    await Shop.number.invalidate(shop, 1, 2)
    assert [await shop.number(1), await shop.number(1, 2)] == [8, 10]


async def test_a_method_of_the_class_forgets_what_it_is_told_or_says_that_it_cannot(
    manager: CacheManager,
) -> None:
    before = await Shop.of_all(1)
    if sys.version_info >= (3, 13):  # `classmethod` does not tell us of the class any more
        with pytest.raises(TypeError, match=r"of_all\.invalidate\(a=…\)"):
            await Shop.of_all.invalidate(1)
        await Shop.of_all.invalidate(a=1)
    else:
        await Shop.of_all.invalidate(1)
    assert await Shop.of_all(1) != before


async def test_a_method_of_an_object_still_looks_like_one(manager: CacheManager) -> None:
    shop = Shop()
    method: Any = shop.number
    assert (method.__self__, method.__func__) == (shop, Shop.number)
    assert (method.__name__, method.__doc__, method.__module__) == (
        "number",
        "A number for each a and b.",
        __name__,
    )
    assert list(inspect.signature(method).parameters)[:2] == ["a", "b"]
    assert method == shop.number
    assert hash(method) == hash(shop.number)
    assert method != Shop().number
    assert repr(method).startswith("<bound cached Shop.number of <")

    app = FastAPI()
    app.get("/number")(method)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        answers = [await client.get("/number", params={"a": 1}) for _ in range(2)]
        assert [answer.json() for answer in answers] == [1, 1]
        assert answers[1].headers["etag"]
        await method.invalidate(1)
        assert (await client.get("/number", params={"a": 1})).json() == 2
        assert app.openapi()["paths"]["/number"]["get"]["description"] == "A number for each a and b."


async def test_a_value_does_not_stand_for_the_session_before_it(manager: CacheManager) -> None:
    calls: list[int] = []

    @cache_response()
    async def find(session: AsyncSession, pid: int = 0) -> int:
        calls.append(pid)
        return pid

    session = AsyncSession()
    await find(session, 7)
    with pytest.raises(
        TypeError, match=r"for session, .* say by name what is meant: .*find\.invalidate\(pid=…\)"
    ):
        await find.invalidate(7)
    await find(session, 7)
    assert calls == [7]
    for forget in (
        lambda: find.invalidate(pid=7),
        lambda: find.invalidate(session, 7),
        lambda: find.invalidate(session=session, pid=7),
    ):
        await forget()
        await find(session, 7)
    assert calls == [7, 7, 7, 7]
    await find(session)
    await find.invalidate(session)
    await find(session)
    assert calls[4:] == [0, 0]


async def test_nor_for_the_caller_or_for_an_argument_that_is_ignored(manager: CacheManager) -> None:
    @cache_response()
    async def mine(user: Principal, pid: int = 0) -> int:
        return pid

    @cache_response(ignore=("is_loud",))
    async def loud(is_loud: bool, pid: int = 0) -> int:
        return pid

    for function, message in ((mine, "for user"), (loud, "for is_loud")):
        with pytest.raises(TypeError, match=message):
            await function.invalidate(7)
    # Whoever gives all there is has shifted nothing.
    await loud.invalidate(True, 7)
    await loud.invalidate(True, pid=7)
    await loud.invalidate(pid=7)


async def test_what_a_dependency_makes_may_be_given_by_its_place(manager: CacheManager) -> None:
    calls: list[int] = []

    async def page_of() -> int:
        return 1

    @cache_response()
    async def find(page: Annotated[int, Depends(page_of)], size: int = 10) -> int:
        calls.append(page)
        return page

    await find(3)
    await find.invalidate(3)
    await find(3)
    assert calls == [3, 3]
