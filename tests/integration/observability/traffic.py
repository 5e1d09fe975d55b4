"""A small load that meets everything which a dashboard shows: each class of status, jobs that end well and badly, jobs that
wait, a rate limit, a full process, the cache. What it is to cause is checked as it goes: a load that causes nothing proves nothing.

The system must have few places for followers and a small rate (`ROOM`, `LIMITED_RATE`), so that a small load meets both limits.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Protocol

import httpx
import vega_datasets

from tests.integration.observability.observed import (
    LIMITED_RATE,
    LIMITED_ROUTE,
    ROOM,
    NotObservedError,
    until,
)

PASSWORD = "correct-horse-battery"
BAD_TABLES = 8  # more than JobsFailing bears
GOOD_TABLES = 4
QUEUE = "default"


class Watched(Protocol):
    """A system with a Prometheus that scrapes it: addresses of one process of the API and one of the worker."""

    @property
    def api_url(self) -> str: ...

    @property
    def worker_url(self) -> str: ...

    def manage(self, *arguments: str) -> str:
        """What an operator's command prints."""

    def instant(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant vector, now."""


def expect(answer: httpx.Response, status: int) -> httpx.Response:
    """The answer, which must have this status; NotObservedError with its text if not."""
    if answer.status_code != status:
        request = answer.request
        raise NotObservedError(f"{request.method} {request.url}: {answer.status_code} {answer.text}")
    return answer


class Traffic:
    """One user of the system."""

    def __init__(self, system: Watched, *, user: str = "ada") -> None:
        self._system = system
        self._user = user
        self._client = httpx.Client(base_url=system.api_url, timeout=60)

    def run(self) -> None:
        """All of it, in an order in which nothing disturbs the next."""
        with self._client:
            self._sign_in()
            self._browse()
            datasets = self._jobs_that_end()
            self._cached_reads(datasets)
            self._jobs_that_wait()
            self._too_many_requests()

    def _sign_in(self) -> None:
        names = {"username": self._user, "password": PASSWORD}
        email = f"{self._user}@example.com"
        expect(self._client.post("/auth/register", json={**names, "email": email}), 200)
        expect(self._client.post("/auth/login", data={**names, "password": "no"}), 401)
        login = expect(self._client.post("/auth/login", data=names), 200)
        self._client.headers["Authorization"] = f"Bearer {login.json()['access_token']}"

    def _browse(self) -> None:
        for _ in range(20):
            expect(self._client.get("/users/me"), 200)
            expect(self._client.get("/"), 200)
        expect(self._client.get("/no/such/path"), 404)

    def _upload(self, name: str, content: bytes) -> dict[str, Any]:
        answer = self._client.post("/datasets", files={"file": (name, content, "text/csv")})
        accepted: dict[str, Any] = expect(answer, 202).json()
        return accepted

    def _status(self, task_id: str) -> str:
        status: str = self._client.get(f"/tasks/{task_id}").json()["data"]["status"]
        return status

    def _jobs_that_end(self) -> list[str]:
        table = vega_datasets.data.seattle_weather.filepath
        with open(table, "rb") as file:  # noqa: PTH123 - the library gives a text
            content = file.read()
        good = [self._upload("weather.csv", content) for _ in range(GOOD_TABLES)]
        bad = [self._upload("noise.csv", b"\x00\xff\x00" * 200) for _ in range(BAD_TABLES)]
        wanted = {one["task_id"]: "succeeded" for one in good} | {one["task_id"]: "failed" for one in bad}
        until(
            lambda: {task: self._status(task) for task in wanted} == wanted,
            f"{GOOD_TABLES} profiles succeed and {BAD_TABLES} fail",
        )
        return [one["id"] for one in good]

    def _cached_reads(self, datasets: list[str]) -> None:
        for _ in range(5):
            for dataset in datasets:
                expect(self._client.get(f"/datasets/{dataset}"), 200)

    def _jobs_that_wait(self) -> None:
        """Jobs of a paused queue, until the workers' gauges have told of them; then they run."""
        self._system.manage("jobs", "pause", QUEUE)
        until(lambda: QUEUE in self._paused_queues(), "the worker has heard of the pause")
        tasks = []
        for number in range(6):
            answer = self._client.post("/process-data", json={"id": str(number), "data": [1, 2, 3]})
            tasks.append(expect(answer, 202).json()["task_id"])
        until(
            lambda: self._system.instant(f'jobs_oldest_due_seconds{{queue="{QUEUE}"}} > 0'),
            "the oldest queued job is shown",
        )
        # A poll that began before the pause may still have taken the first.
        self._full_process(next(task for task in tasks if self._status(task) == "queued"))
        self._system.manage("jobs", "resume", QUEUE)
        until(lambda: {self._status(task) for task in tasks} == {"succeeded"}, "the waiting jobs run")

    def _paused_queues(self) -> list[str]:
        report = httpx.get(f"{self._system.worker_url}/health", timeout=30).json()
        queues: list[str] = report["worker"]["paused_queues"]
        return queues

    def _full_process(self, waiting_task: str) -> None:
        """Followers of a task that waits take all the room that there is for them; the next one is refused."""

        def follow() -> int:
            with self._client.stream("GET", f"/tasks/{waiting_task}/events") as answer:
                return answer.status_code

        with ExitStack() as held:
            for _ in range(ROOM):
                stream = self._client.stream("GET", f"/tasks/{waiting_task}/events")
                answer = held.enter_context(stream)
                if answer.status_code != 200:
                    raise NotObservedError(f"no stream of events: {answer.status_code}")
            until(lambda: follow() == 503, "a full process refuses")
        until(lambda: follow() == 200, "the process has room again")

    def _too_many_requests(self) -> None:
        statuses = [self._client.get("/tasks").status_code for _ in range(LIMITED_RATE + 5)]
        if 429 not in statuses:
            raise NotObservedError(f"{LIMITED_ROUTE} was never refused: {statuses}")
