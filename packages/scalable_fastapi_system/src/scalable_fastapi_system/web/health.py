"""Health: `/health` reports, `/health/live` says that the process answers, `/health/ready` that it can serve.

Live does no I/O, so an outage of a store restarts nothing. Ready asks the database and its schema, with an
answer remembered for a moment so that probes cost next to nothing; Redis is not asked, because everything
that uses it goes on without it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import psutil
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from scalable_fastapi_system.infra.health import Readiness, StoreHealth
from scalable_fastapi_system.web.dependencies import App
from scalable_fastapi_system.web.envelope import JSON

router = APIRouter(tags=["health"])


class MemoryUsage(BaseModel):
    """Memory of the machine or of the container's host, in bytes and percent."""

    total: int
    used: int
    percent: float


class HealthReport(BaseModel):
    """How the service and its stores are."""

    status: str = Field(description="`healthy` or `degraded`.")
    timestamp: datetime
    version: str
    database: str
    redis: str
    memory_usage: MemoryUsage
    cpu_usage: float = Field(description="Percent, since the last report.")


class Probe(BaseModel):
    """The answer to a probe."""

    status: str
    reason: str | None = None


@router.get("/health", response_model=HealthReport, summary="Report on the service and its stores")
async def health(request: Request, app: App) -> Response:
    """Always 200: it tells how things are, and of the stores how they were within the last second. Probes use the two below."""
    stores: StoreHealth = request.app.state.store_health
    database, redis = await stores.states()
    memory = psutil.virtual_memory()
    body: dict[str, Any] = {
        "status": "healthy" if database == redis == "healthy" else "degraded",
        "timestamp": datetime.now(UTC),
        "version": app.settings.api.version,
        "database": database,
        "redis": redis,
        "memory_usage": {"total": memory.total, "used": memory.used, "percent": memory.percent},
        "cpu_usage": psutil.cpu_percent(),
    }
    return JSON(body)


@router.get("/health/live", response_model=Probe, summary="Whether the process answers")
async def live() -> Response:
    """Touches no store."""
    return JSON({"status": "alive"})


@router.get(
    "/health/ready",
    response_model=Probe,
    responses={503: {"model": Probe, "description": "Not to be sent requests now"}},
    summary="Whether requests should be sent here",
)
async def ready(request: Request) -> Response:
    """503 with the reason while the process drains, or the database or its schema is not there."""
    readiness: Readiness = request.app.state.readiness
    reason = await readiness.reason_not_ready(time.monotonic())
    if reason is None:
        return JSON({"status": "ready"})
    return JSON({"status": "unavailable", "reason": reason}, status_code=503)
