"""How engines and driver pools connect: options by database, the same limits on each."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from sqlalchemy.pool import NullPool

from scalable_fastapi_system.infra.database.pool import AsyncNullPool, LingeringPool
from scalable_fastapi_system.infra.database.sqlite import SQLITE_BUSY_SECONDS, SqliteConnection
from scalable_fastapi_system.infra.settings import DatabaseSettings

# The server ends a statement that takes too long, and the connection lives; one that stands still ends nothing.
_GRACE_SECONDS = 1.0


def engine_options(
    settings: DatabaseSettings, backend: str, *, pooled: bool, asynchronous: bool
) -> dict[str, Any]:
    """Arguments for `create_engine` or `create_async_engine`."""
    options: dict[str, Any] = {
        "echo": settings.echo,
        "connect_args": connect_arguments(settings, backend, asynchronous=asynchronous),
    }
    if backend == "mysql":
        # As on PostgreSQL: a statement sees what was committed before it, and no range is locked that nobody asked for.
        options["isolation_level"] = "READ COMMITTED"
    if backend == "sqlite" or not pooled:
        # A SQLite connection costs less than keeping one consistent across threads and loops.
        options["poolclass"] = AsyncNullPool if asynchronous and backend != "sqlite" else NullPool
        return options
    options |= {
        "pool_size": settings.pool_size,
        "max_overflow": settings.max_overflow,
        # asyncpg's are tested by `check_before_use`
        "pool_pre_ping": settings.pool_pre_ping and not (asynchronous and backend == "postgresql"),
        "pool_recycle": settings.pool_recycle,
        "pool_timeout": settings.pool_timeout_seconds,
        "pool_use_lifo": True,  # lets idle connections age out after a peak
    }
    if asynchronous:
        options["poolclass"] = LingeringPool
    return options


def connect_arguments(settings: DatabaseSettings, backend: str, *, asynchronous: bool) -> dict[str, Any]:
    """Arguments for the driver's own `connect`."""
    if backend == "sqlite":
        return {"timeout": SQLITE_BUSY_SECONDS, "factory": SqliteConnection}
    if backend == "mysql":
        arguments: dict[str, Any] = {
            "connect_timeout": max(1, round(settings.connect_timeout_seconds)),
            "init_command": _mysql_limits(settings.statement_timeout_seconds),
        }
        if asynchronous:
            arguments |= {
                "read_timeout": settings.statement_timeout_seconds + _GRACE_SECONDS,
                "async_creator_fn": partial(_open_asyncmy, settings.connect_timeout_seconds),
            }
        return arguments
    timeout_ms = str(round(settings.statement_timeout_seconds * 1000))
    if not asynchronous:
        arguments = {"connect_timeout": max(1, round(settings.connect_timeout_seconds))}
        if settings.prepared_statements:
            # PgBouncer refuses start-up options it does not know; there the server's role sets the timeout.
            arguments["options"] = f"-c statement_timeout={timeout_ms}"
        else:
            arguments["prepare_threshold"] = None
        return arguments
    arguments = {
        "timeout": settings.connect_timeout_seconds,
        "command_timeout": settings.statement_timeout_seconds + _GRACE_SECONDS,
    }
    if settings.prepared_statements:
        arguments["server_settings"] = {"statement_timeout": timeout_ms, "jit": "off"}
    else:
        # The nameless statement alone: it lives as long as the transaction, and another client's replaces it. One
        # with a name would stay behind on a server that this client may never see again.
        arguments |= {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": _no_name,
        }
    return arguments


def asyncpg_arguments(settings: DatabaseSettings) -> dict[str, Any]:
    """Arguments for asyncpg's own pool."""
    arguments = connect_arguments(settings, "postgresql", asynchronous=True)
    for name in ("prepared_statement_cache_size", "prepared_statement_name_func"):  # SQLAlchemy's own
        arguments.pop(name, None)
    return arguments


async def prepare_asyncpg(connection: Any) -> None:
    """JSON as plain values on a connection of asyncpg's own pool."""
    import orjson

    for kind in ("json", "jsonb"):
        await connection.set_type_codec(
            kind,
            schema="pg_catalog",
            encoder=lambda value: orjson.dumps(value).decode(),
            decoder=orjson.loads,
        )


async def keep_session(_connection: Any) -> None:
    """In place of asyncpg's reset on release, a round trip that undoes what nothing here does."""


async def close_pool(pool: Any, *, timeout_seconds: float = 5.0) -> None:
    """Closes asyncpg's pool; what does not come back in time is cut off."""
    try:
        async with asyncio.timeout(timeout_seconds):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def _open_asyncmy(seconds: float, /, **arguments: Any) -> Any:
    """The driver's own limit is for TCP alone: a server that stands still accepts, and never says a word."""
    import asyncmy

    async with asyncio.timeout(seconds):
        return await asyncmy.connect(**arguments)


def _mysql_limits(seconds: float) -> str:
    # Each server reads its own comment: MariaDB ends any statement (seconds), MySQL a SELECT (milliseconds).
    return (
        "SET SESSION time_zone = '+00:00' "
        f"/*M!100101 , max_statement_time = {seconds} */ /*!50708 , max_execution_time = {round(seconds * 1000)} */"
    )


def _no_name() -> str:
    return ""
