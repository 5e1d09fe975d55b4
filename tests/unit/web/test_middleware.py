"""The one pass: ids, headers, limits, failures, metrics and the log line, without any store."""

import asyncio
import gc
import json
import weakref

import httpx
import pytest
import structlog
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import EventSourceResponse, StreamingResponse
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict
from scalable_fastapi_system.infra.metrics import MetricsManager
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import APIException, NotFoundException, RateLimitExceededException
from scalable_fastapi_system.web.limits import body_limit, carries_secrets, request_timeout
from scalable_fastapi_system.web.middleware import PlatformMiddleware
from scalable_fastapi_system.web.platform_api import PlatformAPI
from scalable_fastapi_system.web.problems import install_error_handlers
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Host


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    password: str = "x"


def make_app(settings=None, **extras):
    settings = settings or Settings(_env_file=None)
    app = PlatformAPI(
        platform=lambda inner, owner: PlatformMiddleware(
            inner, owner=owner, settings=settings, metrics=extras.pop("metrics", None), **extras
        )
    )
    install_error_handlers(app)

    @app.get("/things/{thing_id}")
    async def thing(thing_id: int, request: Request):
        return {"id": thing_id, "request_id": request.state.request_id}

    @app.post("/things")
    async def make(thing: Thing):
        return thing

    @app.post("/raw")
    async def raw(request: Request):
        return {"bytes": len(await request.body())}

    @app.post("/large")
    @body_limit(5000)
    async def large(request: Request):
        return {"bytes": len(await request.body())}

    @app.get("/missing")
    async def missing():
        raise NotFoundException("No such thing")

    @app.get("/broken")
    async def broken():
        raise RuntimeError("the secret inside")

    @app.get("/slow")
    @request_timeout(0.05)
    async def slow():
        await asyncio.sleep(5)

    @app.get("/text")
    async def text():
        return {"text": "a" * 5000}

    @app.get("/secret")
    @carries_secrets
    async def secret():
        return {"text": "a" * 5000}

    @app.get("/health/live")
    async def live():
        return {}

    return app


def client_of(app, **options):
    transport = httpx.ASGITransport(app=app, client=("203.0.113.9", 4000))
    return httpx.AsyncClient(transport=transport, base_url="http://test", **options)


@pytest.fixture
async def client():
    async with client_of(make_app()) as made:
        yield made


async def test_every_answer_has_a_request_id_and_the_endpoint_sees_the_same(client):
    response = await client.get("/things/5")
    assert response.headers["x-request-id"] == response.json()["request_id"]
    assert len(response.headers["x-request-id"]) == 32


async def test_a_good_inbound_request_id_is_kept_and_a_strange_one_replaced(client):
    kept = await client.get("/things/5", headers={"X-Request-ID": "abc-123"})
    assert kept.headers["x-request-id"] == "abc-123"
    replaced = await client.get("/things/5", headers={"X-Request-ID": "a b;c"})
    assert replaced.headers["x-request-id"] != "a b;c"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("DELETE", "/text", 405),
        ("GET", "/things/five", 422),
        ("GET", "/missing", 404),
        ("GET", "/broken", 500),
        ("GET", "/slow", 503),
    ],
)
async def test_every_failure_has_the_envelope_the_problem_members_and_the_headers(
    client, method, path, status
):
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert body["success"] is False
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["status"] == status
    assert body["message"] == body["detail"]
    assert body["instance"] == path
    assert body["error_code"]
    assert body["type"].startswith("urn:")
    assert "the secret inside" not in response.text


async def test_a_405_says_what_is_allowed(client):
    assert (await client.delete("/text")).headers["allow"] == "GET"


async def test_a_validation_error_names_the_field_and_never_repeats_the_input(client):
    response = await client.post("/things", json={"name": 5, "password": "hunter2", "is_admin": True})
    body = response.json()
    assert response.status_code == 422
    assert "body.is_admin: Extra inputs are not permitted" in body["errors"]
    assert all(isinstance(error, str) for error in body["errors"])
    assert "hunter2" not in response.text


