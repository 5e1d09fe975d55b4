"""Tests pooled asyncpg connections before they are used, at the cost of a round trip only where one may be dead.

SQLAlchemy's own test is three round trips at every use. Here a connection that its peer has closed is known without
asking, and one that was used a moment ago is taken to be alive; the rest, which may have died without a word (a
firewall that forgot it, a host that vanished), are asked. One that is found dead is replaced before anybody uses it.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine

TRUSTED_SECONDS = 1.0
_IDLE_SINCE = "idle_since"


def check_before_use(engine: AsyncEngine) -> None:
    """Has each connection of this engine's pool tested when it is taken. For asyncpg; in place of `pool_pre_ping`."""
    dialect: Any = engine.dialect

    @event.listens_for(engine.sync_engine, "checkin")
    def _returned(_connection: Any, record: Any) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def _taken(connection: Any, record: Any, _proxy: Any) -> None:
        idle_since = record.info.get(_IDLE_SINCE)
        if idle_since is None:
            return  # new
        if connection.driver_connection.is_closed():
            raise DisconnectionError("the server closed this connection")
        if time.monotonic() - idle_since < TRUSTED_SECONDS:
            return
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            # The rest of the pool is as old: none of it is used again without having been opened anew.
            raise InvalidatePoolError("this connection does not answer") from error
