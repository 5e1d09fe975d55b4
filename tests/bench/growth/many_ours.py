"""The platform with the bench product and `DOMAINS` further domains: gunicorn loads `app`."""

from __future__ import annotations

import os
from typing import Any

from fastapi import APIRouter
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.identity.dependencies import requires
from scalable_fastapi_system.identity.principal import declare_scopes
from scalable_fastapi_system.infra.logging import configure_logging
from scalable_fastapi_system.infra.settings import load_settings
from scalable_fastapi_system.infra.tracing import configure_tracing
from scalable_fastapi_system.kit.domain import Domain, Product

from tests.bench.growth.many import router
from tests.bench.product.items.domain import ITEMS

declare_scopes({"things:use": "Use things"})

_ROUTER = "router_"


def __getattr__(name: str) -> Any:
    """`router_N`: the routes of domain N, which `Domain` names by string."""
    if not name.startswith(_ROUTER):
        raise AttributeError(name)
    routes: APIRouter = router(int(name.removeprefix(_ROUTER)), requires("things:use"))
    return routes


def _domains(count: int) -> tuple[Domain, ...]:
    return tuple(
        Domain(f"things{number}", routes=(f"{__name__}:{_ROUTER}{number}",)) for number in range(count)
    )


def _build() -> Any:
    settings = load_settings()
    configure_logging(settings)
    configure_tracing(settings, component="api")
    domains = (*_domains(int(os.environ["DOMAINS"])), ITEMS)
    return create_app(settings, Product(domains=domains, migrations="tests.bench.product.migrations"))


app = _build()
