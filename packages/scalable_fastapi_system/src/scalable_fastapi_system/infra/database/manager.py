"""`DatabaseManager`: engines and sessions of one process, synchronous and asynchronous.

An asyncio connection belongs to the loop that opened it. The manager therefore pools connections only for
the loop in which `start()` ran (the service's own); on any other loop (a test client that runs each request
in a loop of its own, a script) a session opens a connection and closes it again. Both are correct, the
first is fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, SessionTransaction, sessionmaker

from scalable_fastapi_system.infra.database.connecting import (
    asyncpg_arguments,
    close_pool,
    engine_options,
    keep_session,
    prepare_asyncpg,
)
from scalable_fastapi_system.infra.database.liveness import check_before_use
from scalable_fastapi_system.infra.database.observe import watch_statements
from scalable_fastapi_system.infra.database.outage import (
    as_unavailable,
    is_of_the_session,
    is_read_only,
    is_unavailable,
)
from scalable_fastapi_system.infra.database.pool import LingeringPool
from scalable_fastapi_system.infra.database.replica import ReadingSession, Replica, ask
from scalable_fastapi_system.infra.database.sqlite import SqliteConnections
from scalable_fastapi_system.infra.database.urls import async_url, asyncpg_dsn, backend_of, sync_url
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import ServiceUnavailableException

_log = structlog.get_logger("database")

_HOOKS = "after_commit"
# For a session that somebody closes for its user: else SQLAlchemy lets a closed one begin anew, and what is written then is
# never committed, nor its connection given back.
ENDS_WHEN_CLOSED: Mapping[str, Any] = MappingProxyType({"close_resets_only": False})
_LAST_HOOKS_SECONDS = 5.0

AfterCommit = Callable[[], Awaitable[object] | None]


def on_commit(session: AsyncSession, hook: AfterCommit) -> None:
    """Runs `hook` once this session's transaction has been committed by `DatabaseManager.transaction`.

    A rollback forgets it, that of a savepoint what was added within. Hooks run in the order in which they were added. One
    that raises is logged, and the others run all the same: by then the data is stored and the answer is yes. They run to
    their end where who waits for them is cancelled.
    """
    own = session.sync_session
    # It belongs to what a rollback would undo now; where nothing is begun yet, to what this begins.
    made_in = own.get_nested_transaction() or own.get_transaction() or own.begin()
    own.info.setdefault(_HOOKS, []).append((made_in, hook))


async def _run_hooks(hooks: Sequence[AfterCommit]) -> None:
    for hook in hooks:
        try:
            result = hook()
            if isinstance(result, Awaitable):
                await result
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # whatever a hook raises: one that waits for what was cancelled, too
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # it is the hooks themselves that are ended
            _log.exception("hook after commit failed", hook=getattr(hook, "__qualname__", repr(hook)))


class _Session(Session):
    """The synchronous half of the manager's sessions, which forgets the hooks of what it rolls back."""


@event.listens_for(_Session, "after_soft_rollback")
def _forget_hooks(session: Session, undone: SessionTransaction) -> None:
    hooks: list[tuple[SessionTransaction, AfterCommit]] | None = session.info.get(_HOOKS)
    if hooks:
        hooks[:] = [(made_in, hook) for made_in, hook in hooks if not _is_within(made_in, undone)]


