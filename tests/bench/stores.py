"""Postgres and Redis for a bench: the embedded servers with production's durability, or servers that are named.

The servers share the load generator's core, so that the one that is measured has its own to itself.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from hack.dev.errors import DevError
from hack.dev.ports import find_free
from hack.dev.postgres import Postgres
from hack.dev.redis_server import Redis
from tests.bench.machine import OTHER_CORE, pin

_PASSWORD = "only-for-the-bench"
# fsync and all that follows from it stay on. Autovacuum would come into one target's run and not into another's.
_POSTGRES_SETTINGS = {
    "max_connections": "400",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "autovacuum": "off",
}


class Stores:
    """The stores of one bench run and the folder of its logs. Use as a context manager."""

    def __init__(self, *, postgres_url: str | None = None, redis_url: str | None = None) -> None:
        """Servers on this machine that are running already, by their URLs, else embedded ones."""
        for url in (postgres_url, redis_url):
            if url is not None and urlsplit(url).hostname not in {"127.0.0.1", "localhost", "::1"}:
                raise DevError(f"{urlsplit(url).hostname} is another machine: the bench loads this one only")
        self.folder = Path(tempfile.mkdtemp(prefix="sfs-bench-"))
        self.folder.chmod(0o711)  # Postgres runs as another account where root runs the bench
        self._postgres_url = postgres_url
        self._redis_url = redis_url
        self._postgres: Postgres | None = None
        self._redis: Redis | None = None

    def __enter__(self) -> Stores:
        try:
            if self._postgres_url is None:
                self._start_postgres()
            if self._redis_url is None:
                self._start_redis()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._postgres is not None:
            self._postgres.stop()
        if self._redis is not None:
            self._redis.stop(grace_seconds=5)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pids(self) -> list[int]:
        """The servers that are ours."""
        return [server.pid for server in (self._postgres, self._redis) if server is not None]

    @property
    def redis_url(self) -> str:
        """The address of the Redis."""
        return self._redis_url or self._running_redis.url()

    @property
    def _running_redis(self) -> Redis:
        if self._redis is None:
            raise RuntimeError("the stores are not started")
        return self._redis

    def new_database(self, name: str) -> str:
        """The URL of a fresh database."""
        if self._postgres is not None:
            self._postgres.drop_database(name)
            return self._postgres.create_database(name)
        assert self._postgres_url is not None
        with psycopg.connect(self._postgres_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return urlsplit(self._postgres_url)._replace(path=f"/{name}").geturl()

    def checkpoint(self) -> None:
        """Writes out what is waiting to be written, so that no target pays for another's writes."""
        if self._postgres is not None:
            self._postgres.execute(sql.SQL("CHECKPOINT"))

    def _start_postgres(self) -> None:
        self._postgres = Postgres(
            self.folder / "postgres",
            port=find_free(),
            superuser_password=_PASSWORD,
            app_password=_PASSWORD,
            log_path=self.folder / "postgres.log",
            settings=_POSTGRES_SETTINGS,
        )
        self._postgres.start()
        pin(self._postgres.pid, OTHER_CORE)

    def _start_redis(self) -> None:
        self._redis = Redis(
            self.folder / "redis",
            port=find_free(),
            password=_PASSWORD,
            log_path=self.folder / "redis.log",
            is_durable=False,
        )
        self._redis.start()
        pin(self._redis.pid, OTHER_CORE)


def run_sql(url: str, *statements: str) -> None:
    """Runs statements, each by itself."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]
