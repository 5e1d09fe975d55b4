"""A table that grows tenfold at a time: a list's first page, pages deep in it, one row; beside them the page by OFFSET."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import psycopg
from psycopg import sql
from scalable_fastapi_system.kit.pagination import encode_cursor

from hack.dev.errors import DevError
from tests.bench.growth.measure import Figure, Plan, Turn, measure, say
from tests.bench.servers import Platform
from tests.bench.stores import Stores
from tests.bench.works import LIST, READ

FEWEST = 1000
LIMIT = 100
# The pages and rows that are asked for in turn: many, so that it is not always the same block of the table.
_PLACES = 500
_DEEP = 0.9
_TIMES = 5
_PATIENCE_MS = 120_000
# Ids as the platform makes them (UUIDv7): they begin with the time.
_GROW = sql.SQL(
    "INSERT INTO items (id, owner_id, title, description, created_at) "
    "SELECT (lpad(to_hex(ms >> 16), 8, '0') || '-' || lpad(to_hex(ms & 65535), 4, '0') || '-7' || "
    "substr(gen_random_uuid()::text, 16))::uuid, {owner}, 'Item ' || n, 'description of item ' || n, "
    "to_timestamp(ms / 1000.0) FROM (SELECT n, 1767225600000 + n * 1000::bigint AS ms "
    "FROM generate_series({first}::bigint, {last}::bigint) n) numbered"
)
_FOREIGN_KEYS = "SELECT conname FROM pg_constraint WHERE conrelid = 'items'::regclass AND contype = 'f'"
_COLUMNS = "SELECT id, owner_id, title, description, created_at FROM items WHERE owner_id = %s "
_ORDER = "ORDER BY created_at DESC, id DESC "
_BY_KEYSET = f"{_COLUMNS} AND (created_at, id) < (%s, %s) {_ORDER} LIMIT {LIMIT}"
_BY_OFFSET = f"{_COLUMNS} {_ORDER} LIMIT {LIMIT} OFFSET %s"


@dataclass(frozen=True, slots=True)
class Size:
    """What a table of so many rows came to. The queries are timed alone, in milliseconds."""

    rows: int
    figures: dict[str, Figure]
    keyset_ms: float
    offset_ms: float
    count_ms: float


def grow(stores: Stores, plan: Plan) -> list[Size]:
    """Measures at each size. Raises DevError where the server does not start or gives a page that is not whole."""
    dsn = stores.new_database("bench_growth_rows")
    server = Platform("ours-rows", stores, dsn=dsn)
    server.migrate()
    server.start(probe="/users/me")
    try:
        server.prepare()
        return list(_sizes(server, dsn, stores, plan))
    finally:
        server.stop()


def _sizes(server: Platform, dsn: str, stores: Stores, plan: Plan) -> Iterator[Size]:
    listing, reading = server.call(LIST), server.call(READ)
    with psycopg.connect(dsn, autocommit=True) as database:
        owner = _one(database, "SELECT owner_id FROM items LIMIT 1")
        database.execute("TRUNCATE items")
        # Asking for the owner of each of ten million rows takes longer than all the rest, and reading does not know of it.
        for (name,) in database.execute(_FOREIGN_KEYS).fetchall():
            database.execute(sql.SQL("ALTER TABLE items DROP CONSTRAINT {}").format(sql.Identifier(name)))
        present, count = 0, FEWEST
        while count <= plan.most_rows:
            started = time.monotonic()
            for first in range(present, count, 1_000_000):
                last = min(first + 1_000_000, count)
                database.execute(
                    _GROW.format(
                        owner=sql.Literal(owner), first=sql.Literal(first), last=sql.Literal(last - 1)
                    )
                )
                say(f"{last} rows after {time.monotonic() - started:.0f} s")
            database.execute("VACUUM ANALYZE items")
            present = count
            deep, rows = _places(database, owner, count)
            deep_paths = [f"/items?limit={LIMIT}&cursor={encode_cursor(place)}" for place in deep]
            turns = [
                Turn(f"{count} rows, first page", server, listing),
                Turn(
                    f"{count} rows, pages deep in it", server, dataclasses.replace(listing, paths=deep_paths)
                ),
                Turn(
                    f"{count} rows, one row",
                    server,
                    dataclasses.replace(reading, paths=[f"/items/{item_id}" for _, item_id in rows]),
                ),
            ]
            server.child.thaw()
            _check_page(server, deep_paths[0])
            figures = measure(turns, plan, stores)
            yield Size(
                rows=count,
                figures=dict(zip(("first page", "pages deep in it", "one row"), figures, strict=True)),
                keyset_ms=_time(database, _BY_KEYSET, owner, *_at_depth(database, owner, count)),
                offset_ms=_time(database, _BY_OFFSET, owner, int(count * _DEEP)),
                count_ms=_time(database, "SELECT count(*) FROM items WHERE owner_id = %s", owner),
            )
            count *= 10


def _places(
    database: psycopg.Connection[Any], owner: int, count: int
) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
    """Where the deep pages begin, each in the older half with a whole page after it, and rows from everywhere."""
    dice = random.Random(7)
    older_half = [dice.randrange(LIMIT + 1, count // 2) for _ in range(_PLACES)]
    everywhere = [dice.randrange(count) for _ in range(_PLACES)]
    return _rows(database, owner, older_half), _rows(database, owner, everywhere)


def _rows(database: psycopg.Connection[Any], owner: int, numbers: list[int]) -> list[tuple[Any, Any]]:
    found = database.execute(
        "SELECT created_at, id FROM items JOIN unnest(%s::bigint[]) n "
        "ON created_at = to_timestamp(1767225600 + n) WHERE owner_id = %s",
        [numbers, owner],
    ).fetchall()
    if len(found) != len(numbers):
        raise DevError(f"{len(found)} of {len(numbers)} rows are there")
    return [(created_at, item_id) for created_at, item_id in found]


def _at_depth(database: psycopg.Connection[Any], owner: int, count: int) -> tuple[Any, Any]:
    """The row that the page by OFFSET begins after."""
    return _rows(database, owner, [count - int(count * _DEEP)])[0]


def _check_page(server: Platform, path: str) -> None:
    status, answer = server.request_as_reader(path)
    if status != 200 or answer.count(b'"owner_id"') != LIMIT:
        raise DevError(f"{path} answers {status} and {answer.count(b'owner_id')} rows")


def _time(database: psycopg.Connection[Any], query: str, *values: Any) -> float:
    """Milliseconds from the question to the last row, the median of some tries."""
    database.execute(f"SET statement_timeout = {_PATIENCE_MS}")
    taken = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        database.execute(query, values).fetchall()
        taken.append((time.perf_counter() - started) * 1000)
    return median(taken)


def _one(database: psycopg.Connection[Any], query: str) -> int:
    row = database.execute(query).fetchone()
    if row is None:
        raise DevError(f"nothing is found by: {query}")
    return int(row[0])
