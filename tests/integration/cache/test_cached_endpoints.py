"""`cache_response` between processes that share a Redis."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from scalable_fastapi_system.infra.cache import CacheManager, cache_response
from scalable_fastapi_system.web.envelope import respond

from tests.integration.cache.conftest import listening

calls: list[int] = []


@cache_response(ttl=60, key_prefix="api", tags=["things", "thing:{number}"])
async def things(number: int, request: Request) -> Response:
    calls.append(number)
    return respond(request, {"number": number, "calls": len(calls)})


@cache_response(ttl=60, key_prefix="api")
async def total(numbers: list[int]) -> int:
    calls.append(sum(numbers))
    return sum(numbers)


def process(cache: CacheManager) -> httpx.AsyncClient:
    """An application of its own: what a process is to another."""
    app = FastAPI()
    app.state.resources = SimpleNamespace(cache=cache)
    app.get("/things/{number}")(things)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


async def test_an_answer_is_kept_for_all_processes_and_forgotten_in_all(
    cache: CacheManager, other: CacheManager
) -> None:
    calls.clear()
    await listening(cache, other)
    async with process(cache) as one, process(other) as two:

        async def read() -> list[Any]:
            return [
                (await client.get("/things/7")).json()["data"]["calls"] for client in (one, two, one, two)
            ]

        assert await read() == [1, 1, 1, 1]
        etags = {(await client.get("/things/7")).headers["etag"] for client in (one, two)}
        assert len(etags) == 1
        again = await two.get("/things/7", headers={"if-none-match": etags.pop()})
        assert again.status_code == 304
        await other.invalidate_tag("thing:7")
        assert (await read())[1:] == [2, 2, 2]


async def test_a_function_answers_from_the_cache_of_another_process(
    cache: CacheManager, other: CacheManager
) -> None:
    calls.clear()
    functions = [
        cache_response(ttl=60, key_prefix="api", manager=manager)(total.function)
        for manager in (cache, other)
    ]
    assert [await function([1, 2]) for function in functions] == [3, 3]
    assert calls == [3]
    await functions[1].invalidate([1, 2])
    assert await functions[0](numbers=[1, 2]) == 3
    await functions[0].invalidate_all()
    assert await functions[1]([1, 2]) == 3
    assert calls == [3, 3, 3]
