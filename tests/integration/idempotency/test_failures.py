"""What fails leaves neither effect nor answer, and may be sent again; what was begun twice is done once all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated
from uuid import uuid4

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.identity.dependencies import CurrentUser
from scalable_fastapi_system.infra import idempotency
from scalable_fastapi_system.infra.database import on_commit
from scalable_fastapi_system.infra.idempotency import Held, idempotency_keys
from scalable_fastapi_system.jobs import enqueue
from scalable_fastapi_system.jobs.background import process_data
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.errors import ConflictException
from scalable_fastapi_system.web.dependencies import Transaction
from scalable_fastapi_system.web.envelope import respond
from scalable_fastapi_system.web.idempotency import MAX_ANSWER_BYTES
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import OperationalError
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Host, Mount, Route

from tests.integration.domains.conftest import Owner, System

pytestmark = pytest.mark.databases("sqlite", "postgres")

Step = Callable[[Transaction], Awaitable[Response | None]]


class Orders:
    """An endpoint of a product: it stores something, then does what the test wants."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.step: Step | None = None
        self.events: list[str] = []

        @system.app.post("/orders", status_code=201)
        async def place(
            request: Request, user: CurrentUser, session: Transaction, later: BackgroundTasks
        ) -> Response:
            await enqueue(session, process_data, owner_id=user.id, data={"order": 1})
            on_commit(session, self._committed)
            answer = await self.step(session) if self.step is not None else None
            if answer is None:
                answer = respond(request, {"placed": True}, status_code=201)
            later.add_task(self._later)
            answer.background = later
            return answer

        @system.app.post("/unwritten")
        async def unwritten(user: CurrentUser) -> dict[str, bool]:
            return {"done": True}

        @system.app.post("/anyone")
        async def anyone(session: Transaction, checked: Annotated[None, Depends(_nothing)]) -> dict[str, int]:
            await enqueue(session, process_data, owner_id=1, data={})
            return {"number": len(self.events)}

    async def _committed(self) -> None:
        self.events.append(f"committed {await self.count()}")

    async def _later(self) -> None:
        self.events.append(f"later {await self.count()}")

    async def count(self) -> int:
        return len((await self.system.app.state.jobs.list(kind="data.process")).items)

    async def keys(self) -> list[int | None]:
        async with self.system.resources.database.transaction() as session:
            return list((await session.execute(select(idempotency_keys.c.status))).scalars())


async def _nothing() -> None: ...


@pytest.fixture
async def orders(system: System) -> Orders:
    return Orders(system)


async def place(owner: Owner, key: str = "one") -> httpx.Response:
    return await owner.call("POST", "/orders", headers={"Idempotency-Key": key}, json={"n": 1})


async def _raise(_session: Transaction) -> Response | None:
    raise RuntimeError("broken")


async def _refuse(_session: Transaction) -> Response | None:
    raise ConflictException("sold out")


async def _return_refusal(_session: Transaction) -> Response | None:
    return JSONResponse({"no": True}, status_code=418)


async def _break_statement(session: Transaction) -> Response | None:
    await session.execute(text("SELECT * FROM there_is_no_such_table"))
    return None


async def _break_commit(session: Transaction) -> Response | None:
    async def fail() -> None:
        raise OperationalError("COMMIT", None, ConnectionError("the connection was lost"))

    session.commit = fail  # type: ignore[method-assign]
    return None


@pytest.mark.parametrize(
    ("step", "status"),
    [(_raise, 500), (_refuse, 409), (_break_statement, 500), (_break_commit, 503)],
)
async def test_what_failed_left_nothing_and_may_be_sent_again(
    orders: Orders, owner: Owner, step: Step, status: int
) -> None:
    orders.step = step
    failed = await place(owner)
    assert failed.status_code == status, failed.text
    assert "idempotency-replayed" not in failed.headers
    assert await orders.count() == 0
    assert await orders.keys() == []
    assert orders.events == []
    orders.step = None
    placed = await place(owner)
    assert placed.status_code == 201, placed.text
    again = await place(owner)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == placed.content
    assert await orders.count() == 1


async def test_a_refusal_that_an_endpoint_returns_is_its_answer_and_commits_as_ever(
    orders: Orders, owner: Owner
) -> None:
    orders.step = _return_refusal
    first = await place(owner)
    again = await place(owner)
    assert (first.status_code, again.status_code) == (418, 418)
    assert again.headers["idempotency-replayed"] == "true"
    assert await orders.count() == 1


async def test_what_was_not_understood_may_be_sent_again_corrected(owner: Owner) -> None:
    for wrong in ({"content": b"{"}, {"json": [1]}):
        answer = await owner.call("POST", "/tasks/background", headers={"Idempotency-Key": "one"}, **wrong)
        assert answer.status_code == 422
        assert answer.json()["error_code"] == "VALIDATION_ERROR"
    answer = await owner.call("POST", "/tasks/background", headers={"Idempotency-Key": "one"}, json={"id": 1})
    assert answer.status_code == 202


