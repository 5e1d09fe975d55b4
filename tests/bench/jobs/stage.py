"""The stage: stores, and contenders as processes on them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY
from hack.dev.ports import find_free
from hack.dev.postgres import Postgres
from hack.dev.redis_server import Redis
from tests.bench.jobs.contenders import IN_OTHER_ENVIRONMENT
from tests.bench.jobs.tally import PATH_VARIABLE, SLOT_VARIABLE, Tally
from tests.support.stores import migrate

# As a production server would have it: every commit is on disk.
_POSTGRES_SETTINGS = {"max_connections": "200", "shared_buffers": "512MB", "max_wal_size": "4GB"}
_START_TIMEOUT_SECONDS = 30.0
_STALL_SECONDS = 20.0


class Stage:
    """See the module. `async with Stage.set() as stage`."""

    def __init__(self, folder: Path, other_python: Path | None) -> None:
        self._folder = folder
        self._other_python = other_python
        self.postgres = Postgres(
            folder / "postgres",
            port=find_free(),
            superuser_password="bench",
            app_password="bench",
            log_path=folder / "postgres.log",
            settings=_POSTGRES_SETTINGS,
        )
        self.redis = Redis(
            folder / "redis", port=find_free(), password="bench", log_path=folder / "redis.log"
        )
        self.tally = Tally(folder / "tally")
        self.databases: dict[str, str] = {}
        self.missing = 0  # jobs that were enqueued and never ran, since somebody last looked

    @classmethod
    @contextlib.asynccontextmanager
    async def set(cls, other_python: Path | None) -> AsyncIterator[Stage]:
        folder = Path(tempfile.mkdtemp(prefix="sfs-bench-jobs-"))
        await asyncio.to_thread(folder.chmod, 0o711)
        stage = cls(folder, other_python)
        try:
            await asyncio.to_thread(stage._start)
            yield stage
        finally:
            for store in (stage.redis, stage.postgres):
                if store.is_running:
                    await asyncio.to_thread(store.kill)
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self) -> None:
        self.postgres.start()
        self.redis.start()
        for name in ("ours", "procrastinate"):
            self.databases[name] = self.postgres.create_database(name)
        migrate(self.databases["ours"])

    # -- contenders ---------------------------------------------------------------------------------

    def command(self, name: str, *words: str) -> list[str]:
        """The command line of a contender's process."""
        python = sys.executable
        if name in IN_OTHER_ENVIRONMENT:
            if self._other_python is None:
                raise DevError(f"{name} is not installed", advice="Try: make bench-jobs")
            python = str(self._other_python)
        return [python, "-m", "tests.bench.jobs.contender", name, *words]

    def environment(
        self, name: str, *, slot: int = 0, ports: tuple[int, int] | None = None
    ) -> dict[str, str]:
        """Its environment; `ports` (Postgres, Redis) in place of the real ones, for a proxy."""
        postgres_url = self.databases.get(name) or self.databases["ours"]
        redis_url = self.redis.url()
        if ports is not None:
            postgres_url = _with_port(postgres_url, ports[0])
            redis_url = _with_port(redis_url, ports[1])
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "BENCH_POSTGRES_URL": postgres_url,
            "BENCH_REDIS_URL": redis_url,
            PATH_VARIABLE: str(self._folder / "tally"),
            SLOT_VARIABLE: str(slot),
        }

    async def run(self, name: str, *words: str, ports: tuple[int, int] | None = None) -> dict[str, Any]:
        """Runs a contender's process to its end; the JSON that it printed."""
        process = await asyncio.create_subprocess_exec(
            *self.command(name, *words),
            cwd=REPOSITORY,
            env=self.environment(name, ports=ports),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, problems = await process.communicate()
        if process.returncode != 0:
            raise DevError(f"{name} {' '.join(words)} failed", log=problems.decode().splitlines()[-15:])
        answer: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
        return answer

    @contextlib.asynccontextmanager
    async def workers(
        self, name: str, count: int, *, ports: tuple[int, int] | None = None
    ) -> AsyncIterator[None]:
        """So many workers, killed at the end."""
        processes = [
            await asyncio.create_subprocess_exec(
                *self.command(name, "work"),
                cwd=REPOSITORY,
                env=self.environment(name, slot=slot, ports=ports),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for slot in range(count)
        ]
        try:
            yield
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
            await asyncio.gather(*(process.wait() for process in processes))

    async def clear(self, name: str) -> None:
        """Empties what the contender left, so that each run starts from the same place."""
        self.tally.clear()
        await asyncio.to_thread(self.redis.flush)
        if name in self.databases:
            connection = await self.connect(name)
            for table in ("jobs", "job_attempts", "job_workers", "procrastinate_jobs"):
                if await connection.fetchval("SELECT to_regclass($1)", table) is not None:
                    await connection.execute(f"TRUNCATE {table} CASCADE")
            await connection.close()

    async def connect(self, name: str) -> Any:
        """A connection to the contender's database."""
        return await asyncpg.connect(self.databases[name], timeout=10)

    async def commits(self, name: str) -> int:
        """Transactions committed in the contender's database so far."""
        if name not in self.databases:
            return 0
        await asyncio.sleep(1.2)  # backends report their statistics at most once a second
        connection = await asyncpg.connect(self.postgres.superuser_url(), timeout=10)
        count: int = await connection.fetchval(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = $1", name
        )
        await connection.close()
        return count

    async def until_run(self, count: int) -> float:
        """Waits for so many handlers to have started; jobs a second, from the first start to the last.

        Where nothing has started for a while and some are missing, they are noted as lost and the rest is the answer.
        """
        began = moved = time.monotonic()
        first: int | None = None
        first_count = total = 0
        while total < count:
            now_total = self.tally.total()
            if now_total != total:
                total, moved = now_total, time.monotonic()
            if first is None and total:
                first, first_count = time.monotonic_ns(), total
            if not total and time.monotonic() - began > _START_TIMEOUT_SECONDS:
                raise DevError(f"none of {count} jobs ran within {_START_TIMEOUT_SECONDS:.0f} s")
            if total and time.monotonic() - moved > _STALL_SECONDS:
                self.missing += count - total
                break
            await asyncio.sleep(0.002)
        if first is None or total <= first_count:
            return total / 0.002
        # what ran before the first look is not counted
        return (total - first_count) / max(0.001, (self.tally.last_start_ns() - first) / 1e9)


def _with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()
