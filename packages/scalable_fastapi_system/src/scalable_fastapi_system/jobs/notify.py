"""Waking workers through PostgreSQL where there is no Redis: NOTIFY with the enqueue's commit, LISTEN in the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import asyncpg
import structlog

from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.database.urls import asyncpg_dsn

_log = structlog.get_logger("jobs.notify")

CHANNEL = "sfs_jobs"
_CHECK_SECONDS = 10.0
_RECONNECT_SECONDS = 1.0
_AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


async def listen(database: DatabaseManager, wake: Callable[[], None]) -> None:
    """Calls `wake` for every notification, until it is cancelled; connects again whenever the connection ends.

    Not for a pooler in transaction mode: LISTEN belongs to a session. A NOTIFY may come through one.
    """
    while True:
        try:
            connection = await asyncpg.connect(
                asyncpg_dsn(database.url), timeout=database.settings.database.connect_timeout_seconds
            )
        except _AWAY as error:
            _log.debug("cannot listen", reason=type(error).__name__)
            await asyncio.sleep(_RECONNECT_SECONDS)
            continue
        try:
            await connection.add_listener(CHANNEL, lambda *_notification: wake())
            wake()  # what came while nobody listened
            while True:
                await asyncio.sleep(_CHECK_SECONDS)
                await connection.execute("SELECT 1", timeout=5)
        except _AWAY:
            await asyncio.sleep(_RECONNECT_SECONDS)
        finally:
            with suppress(Exception):
                await connection.close(timeout=1)
