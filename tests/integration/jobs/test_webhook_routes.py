"""`/webhooks` as its owner uses it: added, told, read in the log, replayed, rotated, disabled, removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from scalable_fastapi_system.infra.settings import Settings

from tests.integration.domains.conftest import Owner, System, running
from tests.integration.jobs.conftest import FAST
from tests.integration.jobs.test_webhooks import Receiver

pytestmark = pytest.mark.databases("sqlite", "postgres")

PATIENCE_SECONDS = 30.0


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    yield receiver
    server.close()


@pytest.fixture
async def system(
    database_kind: str,
    database_section: dict[str, Any],
    request: pytest.FixtureRequest,
    make_settings: Callable[..., Settings],
) -> AsyncIterator[System]:
    sections: dict[str, Any] = {
        "database": database_section,
        "http_client": {"allow_private_addresses": True, "timeout_seconds": 5},
        "rate_limit": {"enabled": False},
        "jobs": FAST,
    }
    if database_kind != "sqlite":
        sections["redis"] = {"redis_url": request.getfixturevalue("redis_url")}
    async with running(make_settings(**sections)) as system:
        await system.start_worker()
        yield system


async def data(owner: Owner, method: str, path: str, status: int = 200, **options: Any) -> Any:
    answer = await owner.call(method, path, **options)
    assert answer.status_code == status, answer.text
    return answer.json()["data"]


async def delivered(owner: Owner, webhook_id: str, *, attempts: int) -> dict[str, Any]:
    """The one delivery of the log, once it was tried so often."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            log = await data(owner, "GET", f"/webhooks/{webhook_id}/deliveries")
            if log and log[0]["attempts"] >= attempts:
                (only,) = log
                found: dict[str, Any] = only
                return found
            await asyncio.sleep(0.05)


async def do_task(system: System, owner: Owner) -> str:
    """A task of the owner's that has ended; workers have heard of the owner's webhooks before it began."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        # what a worker knows of webhooks is as new as its last beat, and the second beat from now began after now
        for _ in range(2):
            seen = await beats(system)
            while await beats(system) == seen:
                await asyncio.sleep(0.02)
    task_id: str = (await owner.call("POST", "/tasks/background", json={"id": 1})).json()["task_id"]
    assert (await owner.ended_task(task_id))["status"] == "succeeded"
    return task_id


async def beats(system: System) -> list[object]:
    return [worker.seen_at for worker in await system.app.state.jobs.workers()]


async def test_a_webhook_from_its_making_to_its_end(system: System, receiver: Receiver) -> None:
    owner = await system.owner()
    made = await data(owner, "POST", "/webhooks", 201, json={"url": receiver.url})
    webhook = f"/webhooks/{made['id']}"
    assert made["secret"].startswith("whsec_")
    (listed,) = await data(owner, "GET", "/webhooks")
    assert listed == {name: value for name, value in made.items() if name != "secret"}

    task_id = await do_task(system, owner)
    delivery = await delivered(owner, made["id"], attempts=1)
    assert (delivery["job_id"], delivery["event"], delivery["last_status"]) == (
        task_id,
        "task.succeeded",
        200,
    )
    assert delivery["delivered_at"] is not None

    rotated = await data(owner, "POST", f"{webhook}/rotate")
    assert rotated["secret"] != made["secret"]
    await data(owner, "POST", f"{webhook}/deliveries/{delivery['id']}/replay", 202)
    await delivered(owner, made["id"], attempts=2)
    (first, body), (second, body_again) = receiver.requests
    assert (first["webhook-id"], body) == (second["webhook-id"], body_again)
    assert (len(first["webhook-signature"].split()), len(second["webhook-signature"].split())) == (1, 2)

    receiver.answers = [(410, {})]
    await data(owner, "POST", f"{webhook}/deliveries/{delivery['id']}/replay", 202)
    gone = await delivered(owner, made["id"], attempts=3)
    assert (gone["last_status"], gone["last_error"]) == (410, "the endpoint answered 410")
    (listed,) = await data(owner, "GET", "/webhooks")
    assert listed["disabled_reason"] == "it answered 410 Gone"
    refused = await owner.call("POST", f"{webhook}/deliveries/{delivery['id']}/replay")
    assert refused.status_code == 409
    await data(owner, "POST", f"{webhook}/enable")
    await data(owner, "POST", f"{webhook}/deliveries/{delivery['id']}/replay", 202)
    await delivered(owner, made["id"], attempts=4)

    await data(owner, "DELETE", webhook)
    assert await data(owner, "GET", "/webhooks") == []
    assert (await owner.call("GET", f"{webhook}/deliveries")).status_code == 404


async def test_a_webhook_does_not_exist_for_anyone_else(system: System, receiver: Receiver) -> None:
    owner, other = await system.owner(), await system.owner("bob")
    made = await data(owner, "POST", "/webhooks", 201, json={"url": receiver.url})
    webhook = f"/webhooks/{made['id']}"
    for method, path in (
        ("GET", f"{webhook}/deliveries"),
        ("POST", f"{webhook}/enable"),
        ("POST", f"{webhook}/rotate"),
        ("POST", f"{webhook}/deliveries/{uuid4()}/replay"),
        ("DELETE", webhook),
    ):
        assert (await other.call(method, path)).status_code == 404, path
        assert (await system.client.request(method, path)).status_code == 401, path
    assert await data(other, "GET", "/webhooks") == []
    assert len(await data(owner, "GET", "/webhooks")) == 1


async def test_what_cannot_be_a_webhook_is_refused(system: System) -> None:
    owner = await system.owner()
    for body in (
        {"url": "ftp://example.com"},
        {"url": "https://a:b@example.com"},
        {"kinds": []},
        {"url": "x", "z": 1},
    ):
        assert (await owner.call("POST", "/webhooks", json=body)).status_code == 422, body
    for number in range(10):
        await data(owner, "POST", "/webhooks", 201, json={"url": f"https://example.com/{number}"})
    assert (await owner.call("POST", "/webhooks", json={"url": "https://example.com/"})).status_code == 409
