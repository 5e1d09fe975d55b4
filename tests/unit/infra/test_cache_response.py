"""`cache_response`: keys by values and caller, ETags, and nothing shared that was made for one user."""

import uuid
from datetime import UTC, datetime

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import BaseModel
from scalable_fastapi_system import CacheManager, Settings, cache_response
from scalable_fastapi_system.identity.principal import Principal
from starlette.responses import JSONResponse


@pytest.fixture
def manager():
    return CacheManager(Settings(_env_file=None))


async def test_arguments_of_other_types_are_other_entries(manager):
    calls = []

    @cache_response(ttl=60, manager=manager)
    async def find(value):
        calls.append(value)
        return str(value)

    identifier = uuid.uuid4()
    for value in (1, "1", True, 1.5, None, identifier, str(identifier), [1], {"a": 1}):
        assert await find(value) == str(value)
    assert len(calls) == 9


async def test_an_argument_that_cannot_be_a_key_is_an_error(manager):
    @cache_response(manager=manager)
    async def find(value):
        return 1

    with pytest.raises(TypeError, match="'value' of type object"):
        await find(object())


async def test_an_answer_for_one_principal_is_not_given_to_another(manager):
    @cache_response(ttl=60, manager=manager)
    async def mine(user):
        return user.key

    now = datetime(2026, 1, 1, tzinfo=UTC)
    first, second = (Principal(number, "j", "j@example.com", "user", True, now, now) for number in (1, 2))
    assert [await mine(first), await mine(second), await mine(first)] == ["user:1", "user:2", "user:1"]


async def test_invalidation_of_one_and_of_all(manager):
    calls = []

    @cache_response(ttl=60, key_prefix="p", manager=manager)
    async def find(value: int = 1):
        calls.append(value)
        return value

    @cache_response(ttl=60, key_prefix="p", manager=manager)
    async def other(value: int = 1):
        calls.append(-value)
        return -value

    assert [await find(), await find(2), await other()] == [1, 2, -1]
    await find.invalidate(1)
    assert [await find(1), await find(2)] == [1, 2]
    assert calls == [1, 2, -1, 1]


async def test_an_exception_is_not_cached(manager):
    calls = []

    @cache_response(ttl=60, manager=manager)
    async def find():
        calls.append(1)
        raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            await find()
    assert len(calls) == 2


@pytest.fixture
def client(manager):
    app = FastAPI()
    app.state.calls = 0

    class Thing(BaseModel):
        name: str

    @app.get("/data/{item}")
    @cache_response(ttl=60, manager=manager)
    async def data(item: str, request: Request):
        app.state.calls += 1
        return {"item": item, "calls": app.state.calls}

    @app.get("/response")
    @cache_response(ttl=60, manager=manager)
    async def response(request: Request, status: int = 200):
        app.state.calls += 1
        return JSONResponse({"calls": app.state.calls}, status_code=status)

    return TestClient(app)


def test_an_endpoint_is_cached_with_an_etag_and_answers_304(client):
    first = client.get("/data/a")
    assert client.get("/data/a").json() == first.json() == {"item": "a", "calls": 1}
    assert first.headers["cache-control"] == "public, max-age=60"
    unchanged = client.get("/data/a", headers={"If-None-Match": first.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert client.get("/data/b").json()["calls"] == 2


def test_callers_with_credentials_have_their_own_private_entries(client):
    one = client.get("/data/a", headers={"Authorization": "Bearer one"})
    two = client.get("/data/a", headers={"Authorization": "Bearer two"})
    assert (one.json()["calls"], two.json()["calls"]) == (1, 2)
    assert one.headers["cache-control"].startswith("private")
    assert "Authorization" in one.headers["vary"]


def test_a_response_is_cached_only_when_it_is_a_200(client):
    assert client.get("/response").json() == client.get("/response").json() == {"calls": 1}
    assert client.get("/response?status=503").status_code == 503
    assert client.get("/response?status=503").json() == {"calls": 3}
