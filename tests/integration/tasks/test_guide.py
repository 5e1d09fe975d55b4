"""The guide's background tasks, as its reader types them: no settings, no service running, no lifespan."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import pytest
from fastapi.testclient import TestClient
from scalable_fastapi_system import background_task, create_app

pytestmark = pytest.mark.usefixtures("chosen_database")

USER = {"username": "testuser", "email": "test@example.com", "password": "testpassword123"}


@pytest.fixture
def client() -> TestClient:
    return TestClient(create_app())


def signed_in(client: TestClient, user: dict[str, str] = USER) -> dict[str, str]:
    assert client.post("/auth/register", json=user).status_code == 200
    answer = client.post("/auth/login", data={"username": user["username"], "password": user["password"]})
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def ended(client: TestClient, headers: dict[str, str], task_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while True:
        answer = client.get(f"/tasks/{task_id}", headers=headers)
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.json()["data"]
        if data["status"] in {"succeeded", "failed", "cancelled", "quarantined"}:
            return data
        assert time.monotonic() < deadline, data
        time.sleep(0.05)


def test_a_background_task_is_created_and_done(client: TestClient) -> None:
    headers = signed_in(client)
    answer = client.post("/tasks/background", json={"id": 7, "values": [1, 2, 3]}, headers=headers)
    assert answer.status_code == 202
    body = answer.json()
    assert body["status"] == "created"
    assert body["data"]["task_id"] == body["task_id"]
    data = ended(client, headers, body["task_id"])
    assert data["status"] == "succeeded"
    assert data["result"]["numbers"]["values"] == {"count": 3, "min": 1, "max": 3, "mean": 2, "median": 2}


def test_data_are_processed(client: TestClient) -> None:
    headers = signed_in(client)
    answer = client.post("/process-data", json={"id": "abc", "x": {"y": None}}, headers=headers)
    assert answer.status_code == 202
    body = answer.json()
    assert body["message"] == "Data processing started"
    assert body["data_id"] == "abc"
    data = ended(client, headers, body["task_id"])
    assert data["result"]["types"] == {"null": 1, "object": 2, "string": 1}


def test_a_task_does_not_exist_for_anyone_else(client: TestClient) -> None:
    mine = signed_in(client)
    theirs = signed_in(
        client, {"username": "other", "email": "other@example.com", "password": "testpassword123"}
    )
    task_id = client.post("/tasks/background", json={}, headers=mine).json()["task_id"]
    for method, path in (
        ("GET", f"/tasks/{task_id}"),
        ("GET", f"/tasks/{task_id}/attempts"),
        ("POST", f"/tasks/{task_id}/cancel"),
        ("POST", f"/tasks/{task_id}/retry"),
    ):
        assert client.request(method, path, headers=theirs).status_code == 404
        assert client.request(method, path).status_code == 401
    assert client.get("/tasks", headers=theirs).json()["data"]["items"] == []
    assert client.get("/tasks?everyone=true", headers=theirs).json()["data"]["items"] == []
    assert [one["id"] for one in client.get("/tasks", headers=mine).json()["data"]["items"]] == [task_id]


async def test_the_guides_own_endpoint_body_works() -> None:
    """`asyncio.create_task(background_task(task_id, task_data))`, with a task id of uuid4."""
    app = create_app()
    task_id = str(uuid.uuid4())
    handle = await asyncio.create_task(background_task(task_id, {"n": 1}))
    again = await asyncio.create_task(background_task(task_id, {"n": 1}))
    assert str(handle.id) == str(again.id) == task_id
    assert (handle.is_new, again.is_new) == (True, False)
    for _ in range(200):
        job = await app.state.jobs.get(handle.id)
        if job.state.is_terminal:
            break
        await asyncio.sleep(0.05)
    assert job.status == "succeeded"


def test_a_task_is_followed_by_server_sent_events(client: TestClient) -> None:
    headers = signed_in(client)
    task_id = client.post("/tasks/background", json={"x": 1}, headers=headers).json()["task_id"]
    answer = client.get(f"/tasks/{task_id}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    blocks = [block for block in answer.text.split("\n\n") if block.startswith("id: ")]
    assert "event: state" in blocks[-1]
    assert '"status":"succeeded"' in blocks[-1]
    last_id = blocks[-1].splitlines()[0].removeprefix("id: ")
    again = client.get(f"/tasks/{task_id}/reason", headers=headers).json()["data"]
    assert again == {"rule": None, "message": "The task has ended"}
    assert "/1.3" in last_id
    told = client.get(f"/tasks/{task_id}/events", headers={**headers, "Last-Event-ID": last_id})
    assert (told.status_code, told.content) == (204, b"")
    assert client.get(f"/tasks/{task_id}/events").status_code == 401


def test_queues_and_workers_are_for_administrators(client: TestClient) -> None:
    headers = signed_in(client)
    for path in ("queues", "workers", "schedules"):
        assert client.get(f"/admin/jobs/{path}", headers=headers).status_code == 403
    assert client.post("/admin/jobs/queues/default/pause", headers=headers).status_code == 403
