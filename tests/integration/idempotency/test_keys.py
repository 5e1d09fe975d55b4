"""A POST that is sent twice under one Idempotency-Key is done once, and answered the same."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import httpx
import pytest
from scalable_fastapi_system.infra import idempotency
from scalable_fastapi_system.infra.idempotency import idempotency_keys
from scalable_fastapi_system.kit.clock import utc_now
from sqlalchemy import event, func, select, update

from tests.integration.domains.conftest import PASSWORD, Owner, System

pytestmark = pytest.mark.databases("sqlite", "postgres")

TABLE = b"day,rain\n2026-01-01,3\n2026-01-02,0\n"


async def post(owner: Owner, path: str, key: str, **options: object) -> httpx.Response:
    return await owner.call("POST", path, headers={"Idempotency-Key": key}, **options)


async def task_ids(owner: Owner) -> list[str]:
    answer = await owner.call("GET", "/tasks", params={"limit": 200})
    return [task["id"] for task in answer.json()["data"]["items"]]


async def kept(system: System) -> int:
    async with system.resources.database.transaction() as session:
        return (await session.execute(select(func.count()).select_from(idempotency_keys))).scalar_one()


async def test_the_same_request_gets_the_same_answer_and_is_done_once(owner: Owner) -> None:
    first = await post(owner, "/tasks/background", "one", json={"id": 1})
    again = await post(owner, "/tasks/background", "one", json={"id": 1})
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.content == again.content
    assert first.headers["content-type"] == again.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    assert await task_ids(owner) == [first.json()["task_id"]]


async def test_a_key_in_quotes_as_the_draft_writes_it_is_the_same_key(owner: Owner) -> None:
    first = await post(owner, "/tasks/background", '"one"', json={"id": 1})
    again = await post(owner, "/tasks/background", "one", json={"id": 1})
    assert again.json()["task_id"] == first.json()["task_id"]


async def test_another_request_under_the_key_is_refused(owner: Owner) -> None:
    await post(owner, "/tasks/background", "one", json={"id": 1})
    for options in ({"json": {"id": 2}}, {"json": {"id": 1}, "params": {"x": "1"}}):
        other = await post(owner, "/tasks/background", "one", **options)
        assert other.status_code == 422
        assert other.json()["error_code"] == "IDEMPOTENCY_KEY_REUSED"
        assert other.headers["content-type"] == "application/problem+json"
    assert len(await task_ids(owner)) == 1


async def test_keys_are_each_caller_s_own_and_each_route_s(system: System, owner: Owner) -> None:
    other = await system.owner("bob")
    answers = [
        await post(owner, "/tasks/background", "one", json={"id": 1}),
        await post(other, "/tasks/background", "one", json={"id": 1}),
        await post(owner, "/process-data", "one", json={"id": 1}),
    ]
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert len({answer.json()["task_id"] for answer in answers}) == 3
    assert (len(await task_ids(owner)), len(await task_ids(other))) == (2, 1)


async def test_of_twenty_at_once_one_is_done(owner: Owner) -> None:
    answers = await asyncio.gather(
        *(post(owner, "/tasks/background", "one", json={"id": 1}) for _ in range(20))
    )
    assert {answer.status_code for answer in answers} <= {202, 409}
    given = {answer.content for answer in answers if answer.status_code == 202}
    assert len(given) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["error_code"] == "IDEMPOTENCY_KEY_IN_USE"
            assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert len(await task_ids(owner)) == 1
    again = await post(owner, "/tasks/background", "one", json={"id": 1})
    assert {again.content} == given


async def test_an_upload_is_known_by_its_parts_whatever_its_boundary(system: System, owner: Owner) -> None:
    def form(content: bytes) -> dict[str, object]:
        return {"files": {"file": ("rain.csv", content, "text/csv")}}  # httpx makes up a boundary each time

    first = await post(owner, "/datasets", "one", **form(TABLE))
    again = await post(owner, "/datasets", "one", **form(TABLE))
    other = await post(owner, "/datasets", "one", **form(TABLE + b"2026-01-03,1\n"))
    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 422)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    listed = await owner.call("GET", "/datasets")
    assert [one["id"] for one in listed.json()["data"]["items"]] == [first.json()["id"]]
    assert [file.key async for file in system.resources.storage.list("datasets")] == [
        f"datasets/{first.json()['id']}"
    ]


async def test_of_twenty_uploads_at_once_one_is_done(system: System, owner: Owner) -> None:
    answers = await asyncio.gather(
        *(
            post(owner, "/datasets", "one", files={"file": ("rain.csv", TABLE * 5000, "text/csv")})
            for _ in range(20)
        )
    )
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    listed = await owner.call("GET", "/datasets")
    assert len(listed.json()["data"]["items"]) == 1
    assert len([file async for file in system.resources.storage.list("datasets")]) == 1


async def test_an_account_is_made_once(system: System) -> None:
    body = {"username": "carol", "email": "carol@example.com", "password": PASSWORD}
    answers = await asyncio.gather(
        *(
            system.client.post("/auth/register", json=body, headers={"Idempotency-Key": "one"})
            for _ in range(20)
        )
    )
    assert {answer.status_code for answer in answers} <= {200, 409}
    again = await system.client.post("/auth/register", json=body, headers={"Idempotency-Key": "one"})
    assert again.status_code == 200, again.text
    assert {answer.content for answer in answers if answer.status_code == 200} == {again.content}
    without = await system.client.post("/auth/register", json=body)
    assert without.status_code == 400  # registered, once


async def test_a_change_of_a_task_is_made_once(owner: Owner) -> None:
    task_id = (await post(owner, "/tasks/background", "make", json={"id": 1})).json()["task_id"]
    first = await post(owner, f"/tasks/{task_id}/cancel", "stop")
    again = await post(owner, f"/tasks/{task_id}/cancel", "stop")
    assert first.json()["data"]["has_changed"] is True
    assert again.content == first.content
    without = await owner.call("POST", f"/tasks/{task_id}/cancel")
    assert without.json()["data"]["has_changed"] is False
    other = await post(owner, f"/tasks/{uuid4()}/cancel", "stop")
    assert other.status_code == 422  # the same route, another task


async def test_webhooks_take_keys_where_no_secret_is_shown(owner: Owner) -> None:
    refused = await post(owner, "/webhooks", "one", json={"url": "https://example.com/hook"})
    assert refused.status_code == 400
    assert refused.json()["error_code"] == "IDEMPOTENCY_KEY_NOT_TAKEN"
    assert "without it" in refused.json()["message"]
    made = await owner.call("POST", "/webhooks", json={"url": "https://example.com/hook"})
    webhook_id = made.json()["data"]["id"]
    assert len((await owner.call("GET", "/webhooks")).json()["data"]) == 1
    first = await post(owner, f"/webhooks/{webhook_id}/enable", "two")
    again = await post(owner, f"/webhooks/{webhook_id}/enable", "two")
    assert (first.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    rotated = await post(owner, f"/webhooks/{webhook_id}/rotate", "three")
    assert rotated.status_code == 400


async def test_answers_with_secrets_are_not_stored(system: System, owner: Owner) -> None:
    before = await kept(system)
    login = {"username": "ada", "password": PASSWORD}
    refused = [
        await system.client.post("/auth/login", data=login, headers={"Idempotency-Key": "one"}),
        await system.client.post(
            "/auth/refresh", json={"refresh_token": "x"}, headers={"Idempotency-Key": "one"}
        ),
        await post(owner, "/api-keys", "one", json={"name": "ci", "scopes": ["tasks:read"]}),
        await post(owner, "/auth/logout", "one"),
    ]
    assert [answer.status_code for answer in refused] == [400] * 4
    assert {answer.json()["error_code"] for answer in refused} == {"IDEMPOTENCY_KEY_NOT_TAKEN"}
    assert await kept(system) == before


async def test_a_key_that_is_none_is_refused(owner: Owner) -> None:
    for key in ("", '""', "two words", "x" * 256, "tab\there"):
        answer = await post(owner, "/tasks/background", key, json={"id": 1})
        assert answer.status_code == 400, key
        assert answer.json()["error_code"] == "IDEMPOTENCY_KEY_MALFORMED"
    assert await task_ids(owner) == []


async def test_who_is_not_signed_in_is_told_so_and_holds_no_key(system: System) -> None:
    answer = await system.client.post(
        "/tasks/background", json={"id": 1}, headers={"Idempotency-Key": "one", "Authorization": "Bearer no"}
    )
    assert answer.status_code == 401
    assert await kept(system) == 0


async def test_an_answer_is_not_for_who_may_no_longer_ask(system: System, owner: Owner) -> None:
    await post(owner, "/tasks/background", "one", json={"id": 1})
    made = await owner.call("POST", "/api-keys", json={"name": "ci", "scopes": ["datasets:read"]})
    key = Owner(system.client, {"X-API-Key": made.json()["data"]["key"]})
    answer = await post(key, "/tasks/background", "one", json={"id": 1})
    assert answer.status_code == 403
    ended = await owner.call("POST", "/auth/logout")
    assert ended.status_code == 200
    answer = await post(owner, "/tasks/background", "one", json={"id": 1})
    assert answer.status_code == 401


async def test_without_the_header_nothing_is_asked_or_stored(system: System, owner: Owner) -> None:
    statements: list[str] = []
    engine = system.resources.database.async_engine.sync_engine

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    await owner.call("POST", "/tasks/background", json={"id": 1})
    assert statements
    assert not [statement for statement in statements if "idempotency" in statement]
    await post(owner, "/tasks/background", "one", json={"id": 1})
    assert [statement for statement in statements if "idempotency" in statement]
    event.remove(engine, "before_cursor_execute", note)
    assert await kept(system) == 1


async def test_after_a_day_the_key_is_new_and_the_retention_removes_it(system: System, owner: Owner) -> None:
    first = await post(owner, "/tasks/background", "one", json={"id": 1})
    database = system.resources.database
    long_ago = utc_now() - idempotency.KEPT_FOR - timedelta(minutes=1)

    async def age() -> None:
        async with database.transaction() as session:
            await session.execute(update(idempotency_keys).values(created_at=long_ago))

    assert await idempotency.purge(database) == 0
    await age()
    anew = await post(owner, "/tasks/background", "one", json={"id": 2})
    assert anew.status_code == 202
    assert anew.json()["task_id"] != first.json()["task_id"]
    assert await idempotency.purge(database) == 0
    await age()
    assert await idempotency.purge(database) == 1
    assert await kept(system) == 0
