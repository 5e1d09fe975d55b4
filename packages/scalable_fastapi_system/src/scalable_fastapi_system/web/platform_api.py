"""`PlatformAPI`: FastAPI with the platform's pass as its outermost layer.

Middleware that somebody adds stands inside the pass, so that its answers too get a request id, the security
headers, a metric and a log line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp

from scalable_fastapi_system.web.middleware import PlatformMiddleware, split_handlers


class PlatformAPI(FastAPI):
    """A FastAPI application whose requests all go through one `PlatformMiddleware`."""

    def __init__(self, *, platform: Callable[[ASGIApp, FastAPI], PlatformMiddleware], **options: Any) -> None:
        """platform: makes the pass around the rest; called when the first request or the lifespan comes."""
        self._make_platform = platform
        super().__init__(**options)

    def build_middleware_stack(self) -> ASGIApp:
        """The pass, then what was added, then FastAPI's own layers.

        Starlette's ServerErrorMiddleware and FastAPI's body limit are left out: the pass does their work.
        """
        by_class, by_status = split_handlers(self)
        app: ASGIApp = AsyncExitStackMiddleware(self.router)
        app = ExceptionMiddleware(app, handlers={**by_class, **by_status}, debug=self.debug)
        for layer in reversed(self.user_middleware):
            app = layer.cls(app, *layer.args, **layer.kwargs)
        return self._make_platform(app, self)