async def test_a_broken_json_body_is_a_422_in_the_same_shape(client):
    response = await client.post("/things", content=b"{", headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.json()["success"] is False


@pytest.mark.parametrize("body", [b'{"name": "\xff"}', b"[" * 200_000, b'{"name": ' + b"1" * 5000 + b"}"])
async def test_json_that_python_does_not_read_is_a_400_in_the_same_shape(client, body):
    response = await client.post("/things", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error_code"]) == (400, "BAD_REQUEST")


async def test_a_body_over_the_limit_is_refused_by_its_declared_length():
    async with client_of(make_app(Settings(_env_file=None, api={"max_body_bytes": 1024}))) as client:
        assert (await client.post("/raw", content=b"x" * 1024)).json() == {"bytes": 1024}
        refused = await client.post("/raw", content=b"x" * 1025)
        assert refused.status_code == 413
        assert refused.json()["error_code"] == "PAYLOAD_TOO_LARGE"


async def test_a_chunked_body_is_counted_as_it_comes():
    async def chunks(count):
        for _ in range(count):
            yield b"x" * 512

    async with client_of(make_app(Settings(_env_file=None, api={"max_body_bytes": 1024}))) as client:
        assert (await client.post("/raw", content=chunks(2))).json() == {"bytes": 1024}
        refused = await client.post("/raw", content=chunks(3))
        assert refused.status_code == 413


async def test_an_endpoint_may_have_its_own_body_limit():
    async with client_of(make_app(Settings(_env_file=None, api={"max_body_bytes": 1024}))) as client:
        assert (await client.post("/large", content=b"x" * 5000)).json() == {"bytes": 5000}
        assert (await client.post("/large", content=b"x" * 5001)).status_code == 413


async def test_a_body_that_stops_coming_is_cut_off():
    app = make_app(Settings(_env_file=None, api={"slow_client_seconds": 0.05}))
    sent = []

    async def receive():
        await asyncio.sleep(30)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/raw",
        "headers": [(b"host", b"test"), (b"content-length", b"10")],
        "query_string": b"",
        "client": ("203.0.113.9", 1),
        "server": ("test", 80),
        "scheme": "http",
        "http_version": "1.1",
        "asgi": {"version": "3.0"},
    }
    await asyncio.wait_for(app(scope, receive, send), 5)
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_a_full_process_refuses_at_once_but_answers_probes():
    app = make_app(Settings(_env_file=None, api={"max_concurrent_requests": 1}))
    release = asyncio.Event()

    @app.get("/wait")
    async def wait():
        await release.wait()
        return {}

    async with client_of(app) as client:
        first = asyncio.create_task(client.get("/wait"))
        await asyncio.sleep(0.05)
        refused = await client.get("/text")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (await client.get("/health/live")).status_code == 200
        release.set()
        assert (await first).status_code == 200
        assert (await client.get("/text")).status_code == 200


@pytest.mark.parametrize("is_innermost", [True, False])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_number_that_python_does_not_read_is_a_404(method, is_innermost):
    app = make_app()

    @app.get("/numbers/{number:int}")
    async def read(number: int):
        return number

    if not is_innermost:
        app.add_middleware(GZipMiddleware)
    async with client_of(app) as client:
        answer = await client.request(method, f"/numbers/{'7' * 5000}")
        assert (answer.status_code, answer.json()["error_code"]) == (404, "NOT_FOUND")
        assert (await client.get("/numbers/7")).json() == 7


async def test_a_request_whose_beginning_fails_leaves_its_place(monkeypatch):
    app = make_app()
    async with client_of(app) as client:
        await client.get("/text")
        room = app.state.waiting_line.room

        def fail(*_arguments):
            raise RuntimeError("no facts")

        monkeypatch.setattr("scalable_fastapi_system.web.route_table.RouteTable.find", fail)
        room.starting += 1  # as the server's protocol counts it
        with pytest.raises(RuntimeError):
            await client.get("/text")
    assert (room.starting, room.at_work) == (0, 0)


async def test_a_stream_that_waits_for_its_reader_is_counted_once():
    app = make_app()
    reads = asyncio.Event()

    @app.get("/events", response_class=EventSourceResponse)
    async def events():
        yield "one"

    async def send(message):
        if message["type"] == "http.response.body":
            await reads.wait()

    async with client_of(app) as client:
        await client.get("/text")
    room = app.state.waiting_line.room
    cycle = ServersCycle("/events")
    following = asyncio.create_task(app(cycle.scope, asyncio.Event().wait, send))
    async with asyncio.timeout(30):
        while not room.streams:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert (room.at_work, room.taken) == (1, 0)
        reads.set()
        await following
    assert (room.at_work, room.taken, room.waiting, room.streams) == (0, 0, 0, 0)


async def chunks_of(app, send=None):
    """Asks for the stream at /chunks as a server that tells of a client that left by raising: the error, and what is counted."""
    registry = CollectorRegistry()
    app = app(metrics=MetricsManager(registry))
    begun = ServersCycle("/chunks")
    begun.scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}

    async def take(_message):
        pass

    try:
        await app(begun.scope, asyncio.Event().wait, send or take)
    except Exception as error:  # noqa: BLE001 - whatever reaches the server
        found = error
    else:
        found = None
    counted = {
        status: registry.get_sample_value(
            "http_requests_total", {"method": "GET", "handler": "/chunks", "status": status}
        )
        for status in ("2xx", "5xx")
    }
    return found, counted


