"""`ServiceObserver`: what a service tells Prometheus about itself, looked at every few seconds on its own loop.

Build, readiness, connection pools, Redis, requests at work, how late the event loop is. The figures are set as plain
gauges and not collected at the scrape, so that they are right with several processes in a pod, too: in
prometheus_client's multiprocess mode collectors are not asked. A look that fails is logged, and the next one is tried.
"""

from __future__ import annotations

import asyncio
import platform
import time
from functools import cache
from typing import Any, NamedTuple

import structlog
from prometheus_client import Gauge

from scalable_fastapi_system.infra.ending import end_tasks
from scalable_fastapi_system.infra.health import STATES, Readiness
from scalable_fastapi_system.infra.metrics import MetricsManager
from scalable_fastapi_system.infra.redis import RedisAwayError
from scalable_fastapi_system.infra.resources import Resources

INTERVAL_SECONDS = 5.0
TICK_SECONDS = 0.25
_log = structlog.get_logger("observation")

build_info = Gauge(
    "service_build_info",
    "1, labelled with what runs.",
    ["component", "version", "python"],
    multiprocess_mode="livemax",
)
# Of several processes the newest, for one that begins anew again and again is to be seen. Not only of those that live: where
# the newest has just gone, the one before it would look like one more start.
started = Gauge(
    "service_start_time_seconds",
    "When this process began to serve, in Unix seconds.",
    multiprocess_mode="max",
)
readiness_state = Gauge(
    "service_readiness",
    "1 for the state that the service is in: ready, or what keeps it from that.",
    ["state"],
    multiprocess_mode="livemostrecent",
)
loop_lag = Gauge(
    "service_event_loop_lag_seconds",
    "The longest that the event loop was late by, since the last look.",
    multiprocess_mode="livemax",
)
pool_connections = Gauge(
    "db_pool_connections",
    "Database connections, by pool and by whether they are at work.",
    ["pool", "state"],
    multiprocess_mode="livesum",
)
pool_limit = Gauge(
    "db_pool_max_connections",
    "Database connections that a pool may open.",
    ["pool"],
    multiprocess_mode="livesum",
)


class RedisGauges(NamedTuple):
    """What is told of Redis."""

    up: Gauge
    memory: Gauge
    memory_limit: Gauge


@cache
def redis_gauges() -> RedisGauges:
    """Made where Redis is first looked at: a gauge is shown with 0 as soon as there is one, also by a process that only boots."""
    return RedisGauges(
        Gauge(
            "redis_up",
            "Whether Redis answers; while it does not, cache and rate limits work from this process's memory.",
            multiprocess_mode="livemin",
        ),
        Gauge("redis_memory_used_bytes", "Memory that Redis uses.", multiprocess_mode="livemostrecent"),
        Gauge(
            "redis_memory_max_bytes",
            "Memory that Redis may use; 0 where it has no limit.",
            multiprocess_mode="livemostrecent",
        ),
    )


class ServiceObserver:
    """See the module. `start` and `stop` are called on the service's loop."""

    def __init__(
        self,
        resources: Resources,
        *,
        component: str,
        readiness: Readiness,
        requests: MetricsManager | None = None,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        """component: `api` or `worker`. requests: whose requests at work are shown."""
        self._resources = resources
        self._component = component
        self._readiness = readiness
        self._requests = requests
        self._interval_seconds = interval_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._lag_seconds = 0.0

    def start(self) -> None:
        """Tells what runs, and begins to look."""
        version = self._resources.settings.api.version
        build_info.labels(self._component, version, platform.python_version()).set(1)
        started.set(time.time())
        self._tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._tick())]

    async def stop(self) -> None:
        """Ends the looking."""
        tasks, self._tasks = self._tasks, []
        await end_tasks(tasks)

    async def sample(self) -> None:
        """Looks once."""
        loop_lag.set(self._lag_seconds)
        self._lag_seconds = 0.0
        for usage in self._resources.database.pool_usage():
            pool_connections.labels(usage.name, "in_use").set(usage.in_use)
            pool_connections.labels(usage.name, "idle").set(usage.idle)
            pool_limit.labels(usage.name).set(usage.limit)
        await self._readiness.reason_not_ready()
        for state in STATES:
            readiness_state.labels(state).set(state == self._readiness.state)
        await self._sample_redis()

    async def _sample_redis(self) -> None:
        cache = self._resources.cache
        if not cache.redis.is_configured:
            return
        gauges = redis_gauges()
        is_up = cache.is_listening and not cache.redis.is_away
        gauges.up.set(is_up)
        if not is_up:
            return
        try:
            memory: dict[str, Any] = await cache.redis.call(_memory)
        except RedisAwayError:
            gauges.up.set(0)
            return
        if memory:
            gauges.memory.set(memory.get("used_memory", 0))
            gauges.memory_limit.set(memory.get("maxmemory", 0))

    async def _look(self) -> None:
        while True:
            try:
                await self.sample()
            except Exception:  # noqa: BLE001 - what is observed must not end the observer
                _log.exception("the service could not be observed")
            await asyncio.sleep(self._interval_seconds)

    async def _tick(self) -> None:
        while True:
            due = time.monotonic() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self._lag_seconds = max(self._lag_seconds, time.monotonic() - due)
            if self._requests is not None:
                self._requests.show_in_progress()


async def _memory(client: Any) -> dict[str, Any]:
    """Redis's own figures; none where this user may not ask for them, which is no failure of Redis."""
    from redis.exceptions import ResponseError

    try:
        found: dict[str, Any] = await client.info("memory")
    except ResponseError:
        return {}
    return found
