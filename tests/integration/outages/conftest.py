"""API, worker, database and Redis as processes of the test's own, with clients that never stop asking."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hack.dev.redis_server import Redis
from tests.support.databases import DisposableDatabase
from tests.support.service_processes import API, WORKER, ServiceProcess

WAIT_SECONDS = 120.0
PASSWORD = "a-long-passphrase"
TABLE = b"a,b\n1,2\n3,4\n"
Answer = tuple[int | None, str | None]  # status and error code; (None, None) where no answer came


class World:
    """The system and what its clients were told."""

    def __init__(
        self, api: ServiceProcess, worker: ServiceProcess, database: DisposableDatabase, redis: Redis
    ) -> None:
        self.api = api
        self.worker = worker
        self.database = database
        self.redis = redis
        self.answers: dict[str, Counter[Answer]] = {}
        self.accepted: list[str] = []
        self.strange: list[str] = []
        self.started_pids = self.pids()
        self.http = httpx.AsyncClient(base_url=api.url, timeout=60)
        self.dataset = ""

    def pids(self) -> list[list[int]]:
        """The same later: nothing was restarted."""
        return [self.api.pids(), self.worker.pids()]

    async def sign_in(self) -> None:
        """A user, their token in `http`, and a table of theirs to read."""
        user = {"username": "ada", "email": "ada@example.com", "password": PASSWORD}
        (await self.http.post("/auth/register", json=user)).raise_for_status()
        answer = await self.login()
        self.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        files = {"file": ("table.csv", TABLE, "text/csv")}
        accepted = (await self.http.post("/datasets", files=files)).raise_for_status().json()
        self.dataset = accepted["id"]
        self.accepted.append(accepted["task_id"])
        await self.all_jobs_succeed()

    async def login(self) -> httpx.Response:
        return await self.http.post("/auth/login", data={"username": "ada", "password": PASSWORD})

    async def post_job(self) -> httpx.Response:
        answer = await self.http.post("/process-data", json={"id": len(self.accepted)})
        if answer.status_code == 202:
            self.accepted.append(answer.json()["task_id"])
        return answer

    # -- the load -------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Asks each kind of question, one at a time and without an end."""
        kinds: dict[str, Callable[[], Awaitable[httpx.Response]]] = {
            "live": lambda: self.http.get("/health/live"),
            "no store": lambda: self.http.get("/"),
            "read": lambda: self.http.get("/tasks"),
            "cached read": lambda: self.http.get(f"/datasets/{self.dataset}"),
            "login": self.login,
            "job": self.post_job,
        }
        self.answers = {name: Counter() for name in kinds}
        tasks = [asyncio.create_task(self._keep_asking(name, ask)) for name, ask in kinds.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_asking(self, name: str, ask: Callable[[], Awaitable[httpx.Response]]) -> None:
        while True:
            try:
                answer = await ask()
            except httpx.HTTPError as error:
                self.answers[name][None, None] += 1
                self.strange.append(f"{name}: {error!r}")
            else:
                self.answers[name][self._understood(name, answer)] += 1
            await asyncio.sleep(0.02)

    def _understood(self, name: str, answer: httpx.Response) -> Answer:
        if answer.is_success:
            return answer.status_code, None
        body: dict[str, Any] = answer.json()
        if body["success"] is not False or body["request_id"] != answer.headers["x-request-id"]:
            self.strange.append(f"{name}: {answer.text}")
        if answer.status_code == 503 and not answer.headers.get("retry-after", "").isdigit():
            self.strange.append(f"{name}: 503 without Retry-After")
        return answer.status_code, body["error_code"]

    def count(self, name: str, *, good: bool) -> int:
        """How many of this kind went well, or did not."""
        return sum(
            number
            for (status, _), number in self.answers[name].items()
            if (status is not None and status < 300) is good
        )

    async def more(self, *, good: bool = True, kinds: tuple[str, ...] | None = None, by: int = 10) -> None:
        """Waits for so many more answers of each of these kinds, of all where none are named."""
        names = kinds or tuple(self.answers)
        targets = {name: self.count(name, good=good) + by for name in names}
        await self.until(
            lambda: all(self.count(name, good=good) >= target for name, target in targets.items()),
            f"{by} more {'good' if good else 'bad'} answers for {names}",
        )

    def seen(self) -> dict[str, set[Answer]]:
        """The different answers to each kind."""
        return {name: set(counts) for name, counts in self.answers.items()}

    # -- waiting --------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not condition():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{what}: {self.answers} {self.strange[:5]}") from None

    async def until_ready_is(self, status: int) -> None:
        """Waits until /health/ready answers this."""
        async with asyncio.timeout(WAIT_SECONDS):
            while await asyncio.to_thread(self.api.status, "/health/ready") != status:
                await asyncio.sleep(0.1)

    async def until_report(self, **values: str) -> None:
        """Waits until /health reports these values; it answers 200 all the time."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                answer = await self.http.get("/health")
                assert answer.status_code == 200
                if {name: answer.json()[name] for name in values} == values:
                    return
                await asyncio.sleep(0.1)

    async def all_jobs_succeed(self) -> None:
        """Waits until every accepted job has succeeded."""
        for task_id in self.accepted:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    status = (
                        (await self.http.get(f"/tasks/{task_id}")).raise_for_status().json()["data"]["status"]
                    )
                    if status == "succeeded":
                        break
                    assert status != "failed"
                    await asyncio.sleep(0.1)


@pytest.fixture
def start_world(
    tmp_path: Path, disposable_database: DisposableDatabase, disposable_redis: Redis
) -> Iterator[Callable[..., World]]:
    """Starts everything with these variables. Time limits are short, so that an outage is soon known."""
    services: list[ServiceProcess] = []

    def start(**environment: str) -> World:
        variables = {
            **disposable_database.environment,
            "DATABASE__STATEMENT_TIMEOUT_SECONDS": "5",
            "DATABASE__CONNECT_TIMEOUT_SECONDS": "5",
            "DATABASE__POOL_TIMEOUT_SECONDS": "5",
            "REDIS__REDIS_URL": disposable_redis.url(),
            "RATE_LIMIT__ANONYMOUS": "1000000/minute",
            "RATE_LIMIT__USER": "1000000/minute",
            "RATE_LIMIT__AUTH": "1000000/minute",
            **environment,
        }
        for name, command in (("api", API), ("worker", WORKER)):
            services.append(ServiceProcess(name, command, tmp_path, variables))
            services[-1].start()
        return World(services[0], services[1], disposable_database, disposable_redis)

    yield start
    for service in services:
        service.kill()


@pytest.fixture
async def world(start_world: Callable[..., World]) -> AsyncIterator[World]:
    """Everything running, with a user signed in."""
    made = await asyncio.to_thread(start_world)
    await made.sign_in()
    yield made
    await made.http.aclose()
