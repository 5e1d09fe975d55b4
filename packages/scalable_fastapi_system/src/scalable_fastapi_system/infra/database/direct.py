"""One statement, compiled once and sent straight to the driver: `Read` for a SELECT, `Write` for a change.

A session of the ORM costs more than the query it carries, and a transaction of one statement is three round trips
(docs/performance.md has the figures). Both are made from ordinary SQLAlchemy statements, so they stay portable, and
give plain dicts: on PostgreSQL they run as prepared statements on asyncpg, elsewhere on a connection of the engine.
They see what is committed and nothing of an open transaction: what belongs together goes into a session. What a type
does to a value in Python is done for Enum alone on asyncpg, not for a TypeDecorator: the driver has the values as given.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ClauseElement, Delete, Enum, Insert, Select, Update
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from scalable_fastapi_system.infra.database.observe import note_statement
from scalable_fastapi_system.infra.database.outage import (
    TransactionUndone,
    as_unavailable,
    is_read_only,
    took_too_long,
)
from scalable_fastapi_system.kit.errors import ServiceUnavailableException

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.database.manager import DatabaseManager

Row = Mapping[str, Any]
_T = TypeVar("_T")


class _Direct:
    """A statement with named parameters, and the two ways to run it."""

    _is_repeatable: bool

    def __init__(self, statement: ClauseElement) -> None:
        self._statement: Any = statement
        dialect: Any = asyncpg_dialect()  # type: ignore[no-untyped-call]
        compiled: Any = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        if left_out := [column.key for column in getattr(compiled, "prefetch", ())]:
            raise ValueError(
                f"the statement gives no value for {', '.join(left_out)}, whose default or onupdate the model has "
                "in Python: give one"
            )
        self._sql = str(compiled)
        self._order: tuple[str, ...] = tuple(compiled.positiontup or ())
        # None may be one of them: what the caller has to give is told by the statement, not by the lack of a value.
        given = {name for name, parameter in compiled.binds.items() if parameter.required}
        # Of an Enum asyncpg takes and gives the text that is stored. The values of an IN have names of their own.
        lists = compiled._post_compile_expanded_state
        names_of = lists.parameter_expansion if lists else {}
        self._to_text: dict[str, Callable[[Any], Any]] = {
            name: parameter.type.bind_processor(dialect)  # type: ignore[no-untyped-call]
            for parent, parameter in compiled.binds.items()
            if isinstance(parameter.type, Enum)
            for name in names_of.get(parent, (parent,))
        }
        self._from_text: dict[str, Callable[[Any], Any]] = {
            column.keyname: column.type.result_processor(dialect, None)  # type: ignore[no-untyped-call]
            for column in compiled._result_columns
            if isinstance(column.type, Enum)
        }
        self._as_row: Callable[[Any], Row] = self._with_enums if self._from_text else dict
        self._constants = {
            name: self._to_text[name](value) if name in self._to_text else value
            for name, value in compiled.params.items()
            if name in self._order and name not in given
        }

    def _with_enums(self, record: Any) -> Row:
        row = dict(record)
        for name, convert in self._from_text.items():
            row[name] = convert(row[name])
        return row

    async def _on_asyncpg(self, database: DatabaseManager, values: dict[str, Any], method: str) -> Any:
        import asyncpg

        constants = self._constants
        if self._to_text:
            values = values | {
                name: to_text(values[name]) for name, to_text in self._to_text.items() if name in values
            }
        arguments = [values[name] if name in values else constants[name] for name in self._order]
        pool = await database.asyncpg_pool()
        started = time.perf_counter()
        try:
            try:
                return await getattr(pool, method)(self._sql, *arguments)
            except asyncpg.DataError:
                raise  # an interface error too, but the caller's
            except (
                asyncpg.PostgresConnectionError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
                ConnectionError,
            ):
                if not self._is_repeatable:
                    raise
                # A pooled connection that died while it was idle: a read may be asked again on a new one.
                return await getattr(pool, method)(self._sql, *arguments)
        except asyncpg.DataError:
            raise
        except asyncpg.IntegrityConstraintViolationError as error:
            raise IntegrityError(self._sql, None, error) from error
        except asyncpg.ReadOnlySQLTransactionError as error:
            await database.forget_connections()
            raise ServiceUnavailableException("The database takes no writes at the moment") from error
        except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError) as error:
            raise TransactionUndone from error
        except (
            asyncpg.PostgresConnectionError,
            asyncpg.OperatorInterventionError,  # starting, going down, crashed; a statement that took too long
            asyncpg.InsufficientResourcesError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,  # the connection is in a state that only a new one ends
            PoolTimeoutError,
            OSError,  # TimeoutError, too
        ) as error:
            raise ServiceUnavailableException("The database cannot be reached at the moment") from error
        finally:
            note_statement(
                self._sql, time.perf_counter() - started, database.settings.database.slow_query_seconds
            )

    async def _on_engine(self, database: DatabaseManager, values: dict[str, Any]) -> tuple[list[Row], int]:
        """The rows, and how many the statement touched."""
        database.ensure_schema()
        try:
            async with database.async_engine.begin() as connection:
                result = await connection.execute(self._statement, values)
                rows: list[Row] = [dict(row) for row in result.mappings()] if result.returns_rows else []
                return rows, max(0, result.rowcount)
        except (PoolTimeoutError, OSError, DBAPIError) as error:
            if is_read_only(error):
                await database.forget_connections()
            if (told := as_unavailable(error)) is not None:
                raise told from error
            raise


class Read(_Direct):
    """One SELECT with named `bindparam`s. `one` and `all` give rows by column name.

    Raises ServiceUnavailableException where the database is away.
    """

    _is_repeatable = True

    def __init__(self, statement: Select[Any], *, may_lag: bool = False) -> None:
        """`may_lag`: ask the replica where the settings name one, the primary where that is away."""
        super().__init__(statement)
        self._may_lag = may_lag

    async def one(self, database: DatabaseManager, **values: Any) -> Row | None:
        """The first row, or None."""
        return await self._where_it_may(database, self._one, values)

    async def all(self, database: DatabaseManager, **values: Any) -> Sequence[Row]:
        """Every row."""
        return await self._where_it_may(database, self._all, values)

    async def _where_it_may(
        self,
        database: DatabaseManager,
        ask: Callable[[DatabaseManager, dict[str, Any]], Awaitable[_T]],
        values: dict[str, Any],
    ) -> _T:
        replica = database.replica if self._may_lag else None
        if replica is None or not replica.is_worth_trying():
            return await ask(database, values)
        try:
            answer = await ask(replica.database, values)
        except TransactionUndone:
            return await ask(database, values)  # it answers: what it replays from the primary was in the way
        except ServiceUnavailableException as error:
            if isinstance(error.__cause__, PoolTimeoutError) or took_too_long(error.__cause__):
                raise  # too much load, which would only take the primary down as well
            replica.failed(error)
            return await ask(database, values)
        replica.worked()
        return answer

    async def _one(self, database: DatabaseManager, values: dict[str, Any]) -> Row | None:
        if database.is_direct:
            row = await self._on_asyncpg(database, values, "fetchrow")
            return None if row is None else self._as_row(row)
        rows, _ = await self._on_engine(database, values)
        return rows[0] if rows else None

    async def _all(self, database: DatabaseManager, values: dict[str, Any]) -> Sequence[Row]:
        if database.is_direct:
            return list(map(self._as_row, await self._on_asyncpg(database, values, "fetch")))
        return (await self._on_engine(database, values))[0]


class Write(_Direct):
    """One INSERT, UPDATE or DELETE with named `bindparam`s, a transaction by itself: it is stored when the call returns.

    For a change that nothing else has to go with: no second statement, no job, no hook after the commit. Every value is
    given (an INSERT without `values` takes one for each column): a statement that leaves a column's `default` or `onupdate`
    to Python is a ValueError when it is made.

    Raises IntegrityError where a constraint refuses it, ServiceUnavailableException where the database is away; where it
    went away on the way, nobody knows whether the change is stored, and it is not tried again.
    """

    _is_repeatable = False

    def __init__(self, statement: Insert | Update | Delete) -> None:
        super().__init__(statement)

    async def one(self, database: DatabaseManager, **values: Any) -> Row | None:
        """The first row of its RETURNING, None where it touched none. MySQL has no RETURNING."""
        if database.is_direct:
            row = await self._on_asyncpg(database, values, "fetchrow")
            return None if row is None else self._as_row(row)
        rows, _ = await self._on_engine(database, values)
        return rows[0] if rows else None

    async def run(self, database: DatabaseManager, **values: Any) -> int:
        """How many rows it touched."""
        if database.is_direct:
            status: str = await self._on_asyncpg(database, values, "execute")
            return int(status.rpartition(" ")[2])
        return (await self._on_engine(database, values))[1]
