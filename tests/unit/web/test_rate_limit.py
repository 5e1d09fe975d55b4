"""Rate limits on requests: through the guide's middleware and through the platform's own pass, without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from scalable_fastapi_system.infra.cache import CacheManager
from scalable_fastapi_system.infra.rate_limit import RateLimiter
from scalable_fastapi_system.infra.redis import RedisConnections
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import ConfigurationError
from scalable_fastapi_system.web.limits import rate_limit
from scalable_fastapi_system.web.middleware import PlatformMiddleware
from scalable_fastapi_system.web.platform_api import PlatformAPI
from scalable_fastapi_system.web.problems import install_error_handlers
from scalable_fastapi_system.web.rate_limit import RateLimitingMiddleware, RateLimits
from scalable_fastapi_system.web.route_table import RouteTable
from starlette.types import Scope
from structlog.testing import capture_logs

MakeSettings = Callable[..., Settings]


@pytest.fixture(autouse=True)
def a_minute_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window ends with the wall clock's minute: a test that crossed it would be admitted once more."""
    limiter = partial(RateLimiter, wall=lambda: 1_800_000_010.0)
    monkeypatch.setattr("scalable_fastapi_system.web.rate_limit.RateLimiter", limiter)


def add_routes(app: FastAPI) -> None:
    install_error_handlers(app)

    @app.get("/things/{thing_id}")
    async def thing(thing_id: int) -> dict[str, int]:
        return {"id": thing_id}

    @app.get("/others")
    async def others() -> dict[str, Any]:
        return {}

    @app.post("/auth/login")
    @rate_limit("auth")
    async def login() -> dict[str, Any]:
        return {}

    @app.post("/reports")
    @rate_limit("1/hour")
    async def report() -> dict[str, Any]:
        return {}

    @app.get("/health/live")
    async def live() -> dict[str, Any]:
        return {}


def named(scope: Scope, *_: Any) -> None:
    """Believes a header: these tests are not about signing in."""
    for name, value in scope["headers"]:
        if name == b"x-test-caller":
            kind, role, key = value.decode().split(",")
            if kind == "known":
                scope["state"]["rate_key"] = key
            elif kind == "unproven":
                scope["state"]["may_be_key"] = True
            else:
                scope["state"]["principal"] = SimpleNamespace(kind=kind, role=role, key=key, id=1)


def guide_app(settings: Settings) -> FastAPI:
    """As the guide puts it together."""
    cache_manager = CacheManager(settings)
    app = FastAPI()
    app.add_middleware(RateLimitingMiddleware, cache_manager=cache_manager, settings=settings, identify=named)
    add_routes(app)
    return app


def platform_app(settings: Settings) -> FastAPI:
    limits = RateLimits(settings, RedisConnections(settings.redis))
    app = PlatformAPI(
        platform=lambda inner, owner: PlatformMiddleware(
            inner, owner=owner, settings=settings, metrics=None, admission=limits, identify=named
        )
    )
    add_routes(app)
    return app


@pytest.fixture(params=[guide_app, platform_app])
def make_app(request: pytest.FixtureRequest) -> Callable[[Settings], FastAPI]:
    return request.param


def client_of(app: Any, address: str = "203.0.113.9") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, client=(address, 1234))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


LOW = {
    "anonymous": "3/minute",
    "user": "4/minute",
    "api_key": "5/minute",
    "admin": "6/minute",
    "auth": "2/minute",
}


async def admitted(client: httpx.AsyncClient, path: str = "/others", **options: Any) -> int:
    """How many of ten requests are."""
    answers = [await client.request("GET", path, **options) for _ in range(10)]
    assert {answer.status_code for answer in answers} <= {200, 404, 429}
    return sum(answer.status_code != 429 for answer in answers)


async def test_what_may_be_a_key_is_counted_by_its_address_apart_from_those_who_send_none(
    make_app: Any, make_settings: MakeSettings
) -> None:
    """A stranger at its address must not keep a good key from being looked up, and inventing keys gets nobody far."""
    app = make_app(make_settings(rate_limit=LOW))
    keys = [{"x-test-caller": f"unproven,,{number}"} for number in range(10)]
    async with client_of(app) as client, client_of(app, "203.0.113.10") as neighbour:
        assert await admitted(client) == 3
        answers = [(await client.get("/others", headers=key)).status_code for key in keys]
        assert answers == [200] * 3 + [429] * 7
        assert await admitted(neighbour, headers=keys[0]) == 3
        logins = [
            (await client.post("/auth/login", headers=key)).status_code for key in (keys[0], {}, keys[1])
        ]
        assert logins == [200, 200, 429]


