"""Datasets through the API: upload, profile, read, list, delete; whose they are; what is left behind."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import vega_datasets
from domains.datasets import jobs, repository, service
from domains.datasets.models import Dataset
from scalable_fastapi_system.infra.database.observe import StatementCount, counted
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs.store import create_store

from tests.integration.domains.conftest import Owner, System, running

pytestmark = pytest.mark.databases("sqlite", "postgres")

WEATHER = (Path(vega_datasets.__file__).parent / "_data" / "seattle-weather.csv").read_bytes()
BOUNDARY = "frontier"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'.encode()
END = f"\r\n--{BOUNDARY}--\r\n".encode()


async def stored_keys(system: System) -> list[str]:
    return [file.key async for file in system.resources.storage.list()]


async def test_a_table_is_profiled_and_its_owner_reads_the_profile(system: System) -> None:
    ada = await system.owner()
    answer = await ada.call("POST", "/datasets", files={"file": ("seattle-weather.csv", WEATHER, "text/csv")})

    assert answer.status_code == 202
    body = answer.json()
    accepted = body["data"]
    assert (body["success"], body["status"], body["id"], body["task_id"]) == (
        True,
        "queued",
        accepted["id"],
        accepted["task_id"],
    )
    assert answer.headers["location"] == f"/datasets/{accepted['id']}"
    assert accepted["sha256"] == hashlib.sha256(WEATHER).hexdigest()

    found = await ada.ended(accepted["id"])
    assert (found["status"], found["name"], found["error"]) == ("ready", "seattle-weather.csv", None)
    assert (found["row_count"], found["column_count"]) == (1461, 6)
    profile = found["profile"]
    assert profile["rows"] == 1461
    assert [column["name"] for column in profile["columns"]] == [
        "date",
        "precipitation",
        "temp_max",
        "temp_min",
        "wind",
        "weather",
    ]
    assert profile["columns"][5]["top_values"][0] == {"value": "sun", "count": 714}
    task = await ada.task(accepted["task_id"])
    assert (task["status"], task["progress"]["fraction"], task["attempt"]) == ("succeeded", 1.0, 1)
    assert task["result"] == {"dataset_id": accepted["id"], "rows": 1461, "columns": 6}


async def test_a_file_that_is_no_table_fails_once_with_words_for_its_owner(system: System) -> None:
    ada = await system.owner()
    accepted = await ada.upload(b"a,b\n1,2\n1,2,3\n")

    found = await ada.ended(accepted["id"])
    assert (found["status"], found["profile"]) == ("failed", None)
    assert found["error"] == "Line 3 does not fit the table: it has more cells than the first line (2)."
    task = await ada.ended_task(accepted["task_id"])
    assert (task["status"], task["attempt"], task["error"]["message"]) == ("failed", 1, found["error"])


async def test_a_file_that_is_gone_fails_its_profile(quiet: System) -> None:
    jobs._turn.acquire()  # hold it back until the file has gone
    try:
        ada = await quiet.owner()
        accepted = await ada.upload(WEATHER)
        for key in await stored_keys(quiet):
            await quiet.resources.storage.delete(key)
        await quiet.start_worker()
    finally:
        jobs._turn.release()

    found = await ada.ended(accepted["id"])
    assert (found["status"], found["error"]) == ("failed", "There is no such file")


async def test_a_dataset_is_its_owners_alone(system: System) -> None:
    ada, eve = await system.owner("ada"), await system.owner("eve")
    accepted = await ada.upload(WEATHER)
    dataset_id = accepted["id"]

    for moment in ("while it is profiled", "once it is ready, from the database", "and from the cache"):
        assert (await eve.call("GET", f"/datasets/{dataset_id}")).status_code == 404, moment
        assert (await eve.call("DELETE", f"/datasets/{dataset_id}")).status_code == 404, moment
        assert (await eve.call("GET", f"/tasks/{accepted['task_id']}")).status_code == 404, moment
        assert (await eve.call("GET", "/datasets")).json()["data"]["items"] == []
        await ada.ended(dataset_id)
    assert (await system.client.get(f"/datasets/{dataset_id}")).status_code == 401
    assert (
        await system.client.post("/datasets", files={"file": ("a.csv", b"a\n", "text/csv")})
    ).status_code == 401
    assert (await ada.dataset(dataset_id))["status"] == "ready"


async def test_a_ready_report_is_read_from_the_cache(system: System) -> None:
    ada = await system.owner()
    accepted = await ada.upload(WEATHER)
    first = await ada.ended(accepted["id"])

    async def read() -> list[str]:
        count = StatementCount()
        token = counted.set(count)
        try:
            assert await ada.dataset(accepted["id"]) == first
        finally:
            counted.reset(token)
        return [statement for statement in count.statements if "datasets" in statement]

    # What was read between the job's commit and the deletion that follows it is rightly not kept, and may be served until then.
    from_cache = 0
    async with asyncio.timeout(30):
        while from_cache < 20:
            from_cache = 0 if await read() else from_cache + 1
            await asyncio.sleep(0.01)
    assert await read() == []


async def test_many_readers_of_an_unfinished_dataset_all_get_it(quiet: System) -> None:
    with jobs._turn:
        ada, eve = await quiet.owner("ada"), await quiet.owner("eve")
        accepted = await ada.upload(WEATHER)
        path = f"/datasets/{accepted['id']}"
        answers = await asyncio.gather(
            *(owner.call("GET", path) for owner in (ada, eve) for _ in range(10)),
        )
        assert [answer.status_code for answer in answers] == [200] * 10 + [404] * 10


async def test_a_deleted_dataset_is_gone_from_everywhere(system: System) -> None:
    ada = await system.owner()
    accepted = await ada.upload(WEATHER)
    await ada.ended(accepted["id"])

    assert (await ada.call("DELETE", f"/datasets/{accepted['id']}")).status_code == 200
    assert (await ada.call("GET", f"/datasets/{accepted['id']}")).status_code == 404
    assert (await ada.call("DELETE", f"/datasets/{accepted['id']}")).status_code == 404
    assert (await ada.call("GET", "/datasets")).json()["data"]["items"] == []
    assert await stored_keys(system) == []


async def test_deleting_a_dataset_cancels_the_job_that_waits(quiet: System) -> None:
    with jobs._turn:
        ada = await quiet.owner()
        accepted = await ada.upload(WEATHER)
        assert (await ada.call("DELETE", f"/datasets/{accepted['id']}")).status_code == 200
        assert (await ada.ended_task(accepted["task_id"]))["status"] == "cancelled"


def large_table(rows: int) -> bytes:
    """A table that takes seconds."""
    lines = (f"{row},{row * 7919 % 1_000_003},text of row {row},{row / 7:.3f}\n" for row in range(rows))
    return b"id,n,text,x\n" + "".join(lines).encode()


async def test_progress_is_told_in_steps_and_a_cancel_stops_the_profile(system: System) -> None:
    overlooked: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: overlooked.append(fault))
    ada = await system.owner()
    accepted = await ada.upload(large_table(3_000_000))
    seen: list[tuple[float, str]] = []
    async with asyncio.timeout(120):
        while len({fraction for fraction, _ in seen}) < 4:
            task = await ada.task(accepted["task_id"])
            assert task["status"] in {"queued", "running"}, task
            if task["progress"]:
                seen.append((task["progress"]["fraction"], task["progress"]["message"]))
            await asyncio.sleep(0.02)
    assert [fraction for fraction, _ in seen] == sorted(fraction for fraction, _ in seen)
    assert (await ada.dataset(accepted["id"]))["status"] == "profiling"

    asked = time.monotonic()
    assert (await ada.call("POST", f"/tasks/{accepted['task_id']}/cancel")).status_code == 200
    found = await ada.ended(accepted["id"])
    assert (found["status"], found["profile"]) == ("cancelled", None)
    assert time.monotonic() - asked < 10
    # The thread has ended too: the turn is free for the next one.
    assert (await ada.ended((await ada.upload(WEATHER))["id"]))["status"] == "ready"
    gc.collect()  # an error that nobody asked for is told when its task goes
    assert overlooked == []


async def test_a_cancelled_profile_can_be_asked_for_again(quiet: System) -> None:
    with jobs._turn:
        ada = await quiet.owner()
        accepted = await ada.upload(WEATHER)
        assert (await ada.call("POST", f"/tasks/{accepted['task_id']}/cancel")).status_code == 200
        assert (await ada.ended(accepted["id"]))["status"] == "cancelled"
    await quiet.start_worker()
    assert (await ada.call("POST", f"/tasks/{accepted['task_id']}/retry")).status_code == 200
    await ada.until(accepted["id"], "ready")


async def test_a_profile_that_was_not_made_is_awaited_no_more_once_its_job_is_cleared_away(
    quiet: System,
) -> None:
    with jobs._turn:
        ada = await quiet.owner()
        accepted = await ada.upload(WEATHER)
        assert (await ada.call("POST", f"/tasks/{accepted['task_id']}/cancel")).status_code == 200
        await ada.ended(accepted["id"])
        await create_store(quiet.resources.database).purge(older_than=timedelta(0))
    assert (await ada.call("GET", f"/tasks/{accepted['task_id']}")).status_code == 404
    one = await ada.dataset(accepted["id"])
    (listed,) = (await ada.call("GET", "/datasets")).json()["data"]["items"]
    assert one["status"] == listed["status"] == "failed"
    assert one["error"] == listed["error"] == service._NO_PROFILE


async def test_the_sweep_notes_how_a_job_ended_before_it_is_cleared_away(
    quiet: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_ROWS_AT_ONCE", 2)
    with jobs._turn:
        ada = await quiet.owner()
        waiting = await ada.upload(WEATHER)
        cancelled = [await ada.upload(WEATHER) for _ in range(4)]
        for one in cancelled:
            assert (await ada.call("POST", f"/tasks/{one['task_id']}/cancel")).status_code == 200
            await ada.ended(one["id"])
        for noted in (4, 0):
            async with quiet.resources.database.transaction() as session:
                assert await service.note_ends(session) == noted
        again = cancelled.pop()
        assert (await ada.call("POST", f"/tasks/{again['task_id']}/retry")).status_code == 200
        await create_store(quiet.resources.database).purge(older_than=timedelta(0))
        statuses = {
            one["id"]: (await ada.dataset(one["id"]))["status"] for one in (waiting, again, *cancelled)
        }
        listed = (await ada.call("GET", "/datasets")).json()["data"]["items"]
    assert {one["id"]: one["status"] for one in listed} == statuses
    assert list(statuses.values())[2:] == ["cancelled"] * 3
    assert {statuses[waiting["id"]], statuses[again["id"]]} <= {"queued", "profiling"}
    await quiet.start_worker()
    await ada.until(again["id"], "ready")


async def test_a_list_is_read_page_by_page_from_the_newest(quiet: System) -> None:
    ada = await quiet.owner()
    made = [(await ada.upload(b"a\n1\n", f"{number}.csv"))["id"] for number in range(5)]

    seen: list[str] = []
    cursor = None
    for size in (2, 2, 1):
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await ada.call("GET", "/datasets", params=query)).json()["data"]
        assert len(page["items"]) == size
        assert all("profile" not in item for item in page["items"])
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert seen == made[::-1]
    assert (await ada.call("GET", "/datasets", params={"cursor": "nonsense"})).status_code == 422
    assert (await ada.call("GET", "/datasets", params={"limit": 0})).status_code == 422


async def test_a_slow_upload_holds_no_connection_and_its_dataset_is_not_there_yet(quiet: System) -> None:
    ada = await quiet.owner()
    goes_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield HEAD + b"a,b\n" + b"1,2\n" * 300_000
        await goes_on.wait()
        yield END

    upload = asyncio.create_task(ada.call("POST", "/datasets", content=body(), headers=FORM))
    await asyncio.sleep(1)
    async with asyncio.timeout(30):  # a connection that is held is held until the upload goes on
        while quiet.resources.database.pool_status().get("checked_out", 0):
            await asyncio.sleep(0.05)
    assert (await ada.call("GET", "/datasets")).json()["data"]["items"] == []
    goes_on.set()
    assert (await upload).status_code == 202
    assert len((await ada.call("GET", "/datasets")).json()["data"]["items"]) == 1


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (HEAD + b"a\n1\n", FORM, 400),
        (f"--{BOUNDARY}--\r\n".encode(), FORM, 422),
        (HEAD.replace(b'"file"', b'"other"') + b"a\n" + END, FORM, 422),
        (HEAD.replace(b"\r\n\r\n", b"\r\nContent-Type: image/png\r\n\r\n") + b"a\n" + END, FORM, 422),
        (b'{"file": "a"}', {"Content-Type": "application/json"}, 415),
        (b"a,b\n1,2\n", {"Content-Type": "text/csv"}, 415),
    ],
)
async def test_an_upload_that_is_wrong_leaves_nothing(
    quiet: System, content: bytes, headers: dict[str, str], status: int
) -> None:
    ada = await quiet.owner()
    answer = await ada.call("POST", "/datasets", content=content, headers=headers)

    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["success"] is False
    assert await stored_keys(quiet) == []
    assert (await ada.call("GET", "/datasets")).json()["data"]["items"] == []


async def test_a_file_over_the_limit_is_refused_with_the_limit(
    product_settings: Callable[..., Settings],
) -> None:
    async with running(product_settings(storage={"max_file_bytes": 5000})) as small:
        ada = await small.owner()
        assert await ada.upload(b"a\n" + b"1\n" * 2499)
        answer = await ada.call("POST", "/datasets", files={"file": ("a.csv", b"x" * 5001, "text/csv")})
        assert answer.status_code == 413
        assert "5000 bytes" in answer.json()["message"]
        assert len(await stored_keys(small)) == 1


async def test_a_row_that_cannot_be_written_takes_its_file_with_it(
    quiet: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await quiet.owner()

    async def fail(*_args: Any, **_options: Any) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(repository, "add", fail)
    answer = await ada.call("POST", "/datasets", files={"file": ("a.csv", WEATHER, "text/csv")})
    assert answer.status_code == 500
    assert "disk" not in answer.text
    assert await stored_keys(quiet) == []


async def test_the_sweep_deletes_old_files_without_a_dataset_and_no_others(
    quiet: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await quiet.owner()
    kept = (await ada.upload(WEATHER))["id"]
    storage = quiet.resources.storage

    async def content() -> AsyncIterator[bytes]:
        yield b"a\n"

    await storage.put("datasets/lost", content())
    await storage.put("others/not-ours", content())
    async with quiet.resources.database.transaction() as session:
        assert await service.delete_orphans(session, storage=storage) == 0
    monkeypatch.setattr(service, "_ORPHAN_AGE", -service._ORPHAN_AGE)
    async with quiet.resources.database.transaction() as session:
        assert await service.delete_orphans(session, storage=storage) == 1
    assert sorted(await stored_keys(quiet)) == [f"datasets/{kept}", "others/not-ours"]


async def test_a_worker_that_stops_in_mid_profile_hands_it_on(quiet: System) -> None:
    if quiet.settings.are_jobs_embedded:
        pytest.skip("the worker is in the API's process")
    ada = await quiet.owner()
    accepted = await ada.upload(large_table(400_000))
    await quiet.start_worker()
    await ada.until(accepted["id"], "profiling")
    await quiet.stop_workers()
    await quiet.start_worker()

    found = await ada.ended(accepted["id"], timeout_seconds=90)
    assert (found["status"], found["row_count"]) == ("ready", 400_000)


async def test_several_uploads_at_once_are_all_profiled(system: System) -> None:
    ada = await system.owner()
    accepted = await asyncio.gather(*(ada.upload(WEATHER, f"{number}.csv") for number in range(6)))

    found = await asyncio.gather(*(ada.ended(one["id"]) for one in accepted))
    assert [one["status"] for one in found] == ["ready"] * 6


async def test_a_name_is_stored_as_it_may_be_shown(quiet: System) -> None:
    ada = await quiet.owner()
    accepted = await ada.upload(b"a\n1\n", "../../täble\u202e<script>.csv")
    assert accepted["name"] == "täble<script>.csv"
    async with quiet.resources.database.transaction() as session:
        dataset = await session.get(Dataset, UUID(accepted["id"]))
    assert dataset is not None
    assert dataset.storage_key == f"datasets/{accepted['id']}"


async def test_a_key_may_do_what_its_scopes_name(quiet: System) -> None:
    ada = await quiet.owner()
    made = await ada.call("POST", "/api-keys", json={"name": "reader", "scopes": ["datasets:read"]})
    assert made.status_code in {200, 201}, made.text
    reader = Owner(quiet.client, {"X-API-Key": made.json()["data"]["key"]})

    assert (await reader.call("GET", "/datasets")).status_code == 200
    refused = await reader.call("POST", "/datasets", files={"file": ("a.csv", b"a\n1\n", "text/csv")})
    assert refused.status_code == 403


async def test_the_api_describes_the_upload(quiet: System) -> None:
    described = (await quiet.client.get("/openapi.json")).json()["paths"]["/datasets"]["post"]
    schema = described["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["properties"]["file"]["format"] == "binary"
    assert {"202", "400", "401", "403", "413", "415", "422"} <= described["responses"].keys()
