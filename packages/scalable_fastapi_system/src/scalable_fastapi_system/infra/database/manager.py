"""`DatabaseManager`: engines and sessions of one process, synchronous and asynchronous.

An asyncio connection belongs to the loop that opened it. The manager therefore pools connections only for
the loop in which `start()` ran (the service's own); on any other loop (a test client that runs each request
in a loop of its own, a script) a session opens a connection and closes it again. Both are correct, the
first is fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from scalable_fastapi_system.infra.database.liveness import check_before_use
from scalable_fastapi_system.infra.database.observe import watch_statements
from scalable_fastapi_system.infra.database.pool import LingeringPool
from scalable_fastapi_system.infra.database.urls import async_url, asyncpg_dsn, backend_of, sync_url
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import ServiceUnavailableException

_HOOKS = "after_commit"

AfterCommit = Callable[[], Awaitable[None]]


def on_commit(session: AsyncSession, hook: AfterCommit) -> None:
    """Runs `hook` once this session's transaction has been committed by `DatabaseManager.transaction`.

    A rollback forgets it. The hook must not raise for anything that the caller should know: by then the
    data is stored and the answer is yes.
    """
    session.info.setdefault(_HOOKS, []).append(hook)


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Connections of one pool on the service's own loop; `limit` is how many there may be."""

    name: str
    in_use: int
    idle: int
    limit: int


