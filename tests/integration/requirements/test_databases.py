"""The whole system on each database, and behind PgBouncer in transaction mode with two servers for all (row 28)."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from scalable_fastapi_system.jobs.states import JobState

from tests.integration.requirements.conftest import StartService, sign_in

TABLE = b"a,b\n1,2\n3,4\n"
PATIENCE_SECONDS = 60.0


async def state_of(http: httpx.AsyncClient, task_id: str) -> str:
    body = (await http.get(f"/tasks/{task_id}")).raise_for_status().json()
    return str(body["data"]["status"])


async def ended(http: httpx.AsyncClient, task_id: str) -> str:
    """The state in which it ended."""
    final = {state.label for state in JobState if state.is_terminal}
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (state := await state_of(http, task_id)) not in final:
            await asyncio.sleep(0.1)
    return state


@pytest.mark.databases("postgres", "mariadb", "pgbouncer")
async def test_api_and_worker_do_everything_on_each_database_and_through_a_pool_of_two(
    start_service: StartService, database_environment: dict[str, str], redis_url: str
) -> None:
    environment = {**database_environment, "REDIS__REDIS_URL": redis_url}
    api = await asyncio.to_thread(start_service, "api", **environment)
    worker = await asyncio.to_thread(start_service, "worker", **environment)
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        await sign_in(http)

        async def post_job(number: int) -> str:
            answer = await http.post("/process-data", json={"id": number})
            return str(answer.raise_for_status().json()["task_id"])

        async def post_dataset(number: int) -> str:
            files = {"file": (f"table-{number}.csv", TABLE, "text/csv")}
            answer = (await http.post("/datasets", files=files)).raise_for_status().json()
            return str(answer["task_id"])

        async def post_under_key() -> str:
            answer = await http.post(
                "/process-data", json={"id": 1}, headers={"Idempotency-Key": "one-key-for-all"}
            )
            return answer.json()["task_id"] if answer.status_code == 202 else str(answer.status_code)

        async def read() -> str:
            return str((await http.get("/tasks")).raise_for_status().status_code)

        accepted = await asyncio.gather(
            *(post_job(number) for number in range(30)), *(post_dataset(number) for number in range(5))
        )
        again = set(
            await asyncio.gather(*(post_under_key() for _ in range(20)), *(read() for _ in range(20)))
        )
        one_effect = again - {"200", "409"}
        assert len(one_effect) == 1, again
        states = await asyncio.gather(*(ended(http, task_id) for task_id in [*accepted, *one_effect]))
    assert set(states) == {"succeeded"}
    for service in (api, worker):
        assert '"level":"error"' not in service.log()
        assert "Traceback" not in service.log()
