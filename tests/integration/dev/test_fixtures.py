"""The fixtures that other tests build on."""

from __future__ import annotations

import psycopg
import pytest
from scalable_fastapi_system.infra.settings import Settings

from hack.dev.postgres import Postgres
from hack.dev.redis_server import Redis
from tests.support.stores import Stores

# The fixtures of one kind; those of the run's kind are used by all suites.
about_postgres = pytest.mark.only_on("postgres", reason="the fixtures of PostgreSQL")


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {name for (name,) in found}


@about_postgres
def test_a_fresh_database_has_the_products_schema(postgres_url: str) -> None:
    assert {"users", "datasets", "alembic_version"} <= tables(postgres_url)


@about_postgres
def test_no_two_tests_share_a_database(stores: Stores, postgres_url: str) -> None:
    server = stores.postgres()
    other = stores.new_database(is_migrated=True)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE only_here ()")
    assert "only_here" not in tables(server.url(other))
    server.drop_database(other)


def test_settings_name_the_fresh_stores(settings: Settings, database_url: str, redis_url: str) -> None:
    assert settings.database.database_url == database_url
    assert settings.redis.redis_url == redis_url
    assert settings.environment == "test"


@about_postgres
def test_a_disposable_postgres_has_the_schema_and_survives_its_own_death(
    disposable_postgres: Postgres,
) -> None:
    before = tables(disposable_postgres.url())
    assert "users" in before
    disposable_postgres.kill()
    disposable_postgres.start()
    assert tables(disposable_postgres.url()) == before


def test_a_disposable_redis_is_not_the_shared_one(disposable_redis: Redis, redis_server: Redis) -> None:
    assert disposable_redis.port != redis_server.port
    disposable_redis.kill()
    assert redis_server.command("PING") == "+PONG"
