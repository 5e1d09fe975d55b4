"""No question of the engine reads the history: with many ended jobs none is answered by a scan of the table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs.store import postgres_sql as sql
from scalable_fastapi_system.jobs.store.overview import list_queues
from scalable_fastapi_system.jobs.store.reading import list_jobs
from sqlalchemy import event

pytestmark = pytest.mark.only_on("postgres", reason="the plans of PostgreSQL's planner")

_ROWS = """
INSERT INTO jobs (id, created_at, run_at, finished_at, state, attempt, max_attempts, queue, kind, args, owner_id, worker_id,
                  lease_expires_at)
SELECT gen_random_uuid(), now(), now(), CASE WHEN $1 > 2 THEN now() END, $1, 1, 5, 'default', 'noop', '{}',
  n % 100, 'w', CASE WHEN $1 = 2 THEN now() END
FROM generate_series(1, $2::int) n"""


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_url)
    for state, count in ((3, 60_000), (1, 500), (2, 50), (0, 50), (4, 50)):
        await connection.execute(_ROWS, state, count)
    await connection.execute("ANALYZE jobs")
    yield connection
    await connection.close()


async def test_the_engines_statements_use_their_indexes(connection: Any) -> None:
    queued = [row[0] for row in await connection.fetch("SELECT id FROM jobs WHERE state = 1 LIMIT 50")]
    running = [row[0] for row in await connection.fetch("SELECT id FROM jobs WHERE state = 2")]
    attempts, nothing, lease = [1] * len(running), [None] * len(running), timedelta(seconds=30)
    lanes = await connection.fetch(sql.LANES, "default", -32768, -1, 20)
    priorities, owners = [row[0] for row in lanes], [row[1] for row in lanes]
    statements: dict[str, tuple[str, tuple[Any, ...]]] = {
        "claim": (sql.CLAIM, (queued, "w", lease, ["noop"])),
        "why not": (sql.WHY_NOT, (queued,)),
        "top priority": (sql.TOP_PRIORITY, ("default",)),
        "lanes": (sql.LANES, ("default", -32768, -1, 20)),
        "claim lanes": (sql.CLAIM_LANES, ("default", priorities, owners, ["noop"], 5, 50, "w", lease)),
        "and keys": (sql.CLAIM_LANES_AND_KEYS, ("default", priorities, owners, ["noop"], 5, 50, "w", lease)),
        "succeed": (sql.SUCCEED, (running, attempts, nothing, nothing, "w")),
        "renew": (sql.RENEW, (running, attempts, "w", lease)),
        "look": (sql.LOOK, (running, attempts, "w")),
        "strays": (sql.RELEASE_STRAYS, (queued, "w")),
        "silent": (sql.SILENT_WORKERS, ()),
        "promote": (sql.PROMOTE, (100,)),
        "overdue": (sql.OVERDUE, ("default", priorities, owners, ["noop"], 50, 100, lease)),
    }
    scans = {
        name: lines
        for name, (statement, arguments) in statements.items()
        if (lines := await seq_scans(connection, statement, *arguments))
    }
    assert scans == {}


async def test_lists_and_counts_use_their_indexes(
    connection: Any, make_settings: Any, postgres_url: str
) -> None:
    settings: Settings = make_settings(database={"database_url": postgres_url})
    database = DatabaseManager(settings)
    await database.start()
    statements: list[tuple[str, Any]] = []
    event.listen(
        database._pooled_engine.sync_engine,
        "before_cursor_execute",
        lambda _c, _cursor, text, parameters, _context, _many: statements.append((text, parameters)),
    )
    async with database.transaction() as session:
        await list_queues(session)
        await list_jobs(session, owner_id=7, is_any_owner=False, limit=20)
        await list_jobs(session, owner_id=None, is_any_owner=True, limit=20)
    await database.stop()
    on_jobs = [(text, parameters) for text, parameters in statements if "FROM jobs" in text]
    assert len(on_jobs) >= 5
    for text, parameters in on_jobs:
        assert await seq_scans(connection, text, *parameters) == []


async def seq_scans(connection: Any, statement: str, *arguments: Any) -> list[str]:
    """The lines of the plan that read the whole table; the statement's effects are undone."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        rows = await connection.fetch(f"EXPLAIN {statement}", *arguments)
    finally:
        await transaction.rollback()
    return [row[0] for row in rows if "Seq Scan on jobs" in row[0]]
