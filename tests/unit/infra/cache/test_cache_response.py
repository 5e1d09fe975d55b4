"""`cache_response` on functions and on endpoints, in memory."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Annotated, Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from scalable_fastapi_system.identity.principal import Principal
from scalable_fastapi_system.infra.cache import CacheManager, cache_response, default_cache, set_default_cache
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.web.envelope import respond


@pytest.fixture
def calls() -> list[Any]:
    return []


def principal(number: int, name: str = "john") -> Principal:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Principal(number, name, f"{name}@example.com", "user", True, now, now)


# -- plain functions ------------------------------------------------------------------------------------------


async def test_the_guides_decorator_finds_the_cache_by_itself(
    manager: CacheManager, calls: list[Any]
) -> None:
    @cache_response(ttl=300, key_prefix="api")
    async def get_user_profile(user_id: int) -> dict[str, int]:
        calls.append(user_id)
        return {"id": user_id}

    assert [await get_user_profile(1), await get_user_profile(user_id=1), await get_user_profile(2)] == [
        {"id": 1}, {"id": 1}, {"id": 2},
    ]  # fmt: skip
    assert calls == [1, 2]
    assert default_cache() is manager


def test_a_default_cache_that_is_gone_is_not_kept_alive(make_settings: Callable[..., Settings]) -> None:
    set_default_cache(CacheManager(make_settings()))
    gc.collect()
    assert default_cache() is default_cache()


async def test_many_callers_make_one_call(manager: CacheManager, calls: list[Any]) -> None:
    @cache_response()
    async def slow(number: int) -> int:
        calls.append(number)
        await asyncio.sleep(0.01)
        return number

    assert await asyncio.gather(*(slow(1) for _ in range(50))) == [1] * 50
    assert calls == [1]


async def test_the_answer_is_plain_json_from_the_first_call_on(manager: CacheManager) -> None:
    class Profile(BaseModel):
        name: str

    @cache_response()
    async def profile() -> Any:
        return Profile(name="John")

    assert await profile() == await profile() == {"name": "John"}


async def test_an_answer_is_not_given_to_another_caller(manager: CacheManager, calls: list[Any]) -> None:
    @cache_response()
    async def mine(user: Any, page: int = 1) -> str:
        calls.append(user.key)
        return str(user.key)

    one, two = principal(1), principal(2)
    assert [await mine(one), await mine(two), await mine(one), await mine(two)] == ["user:1", "user:2"] * 2
    assert calls == ["user:1", "user:2"]
    await mine.invalidate(one)
    assert [await mine(one), await mine(two)] == ["user:1", "user:2"]
    assert calls == ["user:1", "user:2", "user:1"]
    await mine.invalidate_all()
    assert [await mine(one), await mine(two)] == ["user:1", "user:2"]
    assert calls == ["user:1", "user:2", "user:1", "user:1", "user:2"]


async def test_without_a_caller_the_answers_for_all_callers_are_forgotten(
    manager: CacheManager, calls: list[Any]
) -> None:
    @cache_response()
    async def mine(item: int, user: Annotated[Any, Depends(None)]) -> str:
        calls.append(item)
        return str(user.key)

    users = [principal(number) for number in range(3)]
    for user in users:
        await mine(1, user)
        await mine(2, user)
    await mine.invalidate(1)
    calls.clear()
    for user in users:
        await mine(1, user)
        await mine(2, user)
    assert calls == [1, 1, 1]


async def test_an_answer_may_be_everyones(manager: CacheManager, calls: list[Any]) -> None:
    @cache_response(is_per_user=False)
    async def public(user: Any) -> str:
        calls.append(user.key)
        return "the same"

    for number in range(3):
        await public(principal(number))
    assert calls == ["user:0"]


async def test_a_function_that_is_handed_a_request_has_an_answer_for_each_caller_and_url(
    manager: CacheManager,
) -> None:
    @cache_response()
    async def whose(request: Request) -> str:
        return f"{request.headers.get('authorization')} {request.url.query}"

    def request(authorization: str, query: str) -> Request:
        headers = [(b"authorization", authorization.encode()), (b"host", b"h")]
        return Request(
            {
                "type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": headers,
                "app": FastAPI(),
            }
        )  # fmt: skip

    for _ in range(2):
        assert await whose(request("a", "x=1")) == "a x=1"
        assert await whose(request("b", "x=1")) == "b x=1"
        assert await whose(request("a", "x=2")) == "a x=2"


async def test_tags_are_filled_in_from_the_arguments(manager: CacheManager, calls: list[Any]) -> None:
    @cache_response(tags=["users", "user:{user_id}"])
    async def posts(user_id: int, page: int = 1) -> int:
        calls.append((user_id, page))
        return page

    async def read() -> None:
        for user_id in (1, 2):
            for page in (1, 2):
                await posts(user_id, page)

    await read()
    calls.clear()
    await manager.invalidate_tag("user:1")
    await read()
    assert calls == [(1, 1), (1, 2)]
    calls.clear()
    await manager.invalidate_tag("users")
    await read()
    assert len(calls) == 4


async def test_stale_is_given_while_a_function_is_called_again(
    manager: CacheManager, calls: list[Any]
) -> None:
    @cache_response(ttl=0.02, stale_seconds=60)
    async def number() -> int:
        calls.append(None)
        return len(calls)

    assert await number() == 1
    await asyncio.sleep(0.03)
    assert await number() == 1
    await asyncio.sleep(0.005)
    assert await number() == 2


async def test_what_uses_a_session_is_not_called_behind_the_requests_back(
    manager: CacheManager, calls: list[Any]
) -> None:
    @cache_response(ttl=0.02, stale_seconds=60, ignore=["session"])
    async def number(session: Any) -> int:
        calls.append(session)
        return len(calls)

    assert await number("first") == 1
    await asyncio.sleep(0.03)
    assert await number("second") == 2, "its caller waited for it"


def test_a_function_that_is_not_async_is_refused() -> None:
    with pytest.raises(TypeError, match="async"):

        @cache_response()  # type: ignore[arg-type]
        def plain() -> int:
            return 1


async def test_methods_work_when_they_say_what_self_is(manager: CacheManager, calls: list[Any]) -> None:
    class Service:
        @cache_response(ignore=["self"])
        async def find(self, number: int) -> int:
            calls.append(number)
            return number

        @cache_response()
        async def unclear(self) -> int:
            return 1

    service = Service()
    assert [await service.find(1), await service.find(1), await Service().find(number=1)] == [1, 1, 1]
    assert calls == [1]
    with pytest.raises(TypeError, match="self"):
        await service.unclear()


def test_the_decorated_function_looks_like_itself() -> None:
    @cache_response()
    async def documented(number: int) -> int:
        """What it does."""
        return number

    assert documented.__name__ == "documented"
    assert documented.__doc__ == "What it does."
    assert next(iter(inspect.signature(documented).parameters)) == "number"


# -- endpoints ------------------------------------------------------------------------------------------------


class Public(BaseModel):
    name: str


def current(authorization: Annotated[str | None, Header()] = None) -> Any:
    if authorization is None:
        raise HTTPException(401, "no")
    name = authorization.removeprefix("Bearer ")
    return principal(len(name) * 100 + ord(name[0]), name)


@pytest.fixture
def app(manager: CacheManager, calls: list[Any]) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def number_requests(request: Request, call_next: Any) -> Response:
        request.state.request_id = request.headers.get("x-request-id", "none")
        return await call_next(request)

    @app.get("/model/{item}", response_model=Public)
    @cache_response(ttl=60)
    async def model(item: str) -> Any:
        calls.append(item)
        return {"name": item, "hashed_password": "secret"}

    @app.get("/envelope")
    @cache_response(ttl=60)
    async def envelope(request: Request, page: int = 1) -> Response:
        calls.append(page)
        return respond(request, {"calls": len(calls)}, headers={"x-kept": "yes"})

    @app.get("/mine")
    @cache_response(ttl=60)
    async def mine(user: Annotated[Any, Depends(current)]) -> Any:
        calls.append(user.username)
        return {"name": user.username}

    @app.get("/guarded", dependencies=[Depends(current)])
    @cache_response(ttl=60)
    async def guarded(request: Request) -> Any:
        calls.append(1)
        return {"seen": request.headers["authorization"]}

    @app.get("/same", dependencies=[Depends(current)])
    @cache_response(ttl=60, is_per_user=False)
    async def same() -> Any:
        calls.append(1)
        return {"same": True}

    @app.post("/write")
    @cache_response(ttl=60)
    async def write() -> Any:
        calls.append(1)
        return {"calls": len(calls)}

    @app.get("/odd/{kind}")
    @cache_response(ttl=60)
    async def odd(kind: str, tasks: BackgroundTasks, response: Response) -> Any:
        calls.append(kind)
        if kind == "raises":
            raise HTTPException(404, "no")
        if kind == "status":
            return JSONResponse({}, status_code=203)
        if kind == "cookie":
            response = JSONResponse({})
            response.set_cookie("a", "b")
            return response
        if kind == "stream":
            return StreamingResponse(iter([b"a"]))
        if kind == "task":
            return JSONResponse({}, background=tasks)
        if kind == "given status":
            response.status_code = 202
            return {}
        if kind == "given cookie":
            response.set_cookie("a", "b")
            return {}
        if kind in ("given No-Store", "given private"):
            response.headers["cache-control"] = kind.removeprefix("given ")
            return {}
        if kind in ("given task", "given task and response"):
            tasks.add_task(calls.append, "done")
            return {} if kind == "given task" else JSONResponse({})
        return JSONResponse({}, headers={"cache-control": kind})

    def visit(response: Response, tasks: BackgroundTasks) -> None:
        response.set_cookie("seen", "now")
        tasks.add_task(visits.append, "done")

    visits: list[str] = []
    app.state.visits = visits

    @app.get("/visited", dependencies=[Depends(visit)])
    @cache_response(ttl=60)
    async def visited(tasks: BackgroundTasks, response: Response) -> Any:
        calls.append(1)
        response.status_code = 200
        return {"calls": len(calls)}

    @app.get("/depends")
    async def depends(value: Annotated[Any, Depends(dependency)], response: Response) -> Any:
        return value

    return app


@cache_response(ttl=60)
async def dependency(name: str = "x") -> dict[str, str]:
    return {"name": name}


@pytest.fixture
async def client(app: FastAPI) -> Any:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_a_value_goes_through_the_response_model_every_time(
    client: httpx.AsyncClient, calls: list[Any]
) -> None:
    for _ in range(3):
        answer = await client.get("/model/a")
        assert answer.json() == {"name": "a"}, "what the model leaves out is not shown because it was cached"
    assert calls == ["a"]
    assert (await client.get("/model/b")).json() == {"name": "b"}


async def test_a_known_etag_is_a_304(client: httpx.AsyncClient, calls: list[Any]) -> None:
    for path in ("/model/a", "/envelope"):
        first = await client.get(path)
        etag = first.headers["etag"]
        assert first.headers["cache-control"] == "public, max-age=60"
        for asked in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
            again = await client.get(path, headers={"if-none-match": asked})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == etag
            assert again.headers["cache-control"] == "public, max-age=60"
        assert (await client.get(path, headers={"if-none-match": '"other"'})).status_code == 200
    assert len(calls) == 2


async def test_another_answer_has_another_etag(client: httpx.AsyncClient) -> None:
    one, two = [(await client.get(f"/model/{item}")).headers["etag"] for item in "ab"]
    assert one != two


async def test_an_envelope_carries_the_id_of_each_request(
    client: httpx.AsyncClient, calls: list[Any]
) -> None:
    bodies, etags = [], set()
    for number in ("first", "2", "a-much-longer-request-id"):
        answer = await client.get("/envelope", headers={"x-request-id": number})
        bodies.append(answer.json())
        etags.add(answer.headers["etag"])
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-kept"] == "yes"
        assert int(answer.headers["content-length"]) == len(answer.content)
    assert [body["request_id"] for body in bodies] == ["first", "2", "a-much-longer-request-id"]
    assert [body["data"] for body in bodies] == [{"calls": 1}] * 3
    assert len(etags) == 1


async def test_an_endpoint_that_reads_the_request_itself_is_kept_by_url(
    client: httpx.AsyncClient, calls: list[Any]
) -> None:
    for query in ("", "?page=2", "?undeclared=1", "", "?page=2", "?undeclared=1"):
        await client.get(f"/envelope{query}")
    assert calls == [1, 2, 1]


async def test_an_answer_for_a_principal_is_theirs_and_private(
    client: httpx.AsyncClient, calls: list[Any]
) -> None:
    for name in ("ann", "bob", "ann", "bob"):
        answer = await client.get("/mine", headers={"authorization": f"Bearer {name}"})
        assert answer.json() == {"name": name}
        assert answer.headers["cache-control"] == "private, no-cache"
        assert "Authorization" in answer.headers["vary"]
    assert calls == ["ann", "bob"]
    etag = answer.headers["etag"]
    again = await client.get("/mine", headers={"authorization": "Bearer bob", "if-none-match": etag})
    assert again.status_code == 304
    assert again.headers["cache-control"] == "private, no-cache"
    other = await client.get("/mine", headers={"authorization": "Bearer ann", "if-none-match": etag})
    assert other.status_code == 200
    assert (await client.get("/mine")).status_code == 401, "who may have it is asked before the cache is"


async def test_a_guarded_endpoint_that_is_not_told_who_asks_shares_nothing(client: httpx.AsyncClient) -> None:
    for name in ("ann", "bob", "ann"):
        answer = await client.get("/guarded", headers={"authorization": f"Bearer {name}"})
        assert answer.json() == {"seen": f"Bearer {name}"}
        assert answer.headers["cache-control"] == "private, no-cache"


async def test_what_is_the_same_for_all_is_kept_once_and_still_private_where_it_was_asked_for_with_credentials(
    client: httpx.AsyncClient, calls: list[Any]
) -> None:
    for name in ("ann", "bob"):
        answer = await client.get("/same", headers={"authorization": f"Bearer {name}"})
        assert answer.headers["cache-control"] == "private, no-cache"
    assert calls == [1]


async def test_a_public_answer_to_somebody_with_a_cookie_is_not_the_publics(
    client: httpx.AsyncClient, calls: list[Any]
) -> None:
    await client.get("/model/a")
    answer = await client.get("/model/a", headers={"cookie": "session=1"})
    assert answer.headers["cache-control"] == "private, no-cache"
    assert calls == ["a", "a"]


async def test_only_reads_are_kept(client: httpx.AsyncClient) -> None:
    assert [(await client.post("/write")).json()["calls"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    "kind",
    [
        "raises", "status", "cookie", "stream", "task", "no-store", "private",
        "given status", "given cookie", "given No-Store", "given private", "given task", "given task and response",
    ],
)  # fmt: skip
async def test_what_must_not_be_kept_is_not(client: httpx.AsyncClient, calls: list[Any], kind: str) -> None:
    answers = []
    for _ in range(2):
        client.cookies.clear()  # a caller with a cookie has an entry of their own
        answers.append(await client.get(f"/odd/{kind}"))
    assert [call for call in calls if call != "done"] == [kind, kind]
    assert all("etag" not in answer.headers for answer in answers)


async def test_what_is_said_on_the_response_that_fastapi_hands_over_is_said_to_each_caller(
    client: httpx.AsyncClient, calls: list[Any]
) -> None:
    for _ in range(2):
        client.cookies.clear()
        assert (await client.get("/odd/given cookie")).cookies["a"] == "b"
        assert (await client.get("/odd/given status")).status_code == 202
        await client.get("/odd/given task")
    assert calls.count("done") == 2


async def test_what_dependencies_say_beside_the_answer_does_not_keep_it_from_being_kept(
    app: FastAPI, client: httpx.AsyncClient, calls: list[Any]
) -> None:
    for _ in range(2):
        client.cookies.clear()
        answer = await client.get("/visited")
        assert answer.json() == {"calls": 1}
        assert answer.cookies["seen"] == "now"
    assert len(app.state.visits) == 2
    assert calls == [1]


async def test_an_endpoints_own_cache_control_stays(client: httpx.AsyncClient, calls: list[Any]) -> None:
    for _ in range(2):
        assert (await client.get("/odd/max-age=5")).headers["cache-control"] == "max-age=5"
    assert calls == ["max-age=5"]


async def test_a_cached_dependency_is_a_function_and_no_endpoint(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        answer = await client.get("/depends?name=y", headers={"if-none-match": "*"})
        assert (answer.status_code, answer.json()) == (200, {"name": "y"})


async def test_an_endpoint_is_invalidated_by_its_arguments(
    app: FastAPI, client: httpx.AsyncClient, calls: list[Any]
) -> None:
    endpoints = {route.path: route.endpoint for route in app.routes if hasattr(route, "endpoint")}
    for _ in range(2):
        await client.get("/model/a")
        await client.get("/model/b")
    await endpoints["/model/{item}"].invalidate(item="a")
    await client.get("/model/a")
    await client.get("/model/b")
    assert calls == ["a", "b", "a"]
    calls.clear()
    for name in ("ann", "bob"):
        await client.get("/mine", headers={"authorization": f"Bearer {name}"})
    await endpoints["/mine"].invalidate(user=current("Bearer ann"))
    for name in ("ann", "bob"):
        await client.get("/mine", headers={"authorization": f"Bearer {name}"})
    assert calls == ["ann", "bob", "ann"]
    calls.clear()
    await client.get("/envelope?page=2")
    await client.get("/envelope?page=2&x=1")
    await endpoints["/envelope"].invalidate(page=2)
    await client.get("/envelope?page=2")
    await client.get("/envelope?page=2&x=1")
    assert calls == [2, 2, 2, 2]


def test_openapi_shows_the_endpoints_own_parameters(app: FastAPI) -> None:
    schema = app.openapi()
    assert [p["name"] for p in schema["paths"]["/model/{item}"]["get"]["parameters"]] == ["item"]
    assert schema["paths"]["/model/{item}"]["get"]["operationId"].startswith("model_")
    assert "Public" in str(schema["paths"]["/model/{item}"]["get"]["responses"]["200"])


async def test_an_application_has_its_own_cache(
    make_settings: Callable[..., Settings], manager: CacheManager, calls: list[Any]
) -> None:
    @cache_response(ttl=60)
    async def number() -> int:
        calls.append(1)
        return len(calls)

    answers = []
    for _ in range(2):
        app = FastAPI()
        app.state.resources = SimpleNamespace(cache=CacheManager(make_settings()))
        app.get("/")(number)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://t") as client:
            answers += [(await client.get("/")).json() for _ in range(2)]
    assert answers == [1, 1, 2, 2]
