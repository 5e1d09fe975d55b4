"""Which tables are the platform's own, for whoever compares models with a database."""

from __future__ import annotations

import importlib
from typing import Any

from sqlalchemy import Table

_PACKAGE = "scalable_fastapi_system"
# Named by string: what is above this package may use it, and is not imported by it.
_MODULES = ("identity.models", "infra.idempotency", "infra.storage.tables", "jobs.tables")


def load_platform_models() -> None:
    """Declares every table of the platform: one that autogenerate does not know it would drop."""
    platform_tables()


def platform_tables() -> frozenset[str]:
    """The names of the platform's tables. Imports the modules that declare them."""
    held: list[Any] = []
    for module in _MODULES:
        held += vars(importlib.import_module(f"{_PACKAGE}.{module}")).values()
    tables = (thing if isinstance(thing, Table) else getattr(thing, "__table__", None) for thing in held)
    return frozenset(table.key for table in tables if isinstance(table, Table))
