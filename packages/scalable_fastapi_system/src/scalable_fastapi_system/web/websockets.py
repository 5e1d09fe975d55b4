"""WebSockets, as far as they are the platform's concern: who may open one, and whether the server can serve them at all."""

from __future__ import annotations

from importlib.util import find_spec

import structlog
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import WebSocketRoute

_log = structlog.get_logger("api.websockets")
# Either of them makes uvicorn serve WebSockets. Without both it takes a handshake for a GET, which has no route.
_LIBRARIES = ("websockets", "wsproto")


def warn_of_missing_library(app: FastAPI) -> None:
    """Says so where the application has WebSockets that uvicorn will not serve. Test clients serve them in any case."""
    if any(find_spec(library) is not None for library in _LIBRARIES):
        return
    paths = [
        context.path
        for context in iter_route_contexts(app.router.routes)
        if isinstance(context.original_route, WebSocketRoute)
    ]
    if paths:
        _log.warning(
            "websockets are not served: install `websockets` (requirements/api.in, then make lock) or wsproto",
            paths=paths,
        )
