"""`EmbeddedWorker`: the worker inside the API process, for installations that have no other (SQLite, development).

The same engine on a loop and a thread of its own. Started with the application, or at the first enqueue where nobody
starts the application (a test client without its lifespan); then it ends by itself when nothing is left to do, and it never
keeps the application's objects alive. Its jobs share the process: a job that kills it kills the API.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import time
import weakref
from typing import TYPE_CHECKING

import structlog

from scalable_fastapi_system.infra.ending import end_tasks
from scalable_fastapi_system.jobs.registry import JobRegistry

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.resources import Resources
    from scalable_fastapi_system.jobs.durable import DurableWorker

_log = structlog.get_logger("jobs.embedded")

_IDLE_SECONDS = 2.0
_STOP_TIMEOUT_SECONDS = 10.0
_live: weakref.WeakSet[EmbeddedWorker] = weakref.WeakSet()


class EmbeddedWorker:
    """See the module. All methods may be called from any thread."""

    def __init__(self, resources: Resources, *, registry: JobRegistry) -> None:
        # Here, where the application is made: in the thread the imports could meet half of another thread's circular
        # import, and in `start` they would hold up the application's loop.
        import scalable_fastapi_system.jobs.builtin
        import scalable_fastapi_system.jobs.durable  # noqa: F401

        resources.product.load_jobs()
        self._resources = weakref.ref(resources)
        self._registry = registry
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: DurableWorker | None = None
        self._stays = False
        self._woken_at = 0.0
        _live.add(self)

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, *, stays: bool = False) -> None:
        """Starts the thread if it does not run. `stays`: until `stop`, also when idle (for schedules)."""
        with self._lock:
            self._stays = self._stays or stays
            self._woken_at = time.monotonic()
            if self.is_running:
                return
            resources = self._resources()
            if resources is None:
                return
            self._thread = threading.Thread(
                target=self._main, args=(resources,), name="embedded-worker", daemon=True
            )
            self._thread.start()

    def wake(self) -> None:
        """There is a new job."""
        self.start()
        loop, worker = self._loop, self._worker
        if loop is not None and worker is not None:
            try:
                loop.call_soon_threadsafe(worker.local.wake)
            except (
                RuntimeError
            ):  # it ended in this moment: it looked at the tables after our commit, or a new one will
                self.start()

    def stop(self) -> None:
        """Drains: running jobs get the grace of the settings, then they are handed back."""
        with self._lock:
            self._stays = False
            thread, loop, worker = self._thread, self._loop, self._worker
        if thread is None or not thread.is_alive():
            return
        if loop is not None and worker is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended
                loop.call_soon_threadsafe(worker.request_stop)
        grace_seconds = worker.engine.settings.drain_seconds if worker is not None else 0.0
        thread.join(grace_seconds + _STOP_TIMEOUT_SECONDS)
        if thread.is_alive():
            _log.error("the embedded worker did not stop")

    # -- the thread ---------------------------------------------------------------------------------

    def _main(self, resources: Resources) -> None:
        try:
            asyncio.run(self._serve(resources))
        except Exception:  # noqa: BLE001 - a thread has nobody to raise it to
            _log.exception("the embedded worker failed")

    async def _serve(self, resources: Resources) -> None:
        from scalable_fastapi_system.jobs.durable import DurableWorker
        from scalable_fastapi_system.jobs.schedules import schedules

        await asyncio.to_thread(resources.database.ensure_schema)
        worker = DurableWorker(
            resources,
            registry=self._registry,
            schedules=[one for one in schedules.values() if one.handler.kind in self._registry],
            use_redis=False,
            handle_signals=False,
        )
        with self._lock:
            self._loop, self._worker = asyncio.get_running_loop(), worker
        watcher = asyncio.create_task(self._end_when_idle(worker))
        try:
            await worker.serve()
        finally:
            await end_tasks([watcher])
            with self._lock:
                self._loop = self._worker = None

    async def _end_when_idle(self, worker: DurableWorker) -> None:
        while True:
            await asyncio.sleep(0.5)
            if self._stays or worker.engine.running or time.monotonic() - self._woken_at < _IDLE_SECONDS:
                continue
            try:
                counts = await worker.engine.store.count()
            except Exception as error:  # noqa: BLE001 - the database is away: asked again, or nobody would end it any more
                _log.debug("cannot see whether there are jobs left", reason=type(error).__name__)
                continue
            with self._lock:
                is_idle = time.monotonic() - self._woken_at >= _IDLE_SECONDS and not self._stays
                if is_idle and not counts:
                    # from here on a wake starts a new thread
                    self._thread = self._loop = self._worker = None
                    worker.request_stop()
                    return


@atexit.register
def _stop_all() -> None:
    for embedded in list(_live):
        embedded.stop()