class DatabaseManager:
    """Engines, sessions and transactions for the database that the settings name."""

    def __init__(self, settings: Settings, *, migrations: Sequence[str] = ()) -> None:
        """Opens nothing yet. `migrations`: the product's migration packages, for a temporary database."""
        self.settings = settings
        self.migrations = tuple(migrations)
        self._home_loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._prepared = not settings.is_ephemeral
        # What every session carries in its `info`, for layers above that find their own things by a session.
        self.session_info: dict[str, Any] = {}
        self._asyncpg_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = (
            weakref.WeakKeyDictionary()
        )
        if settings.is_ephemeral:
            # A file and not :memory:, because sync and async sessions, threads and loops must see one database.
            folder = tempfile.mkdtemp(prefix="scalable-fastapi-system-")
            self.url = f"sqlite:///{Path(folder) / 'temporary.db'}"
            self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        else:
            self.url = str(settings.database.database_url)
        self.backend = backend_of(self.url)

    # -- engines ------------------------------------------------------------------------------------

    @cached_property
    def engine(self) -> Engine:
        """The synchronous engine (psycopg, pymysql or sqlite3)."""
        engine = create_engine(sync_url(self.url), **self._engine_options(pooled=True, asynchronous=False))
        self._prepare_engine(engine)
        return engine

    @property
    def async_engine(self) -> AsyncEngine:
        """The asynchronous engine for the running loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        return self._pooled_engine if loop is not None and loop is self._home_loop else self._unpooled_engine

    @cached_property
    def _pooled_engine(self) -> AsyncEngine:
        return self._make_async_engine(pooled=True)

    @cached_property
    def _unpooled_engine(self) -> AsyncEngine:
        return self._make_async_engine(pooled=False)

    def _make_async_engine(self, *, pooled: bool) -> AsyncEngine:
        engine = create_async_engine(
            async_url(self.url), **self._engine_options(pooled=pooled, asynchronous=True)
        )
        self._prepare_engine(engine.sync_engine)
        if pooled and self.backend == "postgresql" and self.settings.database.pool_pre_ping:
            check_before_use(engine)
        return engine

    def _engine_options(self, *, pooled: bool, asynchronous: bool) -> dict[str, Any]:
        database = self.settings.database
        options: dict[str, Any] = {"echo": database.echo, "connect_args": self._connect_args(asynchronous)}
        if self.backend == "sqlite" or not pooled:
            # A SQLite connection costs less than keeping one consistent across threads and loops.
            options["poolclass"] = NullPool
        else:
            options |= {
                "pool_size": database.pool_size,
                "max_overflow": database.max_overflow,
                # asyncpg's are tested by `check_before_use`
                "pool_pre_ping": database.pool_pre_ping
                and not (asynchronous and self.backend == "postgresql"),
                "pool_recycle": database.pool_recycle,
                "pool_timeout": database.pool_timeout_seconds,
                "pool_use_lifo": True,  # lets idle connections age out after a peak
            }
            if asynchronous:
                options["poolclass"] = LingeringPool
        return options

    def _connect_args(self, asynchronous: bool) -> dict[str, Any]:
        database = self.settings.database
        if self.backend == "sqlite":
            return {"timeout": database.connect_timeout_seconds}
        if self.backend == "mysql":
            return {"connect_timeout": max(1, round(database.connect_timeout_seconds))}
        timeout_ms = str(round(database.statement_timeout_seconds * 1000))
        if not asynchronous:
            arguments: dict[str, Any] = {"connect_timeout": max(1, round(database.connect_timeout_seconds))}
            if database.prepared_statements:
                # PgBouncer refuses start-up options it does not know; there the server's role sets the timeout.
                arguments["options"] = f"-c statement_timeout={timeout_ms}"
            else:
                arguments["prepare_threshold"] = None
            return arguments
        arguments = {
            "timeout": database.connect_timeout_seconds,
            "command_timeout": database.statement_timeout_seconds,
        }
        if database.prepared_statements:
            arguments["server_settings"] = {"statement_timeout": timeout_ms, "jit": "off"}
        else:
            # Names must be unique across the clients that share a server, and nothing may be remembered.
            arguments |= {
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": _unique_statement_name,
            }
        return arguments

    def _prepare_engine(self, engine: Engine) -> None:
        watch_statements(engine, slow_seconds=self.settings.database.slow_query_seconds)
        if self.backend == "sqlite":
            event.listen(engine, "connect", _configure_sqlite)

    # -- sessions -----------------------------------------------------------------------------------

    @cached_property
    def _session_factory(self) -> sessionmaker[Session]:
        return sessionmaker(self.engine, expire_on_commit=False)

    def SessionLocal(self) -> Session:  # noqa: N802 - the guide's public name
        """A new synchronous session; the caller closes it."""
        self.ensure_schema()
        return self._session_factory()

    def AsyncSessionLocal(self) -> AsyncSession:  # noqa: N802 - the guide's public name
        """A new asynchronous session on the running loop; `async with` closes it."""
        self.ensure_schema()
        return async_sessionmaker(self.async_engine, expire_on_commit=False, info=self.session_info)()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises.

        The commit is done when the block has been left, so what follows may promise it. Raises
        ServiceUnavailableException where the database cannot be reached or has no connection free.
        """
        async with self.AsyncSessionLocal() as session:
            try:
                yield session
                await session.commit()
            except (PoolTimeoutError, OSError, DBAPIError) as error:
                await _quietly(session.rollback())
                if is_unavailable(error):
                    raise ServiceUnavailableException(
                        "The database cannot be reached at the moment"
                    ) from error
                raise
            except BaseException:
                await _quietly(session.rollback())
                raise
            hooks: list[AfterCommit] = session.info.pop(_HOOKS, [])
        for hook in hooks:
            await hook()

    # -- straight to the driver ---------------------------------------------------------------------

    async def asyncpg_pool(self) -> Any:
        """asyncpg's own pool on the running loop, for hot reads and for the job engine. PostgreSQL only.

        Connections come back without a reset round trip: what runs here leaves no session state behind.
        Raises ServiceUnavailableException where the database cannot be reached.
        """
        loop = asyncio.get_running_loop()
        pool = self._asyncpg_pools.get(loop)
        if pool is None:
            pool = self._asyncpg_pools[loop] = self._make_asyncpg_pool()
        if not pool._initialized:  # awaiting an initialised pool is free, asking first is cheaper still
            try:
                await pool
            except OSError as error:
                self._asyncpg_pools.pop(loop, None)
                raise ServiceUnavailableException("The database cannot be reached at the moment") from error
        return pool

    def _make_asyncpg_pool(self) -> Any:
        import asyncpg

        database = self.settings.database
        arguments = self._connect_args(asynchronous=True)
        for name in ("prepared_statement_cache_size", "prepared_statement_name_func"):  # SQLAlchemy's own
            arguments.pop(name, None)
        is_home = asyncio.get_running_loop() is self._home_loop
        return asyncpg.create_pool(
            asyncpg_dsn(self.url),
            min_size=min(2, database.read_pool_size) if is_home else 0,
            max_size=database.read_pool_size,
            max_inactive_connection_lifetime=float(max(database.pool_recycle, 0)),
            init=_prepare_asyncpg,
            reset=_keep_session,
            **arguments,
        )

    # -- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Makes the running loop the one whose connections are pooled."""
        self._home_loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.ensure_schema)

    async def stop(self) -> None:
        """Closes every pooled connection. The manager can be started again."""
        for name in ("_pooled_engine", "_unpooled_engine"):
            engine: AsyncEngine | None = self.__dict__.pop(name, None)
            if engine is not None:
                await engine.dispose()
        pool = self._asyncpg_pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await _close_pool(pool)
        self.__dict__.pop("_session_factory", None)
        sync_engine: Engine | None = self.__dict__.pop("engine", None)
        if sync_engine is not None:
            sync_engine.dispose()
        self._home_loop = None

    def ensure_schema(self) -> None:
        """Brings a temporary database to the newest schema, once. Any other is migrated by `migrate`."""
        if self._prepared:
            return
        with self._lock:
            if not self._prepared:
                from scalable_fastapi_system.infra.database.migrate import Migrator

                Migrator(self).upgrade()
                self._prepared = True

    async def ping(self) -> None:
        """One round trip to the database. Raises what the driver raises."""
        async with self.async_engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def health_check(self, *, timeout_seconds: float = 2.0) -> str:
        """`healthy` or `unhealthy`, within the timeout."""
        try:
            self.ensure_schema()
            async with asyncio.timeout(timeout_seconds):
                await self.ping()
        except (TimeoutError, OSError, DBAPIError, PoolTimeoutError):
            return "unhealthy"
        return "healthy"

    def pool_status(self) -> dict[str, int]:
        """Connections of the pool: `size`, `checked_out`, `overflow` (empty where nothing is pooled)."""
        engine: AsyncEngine | None = self.__dict__.get("_pooled_engine")
        pool = engine.pool if engine is not None else None
        if not isinstance(pool, LingeringPool):
            return {}
        overflow = max(0, pool.open_count - pool.kept)
        return {"size": pool.kept, "checked_out": pool.checkedout(), "overflow": overflow}

    def pool_usage(self) -> list[PoolUsage]:
        """Both pools of the service's own loop, opened yet or not: `sessions` and, on PostgreSQL, `reads`."""
        if self.backend == "sqlite":
            return []
        database = self.settings.database
        engine: AsyncEngine | None = self.__dict__.get("_pooled_engine")
        sessions: Any = engine.pool if engine is not None else None
        usages = [
            PoolUsage(
                "sessions",
                in_use=sessions.checkedout() if sessions is not None else 0,
                idle=sessions.checkedin() if sessions is not None else 0,
                limit=database.pool_size + max(0, database.max_overflow),
            )
        ]
        if self.backend == "postgresql":
            pool = self._asyncpg_pools.get(self._home_loop) if self._home_loop is not None else None
            idle = pool.get_idle_size() if pool is not None else 0
            in_use = pool.get_size() - idle if pool is not None else 0
            usages.append(PoolUsage("reads", in_use=in_use, idle=idle, limit=database.read_pool_size))
        return usages


