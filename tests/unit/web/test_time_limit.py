"""The time limit: it ends what waits, tears no thread's work in two, and holds until the answer begins."""

import asyncio
import threading
import time

import anyio
import httpx
import pytest
import structlog
from fastapi import BackgroundTasks, Depends
from fastapi.responses import FileResponse, StreamingResponse
from prometheus_client import CollectorRegistry
from scalable_fastapi_system.application import create_app
from scalable_fastapi_system.infra.metrics import MetricsManager
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import ServiceUnavailableException
from scalable_fastapi_system.web.dependencies import get_db
from scalable_fastapi_system.web.limits import request_timeout
from scalable_fastapi_system.web.middleware import PlatformMiddleware
from scalable_fastapi_system.web.platform_api import PlatformAPI
from scalable_fastapi_system.web.problems import install_error_handlers
from scalable_fastapi_system.web.time_limit import TimeLimit
from sqlalchemy import text
from sqlalchemy.orm import Session

PATIENCE_SECONDS = 30


def make_app(metrics=None, **api):
    settings = Settings(_env_file=None, api=api)
    app = PlatformAPI(
        platform=lambda inner, owner: PlatformMiddleware(
            inner, owner=owner, settings=settings, metrics=metrics
        )
    )
    install_error_handlers(app)
    return app


def client_of(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def ask(app, path, send):
    """As a server does. `send` is given each message and may take its time."""
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", b"test")], "http_version": "1.1", "scheme": "http", "root_path": "",
        "server": ("test", 80), "client": ("203.0.113.9", 4000), "extensions": {},
        "asgi": {"version": "3.0", "spec_version": "2.4"},
    }  # fmt: skip
    await asyncio.wait_for(app(scope, asyncio.Event().wait, send), PATIENCE_SECONDS)


async def test_a_transaction_in_a_thread_is_not_torn_in_two():
    app = create_app(Settings(_env_file=None, rate_limit={"enabled": False}))

    @app.post("/table")
    def table(db: Session = Depends(get_db)):
        db.execute(text("CREATE TABLE torn (n INTEGER)"))
        db.commit()

    @app.post("/torn")
    @request_timeout(0.2)
    def torn(db: Session = Depends(get_db)):
        db.execute(text("INSERT INTO torn VALUES (1)"))
        time.sleep(1)
        db.execute(text("INSERT INTO torn VALUES (2)"))
        db.commit()

    @app.get("/rows")
    def rows(db: Session = Depends(get_db)):
        return db.execute(text("SELECT COUNT(*) FROM torn")).scalar_one()

    async with client_of(app) as client:
        assert (await client.post("/table")).status_code == 200
        begun = time.monotonic()
        answer = await client.post("/torn")
        seconds = time.monotonic() - begun
        assert (await client.get("/rows")).json() == 2
    assert answer.status_code in {200, 503}
    assert seconds >= 1, "the answer came while the thread was at work"


async def test_requests_over_their_time_take_no_more_threads_than_there_are():
    app = make_app()
    lock = threading.Lock()
    running = most = 0

    @app.get("/work")
    @request_timeout(0.05)
    def work():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.3)
        with lock:
            running -= 1

    anyio.to_thread.current_default_thread_limiter().total_tokens = 4
    async with client_of(app) as client:
        answers = await asyncio.gather(*(client.get("/work") for _ in range(16)))
    assert most <= 4
    assert 503 in {answer.status_code for answer in answers}, "those that waited for a thread"


async def test_what_waits_is_ended_once_and_may_clean_up():
    app = make_app()
    cleaned = []

    @app.get("/waits")
    @request_timeout(0.05)
    async def waits():
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    async with client_of(app) as client:
        answer = await client.get("/waits")
    assert (answer.status_code, answer.json()["error_code"]) == (503, "SERVICE_UNAVAILABLE")
    assert cleaned == [True]


async def test_many_short_works_in_threads_are_ended_between_two_of_them():
    app = make_app()

    @app.get("/many")
    @request_timeout(0.1)
    async def many():
        while True:
            await anyio.to_thread.run_sync(time.sleep, 0.02)

    async with client_of(app) as client:
        answer = await asyncio.wait_for(client.get("/many"), PATIENCE_SECONDS)
    assert answer.status_code == 503


async def test_somebody_else_s_cancellation_stays_one():
    async def work():
        with TimeLimit(PATIENCE_SECONDS):
            await asyncio.sleep(PATIENCE_SECONDS)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_is_not_left_cancelled():
    with pytest.raises(ServiceUnavailableException), TimeLimit(0.01):
        await asyncio.sleep(PATIENCE_SECONDS)
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)


@pytest.mark.parametrize("path", ["/file", "/stream"])
async def test_a_slow_reader_gets_all_of_an_answer_that_has_begun(tmp_path, path):
    app = make_app(request_timeout_seconds=0.1)
    (tmp_path / "file").write_bytes(b"x" * 1_000_000)

    @app.get("/file")
    def file():
        return FileResponse(tmp_path / "file")

    @app.get("/stream")
    def stream():
        return StreamingResponse(b"x" * 100_000 for _ in range(10))

    size = 0

    async def read(message):
        nonlocal size
        await asyncio.sleep(0.05)
        size += len(message.get("body", b""))

    await ask(app, path, read)
    assert size == 1_000_000


async def test_a_background_task_has_no_limit_and_holds_no_place():
    registry = CollectorRegistry()
    app = make_app(MetricsManager(registry), request_timeout_seconds=0.1)
    release = asyncio.Event()
    taken = []

    @app.get("/work")
    async def work(background: BackgroundTasks):
        async def later():
            await asyncio.sleep(0.3)
            room = app.state.waiting_line.room
            taken.append((room.at_work, room.taken))
            release.set()

        background.add_task(later)
        return {}

    async with client_of(app) as client:
        assert (await client.get("/work")).status_code == 200
        assert release.is_set()
    room = app.state.waiting_line.room
    assert taken == [(0, 0)]
    assert (room.at_work, room.waiting, room.ended) == (0, 0, 1)
    seconds = registry.get_sample_value(
        "http_request_duration_seconds_sum", {"method": "GET", "handler": "/work"}
    )
    assert seconds < 0.3, "a request lasts until its answer is complete"


async def test_a_background_task_that_fails_spoils_no_answer(monkeypatch):
    reported = []
    monkeypatch.setattr(
        "scalable_fastapi_system.web.middleware.report_error", lambda error, **_tags: reported.append(error)
    )
    registry = CollectorRegistry()
    app = make_app(MetricsManager(registry))
    defect = RuntimeError("broken")

    @app.get("/work")
    async def work(background: BackgroundTasks):
        async def fail():
            raise defect

        background.add_task(fail)
        return {}

    async def read(_message):
        pass

    with structlog.testing.capture_logs() as lines:
        await ask(app, "/work", read)
    assert reported == [defect]
    assert [(line["event"], line.get("status")) for line in lines] == [
        ("failed after the answer", None),
        ("request", 200),
    ]
    labels = {"method": "GET", "handler": "/work", "status": "2xx"}
    assert registry.get_sample_value("http_requests_total", labels) == 1
