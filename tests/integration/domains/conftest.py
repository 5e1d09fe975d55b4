"""The product as it runs: the API with its worker, on SQLite (jobs in the API's process) and on a server (beside it)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from domains.registry import PRODUCT
from fastapi import FastAPI
from scalable_fastapi_system import create_app
from scalable_fastapi_system.infra.resources import Resources
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs.client import JobClient
from scalable_fastapi_system.jobs.durable import DurableWorker

PASSWORD = "testpassword123"


@dataclass
class Owner:
    """A signed-in user."""

    client: httpx.AsyncClient
    headers: dict[str, str]

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.client.request(
            method, path, **{**options, "headers": self.headers | options.get("headers", {})}
        )

    async def upload(self, content: bytes, name: str = "table.csv") -> dict[str, Any]:
        """The `data` of an accepted upload."""
        answer = await self.call("POST", "/datasets", files={"file": (name, content, "text/csv")})
        assert answer.status_code == 202, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    async def dataset(self, dataset_id: str) -> dict[str, Any]:
        answer = await self.call("GET", f"/datasets/{dataset_id}")
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    async def until(self, dataset_id: str, *statuses: str, timeout_seconds: float = 60) -> dict[str, Any]:
        """The dataset once it has one of these statuses."""
        deadline = time.monotonic() + timeout_seconds
        while (found := await self.dataset(dataset_id))["status"] not in statuses:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.03)
        return found

    async def ended(self, dataset_id: str, *, timeout_seconds: float = 60) -> dict[str, Any]:
        """The dataset once its profile is there or will not come."""
        return await self.until(dataset_id, "ready", "failed", "cancelled", timeout_seconds=timeout_seconds)

    async def task(self, task_id: str) -> dict[str, Any]:
        answer = await self.call("GET", f"/tasks/{task_id}")
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    async def ended_task(self, task_id: str) -> dict[str, Any]:
        """The task once it has ended."""
        deadline = time.monotonic() + 60
        while (found := await self.task(task_id))["status"] in {"scheduled", "queued", "running"}:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.03)
        return found


@dataclass
class System:
    """An API, and where it has none of its own a worker beside it."""

    app: FastAPI
    client: httpx.AsyncClient
    settings: Settings
    _running: list[tuple[DurableWorker, asyncio.Task[None]]] = field(default_factory=list)
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def resources(self) -> Resources:
        found: Resources = self.app.state.resources
        return found

    async def owner(self, username: str = "ada") -> Owner:
        body = {"username": username, "email": f"{username}@example.com", "password": PASSWORD}
        answer = await self.client.post("/auth/register", json=body)
        assert answer.status_code == 200, answer.text
        answer = await self.client.post("/auth/login", data={"username": username, "password": PASSWORD})
        return Owner(self.client, {"Authorization": f"Bearer {answer.json()['access_token']}"})

    async def start_worker(self) -> None:
        """A worker with resources of its own, as its own process would have. Nothing where the API runs the jobs."""
        if self.settings.are_jobs_embedded:
            return
        resources = Resources(self.settings, PRODUCT)
        PRODUCT.load_jobs()
        await resources.start()
        self._stack.push_async_callback(resources.stop)
        JobClient(resources, is_worker=True)
        worker = DurableWorker(resources, handle_signals=False)
        self._running.append((worker, asyncio.create_task(worker.serve())))

    async def stop_workers(self) -> None:
        """As SIGTERM asks them to."""
        while self._running:
            worker, task = self._running.pop()
            worker.request_stop()
            async with asyncio.timeout(40):
                await task

    async def stop(self) -> None:
        await self.stop_workers()
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[System]:
    """The API as its server would run it, without a worker yet."""
    app = create_app(settings, PRODUCT)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api.test") as client,
    ):
        system = System(app, client, settings)
        try:
            yield system
        finally:
            await system.stop()


@pytest.fixture
def product_settings(
    database_kind: str,
    database_section: dict[str, Any],
    request: pytest.FixtureRequest,
    make_settings: Callable[..., Settings],
) -> Callable[..., Settings]:
    """Settings on each kind of database, with Redis but on SQLite, which is for one process; a test adds sections."""
    sections: dict[str, Any] = {}
    if database_kind != "sqlite":
        sections = {"redis": {"redis_url": request.getfixturevalue("redis_url")}}

    def make(**more: Any) -> Settings:
        return make_settings(database=database_section, **{**sections, **more})

    return make


@pytest.fixture
async def quiet(product_settings: Callable[..., Settings]) -> AsyncIterator[System]:
    """The API; but on SQLite no worker runs until the test starts one."""
    async with running(product_settings()) as system:
        yield system


@pytest.fixture
async def system(quiet: System) -> System:
    """The API and its worker."""
    await quiet.start_worker()
    return quiet
