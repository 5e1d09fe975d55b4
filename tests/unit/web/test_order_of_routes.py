"""Which of several routes runs is what FastAPI alone would do, whatever stands around it, and the marks are that route's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.web.middleware import PlatformMiddleware
from scalable_fastapi_system.web.platform_api import PlatformAPI
from scalable_fastapi_system.web.problems import install_error_handlers
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Host, Match, Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

Declare = Callable[[FastAPI], None]


def answer(name: str) -> Callable[[Request], dict[str, Any]]:
    """An endpoint that tells who it is and, under the platform, whether the marks were looked up of another."""

    def endpoint(request: Request) -> dict[str, Any]:
        return {"ran": name, "parameters": request.path_params, "has_own_marks": _has_own_marks(request)}

    return endpoint


async def raw(request: Request) -> JSONResponse:
    return JSONResponse({"ran": "raw", "has_own_marks": _has_own_marks(request)})


def _has_own_marks(request: Request) -> bool:
    exchange = getattr(request.state, "exchange", None)
    if exchange is None:
        return True
    # What runs in an application of its own has none there.
    endpoint = request.scope["endpoint"] if isinstance(request.app, PlatformAPI) else None
    return bool(exchange.facts.endpoint is endpoint)


def sub(name: str) -> FastAPI:
    app = FastAPI()
    app.get("/{rest:path}")(answer(name))
    return app


def by_parameter_first(app: FastAPI) -> None:
    app.get("/items/{item}")(answer("one"))
    app.get("/items/me")(answer("me"))
    app.post("/items/me")(answer("made"))
    app.get("/items/{item}/parts")(answer("parts"))
    app.get("/{kind}/other/parts")(answer("other"))
    app.get("/{rest:path}")(answer("rest"))


def mount_first(app: FastAPI) -> None:
    app.mount("/m", sub("mounted"))
    app.get("/m/x")(answer("x"))
    app.get("/mx")(answer("mx"))
    router = APIRouter(prefix="/in")
    router.mount("/m", sub("mounted inside"))
    router.get("/m/x")(answer("inside"))
    app.include_router(router)


def mount_last(app: FastAPI) -> None:
    app.get("/m/x")(answer("x"))
    app.mount("/m", sub("mounted"))
    app.mount("/", sub("everything else"))


def host_first(app: FastAPI) -> None:
    app.router.routes.append(Host("api.test", sub("host")))
    app.get("/x")(answer("x"))
    app.get("/x/{y}")(answer("y"))


class Versioned(APIRoute):
    """Matches by a header, too."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if HTTPConnection(scope).headers.get("x-version", "1") != (self.name or "")[-1]:
            return Match.NONE, {}
        return match, child


