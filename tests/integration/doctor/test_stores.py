"""What the doctor says of stores that are well, and of ones that are broken in every way that operators meet."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis
from scalable_fastapi_system.cli import main
from scalable_fastapi_system.doctor.findings import Report
from scalable_fastapi_system.doctor.postgres_checks import examine_postgres

from tests.integration.storage.s3_server import BUCKET, S3Server, find_program


def changed(url, **parts):
    """The URL with another `user`, `password`, `port` or `path`."""
    old = urlsplit(url)
    user, password = parts.get("user", old.username or ""), parts.get("password", old.password)
    where = f"{user}:{password}@{old.hostname}:{parts.get('port', old.port)}"
    return old._replace(netloc=where, path=parts.get("path", old.path), query=parts.get("query", "")).geturl()


def execute(url, *statements):
    async def run():
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


pg = pytest.mark.only_on("postgres", reason="what the doctor knows of PostgreSQL")


@pytest.fixture
def well(database_environment, redis_url):
    return {**database_environment, "REDIS__REDIS_URL": redis_url}


@pg
def test_an_installation_that_is_well_has_no_problem(ask, well):
    answer = ask(**well)
    assert answer.problems == []
    assert answer.code == 0
    said = "\n".join(item["text"] for item in answer.findings if item["level"] == "ok")
    for words in (
        "lets app into database",
        "newest this code knows",
        "agree to a second",
        "noeviction",
        "append-only file",
        "written to database://, read and removed",
    ):
        assert words in said
    for url in well.values():
        assert f":{urlsplit(url).password}@" not in answer.text


# -- Postgres


@pg
def test_a_wrong_password_is_told_from_a_wrong_database(ask, well):
    url = well["DATABASE__DATABASE_URL"]
    answer = ask(**well | {"DATABASE__DATABASE_URL": changed(url, password="wrong-password")})
    assert answer.code == 1
    assert "refuses the password of role app" in answer.of("database", "problem")
    assert "wrong-password" not in answer.text

    answer = ask(**well | {"DATABASE__DATABASE_URL": changed(url, path="/nosuch")})
    assert "has no database nosuch" in answer.of("database", "problem")
    assert "CREATE DATABASE nosuch OWNER app" in answer.of("database", "problem")


@pg
def test_tls_that_the_server_has_not_is_told(ask, well):
    url = changed(well["DATABASE__DATABASE_URL"], query="sslmode=require")
    assert "asks for TLS, and this Postgres has none" in ask(**well | {"DATABASE__DATABASE_URL": url}).of(
        "database", "problem"
    )


@pg
def test_another_service_on_the_port_is_told(ask, well):
    port = urlsplit(well["REDIS__REDIS_URL"]).port
    answer = ask(**well | {"DATABASE__DATABASE_URL": changed(well["DATABASE__DATABASE_URL"], port=port)})
    assert len(answer.problems) == 1
    assert answer.of("database", "problem")


@pg
def test_a_stopped_and_a_frozen_postgres_are_two_things(ask, disposable_postgres, redis_url):
    settings = {"DATABASE__DATABASE_URL": disposable_postgres.url("app"), "REDIS__REDIS_URL": redis_url}
    disposable_postgres.child.freeze()
    try:
        answer = ask("--timeout", "2", **settings)
    finally:
        disposable_postgres.child.thaw()
    assert "says nothing for 2 s" in answer.of("database", "problem")
    disposable_postgres.stop()
    answer = ask(**settings)
    assert "refuses connections" in answer.of("database", "problem")
    assert "not usable yet" in answer.of("storage", "note")
    assert answer.code == 1


@pg
def test_an_empty_schema_an_old_one_and_a_newer_one(ask, empty_postgres_url, redis_url):
    settings = {"DATABASE__DATABASE_URL": empty_postgres_url, "REDIS__REDIS_URL": redis_url}
    assert "It is empty" in ask(**settings).of("schema", "problem")

    from domains.registry import PRODUCT

    assert main(["migrate"], product=PRODUCT) == 0
    assert ask(**settings).problems == []
    main(["migrate", "--downgrade", "product@-1"], product=PRODUCT)
    answer = ask(**settings)
    assert "It is behind" in answer.of("schema", "problem")
    assert "services.manage migrate" in answer.of("schema", "problem")
    assert answer.code == 1

    main(["migrate"], product=PRODUCT)
    execute(
        empty_postgres_url, "UPDATE alembic_version SET version_num = 'd9999' WHERE version_num LIKE 'd%'"
    )
    answer = ask(**settings)
    assert "ahead of this code" in answer.of("schema", "note")
    assert answer.code == 0


@pg
def test_a_role_that_may_not_create_tables_is_told(ask, postgres_server, stores, redis_url):
    name = stores.new_database(is_migrated=False)
    superuser = postgres_server.superuser_url(name)
    try:
        execute(
            superuser,
            "ALTER SCHEMA public OWNER TO CURRENT_USER",
            f'ALTER DATABASE "{name}" OWNER TO CURRENT_USER',
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC, app",
        )
        answer = ask(DATABASE__DATABASE_URL=postgres_server.url(name), REDIS__REDIS_URL=redis_url)
        assert "may not create tables" in answer.of("schema", "problem")
    finally:
        postgres_server.drop_database(name)


@pg
def test_pools_that_want_more_than_the_server_grants_are_told(ask, well, disposable_postgres):
    assert "could want 100000" in ask("--wanted-connections", "100000", **well).of("database", "problem")
    execute(disposable_postgres.superuser_url(), "ALTER ROLE app CONNECTION LIMIT 7")
    answer = ask(**well | {"DATABASE__DATABASE_URL": disposable_postgres.url("app")})
    assert "the server grants this role 7" in answer.of("database", "problem")


@pg
def test_a_server_with_no_connection_left_is_told(ask, well, disposable_postgres):
    execute(disposable_postgres.superuser_url(), "ALTER ROLE app CONNECTION LIMIT 0")
    answer = ask(**well | {"DATABASE__DATABASE_URL": disposable_postgres.url("app")})
    assert "has no connection left" in answer.of("database", "problem")


@pg
def test_a_database_that_only_reads_is_told(ask, well, postgres_url):
    name = urlsplit(postgres_url).path.lstrip("/")
    execute(postgres_url, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    answer = ask(**well)
    assert "Transactions are read-only" in answer.of("database", "problem")
    assert answer.code == 1


@pg
def test_a_replica_that_is_a_primary_is_told(ask, well):
    answer = ask(**well | {"DATABASE__REPLICA_URL": well["DATABASE__DATABASE_URL"]})
    assert "The replica is a primary" in answer.of("replica", "note")


@pg
@pytest.mark.parametrize(
    ("shift_seconds", "level", "words"),
    [(-60, "problem", "behind the database's"), (60, "problem", "ahead of"), (3, "warning", "ahead of")],
)
async def test_a_clock_that_is_wrong_is_told(postgres_url, shift_seconds, level, words):
    report = Report()
    shift = timedelta(seconds=shift_seconds)
    await examine_postgres(
        report,
        "database",
        "DATABASE__DATABASE_URL",
        postgres_url,
        timeout_seconds=20,
        now=lambda: datetime.now(UTC) + shift,
    )
    (found,) = [finding for finding in report.findings if "clock" in finding.text]
    assert found.level == level
    assert words in found.text


@pytest.mark.only_on("mariadb", reason="what the doctor says of MariaDB")
def test_mariadb_is_looked_at_too(ask, mariadb_url, redis_url):
    assert ask(DATABASE__DATABASE_URL=mariadb_url, REDIS__REDIS_URL=redis_url).problems == []
    answer = ask(
        DATABASE__DATABASE_URL=changed(mariadb_url, password="wrong-password"), REDIS__REDIS_URL=redis_url
    )
    assert "Access denied" in answer.of("database", "problem")
    assert "wrong-password" not in answer.text


# -- Redis


def test_a_wrong_password_of_redis_and_none_are_two_things(ask, well):
    url = well["REDIS__REDIS_URL"]
    answer = ask(**well | {"REDIS__REDIS_URL": changed(url, password="wrong-password")})
    assert "Redis refuses the password" in answer.of("redis", "problem")
    bare = f"redis://{urlsplit(url).hostname}:{urlsplit(url).port}"
    assert "wants a password, and none was given" in ask(**well | {"REDIS__REDIS_URL": bare}).of(
        "redis", "problem"
    )


def test_tls_to_a_redis_without_it_is_told(ask, well):
    url = well["REDIS__REDIS_URL"].replace("redis://", "rediss://")
    answer = ask("--timeout", "2", **well | {"REDIS__REDIS_URL": url})
    assert "that port has no TLS" in answer.of("redis", "problem")
    assert "use redis://" in answer.of("redis", "problem")


def test_a_stopped_and_a_frozen_redis_are_two_things(ask, disposable_redis, database_environment):
    settings = {**database_environment, "REDIS__REDIS_URL": disposable_redis.url()}
    disposable_redis.child.freeze()
    try:
        answer = ask("--timeout", "2", **settings)
    finally:
        disposable_redis.child.thaw()
    assert "says nothing for 2 s" in answer.of("redis", "problem")
    disposable_redis.stop()
    answer = ask(**settings)
    assert "refuses connections" in answer.of("redis", "problem")
    assert answer.code == 1


def test_a_redis_that_evicts_that_forgets_that_is_full_and_that_is_a_replica(
    ask, disposable_redis, database_environment
):
    settings = {**database_environment, "REDIS__REDIS_URL": disposable_redis.url()}
    with redis.Redis.from_url(disposable_redis.url()) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        answer = ask(**settings)
        assert "eviction policy is allkeys-lru" in answer.of("redis", "problem")
        assert "no maxmemory" in answer.of("redis", "warning")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "no")
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 1000)
        answer = ask(**settings)
        assert answer.problems == []
        assert "no append-only file" in answer.of("redis", "note")
        assert "soon it refuses writes" in answer.of("redis", "warning")
        client.config_set("maxmemory", 0)
        client.replicaof("127.0.0.1", "1")
        assert "It is a replica" in ask(**settings).of("redis", "problem")


# -- files


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory):
    program = find_program()
    if program is None:
        pytest.skip("no S3 server: `hack/tools/install versitygw` builds one where Go is installed")
    server = S3Server(program, tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


def test_a_folder_that_cannot_be_written_to_is_told(ask, tmp_path):
    (tmp_path / "file").write_text("in the way")
    answer = ask(STORAGE__URL=f"file://{tmp_path}/file/files")
    assert answer.of("storage", "problem")
    assert answer.code == 1
    assert ask(STORAGE__URL=f"file://{tmp_path}/files").problems == []
    assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []


def test_a_bucket_a_key_and_an_endpoint_that_are_wrong_are_three_things(ask, s3_server):
    url = f"s3://{BUCKET}/prefix"
    assert ask(STORAGE__URL=url, STORAGE__OPTIONS=json.dumps(s3_server.options)).problems == []
    assert s3_server.files_on_disk() == []

    wrong_key = s3_server.options | {"secret_access_key": "wrong-secret"}
    answer = ask(STORAGE__URL=url, STORAGE__OPTIONS=json.dumps(wrong_key))
    assert "refuses these credentials" in answer.of("storage", "problem")
    assert "wrong-secret" not in answer.text

    answer = ask(STORAGE__URL="s3://nosuch/prefix", STORAGE__OPTIONS=json.dumps(s3_server.options))
    assert "does not exist" in answer.of("storage", "problem")

    nobody = s3_server.options | {"endpoint": "http://127.0.0.1:1"}
    answer = ask(STORAGE__URL=url, STORAGE__OPTIONS=json.dumps(nobody))
    assert "refuses connections" in answer.of("storage", "problem")