def streaming(error):
    def make(**extras):
        app = make_app(**extras)

        @app.get("/chunks")
        async def chunks():
            async def content():
                yield "a"
                if error is not None:
                    raise error

            return StreamingResponse(content())

        return app

    return make


async def test_a_failure_in_mid_answer_is_reported_and_counted_as_one(monkeypatch):
    reported = []
    monkeypatch.setattr(
        "scalable_fastapi_system.web.middleware.report_error",
        lambda error, **tags: reported.append((error, tags["route"])),
    )
    defect = RuntimeError("broken")
    with structlog.testing.capture_logs() as lines:
        found, counted = await chunks_of(streaming(defect))
    assert found is defect, "the server is to break the answer off"
    assert counted == {"2xx": 0, "5xx": 1}
    assert reported == [(defect, "/chunks")]
    assert [(line["event"], line.get("status")) for line in lines] == [
        ("failed while answering", None),
        ("request", 500),
    ]


async def test_a_client_that_leaves_in_mid_answer_is_no_failure(monkeypatch):
    reported = []
    monkeypatch.setattr(
        "scalable_fastapi_system.web.middleware.report_error", lambda error, **_tags: reported.append(error)
    )

    async def leave(message):
        if message["type"] == "http.response.body":
            raise OSError("gone")

    found, counted = await chunks_of(streaming(None), leave)
    assert (found, reported) == (None, [])
    assert counted == {"2xx": 1, "5xx": 0}


async def test_large_answers_are_compressed_unless_they_carry_secrets(client):
    assert (await client.get("/text")).headers.get("content-encoding") == "gzip"
    assert "content-encoding" not in (await client.get("/secret")).headers


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [
        ("gzip, deflate, br", True),
        ("gzip;q=0", False),
        ("deflate, gzip ; Q=0.000", False),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("*;q=0, gzip", True),
        ("identity;q=0.5, gzip;q=1.0", True),
        ("identity, gzip;q=0.5", False),
        ("x-gzip;q=0.5", True),
        ("gzip;q=much", False),
    ],
)
async def test_an_answer_is_compressed_where_the_client_s_weights_allow_it(client, accepted, is_packed):
    answer = await client.get("/text", headers={"Accept-Encoding": accepted})
    assert (answer.headers.get("content-encoding") == "gzip") is is_packed
    assert len(answer.json()["text"]) == 5000


async def test_an_answer_to_somebody_signed_in_is_not_stored_by_caches(client):
    assert "cache-control" not in (await client.get("/text")).headers
    assert (await client.get("/text", headers={"Authorization": "Bearer x"})).headers[
        "cache-control"
    ] == "no-store"


async def test_requests_are_counted_by_route_and_unknown_paths_together():
    registry = CollectorRegistry()
    async with client_of(make_app(metrics=MetricsManager(registry))) as client:
        for number in range(50):
            await client.get(f"/things/{number}")
            await client.get(f"/nowhere/{number}")
    totals = {
        (sample.labels["handler"], sample.labels["status"]): sample.value
        for family in registry.collect()
        if family.name == "http_requests"
        for sample in family.samples
        if sample.name == "http_requests_total" and sample.value  # the others are only prepared
    }
    assert totals == {("/things/{thing_id}", "2xx"): 50, ("none", "4xx"): 50}


