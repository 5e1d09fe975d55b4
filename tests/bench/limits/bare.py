"""The frameworks alone: one constant answer, no authentication, no store."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.bench.limits.shapes import Caller, UserOut

_ME: dict[str, Any] = {
    "id": 1,
    "username": "ada",
    "email": "ada@example.com",
    "role": "user",
    "is_active": True,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
}


def starlette() -> Starlette:
    """Bare Starlette."""

    async def me(_request: Request) -> JSONResponse:
        return JSONResponse(_ME)

    return Starlette(routes=[Route("/users/me", me)])


def fastapi() -> FastAPI:
    """Bare FastAPI with a response model; `/users/me/checked` verifies a token, too."""
    app = FastAPI()

    @app.get("/users/me", response_model=UserOut)
    async def me() -> Any:
        return _ME

    @app.get("/users/me/checked", response_model=UserOut)
    async def checked(_caller: Caller) -> Any:
        return _ME

    return app
