"""The worker's own little HTTP server: `/health`, `/health/live`, `/health/ready`, `/metrics`.

It runs on a loop and a thread of its own, so that it answers while a handler blocks the worker's loop, and then says
so: `live` fails once the loop has stood still for `JOBS__MAX_LOOP_BLOCK_SECONDS`, and the log shows what it stands at. If
nothing answers at all (a C extension that keeps the interpreter's lock), the probe's time-out says the same.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import psutil
import structlog

from scalable_fastapi_system.infra.health import Readiness
from scalable_fastapi_system.jobs import metrics

if TYPE_CHECKING:
    from scalable_fastapi_system.jobs.durable import DurableWorker

T = TypeVar("T")
_log = structlog.get_logger("jobs.health")

_REQUEST_TIMEOUT_SECONDS = 5.0
_ANSWER_TIMEOUT_SECONDS = 3.0
_MAX_HEAD_BYTES = 8192
_WATCH_SECONDS = 1.0
_REPORT_BLOCK_SECONDS = 5.0
_START_TIMEOUT_SECONDS = 10.0
_JSON = "application/json"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}

Answer = tuple[int, str, bytes]


class HealthServer:
    """See the module. `start` and `stop` are called from the worker's loop."""

    def __init__(self, worker: DurableWorker, *, host: str, port: int) -> None:
        self._worker = worker
        self._host = host
        self.port = port  # 0: any; after `start` the real one
        self.readiness = Readiness(worker.resources.database)
        self._worker_loop = asyncio.get_running_loop()
        self._worker_thread = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._routes: dict[str, Callable[[], Awaitable[Answer]]] = {
            "/health": self._report,
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._metrics,
        }

    async def start(self) -> None:
        """Listens. Raises OSError where the port is taken."""
        started: Future[int] = Future()
        self._thread = threading.Thread(target=self._main, args=(started,), name="health-server", daemon=True)
        self._thread.start()
        self.port = await asyncio.wait_for(asyncio.wrap_future(started), _START_TIMEOUT_SECONDS)

    async def stop(self) -> None:
        """Stops listening and ends the thread."""
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None and thread.is_alive():
            loop.call_soon_threadsafe(loop.stop)
            await asyncio.to_thread(thread.join, 5.0)

    # -- the thread ---------------------------------------------------------------------------------

    def _main(self, started: Future[int]) -> None:
        loop = self._loop = asyncio.new_event_loop()
        try:
            server = loop.run_until_complete(asyncio.start_server(self._serve, self._host, self.port))
        except OSError as error:
            loop.close()
            started.set_exception(error)
            return
        started.set_result(server.sockets[0].getsockname()[1])
        watcher = loop.create_task(self._watch())
        try:
            loop.run_forever()
        finally:
            server.close()
            watcher.cancel()
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection: probes and scrapers come seldom."""
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = await self._answer(head)
                is_head = head.startswith(b"HEAD ")
                writer.write(
                    f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n".encode()
                    + (b"" if is_head else body)
                )
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that went away or never said anything sensible
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> Answer:
        parts = head.split(b"\r\n", 1)[0].split(b" ")
        if len(head) > _MAX_HEAD_BYTES or len(parts) != 3:
            return 400, _JSON, b'{"status":"bad request"}'
        method, target, _ = parts
        if method not in {b"GET", b"HEAD"}:
            return 405, _JSON, b'{"status":"method not allowed"}'
        route = self._routes.get(target.split(b"?", 1)[0].decode("latin-1"))
        if route is None:
            return 404, _JSON, b'{"status":"not found"}'
        return await route()

    # -- answers ------------------------------------------------------------------------------------

    async def _live(self) -> Answer:
        stood_seconds = self.stood_seconds
        limit_seconds = self._worker.engine.settings.max_loop_block_seconds
        if stood_seconds > limit_seconds:
            reason = f"the event loop has not turned for {stood_seconds:.0f} s"
            return 503, _JSON, orjson.dumps({"status": "blocked", "reason": reason})
        return 200, _JSON, b'{"status":"alive"}'

    async def _ready(self) -> Answer:
        self.readiness.is_draining = not self._worker.allow_pick_jobs
        blocked: str | None = "the event loop is blocked"
        reason = await self._on_worker_loop(self.readiness.reason_not_ready, otherwise=blocked)
        if reason is not None:
            return 503, _JSON, orjson.dumps({"status": "not ready", "reason": reason})
        return 200, _JSON, b'{"status":"ready"}'

    async def _report(self) -> Answer:
        worker = self._worker
        database, redis = await self._on_worker_loop(self._stores, otherwise=("unknown", "unknown"))
        memory = psutil.virtual_memory()
        is_healthy = database == "healthy" and redis in {"healthy", "not configured"}
        body: dict[str, Any] = {
            "status": "healthy" if is_healthy and worker.allow_pick_jobs else "degraded",
            "timestamp": datetime.now(UTC),
            "version": worker.resources.settings.api.version,
            "database": database,
            "redis": redis,
            "memory_usage": {"total": memory.total, "used": memory.used, "percent": memory.percent},
            "cpu_usage": psutil.cpu_percent(),
            "worker": {
                "id": worker.worker_id,
                "queues": list(worker.queues),
                "paused_queues": sorted(worker.heart.orders.paused_queues),
                "kinds": len(worker.facts().kinds),
                "concurrency": worker.max_jobs,
                "running": len(worker.engine.running),
                "is_draining": not worker.allow_pick_jobs,
                "takes_from": "hints" if worker.channel.is_up else "database",
                "last_beat_seconds_ago": _age(worker.heart.beat_at),
                "loop_stood_seconds": round(self.stood_seconds, 1),
            },
        }
        return 200, _JSON, orjson.dumps(body)

    async def _stores(self) -> tuple[str, str]:
        worker = self._worker
        database = await worker.resources.database.health_check()
        if worker.resources.settings.redis.redis_url is None:
            return database, "not configured"
        return database, "healthy" if await worker.can_reach_redis() else "unhealthy"

    async def _metrics(self) -> Answer:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return 200, CONTENT_TYPE_LATEST, generate_latest()

    async def _on_worker_loop(self, call: Callable[[], Any], *, otherwise: T) -> T:
        """What the call gives on the worker's loop, or `otherwise` where that does not turn."""
        coroutine = call()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._worker_loop)
        except RuntimeError:
            coroutine.close()
            return otherwise
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS):
                result: T = await asyncio.wrap_future(future)
                return result
        except (TimeoutError, FutureTimeoutError):
            return otherwise

    # -- watching -----------------------------------------------------------------------------------

    @property
    def stood_seconds(self) -> float:
        """For how long the worker's loop has not turned (it ticks twice a second)."""
        return max(0.0, time.monotonic() - self._worker.ticked_at - 0.5)

    async def _watch(self) -> None:
        is_reported = False
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            stood_seconds = self.stood_seconds
            metrics.loop_blocked_seconds.set(stood_seconds if stood_seconds >= _WATCH_SECONDS else 0.0)
            if stood_seconds < _REPORT_BLOCK_SECONDS:
                is_reported = False
            elif not is_reported:
                is_reported = True
                frame = sys._current_frames().get(self._worker_thread)
                where = "".join(traceback.format_stack(frame, limit=12)) if frame is not None else "unknown"
                _log.error("the event loop is blocked", seconds=round(stood_seconds, 1), where=where)


def _age(moment: float) -> float | None:
    return round(time.monotonic() - moment, 1) if moment != float("-inf") else None