@pytest.mark.parametrize("prefix", ["/app", ""], ids=["kept in the path", "taken off by a proxy"])
async def test_a_root_path_hides_no_route_and_none_of_its_marks(prefix):
    registry = CollectorRegistry()
    app = make_app(Settings(_env_file=None, api={"max_body_bytes": 1024}), metrics=MetricsManager(registry))
    transport = httpx.ASGITransport(app, root_path="/app")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.post(f"{prefix}/raw", content=b"a" * 4000)).status_code == 413
        assert (await client.post(f"{prefix}/large", content=b"a" * 4000)).json() == {"bytes": 4000}
    labels = {"method": "POST", "handler": "/large", "status": "2xx"}
    assert registry.get_sample_value("http_requests_total", labels) == 1


async def test_a_mounted_application_of_the_platform_has_the_request_id_of_the_outer_one():
    outer = make_app()
    outer.mount("/in", make_app())
    async with client_of(outer) as client:
        answer = await client.get("/in/things/1")
    assert answer.headers.get_list("x-request-id") == [answer.json()["request_id"]]


async def test_how_long_a_client_follows_a_stream_is_no_duration_of_a_request():
    registry = CollectorRegistry()
    app = make_app(metrics=MetricsManager(registry))

    @app.get("/stream")
    @request_timeout(None)
    async def stream():
        return {}

    async with client_of(app) as client:
        for path in ("/stream", "/text"):
            await client.get(path)

    def value(name, handler, **labels):
        return registry.get_sample_value(name, {"method": "GET", "handler": handler, **labels})

    for handler, timed in (("/stream", 0), ("/text", 1)):
        assert value("http_requests_total", handler, status="2xx") == 1
        assert value("http_request_duration_seconds_count", handler) == timed
    assert registry.get_sample_value("http_request_duration_highr_seconds_count") == 1


async def test_methods_that_nobody_knows_make_no_series_of_their_own():
    registry = CollectorRegistry()
    async with client_of(make_app(metrics=MetricsManager(registry))) as client:
        for method in ("PROPFIND", "MKCOL"):
            for path in ("/text", "/things/5"):
                assert (await client.request(method, path)).status_code == 405
    shown = generate_latest(registry).decode()
    assert "PROPFIND" not in shown
    assert "MKCOL" not in shown
    for handler in ("/text", "/things/{thing_id}"):
        labels = {"method": "_OTHER", "status": "4xx", "handler": handler}
        assert registry.get_sample_value("http_requests_total", labels) == 2


async def test_each_request_writes_one_line_without_its_query():
    async with client_of(make_app()) as client:
        with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
            response = await client.get("/things/5?token=canary")
    (line,) = logs
    assert (line["event"], line["status"], line["route"]) == ("request", 200, "/things/{thing_id}")
    assert line["request_id"] == response.headers["x-request-id"]
    assert line["client"] == "203.0.113.9"
    assert "canary" not in json.dumps(line)


async def test_an_unhandled_exception_is_logged_with_its_traceback_and_request_id():
    async with client_of(make_app()) as client:
        with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
            response = await client.get("/broken")
    failure = next(line for line in logs if line["event"] == "unhandled exception")
    assert isinstance(failure["exc_info"], RuntimeError)
    assert failure["request_id"] == response.json()["request_id"]


async def test_a_handler_for_exception_that_the_user_added_is_used():
    app = make_app()

    async def mine(request, error):
        from starlette.responses import JSONResponse

        return JSONResponse({"mine": True}, status_code=500)

    app.add_exception_handler(Exception, mine)
    async with client_of(app) as client:
        assert (await client.get("/broken")).json() == {"mine": True}


async def test_only_allowed_hosts_are_served():
    settings = Settings(_env_file=None, security={"allowed_hosts": ["api.example", "*.inside.example"]})
    async with client_of(make_app(settings)) as client:
        assert (await client.get("/text", headers={"host": "evil.example"})).status_code == 400
        assert (await client.get("/text", headers={"host": "api.example:8000"})).status_code == 200
        assert (await client.get("/text", headers={"host": "a.inside.example"})).status_code == 200
        assert (await client.get("/health/live", headers={"host": "10.1.2.3"})).status_code == 200


