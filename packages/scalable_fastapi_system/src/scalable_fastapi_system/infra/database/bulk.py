"""Many rows into one table: by COPY on PostgreSQL, by multi-row INSERTs elsewhere."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

import asyncpg
from sqlalchemy import Column, Table, insert, inspect
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.infra.database.observe import note_statement

DEFAULT_BATCH_SIZE = 5000

Rows = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]


async def bulk_insert(
    session: AsyncSession, table: Any, rows: Rows, *, batch_size: int = DEFAULT_BATCH_SIZE
) -> int:
    """Inserts rows in the session's transaction and gives their number.

    table: a `Table` or a mapped class. rows: mappings by column name, all with the same names, from a list, a generator
    or an asynchronous iterator; `batch_size` of them are in memory at a time, and each batch is one statement (on SQLite
    and MySQL the driver's `executemany`). Columns that are not named get their defaults, Python's or the server's. No
    ORM event runs and no generated key comes back.

    Raises ValueError for a row with other names than the first and for an unknown column; IntegrityError, DataError or
    OperationalError where the database refuses a batch: the transaction can then only be rolled back.
    """
    if batch_size < 1:
        raise ValueError("batch_size is at least 1")
    found: Table = table if isinstance(table, Table) else inspect(table).local_table
    await session.flush()  # what was added before comes before: rows may refer to it
    is_copied = session.get_bind().dialect.name == "postgresql"
    if is_copied:
        # The driver's BEGIN goes out with the first statement that SQLAlchemy sees, and a COPY goes past it.
        await (await session.connection()).exec_driver_sql("SELECT 1")
    total = 0
    names: tuple[str, ...] = ()
    async for batch in _batches(rows, batch_size):
        if not names:
            names = tuple(batch[0])
            unknown = [name for name in names if name not in found.c]
            if unknown:
                raise ValueError(f"{found.name} has no column {unknown[0]!r}")
        for offset, row in enumerate(batch, start=total + 1):
            if len(row) != len(names) or any(name not in row for name in names):
                raise ValueError(f"row {offset} names other columns than the first, which has {names}")
        if is_copied:
            await _copy(session, found, names, batch)
        else:
            await session.execute(insert(found), batch)
        total += len(batch)
    return total


async def _batches(rows: Rows, size: int) -> AsyncIterator[list[Mapping[str, Any]]]:
    batch: list[Mapping[str, Any]] = []
    async for row in _each(rows):
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


async def _each(rows: Rows) -> AsyncIterator[Mapping[str, Any]]:
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            yield row
    else:
        for row in rows:
            yield row


async def _copy(
    session: AsyncSession, table: Table, names: tuple[str, ...], batch: Sequence[Mapping[str, Any]]
) -> None:
    connection = await session.connection()
    driver: Any = (await connection.get_raw_connection()).driver_connection
    columns = _columns(table, names)
    dialect = connection.dialect
    converters = [_converter(column, dialect) for column, _ in columns]
    records = [
        tuple(
            convert(row[column.key] if default is None else default(row))
            for (column, default), convert in zip(columns, converters, strict=True)
        )
        for row in batch
    ]
    statement = f"COPY {table.fullname} FROM STDIN"
    started = time.perf_counter()
    try:
        await driver.copy_records_to_table(
            table.name,
            schema_name=table.schema,
            columns=[column.name for column, _ in columns],
            records=records,
        )
    except asyncpg.IntegrityConstraintViolationError as error:
        raise IntegrityError(statement, None, error) from error
    except (asyncpg.DataError, TypeError, ValueError, ArithmeticError) as error:
        raise DataError(statement, None, error) from error
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        OSError,  # lost, or silent past the limit: nothing of SQLAlchemy's is on its way, which would tell whose it is
    ) as error:
        raise OperationalError(statement, None, error, connection_invalidated=driver.is_closed()) from error
    finally:
        # Counted; never slow, since how long it takes is a matter of how much it carries.
        note_statement(statement, time.perf_counter() - started, slow_seconds=float("inf"))


_Default = Callable[[Mapping[str, Any]], Any]


def _columns(table: Table, names: tuple[str, ...]) -> list[tuple[Column[Any], _Default | None]]:
    """The columns to send: those that are named, and those whose default is Python's, with what makes it."""
    columns: list[tuple[Column[Any], _Default | None]] = [(table.c[name], None) for name in names]
    for column in table.c:
        default: Any = column.default
        if column.key in names or default is None or default.is_sequence:
            continue
        if default.is_clause_element:
            raise ValueError(
                f"{table.name}.{column.key} has an SQL expression for its default, which COPY cannot evaluate: "
                "give it a value"
            )
        columns.append((column, _default_of(default)))
    return columns


def _default_of(default: Any) -> _Default:
    if not default.is_callable:
        return lambda _row: default.arg
    return lambda row: default.arg(_RowContext(row))


class _RowContext:
    """What a default that looks at the other values of its row is given."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.current_parameters = dict(row)

    def get_current_parameters(self, isolate_multiinsert_groups: bool = True) -> dict[str, Any]:
        """The values of this row."""
        del isolate_multiinsert_groups
        return self.current_parameters


def _converter(column: Column[Any], dialect: Any) -> Callable[[Any], Any]:
    """From a value of the column's Python type to what the driver sends."""
    process = column.type.dialect_impl(dialect).bind_processor(dialect)
    return process if process is not None else lambda value: value
