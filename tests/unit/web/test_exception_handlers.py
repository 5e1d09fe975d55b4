"""Handlers that a product adds: each is asked wherever the failure comes from, and may be plain `def`."""

import asyncio
import threading

import httpx
import pytest
import structlog
from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import APIException, RateLimitExceededException
from scalable_fastapi_system.web.limits import request_timeout
from scalable_fastapi_system.web.middleware import PlatformMiddleware
from scalable_fastapi_system.web.platform_api import PlatformAPI
from scalable_fastapi_system.web.problems import install_error_handlers
from starlette.exceptions import HTTPException as StarletteHTTPException


def make_app(**extras):
    settings = Settings(_env_file=None, api={"max_body_bytes": 1024}, security={"allowed_hosts": ["test"]})
    app = PlatformAPI(
        platform=lambda inner, owner: PlatformMiddleware(
            inner, owner=owner, settings=settings, metrics=None, **extras
        )
    )
    install_error_handlers(app)

    @app.post("/raw")
    async def raw(request: Request):
        return {"bytes": len(await request.body())}

    @app.get("/broken")
    async def broken():
        raise RuntimeError("the secret inside")

    @app.get("/numbers/{number:int}")
    async def read(number: int):
        return number

    @app.get("/slow")
    @request_timeout(0.02)
    async def slow():
        await asyncio.sleep(30)

    return app


def client_of(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def mine(_request, error):
    return JSONResponse({"mine": type(error).__name__}, status_code=getattr(error, "status_code", 500))


async def mine_async(request, error):
    return mine(request, error)


async def test_a_handler_reads_a_body_within_the_limit_that_refused_it():
    app, read = make_app(), []

    async def reads(request, error):
        read.append(await request.body())
        return mine(request, error)

    app.add_exception_handler(StarletteHTTPException, reads)

    async def endless():
        for _ in range(10_000):
            yield b"a" * 1000
        raise AssertionError("all of it was read")

    async with client_of(app) as client:
        assert (await client.post("/raw", content=b"a" * 2000)).status_code == 413
        assert (await client.post("/raw", content=endless())).status_code == 413
        assert (await client.post("/nowhere", content=b"a" * 100)).json() == {"mine": "HTTPException"}
    assert read == [b"a" * 100]


async def test_a_plain_handler_does_not_wait_for_the_threads_of_endpoints():
    app, may_end = make_app(), threading.Event()
    app.add_exception_handler(StarletteHTTPException, mine)

    @app.get("/holds")
    def holds():
        may_end.wait(60)

    async with client_of(app) as client:
        held = [asyncio.create_task(client.get("/holds")) for _ in range(45)]  # there are 40 threads
        try:
            async with asyncio.timeout(30):
                answer = await client.get("/nowhere")
        finally:
            may_end.set()
            await asyncio.gather(*held)
    assert answer.json() == {"mine": "HTTPException"}


@pytest.mark.parametrize("handler", [mine, mine_async])
@pytest.mark.parametrize("key", [Exception, 500])
async def test_a_handler_for_all_that_fails_may_be_plain_def(key, handler):
    app = make_app()
    app.add_exception_handler(key, handler)
    async with client_of(app) as client:
        answer = await client.get("/broken")
    assert (answer.status_code, answer.json()) == (500, {"mine": "RuntimeError"})
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("handler", [mine, mine_async])
@pytest.mark.parametrize("key", [413, StarletteHTTPException])
async def test_a_body_that_is_too_large_is_handled_alike_however_its_length_is_told(key, handler):
    async def chunks():
        yield b"x" * 2000

    app = make_app()
    app.add_exception_handler(key, handler)
    async with client_of(app) as client:
        answers = [await client.post("/raw", content=content) for content in (b"x" * 2000, chunks())]
    assert [answer.json() for answer in answers] == [{"mine": "HTTPException"}] * 2


async def test_the_pass_s_own_refusals_go_to_the_handler_for_their_class():
    def admit(scope, facts):
        if scope["headers"] and (b"x-many", b"1") in scope["headers"]:
            raise RateLimitExceededException("Too many")
        return []

    app = make_app(admission=admit)
    app.add_exception_handler(APIException, mine)
    app.add_exception_handler(404, mine)
    async with client_of(app) as client:
        asked = [
            await client.get("/broken", headers={"x-many": "1"}),
            await client.get("/broken", headers={"host": "evil.example"}),
            await client.get("/slow"),
            await client.get(f"/numbers/{'7' * 5000}"),
        ]
    assert [(answer.status_code, answer.json()["mine"]) for answer in asked] == [
        (429, "RateLimitExceededException"),
        (400, "APIException"),
        (503, "ServiceUnavailableException"),
        (404, "HTTPException"),
    ]


@pytest.mark.parametrize("key", [APIException, Exception])
@pytest.mark.parametrize("gives", ["an error", "nothing"])
async def test_a_handler_that_fails_is_asked_once_and_gives_a_500(monkeypatch, key, gives):
    reported = []
    monkeypatch.setattr(
        "scalable_fastapi_system.web.middleware.report_error", lambda error, **_tags: reported.append(error)
    )
    calls = []

    async def fail(_request, error):
        calls.append(error)
        if gives == "an error":
            raise error

    def admit(scope, facts):
        if key is APIException:
            raise RateLimitExceededException("Too many")
        return []

    app = make_app(admission=admit)
    app.add_exception_handler(key, fail)
    with structlog.testing.capture_logs() as lines:
        async with client_of(app) as client:
            answer = await client.get("/broken")
    assert (answer.status_code, answer.json()["error_code"]) == (500, "INTERNAL_ERROR")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert len(calls) == 1
    assert reported
    assert "exception handler failed" in [line["event"] for line in lines]


async def test_what_a_middleware_s_http_exception_tells_beside_its_status_is_data():
    app = make_app()

    @app.middleware("http")
    async def refuse(request, call_next):
        raise HTTPException(403, detail={"code": "LEFT"}, headers={"x-why": "left"})

    async with client_of(app) as client:
        answer = await client.get("/broken")
    body = answer.json()
    assert (answer.status_code, body["message"], body["data"]) == (403, "Forbidden", {"code": "LEFT"})
    assert answer.headers["x-why"] == "left"
