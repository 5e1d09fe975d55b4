"""`/openapi.json` is made into JSON once, and is what `app.openapi()` says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.web import openapi
from starlette.responses import JSONResponse


class Counts:
    """How often the document was made, and made into JSON."""

    def __init__(self) -> None:
        self.made = 0
        self.rendered = 0


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    found = Counts()
    make = openapi.get_openapi

    def counted(**options: Any) -> dict[str, Any]:
        found.made += 1
        return make(**options)

    class CountedJSON(JSONResponse):
        def render(self, content: Any) -> bytes:
            found.rendered += 1
            return super().render(content)

    monkeypatch.setattr(openapi, "get_openapi", counted)
    monkeypatch.setattr(openapi, "JSONResponse", CountedJSON)
    return found


@pytest.fixture
def app(make_settings: Callable[..., Settings]) -> FastAPI:
    return create_app(make_settings())


def client_of(app: FastAPI, root_path: str = "") -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, root_path=root_path), base_url=f"http://test{root_path}"
    )


async def test_the_second_answer_is_the_first_one_s_bytes(app: FastAPI, counts: Counts) -> None:
    async with client_of(app) as client:
        first, second = [await client.get("/openapi.json") for _ in range(2)]
    assert (first.status_code, first.headers["content-type"]) == (200, "application/json")
    assert first.json() == app.openapi()
    assert second.content == first.content
    assert app.openapi() is app.openapi()
    assert (counts.made, counts.rendered) == (1, 1)


async def test_who_has_the_document_already_is_told_so(app: FastAPI) -> None:
    async with client_of(app) as client:
        first = await client.get("/openapi.json")
        again = await client.get("/openapi.json", headers={"If-None-Match": first.headers["etag"]})
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


async def test_another_document_is_another_answer(app: FastAPI) -> None:
    async with client_of(app) as client:
        first = await client.get("/openapi.json")
        app.openapi_schema = {**app.openapi(), "info": {"title": "Another", "version": "2"}}
        second = await client.get("/openapi.json", headers={"If-None-Match": first.headers["etag"]})
    assert (second.status_code, second.json()["info"]["title"]) == (200, "Another")


async def test_each_root_path_is_named_as_the_server_of_its_own(app: FastAPI, counts: Counts) -> None:
    roots = ["", *(f"/root-{number}" for number in range(2 * openapi._MOST_ROOTS))]
    for root in roots:
        async with client_of(app, root) as client:
            answer = await client.get("/openapi.json")
        assert answer.json().get("servers") == ([{"url": root}] if root else None)
    assert (counts.made, counts.rendered) == (1, len(roots))
