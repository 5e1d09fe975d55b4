"""The database whatever its kind, and its schema."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from scalable_fastapi_system.doctor.findings import Report
from scalable_fastapi_system.doctor.network import is_reachable
from scalable_fastapi_system.doctor.postgres_checks import examine_postgres
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.database.migrate import Migrator
from scalable_fastapi_system.infra.settings import Settings

AREA = "database"
VARIABLE = "DATABASE__DATABASE_URL"
MYSQL_PORT = 3306


async def examine_database(
    report: Report,
    settings: Settings,
    database: DatabaseManager,
    *,
    timeout_seconds: float,
    now: Callable[[], datetime],
    wanted_connections: int | None,
) -> bool:
    """Whether the database answers and has a schema that this code can use."""
    if settings.is_ephemeral:
        report.note(
            AREA,
            f"{VARIABLE} is not set: the data is a temporary file that goes with the process.",
            f"Set {VARIABLE} to keep anything.",
        )
        return True
    if database.backend == "postgresql":
        is_usable = await examine_postgres(
            report,
            AREA,
            VARIABLE,
            database.url,
            timeout_seconds=timeout_seconds,
            now=now,
            wanted_connections=wanted_connections,
            settings=settings.database,
        )
    else:
        is_usable = await _examine_other(report, database, timeout_seconds)
    replica = settings.database.replica_url
    if replica is not None and str(replica).startswith("postgres"):
        await examine_postgres(
            report,
            "replica",
            "DATABASE__REPLICA_URL",
            str(replica),
            timeout_seconds=timeout_seconds,
            now=now,
        )
    return is_usable and await asyncio.to_thread(_examine_schema, report, database)


async def _examine_other(report: Report, database: DatabaseManager, timeout_seconds: float) -> bool:
    """MySQL, MariaDB and SQLite: reachable, and what the driver says."""
    parsed = make_url(database.url)
    if parsed.host and not await is_reachable(
        report,
        AREA,
        parsed.host,
        parsed.port or MYSQL_PORT,
        variable=VARIABLE,
        timeout_seconds=timeout_seconds,
    ):
        return False
    try:
        await asyncio.to_thread(_ask, database)
    except (DBAPIError, ArgumentError, OSError) as error:
        reason = getattr(error, "orig", None) or error
        report.problem(
            AREA,
            f"The database refuses: {reason}",
            f"Correct {VARIABLE}, or the account and its rights in the server.",
        )
        return False
    report.ok(AREA, f"The {database.backend} database answers.")
    return True


def _ask(database: DatabaseManager) -> None:
    with database.engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def _examine_schema(report: Report, database: DatabaseManager) -> bool:
    area = "schema"
    step = "Run `python -m services.manage migrate`; in a cluster look at the Job: `kubectl logs -l app.kubernetes.io/component=migrate`."
    try:
        status = Migrator(database).status()
        may_create = status.is_usable or _may_create(database)
    except (DBAPIError, CommandError) as error:
        report.problem(
            area, f"The schema cannot be read: {getattr(error, 'orig', None) or error}", "Look at the rights."
        )
        return False
    at = ", ".join(status.applied) or "nothing"
    if status.state == "current":
        report.ok(area, f"It is the newest this code knows ({at}).")
    elif status.state == "ahead":
        report.note(
            area,
            f"It is ahead of this code (at {at}; this code knows {', '.join(status.heads)}).",
            "Right after a rollback. Otherwise an older image runs beside a newer one.",
        )
    else:
        what = "empty" if status.state == "empty" else f"behind (at {at})"
        report.problem(
            area, f"It is {what}; this code needs {', '.join(status.heads)}. No pod gets ready.", step
        )
    if not may_create:
        report.problem(
            area,
            "The role may not create tables, so that no migration can run.",
            "GRANT CREATE ON SCHEMA public to it, or make it the database's owner (since Postgres 15 others have no such right).",
        )
    return status.is_usable


def _may_create(database: DatabaseManager) -> bool:
    if database.backend != "postgresql":
        return True
    with database.engine.connect() as connection:
        return bool(
            connection.scalar(
                text("SELECT has_schema_privilege(coalesce(current_schema(), 'public'), 'CREATE')")
            )
        )
