"""The commit comes before the answer: what cannot be committed is no 2xx, what is answered can be read (row 26)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import psycopg
import pytest
from domains.registry import PRODUCT
from fastapi import FastAPI
from scalable_fastapi_system import create_app
from scalable_fastapi_system.infra.settings import Settings
from structlog.testing import capture_logs

from hack.dev.postgres import Postgres
from tests.integration.requirements.conftest import PASSWORD, StartService, sign_in
from tests.support.stores import Stores

# Refuses each transaction that changed this table when it commits, and no earlier.
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {how}; RETURN NULL; END $$;
DO $$ DECLARE found text; BEGIN
  FOR found IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE format('CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE OR DELETE ON %I
      DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()', found);
  END LOOP;
END $$"""
HOW = {
    "refused": "RAISE EXCEPTION 'refused at commit'",
    "broken": "PERFORM pg_terminate_backend(pg_backend_pid())",
    "read only": "RAISE EXCEPTION 'refused at commit' USING ERRCODE = '25006'",
}
EXPECTED = {"refused": 500, "broken": 503, "read only": 503}
Call = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
TABLE = {"file": ("table.csv", b"a,b\n1,2\n", "text/csv")}
USER = {"username": "eve", "email": "eve@example.com", "password": PASSWORD}


def call(method: str, path: str, **content: Any) -> Call:
    return lambda http: http.request(method, path, **content)


# Every way in which a route stores something: a session's transaction, a single statement, the batched insert of jobs.
CALLS: dict[str, Call] = {
    "register": call("POST", "/auth/register", json=USER),
    "sign in": call("POST", "/auth/login", data={"username": "ada", "password": PASSWORD}),
    "job": call("POST", "/process-data", json={"id": 1}),
    "task": call("POST", "/tasks/background", json={"note": "x"}),
    "job under a key": call("POST", "/process-data", json={"id": 2}, headers={"Idempotency-Key": "k" * 20}),
    "dataset": call("POST", "/datasets", files=TABLE),
    "API key": call("POST", "/api-keys", json={"name": "a key", "scopes": ["tasks:read"]}),
    "webhook": call("POST", "/webhooks", json={"url": "https://example.com/hook"}),
    "sign out": call("POST", "/auth/logout"),
}


@pytest.fixture
async def app(make_settings: Callable[..., Settings], postgres_url: str) -> AsyncIterator[FastAPI]:
    settings = make_settings(
        database={"database_url": postgres_url}, rate_limit={"enabled": False}, jobs={"mode": "worker"}
    )
    app = create_app(settings, PRODUCT)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


def run_sql(url: str, statement: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def counts(url: str) -> dict[str, int]:
    """Rows by table."""
    tables = run_sql(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {name: run_sql(url, f'SELECT count(*) FROM "{name}"')[0][0] for (name,) in tables}


@pytest.mark.only_on("postgres", reason="a deferred constraint trigger refuses the COMMIT")
@pytest.mark.parametrize("how", HOW)
async def test_a_failure_at_commit_is_never_a_2xx(
    how: str, http: httpx.AsyncClient, postgres_url: str
) -> None:
    await sign_in(http)
    before = await asyncio.to_thread(counts, postgres_url)
    await asyncio.to_thread(run_sql, postgres_url, REFUSE.format(how=HOW[how]))
    with capture_logs():  # not the tracebacks of the 500s
        statuses = {name: (await ask(http)).status_code for name, ask in CALLS.items()}
    assert statuses == dict.fromkeys(CALLS, EXPECTED[how])
    assert await asyncio.to_thread(counts, postgres_url) == before
    await asyncio.to_thread(run_sql, postgres_url, "DROP FUNCTION refuse CASCADE")
    again = {name: (await ask(http)).status_code for name, ask in CALLS.items()}
    assert {name for name, status in again.items() if not 200 <= status < 300} == set(), again


@pytest.fixture
async def paused(disposable_postgres: Postgres, stores: Stores) -> AsyncIterator[Postgres]:
    """A standby of `disposable_postgres` that has stopped at what it has."""
    server = await asyncio.to_thread(stores.standby_of, disposable_postgres)
    await asyncio.to_thread(run_sql, server.superuser_url(), "SELECT pg_wal_replay_pause()")
    yield server
    await asyncio.to_thread(server.discard)


@pytest.mark.only_on("postgres", reason="a standby of PostgreSQL that stands still")
async def test_1000_answers_can_be_read_at_once_by_whichever_process_and_however_far_the_replica_is_behind(
    start_service: StartService, disposable_postgres: Postgres, paused: Postgres, redis_url: str
) -> None:
    api = await asyncio.to_thread(
        start_service,
        "api",
        API__WORKERS="2",
        DATABASE__DATABASE_URL=disposable_postgres.url(),
        DATABASE__REPLICA_URL=paused.url(),
        REDIS__REDIS_URL=redis_url,
    )
    limits = httpx.Limits(max_connections=10)
    async with httpx.AsyncClient(base_url=api.url, timeout=60, limits=limits) as http:
        await sign_in(http)
        found: list[int] = []

        async def write_and_read(first: int) -> None:
            for number in range(first, 1000, 10):
                written = await http.post("/process-data", json={"id": number})
                assert written.status_code == 202
                read = await http.get(f"/tasks/{written.json()['task_id']}")
                found.append(read.status_code)

        await asyncio.gather(*(write_and_read(first) for first in range(10)))
    assert found == [200] * 1000