@pytest.mark.parametrize(
    ("hosts", "version", "status"),
    [
        (["test"], "1.1", 200),
        ([""], "1.1", 200),
        ([], "1.1", 400),
        (["evil.example", "test"], "1.1", 400),
        (["test", "test"], "1.1", 400),
        (["evil.example", "test"], "1.0", 400),
        ([], "1.0", 200),
        ([], "2", 200),
    ],
)
async def test_a_request_names_one_host(hosts, version, status):
    app = make_app()
    for path, origin in (
        ("/text", []),
        ("/health/live", []),
        ("/text", [(b"origin", b"https://app.example")]),
    ):
        cycle = ServersCycle(path)
        cycle.scope["headers"] = [*((b"host", host.encode()) for host in hosts), *origin]
        cycle.scope["http_version"] = version
        await app(cycle.scope, cycle.receive, cycle.send)
        assert cycle.status == status


async def test_cross_origin_calls_are_allowed_for_named_origins_only():
    settings = Settings(
        _env_file=None, security={"cors_origins": ["https://app.example"], "cors_allow_credentials": True}
    )
    async with client_of(make_app(settings)) as client:
        allowed = await client.get("/text", headers={"Origin": "https://app.example"})
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        other = await client.get("/text", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        preflight = await client.options(
            "/things", headers={"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        )
        assert preflight.status_code == 200
        assert preflight.headers["x-request-id"]


@pytest.mark.parametrize("origin", [None, "https://app.example", "https://evil.example"])
async def test_a_cache_is_told_that_answers_vary_by_origin(origin):
    settings = Settings(_env_file=None, security={"cors_origins": ["https://app.example"]})
    async with client_of(make_app(settings)) as client:
        answer = await client.get("/text", headers={"Origin": origin} if origin else {})
    assert [name.strip() for name in answer.headers["vary"].split(",")].count("Origin") == 1


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/things/5", {"Host": "evil.example"}, 400),
        ("POST", "/raw", {"Idempotency-Key": "a-key"}, 400),
        ("POST", "/raw", {"Content-Length": "1025"}, 413),
        ("GET", "/text", {}, 429),
        ("GET", "/broken", {}, 500),
        ("GET", "/slow", {}, 503),
    ],
)
async def test_pages_of_named_origins_may_read_what_the_pass_answers_itself(method, path, headers, status):
    def admit(scope, facts):
        if facts.template == "/text":
            raise RateLimitExceededException(headers={"Retry-After": "7"})
        return []

    def once(app, facts, key):
        async def refuse(scope, receive, send):
            raise APIException("No key is taken here", 400, "IDEMPOTENCY_KEY_NOT_TAKEN")

        return refuse

    settings = Settings(
        _env_file=None,
        api={"max_body_bytes": 1024},
        security={"cors_origins": ["https://app.example"], "allowed_hosts": ["test"]},
    )
    async with client_of(make_app(settings, admission=admit, once=once)) as client:
        mine = await client.request(method, path, headers={**headers, "Origin": "https://app.example"})
        other = await client.request(method, path, headers={**headers, "Origin": "https://evil.example"})
        none = await client.request(method, path, headers=headers)
    assert [answer.status_code for answer in (mine, other, none)] == [status] * 3
    assert mine.headers.get_list("access-control-allow-origin") == ["https://app.example"]
    assert "Retry-After" in mine.headers["access-control-expose-headers"]
    assert "X-Request-ID" in mine.headers["access-control-expose-headers"]
    assert "Origin" in mine.headers["vary"]
    assert mine.headers["x-request-id"] == mine.json()["request_id"]
    assert "access-control-allow-origin" not in other.headers
    assert "access-control-allow-origin" not in none.headers


async def test_a_key_does_not_make_a_post_of_a_path_that_takes_none():
    def once(app, facts, key):
        async def refuse(scope, receive, send):
            raise APIException("No key is taken here", 400, "IDEMPOTENCY_KEY_NOT_TAKEN")

        return refuse

    async with client_of(make_app(once=once)) as client:
        for path, status in (("/text", 405), ("/things/5", 405), ("/nowhere", 404), ("/raw", 400)):
            answer = await client.post(path, headers={"Idempotency-Key": "a-key"})
            assert answer.status_code == status


async def test_an_endpoint_s_own_security_headers_are_the_only_ones_and_the_request_id_is_ours():
    app = make_app()

    @app.get("/framed")
    async def framed():
        own = {
            "X-Frame-Options": "SAMEORIGIN",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "X-Request-ID": "theirs",
            "Content-Security-Policy": "frame-ancestors 'self'",
        }
        return Response("page", headers=own)

    async with client_of(app) as client:
        answer = await client.get("/framed", headers={"X-Request-ID": "mine"})
    names = [name for name, _ in answer.headers.multi_items()]
    assert len(names) == len(set(names))
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert answer.headers["content-security-policy"] == "frame-ancestors 'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"] == "mine"


