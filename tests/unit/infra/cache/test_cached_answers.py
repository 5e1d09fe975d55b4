"""A cached endpoint answers what it would answer without the cache, and never what another one would."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field, computed_field
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.cache import CacheManager, cache_response


@pytest.fixture
def app(manager: CacheManager) -> FastAPI:
    return FastAPI()


@pytest.fixture
async def client(app: FastAPI) -> Any:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


# -- which endpoint it is -------------------------------------------------------------------------------------


def add_table(app: FastAPI, table: str, rows: list[str], *, is_per_user: bool, guard: Any = None) -> Any:
    @app.get(f"/{table}/{{number}}", dependencies=[Depends(guard)] if guard else [])
    @cache_response(ttl=60, is_per_user=is_per_user)
    async def get_one(number: int) -> dict[str, str]:
        return {"row": rows[number]}

    return get_one


def only_an_administrator(authorization: Annotated[str, Query()] = "") -> None:
    if authorization != "administrator":
        raise HTTPException(403, "no")


@pytest.mark.parametrize("is_per_user", [True, False])
async def test_endpoints_that_one_function_makes_have_entries_of_their_own(
    app: FastAPI, client: httpx.AsyncClient, is_per_user: bool
) -> None:
    salaries = ["much", "more"]
    add_table(app, "salaries", salaries, is_per_user=is_per_user, guard=only_an_administrator)
    books = add_table(app, "books", ["Emma", "Persuasion"], is_per_user=is_per_user)
    for _ in range(2):
        assert (await client.get("/salaries/1?authorization=administrator")).json() == {"row": "more"}
        assert (await client.get("/books/1")).json() == {"row": "Persuasion"}
        assert (await client.get("/salaries/1")).status_code == 403
    salaries[1] = "less"
    await books.invalidate(1)
    assert (await client.get("/salaries/1?authorization=administrator")).json() == {"row": "less"}, (
        "they are of one name and one call, so both are forgotten"
    )


async def test_endpoints_of_one_name_in_one_module_have_entries_of_their_own(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    @app.get("/first")
    @cache_response(ttl=60)
    async def read() -> str:
        return "first"

    @app.get("/second")
    @cache_response(ttl=60)
    async def read() -> str:  # noqa: F811 - nothing keeps a product from it
        return "second"

    for _ in range(2):
        assert [(await client.get(path)).json() for path in ("/first", "/second")] == ["first", "second"]


@pytest.fixture
async def whole(make_settings: Any) -> Any:
    """An application with our middleware, two tables of one name, and a router whose tenant only a dependency reads."""
    tenant: ContextVar[str] = ContextVar("tenant")
    loads: list[Any] = []

    async def note_tenant(name: Annotated[str, Path(alias="tenant")]) -> None:
        tenant.set(name)

    def add_to(router: APIRouter, guard: Any = None) -> None:
        @router.get("/{number}", dependencies=[Depends(guard)] if guard else [])
        @cache_response(ttl=60, is_per_user=False)
        async def get_one(number: int) -> dict[str, Any]:
            loads.append(number)
            return {"number": number, "tenant": tenant.get("")}

    app = create_app(make_settings(rate_limit={"enabled": False}))
    books, songs, rented = APIRouter(), APIRouter(), APIRouter()
    add_to(books)
    add_to(songs)
    add_to(rented, note_tenant)
    app.include_router(books, prefix="/books")
    app.include_router(songs, prefix="/songs")
    app.include_router(rented, prefix="/of/{tenant}")
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client, loads


async def test_one_call_is_one_entry_however_its_path_is_spelled(whole: Any) -> None:
    """Else anybody gets past the cache, and fills it."""
    client, loads = whole
    for spelling in ("1", "01", "001", "+1", "%31"):
        assert (await client.get(f"/books/{spelling}")).json() == {"number": 1, "tenant": ""}
    assert loads == [1]
    await client.get("/books/2")
    await client.get("/songs/1")
    assert loads == [1, 2, 1]


async def test_what_only_a_dependency_takes_from_the_path_is_part_of_the_key(whole: Any) -> None:
    client, loads = whole
    for _ in range(2):
        for name in ("ada", "bob"):
            assert (await client.get(f"/of/{name}/7")).json() == {"number": 7, "tenant": name}
    assert loads == [7, 7]


async def test_functions_that_one_function_makes_have_entries_of_their_own(manager: CacheManager) -> None:
    def reader(table: str) -> Any:
        @cache_response(ttl=60)
        async def read(number: int) -> str:
            return f"{table} {number}"

        return read

    books, songs = reader("books"), reader("songs")
    for _ in range(2):
        assert [await books(1), await songs(1), await reader("books")(1)] == ["books 1", "songs 1", "books 1"]


# -- what it answers ------------------------------------------------------------------------------------------


class Named(BaseModel):
    user_id: int = Field(alias="userId")


class Hidden(BaseModel):
    shown: int
    hidden: str = Field(exclude=True)


class Square(BaseModel):
    model_config = ConfigDict(extra="forbid")

    side: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.side**2


class Partial(BaseModel):
    first: int
    second: int | None = None


ANSWERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "alias": (Named, Named(userId=3), {}),
    "name": (Named, Named(userId=3), {"response_model_by_alias": False}),
    "excluded field": (Hidden, Hidden(shown=1, hidden="x"), {}),
    "computed field": (Square, Square(side=3), {}),
    "unset": (Partial, Partial(first=1), {"response_model_exclude_unset": True}),
    "default": (Partial, Partial(first=1, second=None), {"response_model_exclude_defaults": True}),
    "none": (Partial, Partial(first=1, second=None), {"response_model_exclude_none": True}),
    "include": (Partial, Partial(first=1, second=2), {"response_model_include": {"second"}}),
    "exclude": (Partial, Partial(first=1, second=2), {"response_model_exclude": {"second"}}),
    "list": (list[Square], [Square(side=1), Square(side=2)], {}),
    "no model": (None, {"a": [1, 2.5, "ä", None]}, {}),
    "page": (None, "<p>ä</p>", {"response_class": HTMLResponse}),
    "class of its own": (Partial, Partial(first=1), {"response_class": JSONResponse}),
    "not what the model says": (Square, {"side": "wide"}, {}),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_the_answer_is_what_it_is_without_the_cache(
    app: FastAPI, client: httpx.AsyncClient, name: str
) -> None:
    model, result, options = ANSWERS[name]
    calls: list[None] = []

    async def endpoint() -> Any:
        calls.append(None)
        return result

    app.get("/plain", response_model=model, **options)(endpoint)
    app.get("/cached", response_model=model, **options)(cache_response(ttl=60)(endpoint))
    plain = await client.get("/plain")
    for _ in range(2):
        cached = await client.get("/cached")
        assert (cached.status_code, cached.content) == (plain.status_code, plain.content)
        assert cached.headers["content-type"] == plain.headers["content-type"]
    assert len(calls) == (2 if plain.status_code == 200 else 3)


async def test_a_router_gives_its_response_class_to_what_it_includes(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    router = APIRouter()

    @router.get("/page")
    @cache_response(ttl=60)
    async def page() -> str:
        return "<p>one</p>"

    app.include_router(router, default_response_class=HTMLResponse)
    for _ in range(2):
        answer = await client.get("/page")
        assert (answer.text, answer.headers["content-type"]) == ("<p>one</p>", "text/html; charset=utf-8")


async def test_a_route_with_another_status_is_not_kept(app: FastAPI, client: httpx.AsyncClient) -> None:
    calls: list[None] = []

    @app.get("/accepted", status_code=202)
    @cache_response(ttl=60)
    async def accepted() -> int:
        calls.append(None)
        return len(calls)

    answers = [await client.get("/accepted") for _ in range(2)]
    assert [(answer.status_code, answer.json()) for answer in answers] == [(202, 1), (202, 2)]


async def test_what_an_endpoint_says_of_its_answer_on_the_given_response_is_kept_with_it(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    @app.get("/told")
    @cache_response(ttl=60)
    async def told(response: Response) -> int:
        response.headers["Cache-Control"] = "max-age=5"
        response.headers["ETag"] = '"mine"'
        return 1

    for _ in range(2):
        answer = await client.get("/told")
        assert answer.headers.get_list("cache-control") == ["max-age=5"]
        assert answer.headers.get_list("etag") == ['"mine"']
    assert (await client.get("/told", headers={"if-none-match": '"mine"'})).status_code == 304


async def test_what_a_dependency_says_of_the_answer_is_said_alone(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    def careful(response: Response) -> None:
        response.headers["Cache-Control"] = "no-store"

    @app.get("/careful", dependencies=[Depends(careful)])
    @cache_response(ttl=60)
    async def endpoint() -> int:
        return 1

    for _ in range(2):
        assert (await client.get("/careful")).headers.get_list("cache-control") == ["no-store"]


# -- what it depends on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_given", [True, False])
async def test_an_answer_that_varies_by_what_no_key_has_is_not_kept(
    app: FastAPI, client: httpx.AsyncClient, is_given: bool
) -> None:
    @app.get("/greeting")
    @cache_response(ttl=60)
    async def greeting(request: Request, response: Response) -> Any:
        language = request.headers["accept-language"]
        if not is_given:
            return JSONResponse(language, headers={"Vary": "Accept-Language"})
        response.headers["Vary"] = "Accept-Language"
        return language

    for language in ("de", "fr", "de"):
        answer = await client.get("/greeting", headers={"accept-language": language})
        assert (answer.json(), answer.headers["vary"]) == (language, "Accept-Language")
        assert "etag" not in answer.headers


@pytest.mark.parametrize(("varies_by", "is_per_user", "calls_expected"), [
    ("Authorization", True, 1), ("X-API-Key, Cookie", True, 1), ("*", True, 2), ("Authorization", False, 2),
    ("Accept-Encoding", True, 2),
])  # fmt: skip
async def test_an_answer_may_vary_by_who_asks_where_the_key_has_it(
    app: FastAPI, client: httpx.AsyncClient, varies_by: str, is_per_user: bool, calls_expected: int
) -> None:
    calls: list[None] = []

    @app.get("/mine")
    @cache_response(ttl=60, is_per_user=is_per_user)
    async def mine() -> Response:
        calls.append(None)
        return JSONResponse({}, headers={"Vary": varies_by})

    for _ in range(2):
        answer = await client.get("/mine", headers={"authorization": "Bearer a"})
        assert varies_by in answer.headers.get_list("vary")
    assert len(calls) == calls_expected
