"""The embedded stores, as the launcher and the tests use them."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from hack.dev.errors import DevError
from hack.dev.ports import find_free, is_free
from hack.dev.postgres import THROWAWAY_SETTINGS, Postgres
from hack.dev.processes import ProcessMark
from hack.dev.redis_server import Redis
from tests.support.stores import Stores


@pytest.fixture
def folder(stores: Stores) -> Path:
    return stores.new_folder()


@pytest.fixture
def postgres(folder: Path) -> Iterator[Postgres]:
    server = Postgres(
        folder / "postgres",
        port=find_free(),
        superuser_password='it\'s "odd" \\ so',
        app_password="a b/c@d:e%",
        log_path=folder / "postgres.log",
        settings=THROWAWAY_SETTINGS,
    )
    yield server
    if server.is_running:
        server.kill()


@pytest.fixture
def redis(folder: Path) -> Iterator[Redis]:
    server = Redis(
        folder / "redis", port=find_free(), password='sp ace "quoted" \\', log_path=folder / "redis.log"
    )
    yield server
    if server.is_running:
        server.kill()


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def test_postgres_gives_the_app_role_its_own_database_and_no_more(postgres: Postgres) -> None:
    postgres.start()
    query = (
        "SELECT current_user, current_database(), rolsuper, rolcreatedb FROM pg_roles WHERE rolname = 'app'"
    )
    assert rows(postgres.url(), query) == [("app", "app", False, False)]


def test_postgres_refuses_a_wrong_password(postgres: Postgres) -> None:
    postgres.start()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(host="127.0.0.1", port=postgres.port, user="app", password="guess", dbname="app")


def test_postgres_listens_on_the_loopback_address_alone(postgres: Postgres) -> None:
    postgres.start()
    assert rows(postgres.superuser_url(), "SHOW listen_addresses") == [("127.0.0.1",)]
    assert rows(postgres.superuser_url(), "SHOW unix_socket_directories") == [("",)]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_postgres_keeps_committed_rows_over_an_end_of_any_kind(postgres: Postgres, end: str) -> None:
    postgres.start()
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    getattr(postgres, end)()
    assert is_free(postgres.port)
    postgres.start()
    assert rows(postgres.url(), "SELECT answer FROM kept") == [(42,)]


def test_postgres_starts_after_a_kill_in_the_middle_of_work(postgres: Postgres) -> None:
    postgres.start()

    def work() -> None:
        with pytest.raises(psycopg.OperationalError), psycopg.connect(postgres.url()) as connection:
            connection.execute("SELECT pg_sleep(60)")

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.3)
    postgres.kill()
    postgres.start()
    worker.join(timeout=10)
    assert not worker.is_alive()
    assert rows(postgres.url(), "SELECT 1") == [(1,)]


def test_no_backend_of_postgres_outlives_a_kill(postgres: Postgres) -> None:
    postgres.start()
    with closing(psycopg.connect(postgres.url())) as connection:
        backend = ProcessMark.of("backend", connection.info.backend_pid)
        os.kill(backend.pid, signal.SIGSTOP)  # on a busy machine one may be long in noticing
        postgres.kill()
        assert not backend.is_running()


def test_postgres_ends_a_server_that_was_left_on_its_folder(postgres: Postgres, folder: Path) -> None:
    postgres.start()
    successor = Postgres(
        postgres.data_dir,
        port=find_free(),
        superuser_password='it\'s "odd" \\ so',
        app_password="a b/c@d:e%",
        log_path=folder / "successor.log",
        settings=THROWAWAY_SETTINGS,
    )
    successor.start()
    try:
        assert not postgres.is_running
        assert rows(successor.url(), "SELECT 1") == [(1,)]
    finally:
        successor.kill()


def test_postgres_takes_no_other_process_for_a_server_that_was_left(postgres: Postgres) -> None:
    postgres.start()
    postgres.kill()
    pid_file = postgres.data_dir / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    postgres.start()
    assert rows(postgres.url(), "SELECT 1") == [(1,)]


def test_postgres_makes_its_data_anew_after_an_interrupted_initdb(postgres: Postgres) -> None:
    unfinished = postgres.data_dir.with_name("postgres.new")
    unfinished.mkdir()
    (unfinished / "half").touch()
    postgres.start()
    assert not unfinished.exists()


def test_postgres_shows_its_log_when_it_cannot_start(postgres: Postgres) -> None:
    with closing(socket.create_server(("127.0.0.1", postgres.port))), pytest.raises(DevError) as caught:
        postgres.start()
    assert "exited with code 1" in caught.value.problem
    assert any("Address already in use" in line for line in caught.value.log)
    assert not postgres.is_running


def test_postgres_refuses_the_data_of_another_version(postgres: Postgres) -> None:
    postgres.start()
    postgres.stop()
    (postgres.data_dir / "PG_VERSION").write_text("17\n")
    with pytest.raises(DevError, match="made by Postgres 17"):
        postgres.start()


def test_a_frozen_postgres_serves_nobody_until_it_thaws(postgres: Postgres) -> None:
    postgres.start()
    postgres.child.freeze()
    with pytest.raises(psycopg.OperationalError, match="timeout"):
        psycopg.connect(postgres.url(), connect_timeout=2)
    postgres.child.thaw()
    assert rows(postgres.url(), "SELECT 1") == [(1,)]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_redis_keeps_acknowledged_writes_over_an_end_of_any_kind(redis: Redis, end: str) -> None:
    redis.start()
    assert redis.command("SET", "kept", "a value") == "+OK"
    if end == "kill":
        time.sleep(1.2)  # appendfsync everysec
    getattr(redis, end)()
    redis.start()
    assert redis.command("EXISTS", "kept") == ":1"


def test_redis_never_drops_data_for_want_of_memory(redis: Redis) -> None:
    redis.start()
    assert redis.command("CONFIG", "SET", "maxmemory", "3mb") == "+OK"
    answers = {redis.command("SET", f"key{number}", "x" * 100_000)[:4] for number in range(40)}
    assert answers == {"+OK", "-OOM"}


def test_redis_refuses_a_client_without_the_password(redis: Redis) -> None:
    redis.start()
    with closing(socket.create_connection(("127.0.0.1", redis.port))) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100).startswith(b"-NOAUTH")


def test_redis_ends_a_server_that_was_left_on_its_folder(redis: Redis, folder: Path) -> None:
    redis.start()
    successor = Redis(redis.data_dir, port=find_free(), password="another", log_path=folder / "successor.log")
    successor.start()
    try:
        assert not redis.is_running
        assert successor.command("PING") == "+PONG"
    finally:
        successor.kill()


def test_redis_shows_its_log_when_it_cannot_start(redis: Redis) -> None:
    with closing(socket.create_server(("127.0.0.1", redis.port))), pytest.raises(DevError) as caught:
        redis.start()
    assert "exited with code 1" in caught.value.problem
    assert any("Address already in use" in line for line in caught.value.log)


@pytest.mark.only_on("postgres", reason="the run's PostgreSQL is shared by its processes")
def test_every_test_gets_an_empty_redis_and_an_empty_database(
    redis_server: Redis, redis_url: str, empty_postgres_url: str
) -> None:
    assert redis_url == redis_server.url()
    assert redis_server.command("DBSIZE") == ":0"
    assert rows(empty_postgres_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