def _is_within(transaction: SessionTransaction | None, outer: SessionTransaction) -> bool:
    """Whether it is that one or nested in it; a savepoint that was released still is."""
    while transaction is not None and transaction is not outer:
        transaction = transaction.parent
    return transaction is outer


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
        # By engine, the one with its pool whose transactions begin READ ONLY. Made once: it costs as much as ten sessions.
        self._reading_engines: weakref.WeakKeyDictionary[AsyncEngine, AsyncEngine] = (
            weakref.WeakKeyDictionary()
        )
        self._asyncpg_pool: Any = None  # the home loop's
        self._hooks_running: set[asyncio.Task[None]] = set()
        self._sqlite = SqliteConnections()
        if settings.is_ephemeral:
            # A file and not :memory:, because sync and async sessions, threads and loops must see one database.
            folder = tempfile.mkdtemp(prefix="scalable-fastapi-system-")
            self.url = f"sqlite:///{Path(folder) / 'temporary.db'}"
            self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        else:
            self.url = str(settings.database.database_url)
        self.backend = backend_of(self.url)
        self.replica = self._make_replica()

    def _make_replica(self) -> Replica | None:
        database = self.settings.database
        if database.replica_url is None:
            return None
        section = database.model_copy(update={"database_url": database.replica_url, "replica_url": None})
        manager = DatabaseManager(self.settings.model_copy(update={"database": section}))
        manager.session_info = self.session_info
        return Replica(manager, retry_seconds=database.replica_retry_seconds)

    # -- engines ------------------------------------------------------------------------------------

    @cached_property
    def engine(self) -> Engine:
        """The synchronous engine (psycopg, pymysql or sqlite3)."""
        engine = self.make_engine(pooled=True)
        weakref.finalize(self, engine.dispose)  # who only has sessions by hand stops nothing
        return engine

    def make_engine(self, *, pooled: bool) -> Engine:
        """A synchronous engine of the caller's own."""
        options = engine_options(self.settings.database, self.backend, pooled=pooled, asynchronous=False)
        engine = create_engine(sync_url(self.url), **options)
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
        options = engine_options(self.settings.database, self.backend, pooled=pooled, asynchronous=True)
        engine = create_async_engine(async_url(self.url), **options)
        self._prepare_engine(engine.sync_engine)
        if pooled and self.backend == "postgresql" and self.settings.database.pool_pre_ping:
            check_before_use(engine)
        return engine

    def _prepare_engine(self, engine: Engine) -> None:
        watch_statements(engine, slow_seconds=self.settings.database.slow_query_seconds)
        if self.backend == "sqlite":
            self._sqlite.prepare(engine)

    # -- sessions -----------------------------------------------------------------------------------

    @cached_property
    def _session_factory(self) -> sessionmaker[Session]:
        return sessionmaker(self.engine, expire_on_commit=False)

    def SessionLocal(self, **options: Any) -> Session:  # noqa: N802 - the guide's public name
        """A new synchronous session; the caller closes it. `options` are SQLAlchemy's."""
        self.ensure_schema()
        return self._session_factory(**options)

    def AsyncSessionLocal(self, **options: Any) -> AsyncSession:  # noqa: N802 - the guide's public name
        """A new asynchronous session on the running loop; `async with` closes it. `options` are SQLAlchemy's."""
        return self._new_session(self.async_engine, _Session, **options)

    def _new_session(self, engine: AsyncEngine, kind: type[Session], **options: Any) -> AsyncSession:
        self.ensure_schema()
        return AsyncSession(
            engine, sync_session_class=kind, expire_on_commit=False, info=self.session_info, **options
        )

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises.

        The commit is done when the block has been left, so what follows may promise it. Whoever uses the session after
        that, in a background task or a stream, gets an InvalidRequestError. Raises
        ServiceUnavailableException where the database cannot be reached, has no connection free or takes no writes.
        """
        async with self.AsyncSessionLocal(**ENDS_WHEN_CLOSED) as session:
            async with self._undone_by_errors(session):
                yield session
                if session.in_transaction():  # not where the block has closed it
                    await session.commit()
            hooks: list[tuple[SessionTransaction, AfterCommit]] = session.info.pop(_HOOKS, [])
        if hooks:
            await self._run_after_commit([hook for _, hook in hooks])

    async def _run_after_commit(self, hooks: Sequence[AfterCommit]) -> None:
        running = asyncio.create_task(_run_hooks(hooks))
        self._hooks_running.add(running)
        running.add_done_callback(self._hooks_running.discard)
        await asyncio.shield(running)

    @contextlib.asynccontextmanager
    async def read_session(self) -> AsyncIterator[AsyncSession]:
        """A session that only reads, on the replica where the settings name one.

        What it reads may be behind: for lists, searches and reports, never for what decides a write or must show what
        its caller has just stored. Where the replica cannot be reached, it is one on the primary. The database refuses
        writes on either, in each of the session's transactions. Raises ServiceUnavailableException where neither is
        there, or where the server is lost within the block.
        """
        session = await self._replica_session() or self._reading_session()
        async with session, self._undone_by_errors(session, is_reading=True):
            yield session

    def _reading_session(self) -> AsyncSession:
        engine = self.async_engine
        if self.backend == "postgresql":
            reading = self._reading_engines.get(engine)
            if reading is None:
                reading = engine.execution_options(postgresql_readonly=True)
                self._reading_engines[engine] = reading
            engine = reading
        return self._new_session(engine, ReadingSession, **ENDS_WHEN_CLOSED)

    async def _replica_session(self) -> AsyncSession | None:
        """A session that has its connection to the replica; None where the replica is away, or there is none."""
        replica = self.replica
        if replica is None or not replica.is_worth_trying():
            return None
        session = replica.database._reading_session()
        try:
            await ask(session)  # while there is still the primary to turn to
        except (OSError, DBAPIError) as error:
            await _quietly(session.close())
            if not is_unavailable(error):
                raise
            replica.failed(error)
            return None
        except PoolTimeoutError as error:
            # Not an outage but too much load, which would only take the primary down as well.
            raise ServiceUnavailableException("The read replica has no connection free") from error
        except BaseException:
            await _quietly(session.close())
            raise
        replica.worked()
        return session

    @contextlib.asynccontextmanager
    async def _undone_by_errors(
        self, session: AsyncSession, *, is_reading: bool = False
    ) -> AsyncIterator[None]:
        try:
            yield
        except (PoolTimeoutError, OSError, DBAPIError) as error:
            await _quietly(session.rollback())
            if isinstance(error, OSError) and not is_of_the_session(error):
                raise  # a file, a socket, a time-out of the block's own
            if is_read_only(error):
                if is_reading:
                    raise  # a write where none belongs
                await self.forget_connections()
            if (told := as_unavailable(error)) is not None:
                raise told from error
            raise
        except BaseException:
            await _quietly(session.rollback())
            raise

    # -- straight to the driver ---------------------------------------------------------------------

    @property
    def is_direct(self) -> bool:
        """Whether the running loop has asyncpg's own pool: on PostgreSQL, the one that called `start()`. Any other, such as a
        script's or that of a test client without a lifespan, opens what it needs for each use: nobody would close a pool there.
        """
        return self.backend == "postgresql" and asyncio.get_running_loop() is self._home_loop

    async def asyncpg_pool(self) -> Any:
        """asyncpg's own pool, for hot reads and single writes. Only where `is_direct`.

        Connections come back without a reset round trip: what runs here leaves no session state behind.
        Opens none yet, so that nothing here fails: a pool that failed to open would have failed for good.
        """
        pool = self._asyncpg_pool
        if pool is None:
            pool = self._asyncpg_pool = self._make_asyncpg_pool()
        if not pool._initialized:  # awaiting an initialised pool is free, asking first is cheaper still
            await pool
        return pool

    def _make_asyncpg_pool(self) -> Any:
        from scalable_fastapi_system.infra.database.fair_pool import FairPool

        database = self.settings.database
        return FairPool(
            asyncpg_dsn(self.url),
            min_size=0,
            max_size=database.read_pool_size,
            patience_seconds=database.pool_timeout_seconds,
            max_inactive_connection_lifetime=float(max(database.pool_recycle, 0)),
            init=prepare_asyncpg,
            reset=keep_session,
            **asyncpg_arguments(database),
        )

    # -- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Makes the running loop the one whose connections are pooled."""
        loop = asyncio.get_running_loop()
        if loop is not self._home_loop:
            self._home_loop, self._asyncpg_pool = loop, None
        if self.replica is not None:
            await self.replica.database.start()
        await asyncio.to_thread(self.ensure_schema)

    async def wait_for_hooks(self) -> None:
        """Waits, for some seconds at the most, for the hooks after commits whose callers were cancelled."""
        loop = asyncio.get_running_loop()
        running = {task for task in list(self._hooks_running) if task.get_loop() is loop}
        if running:
            await asyncio.wait(running, timeout=_LAST_HOOKS_SECONDS)

    async def stop(self) -> None:
        """Closes every pooled connection. The manager can be started again."""
        if self.replica is not None:
            await self.replica.database.stop()
        for name in ("_pooled_engine", "_unpooled_engine"):
            engine: AsyncEngine | None = self.__dict__.pop(name, None)
            if engine is not None:
                await engine.dispose()
        await self._sqlite.wait_ended()
        pool, self._asyncpg_pool = self._asyncpg_pool, None
        if pool is not None and asyncio.get_running_loop() is self._home_loop:
            await close_pool(pool)
        self.__dict__.pop("_session_factory", None)
        sync_engine: Engine | None = self.__dict__.pop("engine", None)
        if sync_engine is not None:
            sync_engine.dispose()
        self._home_loop = None

    async def forget_connections(self) -> None:
        """Has every connection of the running loop's pools opened anew: those there are lead to the wrong server."""
        await self.async_engine.dispose()
        if self._asyncpg_pool is not None and self.is_direct:
            await self._asyncpg_pool.expire_connections()

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
        """The pools of the service's own loop, opened yet or not: `sessions` and, on PostgreSQL, `reads`.

        Those of a replica have `replica_` before their names.
        """
        replica = self.replica.database.pool_usage() if self.replica is not None else []
        replica = [dataclasses.replace(usage, name=f"replica_{usage.name}") for usage in replica]
        if self.backend == "sqlite":
            return replica
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
            pool = self._asyncpg_pool
            idle = pool.get_idle_size() if pool is not None else 0
            in_use = pool.get_size() - idle if pool is not None else 0
            usages.append(PoolUsage("reads", in_use=in_use, idle=idle, limit=database.read_pool_size))
        return usages + replica


async def _quietly(rollback: Awaitable[None]) -> None:
    # The first error is the one to report; a connection that is gone cannot be rolled back.
    with contextlib.suppress(DBAPIError, OSError, PoolTimeoutError):
        await rollback
