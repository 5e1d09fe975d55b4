"""The world that chaos disturbs: Postgres, Redis, API and workers as processes of their own, on ports of their own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from hack.dev.layout import REPOSITORY
from hack.dev.ports import find_free
from hack.dev.postgres import Postgres
from hack.dev.processes import Child
from hack.dev.redis_server import Redis
from tests.support.stores import migrate

# No fsync: processes are killed here, not the machine. But a commit is a commit.
POSTGRES_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "128MB",
}
EFFECTS = """
CREATE TABLE chaos_effects (
  id bigserial PRIMARY KEY, job_id uuid NOT NULL, attempt int NOT NULL, worker text NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp())"""
LEASE_SECONDS = 4.0


class World:
    """See the module. `async with World.make() as world`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Postgres(
            folder / "postgres",
            port=find_free(),
            superuser_password="chaos",
            app_password="chaos",
            log_path=folder / "postgres.log",
            settings=POSTGRES_SETTINGS,
        )
        self.redis = Redis(
            folder / "redis",
            port=find_free(),
            password="chaos",
            log_path=folder / "redis.log",
            is_durable=False,
        )
        self.workers: list[Child] = []
        self.restarts = 0
        self._count = 0
        self._api: Child | None = None
        self.api_url = ""
        self._supervisor: asyncio.Task[None] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def make(cls) -> AsyncIterator[World]:
        folder = Path(tempfile.mkdtemp(prefix="sfs-chaos-"))
        folder.chmod(0o711)
        world = cls(folder)
        try:
            await asyncio.to_thread(world._start_stores)
            connection = await world.connect()
            await connection.execute(EFFECTS)
            await connection.close()
            yield world
        finally:
            await world.close()

    def _start_stores(self) -> None:
        self.postgres.start()
        self.redis.start()
        migrate(self.postgres.url())

    async def close(self) -> None:
        """Ends every process and removes the folder."""
        if self._supervisor is not None:
            self._supervisor.cancel()
        for child in [*self.workers, *([self._api] if self._api else [])]:
            if child.is_running:
                with contextlib.suppress(ProcessLookupError):
                    child.thaw()
                await asyncio.to_thread(child.kill)
        await asyncio.to_thread(self._stop_stores)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stop_stores(self) -> None:
        for store in (self.redis, self.postgres):
            if store.is_running:
                store.kill()

    # -- stores -------------------------------------------------------------------------------------

    async def connect(self, *, is_superuser: bool = False) -> Any:
        """A connection of the checker's own."""
        url = self.postgres.superuser_url("app") if is_superuser else self.postgres.url()
        return await asyncpg.connect(url, timeout=10)

    async def query(self, sql: str, *arguments: Any) -> list[Any]:
        """Rows, over a fresh connection."""
        connection = await self.connect()
        try:
            rows: list[Any] = await connection.fetch(sql, *arguments)
            return rows
        finally:
            await connection.close()

    async def crash_postgres(self) -> None:
        """As `pg_ctl stop -m immediate`."""
        self.postgres.child.signal(signal.SIGQUIT)
        await asyncio.to_thread(self.postgres.child.wait_or_kill, grace_seconds=10)

    async def start_postgres(self) -> None:
        await asyncio.to_thread(self.postgres.start)

    async def redis_command(self, *words: str) -> str:
        """One command; its first line of answer."""
        return await asyncio.to_thread(self.redis.command, *words)

    # -- processes ----------------------------------------------------------------------------------

    def environment(self, **extra: str) -> dict[str, str]:
        """The settings of a process of the product, and nothing of this machine's."""
        return {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
            "ENVIRONMENT": "test",
            "DATABASE__DATABASE_URL": self.postgres.url(),
            "REDIS__REDIS_URL": self.redis.url(),
            "SECURITY__BCRYPT_ROUNDS": "4",
            "RATE_LIMIT__ENABLED": "false",
            "LOGGING__FORMAT": "json",
            "JOBS__LEASE_SECONDS": str(LEASE_SECONDS),
            "JOBS__HEALTH_PORT": "0",
            "JOBS__DRAIN_SECONDS": "2",
            **extra,
        }

    async def start_worker(self, **environment: str) -> Child:
        """A worker, from the moment on that it is ready."""
        self._count += 1
        child = Child(
            f"worker-{self._count}",
            [sys.executable, "-m", "tests.chaos.worker_main"],
            log_path=self.folder / f"worker-{self._count}.log",
            cwd=REPOSITORY,
            environment=self.environment(**environment),
        )
        child.start()
        self.workers.append(child)
        deadline = time.monotonic() + 40
        while "worker started" not in self.log_of(child):
            if not child.is_running or time.monotonic() > deadline:
                raise AssertionError(f"the worker did not start: {self.log_of(child)[-2000:]}")
            await asyncio.sleep(0.05)
        return child

    def log_of(self, child: Child) -> str:
        """Everything a process has written."""
        try:
            return child.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def supervise(self) -> None:
        """Starts workers that died again, as a kubelet would."""

        async def watch() -> None:
            while True:
                for child in list(self.workers):
                    if not child.is_running:
                        self.restarts += 1
                        child.start()
                await asyncio.sleep(0.2)

        self._supervisor = asyncio.create_task(watch())

    async def stop_worker(self, child: Child, *, grace_seconds: float = 20.0) -> float:
        """SIGTERM; how many seconds it took to end. An end by force is an AssertionError."""
        self.workers.remove(child)
        started = time.monotonic()
        went = await asyncio.to_thread(child.stop, grace_seconds=grace_seconds)
        assert went, f"{child.name} did not end: {self.log_of(child)[-2000:]}"
        return time.monotonic() - started

    async def start_api(self, **environment: str) -> str:
        """The API, from the moment on that it is ready; its URL."""
        port = find_free()
        self._count += 1
        self._api = Child(
            f"api-{self._count}",
            [sys.executable, "-m", "tests.chaos.api_main", str(port)],
            log_path=self.folder / f"api-{self._count}.log",
            cwd=REPOSITORY,
            environment=self.environment(**environment),
        )
        self._api.start()
        self.api_url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 40
        async with httpx.AsyncClient() as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"{self.api_url}/health/ready")).status_code == 200:
                        return self.api_url
                if not self._api.is_running or time.monotonic() > deadline:
                    raise AssertionError(f"the API did not start: {self.log_of(self._api)[-2000:]}")
                await asyncio.sleep(0.1)

    @property
    def api(self) -> Child:
        assert self._api is not None
        return self._api
