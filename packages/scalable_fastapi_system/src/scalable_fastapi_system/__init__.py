"""scalable-fastapi-system: what a production FastAPI service needs around its business code.

Public names are imported from here and loaded on first use, so that a process pays only for what it uses: the
worker never loads the web framework.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    # settings
    "Settings": "infra.settings",
    "DatabaseSettings": "infra.settings",
    "RedisSettings": "infra.settings",
    "SecuritySettings": "infra.settings",
    "APISettings": "infra.settings",
    # stores
    "DatabaseManager": "infra.database",
    "bulk_insert": "infra.database",
    "CacheManager": "infra.cache",
    "cache_response": "infra.cache",
    # identity
    "SecurityManager": "identity.security",
    "User": "identity.models",
    "UserCreate": "identity.schemas",
    "UserUpdate": "identity.schemas",
    "get_current_user": "identity.dependencies",
    "get_current_active_user": "identity.dependencies",
    "CurrentUser": "identity.dependencies",
    "AdminUser": "identity.dependencies",
    "OptionalUser": "identity.dependencies",
    "requires": "identity.dependencies",
    "Principal": "identity.principal",
    "declare_scopes": "identity.principal",
    # web
    "RateLimitingMiddleware": "web.rate_limit",
    "RequestLoggingMiddleware": "web.request_logging",
    "get_db": "web.dependencies",
    "get_async_db": "web.dependencies",
    # metrics
    "MetricsManager": "infra.metrics",
    # jobs
    "background_task": "jobs",
    # errors
    "APIException": "kit.errors",
    "ValidationException": "kit.errors",
    "AuthenticationException": "kit.errors",
    "AuthorizationException": "kit.errors",
    "NotFoundException": "kit.errors",
    "ConflictException": "kit.errors",
    "install_error_handlers": "web.problems",
    # composition
    "Domain": "kit.domain",
    "Product": "kit.domain",
    "create_app": "application",
    "create_worker": "worker",
}

__all__ = [*_HOMES, "app"]  # noqa: PLE0604 - the names are strings, listed once above


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
    if name == "app":  # `uvicorn scalable_fastapi_system:app`, as in the guide
        from scalable_fastapi_system.application import create_app

        globals()["app"] = create_app()
        return globals()["app"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
