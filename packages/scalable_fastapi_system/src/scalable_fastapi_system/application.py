"""`create_app`: the API, composed.

`create_app()` with no settings at all gives a working application for development: a temporary SQLite
database, cache in memory, jobs in a thread of this process. It works under a test client that never starts
the lifespan, too. Nothing connects before the first request or the lifespan.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from scalable_fastapi_system.identity.authority import authority_of
from scalable_fastapi_system.identity.dependencies import describe_api_keys
from scalable_fastapi_system.identity.routes import routers as identity_routers
from scalable_fastapi_system.identity.runtime import Identity
from scalable_fastapi_system.infra.cache import set_default_cache
from scalable_fastapi_system.infra.health import Readiness, StoreHealth
from scalable_fastapi_system.infra.metrics import MetricsManager
from scalable_fastapi_system.infra.observation import ServiceObserver
from scalable_fastapi_system.infra.resources import Resources
from scalable_fastapi_system.infra.settings import Settings, load_settings
from scalable_fastapi_system.infra.tracing import tracer_provider
from scalable_fastapi_system.jobs import JobClient
from scalable_fastapi_system.kit.domain import Product
from scalable_fastapi_system.tasks.routes import router as tasks_router
from scalable_fastapi_system.web import files, health, root
from scalable_fastapi_system.web.dependencies import set_newest_resources
from scalable_fastapi_system.web.docs import install_docs
from scalable_fastapi_system.web.idempotency import IdempotencyKeys
from scalable_fastapi_system.web.idempotency_openapi import describe_idempotency_keys
from scalable_fastapi_system.web.middleware import PlatformMiddleware
from scalable_fastapi_system.web.openapi import install_openapi
from scalable_fastapi_system.web.platform_api import PlatformAPI
from scalable_fastapi_system.web.problems import install_error_handlers
from scalable_fastapi_system.web.rate_limit import RateLimits
from scalable_fastapi_system.web.route_table import RouteTable
from scalable_fastapi_system.web.websockets import warn_of_missing_library


def create_app(settings: Settings | None = None, product: Product | None = None) -> FastAPI:
    """The whole API: platform routes and the product's, middleware, errors, health, metrics, documentation.

    Raises ConfigurationError where the settings do not make sense.
    """
    settings = settings or load_settings()
    resources = Resources(settings, product)
    identity = Identity(resources)
    limits = RateLimits(settings, resources.cache.redis) if settings.rate_limit.enabled else None
    metrics = MetricsManager() if settings.metrics.enabled else None
    keys = IdempotencyKeys(resources.database, settings, partial(authority_of, identity))

    def platform(inner: ASGIApp, owner: FastAPI) -> PlatformMiddleware:
        return PlatformMiddleware(
            keys.beside_endpoints(inner, owner),
            owner=owner,
            settings=settings,
            metrics=metrics,
            admission=limits,
            identify=identity.authenticator.identify,
            once=keys.around,
        )

    app = PlatformAPI(
        platform=platform,
        title=settings.api.title,
        version=settings.api.version,
        description=settings.api.description,
        debug=settings.api.debug,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.api.docs_enabled else None,
        lifespan=_lifespan,
        # FastAPI asks OpenTelemetry's globals at every request unless told that there is nothing to find. The spans
        # of HTTP requests are the platform's (web/request_spans.py), those of websockets FastAPI's.
        telemetry={
            "tracing": tracer_provider() is not None,
            "tracer_provider": tracer_provider(),
            "exclude": lambda scope: scope["type"] == "http",
            "metrics": False,
            "logs": False,
        },
        redirect_slashes=False,  # a redirect drops the body of a POST in many clients: a wrong path is a 404
    )
    app.state.resources = resources
    app.state.identity = identity
    app.state.jobs = JobClient(resources)
    app.state.end_streams = app.state.jobs.events.end  # for a server that leaves: the lifespan is told last
    app.state.rate_limits = limits
    app.state.readiness = Readiness(resources.database)
    app.state.store_health = StoreHealth(resources.database, resources.cache)
    set_newest_resources(resources)
    set_default_cache(resources.cache)
    for router in _routers(resources.product):
        app.include_router(router)
    if metrics is not None:
        _expose_metrics(app, metrics)
    if settings.api.docs_enabled:
        install_docs(app)
        install_openapi(app, describe_api_keys, partial(describe_idempotency_keys, app))
    install_error_handlers(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    resources: Resources = app.state.resources
    readiness: Readiness = app.state.readiness
    identity: Identity = app.state.identity
    jobs: JobClient = app.state.jobs
    warn_of_missing_library(app)
    async with contextlib.AsyncExitStack() as stack:
        await resources.start()
        stack.push_async_callback(resources.stop)
        if app.state.rate_limits is not None:
            app.state.rate_limits.check_routes(
                RouteTable(app, body_limit_bytes=0, timeout_seconds=0.0).prepare()
            )
            stack.push_async_callback(app.state.rate_limits.stop)
        await identity.start()
        stack.push_async_callback(identity.stop)
        await jobs.start()
        stack.push_async_callback(jobs.stop)
        metrics: MetricsManager | None = getattr(app.state, "metrics", None)
        if metrics is not None:
            observer = ServiceObserver(resources, component="api", readiness=readiness, requests=metrics)
            observer.start()
            stack.push_async_callback(observer.stop)
        try:
            yield
        finally:
            readiness.is_draining = True


def _routers(product: Product) -> list[Any]:
    return [
        root.router,
        health.router,
        *identity_routers(),
        tasks_router,
        files.router,
        *product.load_routers(),
    ]


def _expose_metrics(app: FastAPI, metrics: MetricsManager) -> None:
    from prometheus_fastapi_instrumentator import Instrumentator

    app.state.metrics = metrics
    # It serves what the platform's one middleware pass has measured; its own middleware is not installed.
    Instrumentator(registry=metrics.registry).expose(
        app,
        include_in_schema=True,
        tags=["health"],
        response_class=PlainTextResponse,
        summary="What is measured, as Prometheus reads it",
    )
