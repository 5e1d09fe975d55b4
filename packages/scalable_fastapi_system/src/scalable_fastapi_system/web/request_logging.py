"""`RequestLoggingMiddleware`: the guide's middleware, for applications that are not made by `create_app`.

`create_app` does the same in its one pass; adding this one there would write every line twice.
"""

from __future__ import annotations

import time
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scalable_fastapi_system.infra.metrics import UNMATCHED, MetricsManager
from scalable_fastapi_system.kit.ids import is_request_id, new_request_id

_log = structlog.get_logger("api.request")


class RequestLoggingMiddleware:
    """Gives each request an id, writes one line when it ends, and records it with the metrics manager."""

    def __init__(
        self, app: ASGIApp, db_manager: Any = None, metrics_manager: MetricsManager | None = None
    ) -> None:
        """db_manager is accepted because the guide passes it; nothing per request is written to the database."""
        self.app = app
        self.db_manager = db_manager
        self.metrics_manager = metrics_manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        inbound = next(
            (value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), ""
        )
        request_id = inbound if is_request_id(inbound) else new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            template = getattr(scope.get("route"), "path", UNMATCHED)
            if self.metrics_manager is not None:
                self.metrics_manager.record_request(scope["method"], template, status, seconds)
            _log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                route=template,
                status=status,
                duration_ms=round(seconds * 1000, 2),
                client=scope["client"][0] if scope.get("client") else None,
            )
