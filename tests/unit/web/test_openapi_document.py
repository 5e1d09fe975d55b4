"""`/openapi.json` is made into JSON once, is what `app.openapi()` says, and holds all that a product declares."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.web import openapi, problems
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


class Problem(BaseModel):
    equation: str


class ValidationError(BaseModel):
    mine: int


class Why(BaseModel):
    why: str


def schema_of(document: dict[str, Any], path: str, status: str) -> dict[str, Any]:
    """What the operation answers under this status, by the name that it gives."""
    (content,) = document["paths"][path]["post"]["responses"][status]["content"].values()
    found: dict[str, Any] = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    return found


def dangling(document: dict[str, Any]) -> set[str]:
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    return names - document["components"]["schemas"].keys()


def test_all_that_fastapi_tells_of_an_application_is_told(app: FastAPI) -> None:
    app.summary = "In short"
    app.contact = {"name": "Ada"}
    app.license_info = {"name": "MIT"}
    app.terms_of_service = "https://example.com/terms"
    app.openapi_external_docs = {"url": "https://example.com/docs"}
    app.openapi_version = "3.1.1"
    app.separate_input_output_schemas = False
    app.openapi_tags = [{"name": "tea"}]

    @app.webhooks.post("tea-is-ready")
    def tea(body: Why) -> None: ...

    ours = app.openapi()
    app.openapi_schema = None
    plain = FastAPI.openapi(app)
    assert {key: value for key, value in ours.items() if key not in {"paths", "components"}} == {
        key: value for key, value in plain.items() if key not in {"paths", "components"}
    }
    assert {"webhooks", "externalDocs", "tags"} <= ours.keys()
    assert ours["info"].keys() >= {"summary", "contact", "license", "termsOfService"}
    assert ours["openapi"] == "3.1.1"
    assert dangling(ours) == set()  # the webhook's 422 is FastAPI's: another's answer, which it refers to


def test_models_of_a_product_keep_their_names_and_are_not_replaced(app: FastAPI) -> None:
    @app.post("/solve")
    def solve(problem: Problem) -> ValidationError: ...

    document = app.openapi()
    schemas = document["components"]["schemas"]
    assert schemas["Problem"]["properties"].keys() == {"equation"}
    assert schema_of(document, "/solve", "200")["properties"].keys() == {"mine"}
    for status in ("400", "422", "500"):
        assert "error_code" in schema_of(document, "/solve", status)["properties"]
    # Those that `describe` adds are the platform's, too.
    assert "error_code" in schema_of(document, "/tasks/background", "409")["properties"]
    assert dangling(document) == set()


def test_the_platform_s_own_problem_in_an_answer_is_the_one_that_all_refer_to(app: FastAPI) -> None:
    @app.post("/solve", responses={418: {"model": problems.Problem}})
    def solve() -> None: ...

    document = app.openapi()
    assert [name for name in document["components"]["schemas"] if "Problem" in name] == [
        "Problem",
        "ProblemField",
    ]
    assert schema_of(document, "/solve", "418") is schema_of(document, "/solve", "500")


def test_a_422_that_a_route_declares_is_its_own(app: FastAPI) -> None:
    @app.post("/own", responses={422: {"model": Why}})
    def own(body: Problem) -> None: ...

    @app.post("/other", responses={422: {"description": "Unlikely"}})
    def other(body: Problem) -> None: ...

    document = app.openapi()
    assert schema_of(document, "/own", "422")["properties"].keys() == {"why"}
    assert "error_code" in schema_of(document, "/other", "422")["properties"]
    assert document["paths"]["/other"]["post"]["responses"]["422"]["description"] == "Unlikely"


def test_fastapi_s_own_schemas_are_there_only_where_something_refers_to_them(app: FastAPI) -> None:
    its_own = {"HTTPValidationError", "ValidationError"}
    assert not its_own & app.openapi()["components"]["schemas"].keys()
    callbacks = APIRouter()

    @callbacks.post("{$request.body#/url}")
    def told(body: Why) -> None: ...

    @app.post("/subscribe", callbacks=callbacks.routes)
    def subscribe() -> None: ...

    document = app.openapi()
    assert its_own <= document["components"]["schemas"].keys()
    assert dangling(document) == set()


async def test_a_route_that_is_added_later_is_in_the_next_answer(app: FastAPI, counts: Counts) -> None:
    added = APIRouter()
    app.include_router(added)
    async with client_of(app) as client:
        first = await client.get("/openapi.json")
        app.get("/later")(lambda: None)
        added.get("/later-still")(lambda: None)
        headers = {"If-None-Match": first.headers["etag"]}
        answers = [await client.get("/openapi.json", headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert {"/later", "/later-still"} <= answers[0].json()["paths"].keys()
    assert answers[1].content == answers[0].content
    assert (counts.made, counts.rendered) == (2, 2)
