"""docs/domains.md: how a product's tests replace the caller, and how it starts what is its own."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI
from fastapi.testclient import TestClient
from scalable_fastapi_system import create_app, get_current_active_user, get_current_user
from scalable_fastapi_system.identity.dependencies import (
    AdminUser,
    CurrentUser,
    OptionalUser,
    get_optional_user,
    requires,
)
from scalable_fastapi_system.identity.principal import Principal
from starlette.middleware.base import BaseHTTPMiddleware

pytestmark = pytest.mark.usefixtures("chosen_database")

PAGE = Path(__file__).resolve().parents[2] / "docs/domains.md"
THEN = datetime(2026, 1, 1, tzinfo=UTC)
ADA = Principal(
    id=1,
    username="ada",
    email="ada@example.com",
    role="user",
    is_active=False,
    created_at=THEN,
    updated_at=THEN,
)


def test_example_of_the_page_does_what_it_says() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (example,) = (block for block in blocks if "def test_" in block)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(PAGE), "exec"), names)
    names["test_price_is_told_to_the_caller"]()


@pytest.mark.parametrize("is_wrapped", [False, True], ids=["alone", "with a middleware"])
def test_an_unhandled_exception_reaches_a_test_as_the_page_says(is_wrapped: bool) -> None:
    app = create_app()
    if is_wrapped:
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("for the test")

    with pytest.raises(ZeroDivisionError, match="for the test"):
        TestClient(app).get("/broken")

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> None:
        tasks.add_task(broken)

    sub = FastAPI()
    sub.get("/broken")(broken)
    app.mount("/sub", sub)
    for path in ("/background", "/sub/broken"):
        with pytest.raises(ZeroDivisionError, match="for the test"):
            TestClient(app).get(path)
    answer = TestClient(app, raise_server_exceptions=False).get("/broken")
    assert (answer.status_code, answer.json()["error_code"]) == (500, "INTERNAL_ERROR")


@pytest.mark.parametrize(
    ("dependency", "replaced"),
    [
        (get_current_active_user, {"current", "admin", "scoped", "active"}),
        (get_current_user, {"plain"}),
        (get_optional_user, {"optional"}),
    ],
    ids=["active", "plain", "optional"],
)
def test_override_reaches_what_the_page_says(dependency: Callable[..., Any], replaced: set[str]) -> None:
    app = create_app()
    callers = {
        "current": CurrentUser,
        "admin": AdminUser,
        "scoped": Annotated[Principal, requires("things:read")],
        "active": Annotated[Principal, Depends(get_current_active_user)],
        "plain": Annotated[Principal, Depends(get_current_user)],
        "optional": OptionalUser,
    }
    for name, caller in callers.items():

        async def tell(user: Any) -> str | None:
            return None if user is None else user.username

        tell.__annotations__["user"] = caller
        app.get(f"/{name}")(tell)
    app.dependency_overrides[dependency] = lambda: ADA
    client = TestClient(app)
    assert {name for name in callers if client.get(f"/{name}").json() == "ada"} == replaced
    app.dependency_overrides.clear()
    assert [client.get(f"/{name}").status_code for name in callers] == [401] * 5 + [200]


def test_lifespan_of_a_router_runs_within_the_applications_and_start_up_handlers_do_not() -> None:
    app = create_app()
    happened: list[str] = []

    @asynccontextmanager
    async def lifespan(of: FastAPI) -> AsyncIterator[None]:
        await of.state.resources.database.ping()
        happened.append("started")
        yield
        await of.state.resources.database.ping()
        happened.append("stopped")

    app.include_router(APIRouter(lifespan=lifespan))
    with pytest.warns(DeprecationWarning, match="on_event"):
        app.on_event("startup")(lambda: happened.append("on_event"))
    with TestClient(app):
        assert happened == ["started"]
    assert happened == ["started", "stopped"]
