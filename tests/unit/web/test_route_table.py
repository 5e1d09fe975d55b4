"""The table finds the route that FastAPI's own router would, at the same cost however many there are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import EventSourceResponse
from fastapi.routing import iter_route_contexts
from scalable_fastapi_system.web.limits import body_limit
from scalable_fastapi_system.web.route_table import RouteTable

# In the order of registration: prefixes of prefixes, convertors, rests of paths.
TEMPLATES = (
    "/first/special",
    "/first/{name}",
    "/third/fixed/last",
    "/fourth/reports",
    "/",
    "/second/{name}",
    "/second/{number:int}/parts",
    "/second/{name}/parts/{part}",
    "/third/fixed/{name}",
    "/third/{name}/last",
    "/{tenant}/reports",
    "/fourth/{rest:path}",
    "/fifth/file-{name}.txt",
    "/{tenant}/{kind}/{name}",
    "/sixth/kind/{name}",
    "/sixth/{name}/last",
    "/sixth/kind/last",
    "/first/late",
    "/seventh/late",
)
PATHS = (
    "/first/special",
    "/first/other",
    "/second/special",
    "/second/7/parts",
    "/second/7/parts/8",
    "/second/x/parts",
    "/third/fixed/last",
    "/third/fixed/name",
    "/third/other/last",
    "/fourth/reports",
    "/fourth/reports/2026/05",
    "/fourth/",
    "/fifth/file-a.txt",
    "/fifth/file-a.csv",
    "/sixth/reports",
    "/sixth/kind/last",
    "/first/late",
    "/seventh/late",
    "/sixth/kind/name",
    "/sixth/kind/name/more",
    "/sixth",
    "/",
    "//",
)


def application() -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    for template in TEMPLATES:
        app.include_router(_router(template))
    return app


def _router(template: str) -> APIRouter:
    router = APIRouter()

    @router.get(template)
    async def answer(request: Request) -> dict[str, Any]:
        return {"template": template, "parameters": request.path_params}

    return router


def table_of(app: FastAPI) -> RouteTable:
    return RouteTable(app, body_limit_bytes=1000, timeout_seconds=1.0)


@pytest.mark.parametrize("path", PATHS)
async def test_it_finds_what_the_router_finds(path):
    app = application()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api.test") as client:
        response = await client.get(httpx.URL(scheme="http", host="api.test", raw_path=path.encode()))
    facts, parameters = table_of(app).find("GET", path)
    if response.status_code == 404:
        assert parameters is None
    else:
        assert {"template": facts.template, "parameters": parameters} == response.json()


def test_a_route_that_is_registered_later_is_found():
    app = application()
    table = table_of(app)
    assert table.find("GET", "/late/one/two/three")[1] is None
    app.include_router(_router("/late/one/two/{name}"))
    assert table.find("GET", "/late/one/two/three")[1] == {"name": "three"}


def test_a_route_in_the_place_of_another_is_found():
    app = application()
    table = table_of(app)
    route = _router("/first/special").routes[0]
    for change in (
        lambda: app.router.routes.__setitem__(0, route),
        lambda: (app.router.routes.pop(0), app.get("/first/special")(lambda: None)),
        lambda: (app.router.routes.pop(), app.mount("/mounted", FastAPI())),
    ):
        change()
        assert table.find("GET", "/first/special")[0].endpoint is _first_endpoint(app, "/first/special")


def _first_endpoint(app: FastAPI, path: str) -> Any:
    return next(
        context.endpoint for context in iter_route_contexts(app.router.routes) if context.path == path
    )


@pytest.mark.parametrize("depth", [1, 3])
def test_a_route_that_an_included_router_is_given_later_is_found(depth):
    app, inner = FastAPI(), APIRouter()
    outer = inner
    for _ in range(depth - 1):
        between = APIRouter(prefix="/in")
        between.include_router(outer)
        outer = between
    app.include_router(outer)
    table = table_of(app)
    path = "/in" * (depth - 1) + "/late"
    assert table.find("GET", path) == (table.unmatched, None)

    @inner.get("/late")
    @body_limit(5)
    def late() -> None: ...

    facts, parameters = table.find("GET", path)
    assert (facts.body_limit_bytes, parameters) == (5, {})


def test_another_method_is_left_to_the_router_and_counted_for_the_route():
    facts, parameters = table_of(application()).find("DELETE", "/second/a")
    assert (facts.template, parameters) == ("/second/{name}", None)


@pytest.mark.parametrize("path", ["/api/v1/things{last}/7", "/api/v1/things{last}", "/api/v1/unknown/7"])
def test_the_number_of_routes_does_not_matter(path):
    few, many = (_calls_to_find(count, path.format(last=count - 1)) for count in (3, 300))
    assert few == many


def _calls_to_find(domains: int, path: str) -> int:
    app = FastAPI()
    for number in range(domains):
        app.include_router(_router(f"/api/v1/things{number}/{{name}}"))
        app.include_router(_router(f"/api/v1/things{number}"))
    table = table_of(app)
    table.find("GET", path)  # builds it
    return _calls(lambda: table.find("GET", path))


def _calls(action: Callable[[], Any]) -> int:
    """How many functions, Python's and C's, are called."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", ["/second/{}/parts", "/plain/{}"])
def test_a_number_that_python_does_not_read_is_no_match_and_left_to_nobody(method, path):
    app = application()
    app.add_route("/plain/{number:int}", lambda _request: None)
    table = table_of(app)
    assert table.find(method, path.format("7"))[0].template == path.format("{number:int}")
    assert table.find(method, path.format("7" * 5000)) == (table.unreadable, None)


@pytest.mark.parametrize(
    ("declared", "is_stream"),
    [
        ({"response_class": EventSourceResponse}, True),
        ({"responses": {200: {"content": {"text/event-stream": {}}}}}, True),
        ({"responses": {404: {"description": "none"}}}, False),
        ({}, False),
    ],
)
def test_a_route_is_a_stream_where_it_declares_events(declared, is_stream):
    app = FastAPI()
    app.get("/one", **declared)(lambda: None)
    assert table_of(app).find("GET", "/one")[0].is_stream is is_stream


def test_only_the_platform_s_own_paths_are_probes() -> None:
    """A probe is not counted, not shed and answered for any host."""
    app = FastAPI()
    for path in (
        "/health",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/health_records",
        "/healthcare/{number}",
        "/health/mine",
    ):
        app.get(path)(lambda: None)
    table = RouteTable(app, body_limit_bytes=0, timeout_seconds=0.0)
    probes = {facts.template for _, facts in table.prepare() if facts.is_probe}
    assert probes == {"/health", "/health/live", "/health/ready", "/metrics"}