class Marked(APIRoute):
    """Does something of its own around the endpoint."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["path_params"] = {**scope["path_params"], "was_handled": True}
        await super().handle(scope, receive, send)


class Anything(BaseRoute):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_asked = scope["type"] == "http" and b"x-any" in dict(scope["headers"])
        return (Match.FULL if is_asked else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"ran": "anything", "has_own_marks": True})(scope, receive, send)


def of_other_classes(app: FastAPI) -> None:
    for owner in (app.router, APIRouter(prefix="/in")):
        owner.add_api_route("/v", answer("v1"), name="v1", route_class_override=Versioned)
        owner.add_api_route("/v", answer("v2"), name="v2", route_class_override=Versioned)
        owner.add_api_route("/v", answer("v3"), name="v3", route_class_override=Versioned, methods=["POST"])
        owner.add_api_route("/v", answer("v"))
        owner.add_api_route("/h/{x}", answer("handled"), route_class_override=Marked)
        if owner is not app.router:
            app.include_router(owner)
    app.router.routes.append(Anything())
    app.get("/x")(answer("x"))


def of_other_patterns(app: FastAPI) -> None:
    for path in ("/Capitals", "/Capitals/{x}"):
        app.get(path)(answer(path))
        route: Any = app.router.routes[-1]
        route.path_regex = re.compile(route.path_regex.pattern, re.IGNORECASE)
    app.get("/capitals")(answer("small"))


class Gate(APIRouter):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if "x-in" not in HTTPConnection(scope).headers:
            return Match.NONE, {}
        return super().matches(scope)


class Guard(APIRouter):
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["path_params"] = {"was_guarded": True}
        await super().handle(scope, receive, send)


def of_other_routers(app: FastAPI) -> None:
    gate, guard = Gate(), Guard()
    gate.get("/x")(answer("gate"))
    guard.get("/g")(answer("guard"))
    for router in (gate, guard):
        app.include_router(router)
    app.get("/x")(answer("x"))


def of_every_method(app: FastAPI) -> None:
    app.router.routes.append(WebSocketRoute("/x", raw))
    app.router.routes.append(Route("/r", raw))
    app.post("/r")(answer("posted"))
    app.get("/r")(answer("never"))
    app.router.routes.append(Mount("/n/{number:int}", sub("numbered")))


CASES: dict[Declare, list[tuple[str, str, dict[str, str]]]] = {
    by_parameter_first: [
        ("GET", "/items/me", {}), ("POST", "/items/me", {}), ("GET", "/items/1", {}), ("GET", "/items/other/parts", {}),
        ("GET", "/things/other/parts", {}), ("PUT", "/items/me", {}), ("GET", "/items/a/b/c", {}), ("POST", "/items", {}),
    ],
    mount_first: [("GET", "/m/x", {}), ("GET", "/mx", {}), ("GET", "/m/y", {}), ("GET", "/in/m/x", {}), ("POST", "/m/x", {})],
    mount_last: [("GET", "/m/x", {}), ("GET", "/m/y", {}), ("GET", "/y", {}), ("POST", "/m/x", {})],
    host_first: [
        (method, path, {"host": host})
        for method in ("GET", "POST") for path in ("/x", "/x/1") for host in ("api.test", "api.test:80", "www.test")
    ],
    of_other_classes: [
        *(("GET", f"{prefix}/v", {"x-version": version}) for prefix in ("", "/in") for version in "12349"),
        *(("POST", f"{prefix}/v", {"x-version": version}) for prefix in ("", "/in") for version in "134"),
        ("GET", "/h/1", {}), ("GET", "/in/h/1", {}), ("GET", "/x", {}), ("GET", "/x", {"x-any": "1"}),
        ("POST", "/nowhere", {"x-any": "1"}),
    ],
    of_other_patterns: [
        ("GET", "/Capitals", {}), ("GET", "/capitals", {}), ("GET", "/CAPITALS/1", {}), ("GET", "/Capitals/1", {}),
    ],
    of_other_routers: [("GET", "/x", {}), ("GET", "/x", {"x-in": "1"}), ("POST", "/x", {"x-in": "1"}), ("GET", "/g", {})],
    of_every_method: [
        ("GET", "/r", {}), ("HEAD", "/r", {}), ("POST", "/r", {}), ("PUT", "/r", {}), ("GET", "/x", {}),
        ("GET", "/n/5/x", {}),
    ],
}  # fmt: skip


async def _ask(app: FastAPI, root_path: str, request: tuple[str, str, dict[str, str]]) -> tuple[int, Any]:
    method, path, headers = request
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.request(method, root_path + path, headers=headers)
        return response.status_code, response.json() if response.is_success and response.content else None


def _platform() -> PlatformAPI:
    app = PlatformAPI(
        platform=lambda inner, owner: PlatformMiddleware(
            inner, owner=owner, settings=Settings(_env_file=None), metrics=None
        ),
        redirect_slashes=False,
    )
    install_error_handlers(app)
    return app


@pytest.mark.parametrize("root_path", ["", "/root"])
@pytest.mark.parametrize("has_layer", [False, True])
@pytest.mark.parametrize(
    ("declare", "request_"),
    [(declare, request) for declare, requests in CASES.items() for request in requests],
    ids=lambda value: getattr(value, "__name__", None) or " ".join((*value[:2], *value[2].values())),
)
async def test_the_route_that_runs_is_fastapis_and_has_its_own_marks(
    declare: Declare, request_: tuple[str, str, dict[str, str]], has_layer: bool, root_path: str
) -> None:
    plain, platform = FastAPI(redirect_slashes=False, openapi_url=None), _platform()
    platform.router.routes.clear()  # of the documentation
    declare(plain)
    declare(platform)
    if has_layer:
        platform.middleware("http")(lambda request, call_next: call_next(request))
    found = await _ask(platform, root_path, request_)
    assert found == await _ask(plain, root_path, request_)
    assert found[1] is None or found[1]["has_own_marks"]


async def test_what_a_route_of_its_own_raises_is_answered() -> None:
    class Failing(APIRoute):
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            if scope["type"] == "http" and "x-bad" in HTTPConnection(scope).headers:
                raise RuntimeError("not this")
            return super().matches(scope)

    app = _platform()
    app.router.add_api_route("/x", answer("x"), route_class_override=Failing)
    assert (await _ask(app, "", ("GET", "/x", {})))[0] == 200
    assert (await _ask(app, "", ("GET", "/x", {"x-bad": "1"})))[0] == 500


async def test_a_number_that_python_does_not_read_is_left_to_no_mount() -> None:
    app = _platform()
    of_every_method(app)
    assert (await _ask(app, "", ("GET", f"/n/{'7' * 5000}/x", {})))[0] == 404