async def test_hooks_and_background_tasks_run_after_the_commit_and_not_for_a_replay(
    orders: Orders, owner: Owner
) -> None:
    await place(owner)
    await place(owner)
    assert orders.events == ["committed 1", "later 1"]


async def test_the_key_is_held_while_the_request_is_at_work(orders: Orders, owner: Owner) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def wait(session: Transaction) -> Response | None:
        await session.rollback()  # SQLite has one write lock for all
        begun.set()
        await may_end.wait()
        await enqueue(session, process_data, owner_id=1, data={"order": 1})
        return None

    orders.step = wait
    first = asyncio.create_task(place(owner))
    await asyncio.wait_for(begun.wait(), 20)
    second = await place(owner)
    assert second.status_code == 409
    assert 1 <= int(second.headers["retry-after"]) <= 30
    may_end.set()
    assert (await first).status_code == 201
    assert (await place(owner)).content == (await first).content
    assert await orders.count() == 1


async def test_a_request_that_is_cut_off_leaves_nothing(orders: Orders, owner: Owner) -> None:
    begun = asyncio.Event()

    async def wait(_session: Transaction) -> Response | None:
        begun.set()
        await asyncio.Event().wait()
        return None

    orders.step = wait
    first = asyncio.create_task(place(owner))
    await asyncio.wait_for(begun.wait(), 20)
    first.cancel()
    await asyncio.wait({first})
    assert await orders.keys() == []
    orders.step = None
    assert (await place(owner)).status_code == 201
    assert await orders.count() == 1


async def test_the_key_of_a_process_that_died_is_free_when_its_lease_has_ended(
    orders: Orders, owner: Owner
) -> None:
    database = orders.system.resources.database
    await place(owner)
    async with database.transaction() as session:  # as if the process had died before it stored anything
        await session.execute(text("DELETE FROM jobs"))
        await session.execute(
            update(idempotency_keys).values(status=None, held_until=utc_now() + timedelta(seconds=20))
        )
    answer = await place(owner)
    assert answer.status_code == 409
    assert 1 <= int(answer.headers["retry-after"]) <= 20
    async with database.transaction() as session:
        await session.execute(update(idempotency_keys).values(held_until=utc_now() - timedelta(seconds=1)))
    assert (await place(owner)).status_code == 201
    assert await orders.count() == 1


async def test_who_was_overtaken_changes_nothing(orders: Orders, owner: Owner) -> None:
    """The first request freezes past its lease; the second takes the key, does the work, and the first one wakes."""
    database = orders.system.resources.database
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def freeze(session: Transaction) -> Response | None:
        if begun.is_set():
            return None
        await session.rollback()  # see above
        begun.set()
        await may_end.wait()
        await enqueue(session, process_data, owner_id=1, data={"order": 2})
        return None

    orders.step = freeze
    first = asyncio.create_task(place(owner))
    await asyncio.wait_for(begun.wait(), 20)
    async with database.transaction() as session:
        await session.execute(update(idempotency_keys).values(held_until=utc_now() - timedelta(seconds=1)))
    second = await place(owner)
    assert second.status_code == 201
    may_end.set()
    late = await first
    assert late.status_code == 409
    assert late.json()["error_code"] == "IDEMPOTENCY_KEY_IN_USE"
    assert await orders.count() == 1
    assert (await place(owner)).content == second.content


async def test_a_claim_is_one_holder_s(system: System) -> None:
    database = system.resources.database
    found = await asyncio.gather(
        *(idempotency.claim(database, digest="d" * 64, holder=uuid4()) for _ in range(10))
    )
    assert found.count(None) == 1
    assert all(isinstance(one, Held) for one in found if one is not None)
    stranger = uuid4()
    await idempotency.release(database, digest="d" * 64, holder=stranger)
    async with database.transaction() as session:
        assert (await session.execute(select(func.count()).select_from(idempotency_keys))).scalar_one() == 1


async def test_a_held_key_is_renewed_while_its_request_lives(
    orders: Orders, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalable_fastapi_system.web.idempotency._RENEW_SECONDS", 0.02)
    database = orders.system.resources.database
    ended_at = utc_now() - timedelta(seconds=1)

    async def wait(session: Transaction) -> Response | None:
        await session.rollback()  # see above: SQLite
        async with database.transaction() as other:
            await other.execute(update(idempotency_keys).values(held_until=ended_at))
        async with asyncio.timeout(20):
            while True:
                async with database.transaction() as other:
                    until = (await other.execute(select(idempotency_keys.c.held_until))).scalar_one()
                if until > ended_at:
                    return None
                await asyncio.sleep(0.01)

    orders.step = wait
    assert (await place(owner)).status_code == 201


async def test_an_answer_too_large_to_keep_undoes_the_request(orders: Orders, owner: Owner) -> None:
    async def answer_much(_session: Transaction) -> Response | None:
        return JSONResponse("x" * MAX_ANSWER_BYTES)

    orders.step = answer_much
    answer = await place(owner)
    assert answer.status_code == 400
    assert "nothing was done" in answer.json()["message"]
    assert await orders.count() == 0
    assert await orders.keys() == []
    without = await owner.call("POST", "/orders", json={"n": 1})
    assert without.status_code == 200
    assert await orders.count() == 1


async def test_an_endpoint_that_cannot_keep_the_promise_refuses_the_key(orders: Orders, owner: Owner) -> None:
    answer = await owner.call("POST", "/unwritten", headers={"Idempotency-Key": "one"})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "IDEMPOTENCY_KEY_NOT_TAKEN")
    assert (await owner.call("POST", "/unwritten")).status_code == 200
    missing = await owner.call("POST", "/there/is/none", headers={"Idempotency-Key": "one"})
    assert missing.status_code == 404