async def test_the_answer_tells_of_the_quota(make_app: Any, make_settings: MakeSettings) -> None:
    async with client_of(make_app(make_settings(rate_limit=LOW))) as client:
        answer = await client.get("/others")
    assert answer.status_code == 200
    assert answer.headers["ratelimit-policy"] == '"anonymous";q=3;w=60'
    assert answer.headers["ratelimit"].startswith('"anonymous";r=2;t=')
    assert "retry-after" not in answer.headers


async def test_one_too_many_is_a_429_in_the_shape_of_failures(
    make_app: Any, make_settings: MakeSettings
) -> None:
    async with client_of(make_app(make_settings(rate_limit=LOW))) as client:
        for _ in range(3):
            assert (await client.get("/others")).status_code == 200
        answer = await client.get("/others")
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["ratelimit-policy"] == '"anonymous";q=3;w=60'
    assert answer.headers["ratelimit"].startswith('"anonymous";r=0;t=')
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    body = answer.json()
    assert body["success"] is False
    assert body["message"] == body["detail"] == "Rate limit exceeded"
    assert body["error_code"] == "RATE_LIMIT_EXCEEDED"
    assert body["status"] == 429
    assert body["title"] == "Too many requests"
    assert len(answer.headers.get_list("ratelimit")) == len(answer.headers.get_list("retry-after")) == 1


async def test_walking_through_ids_gets_no_fresh_quota(make_app: Any, make_settings: MakeSettings) -> None:
    async with client_of(make_app(make_settings(rate_limit=LOW))) as client:
        statuses = [(await client.get(f"/things/{number}")).status_code for number in range(10)]
        assert statuses == [200] * 3 + [429] * 7
        paths = [(await client.get(f"/nowhere/{number}")).status_code for number in range(10)]
        assert paths == [404] * 3 + [429] * 7
        assert (await client.get("/others")).status_code == 200, "another route has its own"


async def test_each_class_of_callers_has_its_quota_and_each_caller_its_own(
    make_app: Any, make_settings: MakeSettings
) -> None:
    async with client_of(make_app(make_settings(rate_limit=LOW))) as client:

        async def as_caller(caller: str) -> int:
            return await admitted(client, headers={"x-test-caller": caller})

        assert await admitted(client) == 3
        assert await as_caller("user,user,user:1") == 4
        assert await as_caller("user,user,user:2") == 4
        assert await as_caller("api_key,user,api_key:a") == 5
        assert await as_caller("user,admin,user:3") == 6
        assert await as_caller("known,,user:1") == 0, "the same user, whose standing is being read again"
        assert await as_caller("known,,api_key:b") == 5


async def test_signing_in_counts_by_address_whoever_is_signed_in(
    make_app: Any, make_settings: MakeSettings
) -> None:
    app = make_app(make_settings(rate_limit=LOW))
    async with client_of(app) as client:
        statuses = [
            (
                await client.post("/auth/login", headers={"x-test-caller": f"user,user,user:{number}"})
            ).status_code
            for number in range(4)
        ]
    assert statuses == [200, 200, 429, 429]
    async with client_of(app, "203.0.113.10") as client:
        assert (await client.post("/auth/login")).status_code == 200


async def test_a_route_may_have_a_rate_of_its_own(make_app: Any, make_settings: MakeSettings) -> None:
    limits = {**LOW, "routes": {"GET /others": "1/minute"}}
    async with client_of(make_app(make_settings(rate_limit=limits))) as client:
        assert await admitted(client) == 1
        assert (await client.post("/reports")).headers["ratelimit-policy"] == '"route";q=1;w=3600'
        assert (await client.post("/reports")).status_code == 429


async def test_a_route_in_the_place_of_another_has_its_own_rate(
    make_app: Any, make_settings: MakeSettings
) -> None:
    app = make_app(make_settings(rate_limit=LOW))
    async with client_of(app) as client:
        assert (await client.post("/reports")).status_code == 200
        app.router.routes[:] = [one for one in app.router.routes if getattr(one, "path", "") != "/reports"]

        @app.post("/reports")
        @rate_limit("2/day")
        async def report() -> dict[str, Any]:
            return {}

        answers = [await client.post("/reports") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]


@pytest.mark.parametrize("path", ["/reports%0A", "/reports/%0A"])
async def test_a_newline_after_the_path_is_no_way_around_a_route_s_policy(
    make_app: Any, make_settings: MakeSettings, path: str
) -> None:
    async with client_of(make_app(make_settings(rate_limit=LOW))) as client:
        assert (await client.post("/reports")).status_code == 200
        assert (await client.post("/reports")).status_code == 429
        assert (await client.post(path)).status_code == 404


