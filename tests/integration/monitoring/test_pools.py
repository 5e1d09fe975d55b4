"""The figures of the connection pools are those of the connections."""

from __future__ import annotations

import pytest
from scalable_fastapi_system.infra.database import DatabaseManager
from sqlalchemy import text


def usage(manager: DatabaseManager) -> dict[str, tuple[int, int, int]]:
    return {one.name: (one.in_use, one.idle, one.limit) for one in manager.pool_usage()}


@pytest.mark.only_on("postgres", "pgbouncer", reason="the second pool, for direct reads, is asyncpg's")
async def test_connections_at_work_are_told_from_idle_ones(make_settings, database_section):
    manager = DatabaseManager(
        make_settings(
            database={
                **database_section,
                "pool_size": 3,
                "max_overflow": 2,
                "read_pool_size": 4,
            }
        )
    )
    await manager.start()
    try:
        assert usage(manager) == {"sessions": (0, 0, 5), "reads": (0, 0, 4)}
        async with manager.AsyncSessionLocal() as first, manager.AsyncSessionLocal() as second:
            for session in (first, second):
                await session.execute(text("SELECT 1"))
            assert usage(manager)["sessions"] == (2, 0, 5)
        assert usage(manager)["sessions"] == (0, 2, 5)
        pool = await manager.asyncpg_pool()
        async with pool.acquire():
            in_use, idle, limit = usage(manager)["reads"]
            assert (in_use, limit) == (1, 4)
            assert in_use + idle <= limit
    finally:
        await manager.stop()


@pytest.mark.only_on("sqlite", reason="the one kind that has no pool")
async def test_a_database_without_a_pool_has_no_figures(make_settings, tmp_path):
    manager = DatabaseManager(make_settings(database={"database_url": f"sqlite:///{tmp_path / 'a.db'}"}))
    await manager.start()
    assert manager.pool_usage() == []
    await manager.stop()
