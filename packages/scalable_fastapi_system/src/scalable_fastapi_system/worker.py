"""`create_worker`: the worker service, composed. It never loads the web framework.

`WorkerService.run()` connects, serves its health endpoints and runs jobs until SIGTERM or SIGINT; then it takes nothing
more, finishes what fits `JOBS__DRAIN_SECONDS` and hands the rest to other workers. It survives stores that go away.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from scalable_fastapi_system.infra.resources import Resources
from scalable_fastapi_system.infra.settings import Settings, load_settings
from scalable_fastapi_system.jobs.client import JobClient
from scalable_fastapi_system.kit.domain import Product

if TYPE_CHECKING:
    from scalable_fastapi_system.jobs.durable import DurableWorker
    from scalable_fastapi_system.jobs.health_server import HealthServer


class WorkerService:
    """One worker process. `arq_options` are keyword arguments of arq's Worker, from a WorkerSettings class."""

    def __init__(self, resources: Resources, *, arq_options: Mapping[str, Any] | None = None) -> None:
        self.resources = resources
        self.client = JobClient(resources, is_worker=True)
        self._arq_options = dict(arq_options or {})
        self.worker: DurableWorker | None = None
        self.health: HealthServer | None = None

    def run(self) -> int:
        """Runs to the end; the process's exit code."""
        try:
            _run(self.serve())
        except OSError as error:
            sys.stderr.write(f"The worker cannot start: {error}\n")
            return 1
        return 0

    async def serve(self) -> None:
        """As `run`, on a running loop. Raises OSError where the health port is taken."""
        from scalable_fastapi_system.infra.observation import ServiceObserver
        from scalable_fastapi_system.jobs.durable import DurableWorker
        from scalable_fastapi_system.jobs.health_server import HealthServer
        from scalable_fastapi_system.jobs.schedules import schedules

        settings = self.resources.settings
        self.resources.product.load_jobs()
        await self.resources.start()
        try:
            self.worker = DurableWorker(
                self.resources, schedules=tuple(schedules.values()), **self._arq_options
            )
            self.health = HealthServer(
                self.worker, host=settings.jobs.health_host, port=settings.jobs.health_port
            )
            await self.health.start()
            observer = ServiceObserver(self.resources, component="worker", readiness=self.health.readiness)
            observer.start()
            try:
                await self.client.start()
                await self.worker.serve()
            finally:
                await self.client.stop()
                await observer.stop()
                await self.health.stop()
        finally:
            await self.resources.stop()


def create_worker(
    settings: Settings | None = None,
    product: Product | None = None,
    *,
    arq_options: Mapping[str, Any] | None = None,
) -> WorkerService:
    """The worker of a product. Raises ConfigurationError where the settings do not make sense."""
    import scalable_fastapi_system.identity.jobs
    import scalable_fastapi_system.jobs.builtin

    # their imports declare the platform's own job kinds
    _ = scalable_fastapi_system.identity.jobs, scalable_fastapi_system.jobs.builtin
    return WorkerService(Resources(settings or load_settings(), product), arq_options=arq_options)


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # no wheel for this system
        asyncio.run(main)
    else:
        uvloop.run(main)