class Called(HTTPEndpoint):
    async def post(self, _request: Request) -> Response:
        return Response("done")


async def called(_request: Request) -> Response:
    return Response("done")


def _sub_application() -> FastAPI:
    sub = FastAPI()

    @sub.post("/place")
    async def place(session: Transaction) -> str:
        return "done"

    return sub


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/below/place", Mount("/below", _sub_application())),
        ("/place", Host("api.test", _sub_application())),
        ("/raw", Route("/raw", called, methods=["POST"])),
        ("/class", Route("/class", Called)),
    ],
    ids=["mount", "host", "route", "endpoint class"],
)
@pytest.mark.parametrize("is_wrapped", [False, True], ids=["alone", "with a middleware"])
async def test_a_key_is_refused_by_whatever_else_answers_a_post(
    orders: Orders, path: str, route: BaseRoute, is_wrapped: bool
) -> None:
    app, client = orders.system.app, orders.system.client
    app.router.routes.append(route)
    if is_wrapped:
        app.middleware_stack = None  # it was built when the application started
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    answer = await client.post(path, headers={"Idempotency-Key": "one"})
    assert (answer.status_code, answer.json().get("error_code")) == (400, "IDEMPOTENCY_KEY_NOT_TAKEN")
    assert "done" in (await client.post(path)).text


async def test_where_nothing_takes_the_post_it_is_refused_as_ever(orders: Orders) -> None:
    orders.system.app.mount("/below", _sub_application())
    for path, status in (("/health", 405), ("/none", 404)):
        answer = await orders.system.client.post(path, headers={"Idempotency-Key": "one"})
        assert (path, answer.status_code) == (path, status)


async def test_an_application_of_the_platform_that_is_mounted_takes_keys_itself(
    orders: Orders, owner: Owner
) -> None:
    outer = create_app(orders.system.settings)
    outer.mount("/inner", orders.system.app)
    transport = httpx.ASGITransport(outer)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=owner.headers
    ) as client:
        for _ in range(2):
            answer = await client.post("/inner/orders", headers={"Idempotency-Key": "one"}, json={"n": 1})
            assert answer.status_code == 201
    assert answer.headers["idempotency-replayed"] == "true"
    assert await orders.count() == 1


async def test_keys_are_taken_under_a_root_path_that_the_proxy_leaves_in_the_path(
    orders: Orders, owner: Owner
) -> None:
    transport = httpx.ASGITransport(orders.system.app, root_path="/api")
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=owner.headers
    ) as client:
        for path in ("/api/orders", "/api/orders"):
            answer = await client.post(path, headers={"Idempotency-Key": "one"}, json={"n": 1})
            assert (path, answer.status_code) == (path, 201)
        assert answer.headers["idempotency-replayed"] == "true"
        assert await orders.count() == 1
        refused = await client.post("/api/unwritten", headers={"Idempotency-Key": "two"})
        assert (refused.status_code, refused.json()["error_code"]) == (400, "IDEMPOTENCY_KEY_NOT_TAKEN")


async def test_callers_known_by_a_cookie_have_keys_of_their_own(orders: Orders) -> None:
    client = orders.system.client
    for cookie in ("sid=a", "sid=b", "sid=a"):
        answer = await client.post("/anyone", headers={"Idempotency-Key": "one", "Cookie": cookie})
        assert answer.status_code == 200
    assert await orders.count() == 2
    assert answer.headers["idempotency-replayed"] == "true"


async def test_openapi_tells_who_takes_keys(orders: Orders) -> None:
    schema = orders.system.app.openapi()

    def takes(path: str) -> bool:
        operation = schema["paths"][path]["post"]
        names = [one["name"] for one in operation.get("parameters", []) if one["in"] == "header"]
        if "Idempotency-Key" in names:
            assert {"400", "409", "422"} <= operation["responses"].keys()
        return "Idempotency-Key" in names

    taking = {path for path, operations in schema["paths"].items() if "post" in operations and takes(path)}
    assert taking == {
        "/admin/jobs/queues/{name}/pause", "/admin/jobs/queues/{name}/resume",
        "/admin/jobs/schedules/{name}/pause", "/admin/jobs/schedules/{name}/resume",
        "/admin/jobs/workers/{worker_id}/drain",
        "/anyone", "/auth/register", "/datasets", "/orders", "/process-data", "/tasks/background",
        "/tasks/{task_id}/cancel", "/tasks/{task_id}/retry",
        "/webhooks/{webhook_id}/deliveries/{delivery_id}/replay", "/webhooks/{webhook_id}/enable",
    }  # fmt: skip
