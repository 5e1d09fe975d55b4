"""The client: it keeps its own record of what it was told, and the checker believes that record alone."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
from scalable_fastapi_system.infra.resources import Resources
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import JobClient, JobHandler, call
from scalable_fastapi_system.kit.errors import ServiceUnavailableException

from tests.chaos import handlers
from tests.chaos.world import World


@dataclass
class Record:
    """What the client knows. accepted: promised (a 202, a commit); unknown: no answer came; refused: told no."""

    accepted: dict[UUID, float] = field(default_factory=dict)
    unknown: int = 0
    refused: Counter[int] = field(default_factory=Counter)


class ChaosClient:
    """Enqueues by HTTP, as anyone's client would, and in bulk by a JobClient in the place of a service."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.record = Record()
        settings = Settings(
            _env_file=None,  # type: ignore[call-arg]
            environment="test",
            database={"database_url": world.postgres.url()},
            redis={"redis_url": world.redis.url()},
        )
        self._resources = Resources(settings)
        self.jobs = JobClient(self._resources, is_worker=True)
        self._http: httpx.AsyncClient | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def make(cls, world: World) -> AsyncIterator[ChaosClient]:
        client = cls(world)
        await client._resources.start()
        await client.jobs.start()
        try:
            yield client
        finally:
            if client._http is not None:
                await client._http.aclose()
            await client.jobs.stop()
            await client._resources.stop()

    # -- in bulk ------------------------------------------------------------------------------------

    async def enqueue(
        self, handler: JobHandler[..., Any], count: int, *, owner_id: int | None = None, **arguments: Any
    ) -> list[UUID]:
        """So many jobs, in transactions of 500; each is accepted when its commit was acknowledged."""
        ids: list[UUID] = []
        for start in range(0, count, 500):
            calls = [call(handler, owner_id=owner_id, **arguments) for _ in range(min(500, count - start))]
            handles = await self.jobs.enqueue_many_now(calls)
            now = time.time()
            ids += [handle.id for handle in handles]
            self.record.accepted.update((handle.id, now) for handle in handles)
        return ids

    async def keep_enqueueing(self, handler: JobHandler[..., Any], *, rate: float, seconds: float) -> None:
        """A steady stream of single enqueues; what fails is counted and not accepted."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            try:
                handle = await self.jobs.enqueue_now(handler)
                self.record.accepted[handle.id] = time.time()
            except ServiceUnavailableException:
                self.record.unknown += 1
            await asyncio.sleep(1 / rate)

    # -- by HTTP ------------------------------------------------------------------------------------

    async def sign_in(self) -> None:
        """A user of its own, and their token."""
        name = f"chaos{random.randrange(10**9)}"
        http = httpx.AsyncClient(base_url=self.world.api_url, timeout=20)
        user = {"username": name, "email": f"{name}@example.com", "password": "a-long-passphrase-of-chaos"}
        answer = await http.post("/auth/register", json=user)
        answer.raise_for_status()
        answer = await http.post("/auth/login", data={"username": name, "password": user["password"]})
        answer.raise_for_status()
        http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        self._http = http

    @property
    def http(self) -> httpx.AsyncClient:
        assert self._http is not None
        return self._http

    async def post(self, *, headers: dict[str, str] | None = None, **arguments: Any) -> int | None:
        """One POST; its status, None where no answer came. A 202 is a promise, and is recorded."""
        body = {"kind": handlers.effect.kind, "arguments": arguments}
        try:
            answer = await self.http.post("/tasks/background", json=body, headers=headers)
        except httpx.HTTPError:
            self.record.unknown += 1
            return None
        if answer.status_code == 202:
            self.record.accepted[UUID(answer.json()["task_id"])] = time.time()
        else:
            self.record.refused[answer.status_code] += 1
        return answer.status_code

    async def keep_posting(self, *, clients: int, seconds: float, pause_seconds: float = 0.02) -> None:
        """So many clients, each with one request at a time."""
        ends = time.monotonic() + seconds

        async def one() -> None:
            while time.monotonic() < ends:
                status = await self.post()
                await asyncio.sleep(pause_seconds if status == 202 else 0.2)

        await asyncio.gather(*(one() for _ in range(clients)))