async def test_a_spoofed_forwarded_address_changes_nothing(
    make_app: Any, make_settings: MakeSettings
) -> None:
    settings = make_settings(rate_limit=LOW)
    async with client_of(make_app(settings)) as client:
        statuses = [
            (await client.get("/others", headers={"x-forwarded-for": f"198.51.100.{number}"})).status_code
            for number in range(6)
        ]
    assert statuses == [200] * 3 + [429] * 3


async def test_behind_a_trusted_proxy_each_client_counts_for_itself(
    make_app: Any, make_settings: MakeSettings
) -> None:
    settings = make_settings(rate_limit=LOW, security={"trusted_proxies": ["203.0.113.0/24"]})
    async with client_of(make_app(settings)) as client:
        for number in range(3):
            headers = {"x-forwarded-for": f"6.6.6.{number}, 198.51.100.{number}"}
            assert await admitted(client, headers=headers) == 3
            spoofed = {"x-forwarded-for": f"7.7.7.7, 198.51.100.{number}"}
            assert await admitted(client, headers=spoofed) == 0


async def test_probes_are_always_answered(make_app: Any, make_settings: MakeSettings) -> None:
    async with client_of(make_app(make_settings(rate_limit=LOW))) as client:
        assert await admitted(client, "/health/live") == 10


async def test_the_middleware_can_be_switched_off(make_settings: MakeSettings) -> None:
    async with client_of(guide_app(make_settings(rate_limit={**LOW, "enabled": False}))) as client:
        assert await admitted(client) == 10


async def test_the_guides_middleware_on_the_platforms_application_counts_nothing_twice(
    make_settings: MakeSettings,
) -> None:
    settings = make_settings(rate_limit=LOW)
    app = platform_app(settings)
    app.add_middleware(RateLimitingMiddleware, cache_manager=CacheManager(settings), settings=settings)
    async with client_of(app) as client:
        answer = await client.get("/others")
        assert len(answer.headers.get_list("ratelimit")) == 1
        assert await admitted(client) == 2


async def test_the_middleware_works_around_any_application(make_settings: MakeSettings) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    limited = RateLimitingMiddleware(app, settings=make_settings(rate_limit=LOW))
    async with client_of(limited) as client:
        assert await admitted(client) == 3


async def test_what_is_not_http_passes(make_settings: MakeSettings) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    limited = RateLimitingMiddleware(app, settings=make_settings(rate_limit=LOW))
    for kind in ("lifespan", "websocket"):
        await limited({"type": kind}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan", "websocket"]


async def test_concurrent_requests_share_the_quota(make_app: Any, make_settings: MakeSettings) -> None:
    async with client_of(make_app(make_settings(rate_limit=LOW))) as client:
        answers = await asyncio.gather(*(client.get("/others") for _ in range(30)))
    assert sum(answer.status_code == 200 for answer in answers) == 3


def test_a_rate_that_makes_no_sense_keeps_the_application_from_starting(make_settings: MakeSettings) -> None:
    settings = make_settings(rate_limit={"auth": "sometimes"})
    with pytest.raises(ConfigurationError, match="RATE_LIMIT__AUTH"):
        RateLimits(settings, RedisConnections(settings.redis))


def checked(settings: Settings, app: FastAPI) -> None:
    table = RouteTable(app, body_limit_bytes=0, timeout_seconds=0.0)
    RateLimits(settings, RedisConnections(settings.redis)).check_routes(table.prepare())


def test_a_mark_that_names_no_policy_is_found_at_the_start(make_settings: MakeSettings) -> None:
    app = FastAPI()
    add_routes(app)
    checked(make_settings(), app)

    @app.get("/wrong")
    @rate_limit("reprots")
    async def wrong() -> None: ...

    with pytest.raises(ConfigurationError, match="reprots"):
        checked(make_settings(), app)


def test_a_limited_route_that_does_not_exist_is_told_at_the_start(make_settings: MakeSettings) -> None:
    app = FastAPI()
    add_routes(app)
    routes = {
        "/others": "1/second",
        "POST /reports": "2/hour",
        "POST /others": "1/hour",
        "/reprots": "1/hour",
    }
    with capture_logs() as lines:
        checked(make_settings(rate_limit={"routes": routes}), app)
    assert {line["route"] for line in lines} == {"POST /others", "/reprots"}
