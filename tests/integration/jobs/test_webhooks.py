"""Webhooks: planned with the end, signed, tried again, logged, replayed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from scalable_fastapi_system.infra import http_client
from scalable_fastapi_system.infra.http_client import MAX_ANSWER_BYTES, HttpClient
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.jobs import (
    JobContext,
    JobRegistry,
    JobState,
    call,
    enqueue,
    enqueue_chain,
    job,
    webhooks,
)
from scalable_fastapi_system.jobs.durable import DurableWorker
from scalable_fastapi_system.jobs.tables import webhook_deliveries, webhook_endpoints
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.errors import ConflictException, NotFoundException, ValidationException
from sqlalchemy import select, update

from tests.integration.jobs.conftest import FAST
from tests.integration.jobs.harness import Lab, running_lab

pytestmark = pytest.mark.databases("sqlite", "postgres")

OWNER = 7


@dataclass
class Receiver:
    """An endpoint that answers what it is told to."""

    url: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    answer_body: bytes = b""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in head.splitlines()[1:] if line)
        }
        body = await reader.readexactly(int(headers["content-length"]))
        self.requests.append((headers, body))
        status, extra = self.answers.pop(0) if self.answers else (200, {})
        lines = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
        head = f"HTTP/1.1 {status} x\r\ncontent-length: {len(self.answer_body)}\r\nconnection: close\r\n{lines}\r\n"
        writer.write(head.encode("latin-1") + self.answer_body)
        with contextlib.suppress(ConnectionError):  # nobody need read it to its end
            await writer.drain()
        writer.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    yield receiver
    server.close()


@pytest.fixture
async def lab(
    database_kind: str,
    database_section: dict[str, Any],
    request: pytest.FixtureRequest,
    make_settings: Callable[..., Settings],
    registry: JobRegistry,
) -> AsyncIterator[Lab]:
    """With hints by Redis, but on SQLite, which is for one process."""
    outbound = {"allow_private_addresses": True, "timeout_seconds": 2}
    redis = {} if database_kind == "sqlite" else {"redis_url": request.getfixturevalue("redis_url")}
    settings = make_settings(database=database_section, redis=redis, jobs=FAST, http_client=outbound)
    registry.add(webhooks.deliver)
    async with running_lab(settings, registry) as lab:
        yield lab


async def add_endpoint(lab: Lab, url: str, **options: Any) -> tuple[dict[str, Any], str]:
    async with lab.resources.database.transaction() as session:
        return await webhooks.add_endpoint(
            session,
            owner_id=options.get("owner_id", OWNER),
            url=url,
            kinds=options.get("kinds", []),
            allow_plain_http=True,
        )


async def deliveries(lab: Lab, count: int, *, are_done: bool = True) -> list[Any]:
    """So many deliveries, once each was answered."""
    async with asyncio.timeout(30):
        while True:
            async with lab.resources.database.transaction() as session:
                rows = (
                    await session.execute(
                        select(webhook_deliveries).order_by(webhook_deliveries.c.created_at)
                    )
                ).all()
            done = [row for row in rows if row.delivered_at is not None or not are_done]
            if len(done) >= count:
                assert len(rows) == count
                return list(done)
            await asyncio.sleep(0.05)


async def rows_of(lab: Lab) -> list[Any]:
    async with lab.resources.database.transaction() as session:
        return list((await session.execute(select(webhook_deliveries))).all())


async def heard(worker: DurableWorker, tells: bool) -> None:
    """Once the worker knows whether the owner is to be told: it hears so with a beat."""
    async with asyncio.timeout(30):
        while (OWNER in worker.engine.webhook_owners) is not tells:
            await asyncio.sleep(0.02)


def declare(registry: JobRegistry) -> Any:
    @job("told", registry=registry, max_attempts=1)
    async def told(ctx: JobContext, *, fails: bool = False) -> dict[str, str]:
        if fails:
            raise ValueError("no luck")
        return {"secret": "not for the hook"}

    return told


async def test_ends_are_told_signed_and_without_results(
    lab: Lab, registry: JobRegistry, receiver: Receiver
) -> None:
    told = declare(registry)
    _endpoint, secret = await add_endpoint(lab, receiver.url)
    await lab.start_worker()
    good = await lab.client.enqueue_now(told, owner_id=OWNER)
    bad = await lab.client.enqueue_now(told, owner_id=OWNER, fails=True)
    other = await lab.client.enqueue_now(told, owner_id=OWNER + 1)
    for handle in (good, bad, other):
        await lab.ended(handle.id)
    rows = await deliveries(lab, 2)
    assert {(row.job_id, row.event) for row in rows} == {
        (good.id, "task.succeeded"),
        (bad.id, "task.failed"),
    }
    assert [row.last_status for row in rows] == [200, 200]
    key = base64.b64decode(secret.removeprefix("whsec_"))
    for headers, body in receiver.requests:
        message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        signature = base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{signature}"
        assert b"not for the hook" not in body
        assert json.loads(body)["data"]["kind"] == "told"


async def test_a_delivery_is_tried_again_with_the_same_body(
    lab: Lab, registry: JobRegistry, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks.deliver.backoff, "base_seconds", 0.05)
    told = declare(registry)
    await add_endpoint(lab, receiver.url)
    receiver.answers = [(500, {}), (503, {"retry-after": "1"})]
    await lab.start_worker()
    handle = await lab.client.enqueue_now(told, owner_id=OWNER)
    (row,) = await deliveries(lab, 1)
    assert (row.job_id, row.attempts, row.last_status, row.last_error) == (handle.id, 3, 200, None)
    bodies = {body for _, body in receiver.requests}
    ids = {headers["webhook-id"] for headers, _ in receiver.requests}
    assert (len(receiver.requests), len(bodies), len(ids)) == (3, 1, 1)


async def test_one_client_sends_all_deliveries_of_a_worker_until_it_ends(
    lab: Lab, registry: JobRegistry, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[HttpClient] = []
    closed: list[HttpClient] = []

    class CountedClient(HttpClient):
        def __init__(self, settings: Settings) -> None:
            super().__init__(settings)
            made.append(self)

        async def close(self) -> None:
            closed.append(self)
            await super().close()

    for module in (http_client, webhooks):
        monkeypatch.setattr(module, "HttpClient", CountedClient, raising=False)
    told = declare(registry)
    await add_endpoint(lab, receiver.url)
    worker = await lab.start_worker()
    for _ in range(3):
        await lab.client.enqueue_now(told, owner_id=OWNER)
    await deliveries(lab, 3)
    assert (len(made), closed) == (1, [])
    await lab.stop_worker(worker)
    assert closed == made


async def test_a_receiver_that_keeps_failing_is_left_alone_for_a_while(
    lab: Lab, registry: JobRegistry, receiver: Receiver
) -> None:
    told = declare(registry)
    await add_endpoint(lab, receiver.url)
    other, _ = await add_endpoint(lab, receiver.url, owner_id=OWNER + 1)
    receiver.answers = [(500, {})] * 5
    await lab.start_worker()
    for number in range(1, 8):
        await lab.client.enqueue_now(told, owner_id=OWNER)
        async with asyncio.timeout(30):
            while sum(row.attempts for row in await rows_of(lab)) < number:
                await asyncio.sleep(0.02)
    assert any("failed too often" in row.last_error for row in await rows_of(lab))
    assert len(receiver.requests) == 5
    await lab.client.enqueue_now(told, owner_id=OWNER + 1)  # who has nothing to do with it
    async with asyncio.timeout(30):
        while not (
            tried := [
                row for row in await rows_of(lab) if str(row.endpoint_id) == str(other["id"]) and row.attempts
            ]
        ):
            await asyncio.sleep(0.02)
    assert tried[0].delivered_at is not None


async def test_of_a_receiver_s_answer_only_status_and_pause_count(
    lab: Lab, registry: JobRegistry, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks.deliver.backoff, "base_seconds", 0.05)
    told = declare(registry)
    await add_endpoint(lab, receiver.url)
    receiver.answers = [(503, {"retry-after": "\xb2"}), (200, {"content-encoding": "gzip"})]
    receiver.answer_body = bytes(MAX_ANSWER_BYTES + 1)
    await lab.start_worker()
    await lab.client.enqueue_now(told, owner_id=OWNER)
    (row,) = await deliveries(lab, 1)
    assert (row.attempts, row.last_status, row.last_error) == (2, 200, None)


async def test_gone_disables_the_endpoint(lab: Lab, registry: JobRegistry, receiver: Receiver) -> None:
    told = declare(registry)
    endpoint, _ = await add_endpoint(lab, receiver.url)
    receiver.answers = [(410, {})]
    worker = await lab.start_worker()
    await lab.ended((await lab.client.enqueue_now(told, owner_id=OWNER)).id)
    async with asyncio.timeout(30):
        while True:
            async with lab.resources.database.transaction() as session:
                (found,) = await webhooks.list_endpoints(session, owner_id=OWNER)
            if found["disabled_at"] is not None:
                break
            await asyncio.sleep(0.05)
    assert found["disabled_reason"] == "it answered 410 Gone"
    await heard(worker, False)
    await lab.ended((await lab.client.enqueue_now(told, owner_id=OWNER)).id)
    assert len(await deliveries(lab, 1, are_done=False)) == 1
    async with lab.resources.database.transaction() as session:
        await webhooks.enable_endpoint(session, endpoint_id=endpoint["id"], owner_id=OWNER)
    await heard(worker, True)
    await lab.ended((await lab.client.enqueue_now(told, owner_id=OWNER)).id)
    assert len(await deliveries(lab, 2, are_done=False)) == 2


async def test_cancels_and_their_consequences_are_told(
    lab: Lab, registry: JobRegistry, receiver: Receiver
) -> None:
    told = declare(registry)
    await add_endpoint(lab, receiver.url)
    async with lab.resources.database.transaction() as session:
        chain = await enqueue_chain(
            session, [call(told, owner_id=OWNER, delay_seconds=60), call(told, owner_id=OWNER)]
        )
    await lab.client.cancel(chain[0].id)
    await lab.start_worker()
    rows = await deliveries(lab, 2)
    assert {(row.job_id, row.event) for row in rows} == {(handle.id, "task.cancelled") for handle in chain}


async def test_only_wanted_kinds_are_told(lab: Lab, registry: JobRegistry, receiver: Receiver) -> None:
    told = declare(registry)

    @job("untold", registry=registry)
    async def untold(ctx: JobContext) -> None:
        async with ctx.transaction():
            ctx.result = 1

    await add_endpoint(lab, receiver.url, kinds=["untold"])
    await lab.start_worker()
    first = await lab.client.enqueue_now(told, owner_id=OWNER)
    await lab.ended(first.id)
    second = await lab.client.enqueue_now(untold, owner_id=OWNER)
    await lab.ended(second.id)
    (row,) = await deliveries(lab, 1)
    assert row.job_id == second.id


async def test_two_keys_sign_while_a_secret_is_rotated(
    lab: Lab, registry: JobRegistry, receiver: Receiver
) -> None:
    told = declare(registry)
    endpoint, old = await add_endpoint(lab, receiver.url)
    async with lab.resources.database.transaction() as session:
        new = await webhooks.rotate_secret(session, endpoint_id=endpoint["id"], owner_id=OWNER)
    assert new != old
    await lab.start_worker()
    await lab.client.enqueue_now(told, owner_id=OWNER)
    (row,) = await deliveries(lab, 1)
    headers, body = receiver.requests[0]
    message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = [
        "v1,"
        + base64.b64encode(
            hmac.new(base64.b64decode(secret.removeprefix("whsec_")), message, hashlib.sha256).digest()
        ).decode()
        for secret in (new, old)
    ]
    assert headers["webhook-signature"].split() == expected
    async with lab.resources.database.transaction() as session:
        await webhooks.replay_delivery(
            session, delivery_id=row.id, endpoint_id=endpoint["id"], owner_id=OWNER
        )
    async with asyncio.timeout(30):
        while len(receiver.requests) < 2:
            await asyncio.sleep(0.05)
    assert receiver.requests[1][1] == body


async def test_a_secret_signs_for_a_day_however_often_it_is_rotated(lab: Lab) -> None:
    endpoint, first = await add_endpoint(lab, "http://example.com/hook")

    async def rotate() -> tuple[str, list[dict[str, Any]]]:
        async with lab.resources.database.transaction() as session:
            new = await webhooks.rotate_secret(session, endpoint_id=endpoint["id"], owner_id=OWNER)
            return new, (await webhooks.find_endpoint(session, endpoint_id=endpoint["id"], owner_id=OWNER))[
                "secrets"
            ]

    second, _ = await rotate()
    third, kept = await rotate()
    assert [one["secret"] for one in kept] == [third, second, first]
    for one in kept[1:]:
        one["expires_at"] = (utc_now() - timedelta(seconds=1)).isoformat()
    async with lab.resources.database.transaction() as session:
        await session.execute(update(webhook_endpoints).values(secrets=kept))
    fourth, kept = await rotate()
    assert [one["secret"] for one in kept] == [fourth, third], "what is over a day old is gone"
    for _ in range(webhooks.MAX_SECRETS):
        _, kept = await rotate()
    assert len(kept) == webhooks.MAX_SECRETS


async def test_secrets_that_are_asked_for_at_once_are_all_kept(lab: Lab) -> None:
    endpoint, first = await add_endpoint(lab, "http://example.com/hook")

    async def rotate() -> str:
        async with lab.resources.database.transaction() as session:
            return await webhooks.rotate_secret(session, endpoint_id=endpoint["id"], owner_id=OWNER)

    shown = await asyncio.gather(*(rotate() for _ in range(5)))
    async with lab.resources.database.transaction() as session:
        found = await webhooks.find_endpoint(session, endpoint_id=endpoint["id"], owner_id=OWNER)
    assert {one["secret"] for one in found["secrets"]} == {first, *shown}


async def test_endpoints_that_are_added_at_once_are_no_more_than_one_may_have(lab: Lab) -> None:
    await add_endpoint(lab, "http://example.com/first")  # by whose row they wait for each other on MariaDB
    urls = [f"http://example.com/{number}" for number in range(webhooks.MAX_ENDPOINTS + 4)]
    added = await asyncio.gather(*(add_endpoint(lab, url) for url in urls), return_exceptions=True)
    assert sum(isinstance(one, ConflictException) for one in added) == 5
    async with lab.resources.database.transaction() as session:
        assert len(await webhooks.list_endpoints(session, owner_id=OWNER)) == webhooks.MAX_ENDPOINTS


async def test_addresses_and_owners_are_checked(lab: Lab) -> None:
    async with lab.resources.database.transaction() as session:
        for url in ("ftp://example.com", "https://", "https://user:pass@example.com/", "/path", "http://a.b"):
            with pytest.raises(ValidationException):
                await webhooks.add_endpoint(
                    session, owner_id=OWNER, url=url, kinds=[], allow_plain_http=False
                )
        endpoint, _ = await webhooks.add_endpoint(
            session, owner_id=OWNER, url="https://example.com/hook", kinds=[], allow_plain_http=False
        )
        with pytest.raises(NotFoundException):
            await webhooks.remove_endpoint(session, endpoint_id=endpoint["id"], owner_id=OWNER + 1)
        await webhooks.remove_endpoint(session, endpoint_id=endpoint["id"], owner_id=OWNER)
        assert await webhooks.list_endpoints(session, owner_id=OWNER) == []


@pytest.mark.databases("sqlite")
async def test_a_private_address_is_refused_for_good(
    make_settings: Callable[..., Settings],
    registry: JobRegistry,
    database_section: dict[str, Any],
    receiver: Receiver,
) -> None:
    registry.add(webhooks.deliver)
    told = declare(registry)
    settings = make_settings(database=database_section, jobs=FAST)
    async with running_lab(settings, registry) as lab:
        await add_endpoint(lab, receiver.url)
        async with lab.resources.database.transaction() as session:
            await enqueue(session, told, owner_id=OWNER)
        await lab.start_worker()
        async with asyncio.timeout(30):
            while True:
                page = await lab.client.list(kind="webhooks.deliver", states=[JobState.FAILED])
                if page.items:
                    break
                await asyncio.sleep(0.05)
        assert "public internet" in page.items[0].error["message"]
        assert receiver.requests == []
