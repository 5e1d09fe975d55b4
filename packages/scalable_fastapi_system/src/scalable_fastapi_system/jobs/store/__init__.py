"""The job tables as the engine uses them: one interface, PostgreSQL by asyncpg and any other by SQLAlchemy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalable_fastapi_system.jobs.store.base import JobStore

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.database import DatabaseManager

__all__ = ["JobStore", "create_store"]


def create_store(database: DatabaseManager) -> JobStore:
    """The store for a worker on this database."""
    if database.backend == "postgresql":
        from scalable_fastapi_system.jobs.store.postgres import PostgresStore

        return PostgresStore(database)
    from scalable_fastapi_system.jobs.store.portable import PortableStore

    return PortableStore(database)