async def test_an_answer_may_begin_without_headers():
    app = make_app()

    async def bare(scope, receive, send):
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    app.mount("/bare", bare)
    async with client_of(app) as client:
        for accepted in ("identity", "gzip"):
            answer = await client.get("/bare/", headers={"Accept-Encoding": accepted})
            assert answer.status_code == 204
            assert answer.headers["x-request-id"]


async def test_the_admission_s_headers_are_added_and_its_refusal_is_an_answer():
    def admit(scope, facts):
        if facts.template == "/text":
            raise APIException("Rate limit exceeded", 429, headers={"Retry-After": "7"})
        return [(b"ratelimit", b'"default";r=9;t=60')]

    async with client_of(make_app(admission=admit)) as client:
        assert (await client.get("/things/1")).headers["ratelimit"] == '"default";r=9;t=60'
        refused = await client.get("/text")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
        assert (await client.get("/health/live")).headers.get("ratelimit") is None


async def test_middleware_that_somebody_adds_runs_inside_and_its_answers_get_the_headers():
    app = make_app()

    @app.middleware("http")
    async def tag(request, call_next):
        if request.url.path == "/text":
            from starlette.responses import PlainTextResponse

            return PlainTextResponse("short cut")
        response = await call_next(request)
        response.headers["x-mine"] = request.state.request_id
        return response

    async with client_of(app) as client:
        through = await client.get("/things/5")
        assert through.headers["x-mine"] == through.headers["x-request-id"]
        short = await client.get("/text")
        assert short.text == "short cut"
        assert short.headers["x-content-type-options"] == "nosniff"
        assert (await client.get("/broken")).status_code == 500


async def test_included_routers_keep_their_prefix_dependencies_and_overrides():
    app = make_app()

    async def who():
        return "real"

    async def outer(request: Request):
        request.state.outer = True

    router = APIRouter(prefix="/inner")

    @router.get("/{name}/x")
    async def inner(name: str, request: Request, who: str = Depends(who)):
        return {"name": name, "who": who, "outer": request.state.outer, "route": request.scope["route"].path}

    app.include_router(router, prefix="/api", dependencies=[Depends(outer)])
    async with client_of(app) as client:
        body = (await client.get("/api/inner/bob/x")).json()
        assert (body["name"], body["who"], body["outer"]) == ("bob", "real", True)
        app.dependency_overrides[who] = lambda: "fake"
        assert (await client.get("/api/inner/bob/x")).json()["who"] == "fake"


async def test_what_an_http_exception_tells_beside_its_status_reaches_the_client():
    app = make_app()

    @app.get("/left")
    async def left():
        raise HTTPException(409, detail={"code": "LEFT", "left": 3})

    async with client_of(app) as client:
        body = (await client.get("/left")).json()
        assert (body["message"], body["detail"], body["data"]) == (
            "Conflict",
            "Conflict",
            {"code": "LEFT", "left": 3},
        )
        assert "data" not in (await client.get("/nowhere")).json()


@pytest.mark.parametrize(("path", "own"), [("/seen", {}), ("/seen/{name}", {"name": "x"})])
async def test_the_parameters_of_a_host_around_the_application_reach_the_endpoint(path, own):
    app = make_app()

    @app.get(path)
    async def seen(request: Request):
        return request.path_params

    outer = Starlette(routes=[Host("{tenant}.test", app)])
    async with client_of(outer) as client:
        response = await client.get(path.format(name="x"), headers={"host": "one.test"})
    assert response.json() == {"tenant": "one", **own}


async def test_a_route_added_while_serving_is_found():
    app = make_app()
    async with client_of(app) as client:
        assert (await client.get("/later")).status_code == 404
        app.add_api_route("/later", lambda: {"late": True})
        assert (await client.get("/later")).json() == {"late": True}


