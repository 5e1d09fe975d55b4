"""Whether a process should be given work: asked by the probes of the API and of the worker alike."""

from __future__ import annotations

import asyncio
import contextvars
import time

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from scalable_fastapi_system.infra.cache import CacheManager
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.database.schema_state import State, schema_state

READY = "ready"
DRAINING = "draining"
NO_SCHEMA = "schema"
NO_DATABASE = "database"
STATES = (READY, DRAINING, NO_SCHEMA, NO_DATABASE)
CHECK_TIMEOUT_SECONDS = 2.0  # below the probes' own time-out, so that the reason gets out
REMEMBER_SECONDS = 1.0
STALE_SECONDS = 5.0  # an answer is given for so long while a slow store is asked again


class Readiness:
    """Remembers for a second whether the database answers and its schema fits this code."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database
        self._schema_fits = False
        self._checked_at = float("-inf")
        self._reason: str | None = "not checked yet"
        self._found = NO_DATABASE
        self.is_draining = False

    @property
    def state(self) -> str:
        """One of `STATES`, as it was when the reason was last asked for."""
        return DRAINING if self.is_draining else self._found

    async def reason_not_ready(self, now: float | None = None) -> str | None:
        """None when ready, else why not. `now` is monotonic seconds."""
        if self.is_draining:
            return "shutting down"
        moment = time.monotonic() if now is None else now
        if moment - self._checked_at >= REMEMBER_SECONDS:
            self._checked_at = moment
            self._found, self._reason = await self._check()
        return self._reason

    async def _check(self) -> tuple[str, str | None]:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                if not self._schema_fits:
                    # Once it fits it stays so: a newer schema is accepted, and nothing downgrades under a live process.
                    state = await self._schema_state()
                    if state not in {"current", "ahead"}:
                        return NO_SCHEMA, f"the schema is {state}: run migrate"
                    self._schema_fits = True
                await self._database.ping()
        except (TimeoutError, OSError, DBAPIError, PoolTimeoutError):
            return NO_DATABASE, "the database does not answer"
        return READY, None

    async def _schema_state(self) -> State:
        await asyncio.to_thread(self._database.ensure_schema)
        return await schema_state(self._database)


class StoreHealth:
    """How the database and Redis are: asked by one at a time and once a second at most, however many want to know.

    Nobody counts or refuses who asks, so it must not be a way to keep the stores' connections, or the process, busy.
    """

    def __init__(self, database: DatabaseManager, cache: CacheManager) -> None:
        self._database = database
        self._cache = cache
        self._found: tuple[str, str] | None = None
        self._found_at = float("-inf")
        self._asking: asyncio.Task[tuple[str, str]] | None = None

    async def states(self) -> tuple[str, str]:
        """Of the database and of Redis, each `healthy` or `unhealthy`."""
        age = time.monotonic() - self._found_at
        if self._found is not None and age < REMEMBER_SECONDS:
            return self._found
        asking = self._asking
        if asking is None or asking.done() or asking.get_loop() is not asyncio.get_running_loop():
            # in no request's context: its trace and its log lines are not this one's
            self._asking = asking = asyncio.create_task(self._ask(), context=contextvars.Context())
        elif self._found is not None and age < STALE_SECONDS:
            return self._found
        return await asyncio.shield(asking)  # who leaves does not end it for the others

    async def _ask(self) -> tuple[str, str]:
        database, redis = await asyncio.gather(self._database.health_check(), self._cache.health_check())
        self._found, self._found_at = (database, redis), time.monotonic()
        return database, redis
