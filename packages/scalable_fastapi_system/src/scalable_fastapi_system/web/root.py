"""`GET /`: what this is and where to go on."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from scalable_fastapi_system.web.envelope import Envelope, respond

router = APIRouter(tags=["root"])


class Welcome(BaseModel):
    """Where things are."""

    name: str
    version: str
    docs: str | None
    health: str
    metrics: str | None


@router.get("/", response_model=Envelope[Welcome], summary="What this is")
async def root(request: Request) -> Response:
    """Needs no store and no sign-in."""
    settings = request.app.state.resources.settings
    welcome = Welcome(
        name=settings.api.title,
        version=settings.api.version,
        docs="/docs" if settings.api.docs_enabled else None,
        health="/health",
        metrics="/metrics" if settings.metrics.enabled else None,
    )
    return respond(request, welcome, f"Welcome to {settings.api.title}")