@pytest.mark.parametrize("path", ["/large%0A", "/things/5%0A", "/nowhere%0A", "/%0A"])
@pytest.mark.parametrize("root_path", ["", "/app"])
@pytest.mark.parametrize("has_layer", [False, True])
async def test_a_newline_after_the_path_reaches_no_endpoint(path, root_path, has_layer):
    """The router's patterns match before it: the endpoint would run without its marks."""
    app = make_app()
    if has_layer:
        app.middleware("http")(lambda request, call_next: call_next(request))
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for method in ("GET", "POST"):
            assert (await client.request(method, root_path + path)).status_code == 404


async def test_a_newline_after_the_path_of_a_mounted_application_reaches_no_endpoint():
    outer = FastAPI()
    outer.mount("/v1", make_app())
    async with client_of(outer) as client:
        assert (await client.post("/v1/raw")).status_code == 200
        assert (await client.post("/v1/raw%0A")).status_code == 404


async def test_of_two_routes_that_fit_the_first_declared_answers_as_in_fastapi():
    """Also where a fixed path comes second: a layer or a root path must not change which one it is."""
    app = make_app()

    @app.get("/items/{item}")
    async def item(item: str):
        return {"item": item}

    @app.get("/items/newest")
    async def newest():
        return {"newest": True}

    async with client_of(app) as client:
        assert (await client.get("/items/one")).json() == {"item": "one"}
        assert (await client.get("/items/newest")).json() == {"item": "newest"}


class ServersCycle:
    """One request as a server keeps it: its scope, and the `send` that the application is given."""

    def __init__(self, path, method="GET", headers=(), messages=()):
        self.status = 0
        self.scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(b"host", b"test"), *headers], "http_version": "1.1", "scheme": "http", "root_path": "",
            "server": ("test", 80), "client": ("203.0.113.9", 4000), "extensions": {},
        }  # fmt: skip
        self._messages = list(messages) or [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive(self):
        return self._messages.pop(0) if self._messages else {"type": "http.disconnect"}

    async def send(self, message):
        self.status = message.get("status", self.status)


JSON_OF_1000 = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
CORS = {"cors_origins": ["https://app.example"]}


def broken_off(path):
    """A request whose client leaves when part of its body has come."""
    begun = [{"type": "http.request", "body": b"{", "more_body": True}]
    return ServersCycle(path, "POST", [*JSON_OF_1000, (b"origin", b"https://app.example")], begun)


@pytest.mark.parametrize("path", ["/things", "/raw"])
@pytest.mark.parametrize("security", [{}, CORS])
async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_failure_of_ours(path, security):
    registry = CollectorRegistry()
    app = make_app(Settings(_env_file=None, security=security), metrics=MetricsManager(registry))
    cycle = broken_off(path)

    with structlog.testing.capture_logs() as logs:
        await app(cycle.scope, cycle.receive, cycle.send)

    (line,) = logs
    assert (line["event"], line["log_level"], line["status"]) == ("request", "info", 499)
    labels = {"method": "POST", "status": "4xx", "handler": path}
    assert registry.get_sample_value("http_requests_total", labels) == 1


@pytest.mark.parametrize(
    ("make_cycle", "status"),
    [
        (lambda: ServersCycle("/things/5"), 200),
        (lambda: ServersCycle("/missing"), 404),
        (lambda: ServersCycle("/nowhere"), 404),
        (lambda: ServersCycle("/things/five"), 422),
        (lambda: ServersCycle("/broken"), 500),
        (lambda: ServersCycle("/slow"), 503),
        (lambda: ServersCycle("/raw", "POST", [(b"content-length", b"100000000")]), 413),
        (
            lambda: ServersCycle("/things", "POST", JSON_OF_1000, [{"type": "http.request", "body": b"{"}]),
            422,
        ),
        (lambda: broken_off("/things"), 499),
        (lambda: broken_off("/raw"), 499),
    ],
)
async def test_a_request_that_has_ended_is_freed_without_the_collector(make_cycle, status):
    app = make_app()
    gc.collect()
    gc.disable()
    try:
        cycle = make_cycle()
        with structlog.testing.capture_logs():
            await app(cycle.scope, cycle.receive, cycle.send)
        assert cycle.status == status
        remembered = weakref.ref(cycle)
        del cycle
        await asyncio.sleep(0)  # what the loop was about to tell of it
        assert remembered() is None
    finally:
        gc.enable()