def is_unavailable(error: BaseException) -> bool:
    """Whether this means that the database is away or full, rather than that the statement was wrong."""
    if isinstance(error, PoolTimeoutError | OSError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    original: Any = error.orig
    cause: Any = getattr(original, "__cause__", None) or original
    if isinstance(cause, OSError):
        return True
    state = str(getattr(cause, "sqlstate", None) or "")
    # 08 connection, 25006 a primary that became a standby, 53 no resources, 57P going down or starting
    if state.startswith(("08", "53", "57P")) or state == "25006":
        return True
    return isinstance(error, OperationalError) and not state and "locked" in str(cause).lower()


async def _prepare_asyncpg(connection: Any) -> None:
    import orjson

    for kind in ("json", "jsonb"):
        await connection.set_type_codec(
            kind,
            schema="pg_catalog",
            encoder=lambda value: orjson.dumps(value).decode(),
            decoder=orjson.loads,
        )


async def _keep_session(_connection: Any) -> None:
    """In place of asyncpg's reset on release, a round trip that undoes what nothing here does."""


async def _close_pool(pool: Any, *, timeout_seconds: float = 5.0) -> None:
    try:
        async with asyncio.timeout(timeout_seconds):
            await pool.close()
    except TimeoutError:
        pool.terminate()


def _unique_statement_name() -> str:
    import uuid

    return f"__asyncpg_{uuid.uuid4().hex}__"


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers and the writer do not wait for one another
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()


async def _quietly(rollback: Awaitable[None]) -> None:
    # The first error is the one to report; a connection that is gone cannot be rolled back.
    with contextlib.suppress(DBAPIError, OSError, PoolTimeoutError):
        await rollback
