"""`Reconciler`: finds what was lost between the parts. Runs in every worker; a lock lets one at a time sweep.

A sweep takes jobs back from silent workers, promotes what is due, and pushes hints again for jobs that are queued and
that nobody takes. After it come the slots of schedules, and now and then the counts for the metrics and retention.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Protocol

import structlog

from scalable_fastapi_system.infra import idempotency
from scalable_fastapi_system.jobs import metrics
from scalable_fastapi_system.jobs.engine import Engine, is_store_away
from scalable_fastapi_system.jobs.heart import Heart
from scalable_fastapi_system.jobs.records import Hint
from scalable_fastapi_system.jobs.schedules import CronSchedule
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.jobs.store.base import QueueCount, SweepRules

_log = structlog.get_logger("jobs.reconciler")

_SWEEP_LIMIT = 2000
_OVERDUE_SECONDS = 1.0
_COUNT_INTERVAL_SECONDS = 10.0
_PURGE_INTERVAL_SECONDS = 3600.0
_AWAY_PAUSE_SECONDS = 0.5
_BUSY_PAUSE_SECONDS = 0.1
_REST_FACTOR = 9  # a sweep's time, so often, before the next: at most a tenth of the time is spent sweeping


class HintChannel(Protocol):
    """What the reconciler asks of whoever moves hints."""

    async def was_emptied(self) -> bool:
        """Whether the hints of before are gone (asked once a sweep); also tries whether hints can be pushed."""
        ...

    async def has_many(self, queues: Sequence[str], count: int) -> bool:
        """Whether at least so many hints wait in each of the queues."""
        ...

    async def push(self, hints: Sequence[Hint]) -> int:
        """Pushes; how many were new."""
        ...


class Reconciler:
    """See the module."""

    def __init__(
        self,
        engine: Engine,
        heart: Heart,
        channel: HintChannel,
        *,
        queues: Callable[[], Sequence[str]],
        schedules: Sequence[CronSchedule],
        after_sweep: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._engine = engine
        self._heart = heart
        self._channel = channel
        self._queues = queues
        self._schedules = schedules
        self._after_sweep = after_sweep
        self._sweeps = 0
        self._counted_at = float("-inf")
        # the first purge some time after the start, and not of all workers of a rollout at once
        self._purge_at = time.monotonic() + 60 + 600 * engine.random()

    async def run(self) -> None:
        """Sweeps until it is cancelled."""
        while True:
            pause_seconds = self._engine.settings.reconcile_seconds
            started = time.monotonic()
            try:
                if await self.sweep():
                    pause_seconds = _BUSY_PAUSE_SECONDS
                # Somebody's long transaction keeps dead rows in the indexes, and a sweep has to step over them: then
                # it comes less often, so that it never takes more than a small share of the database.
                pause_seconds = max(pause_seconds, _REST_FACTOR * (time.monotonic() - started))
            except Exception as error:  # noqa: BLE001 - the next sweep may work
                if not is_store_away(error):
                    _log.exception("sweep failed")
                metrics.store_errors.inc()
                pause_seconds = max(pause_seconds, _AWAY_PAUSE_SECONDS)
            await asyncio.sleep(pause_seconds * (0.75 + 0.5 * self._engine.random()))

    async def sweep(self) -> bool:
        """One sweep. Whether there is more of the same to do at once."""
        engine, settings = self._engine, self._engine.settings
        self._sweeps += 1
        queues = tuple(self._queues())
        was_emptied = await self._channel.was_emptied()
        if was_emptied:
            _log.warning("hints were lost: pushing again")
        # With plenty of hints waiting there is no hurry to look for lost ones; now and then it is done all the same.
        is_looking = (
            was_emptied
            or self._sweeps % 8 == 0
            or not await self._channel.has_many(queues, _SWEEP_LIMIT // 4)
        )
        rules = SweepRules(
            queues=queues if is_looking else (),
            kinds=tuple(engine.registry.kinds()),
            may_judge=self._heart.may_judge(),
            silent_seconds=self._heart.silent_seconds,
            max_crashes=settings.max_crashes,
            overdue_seconds=0.0 if was_emptied else _OVERDUE_SECONDS,
            limit=_SWEEP_LIMIT,
        )
        report = await engine.store.sweep(rules)
        pushed = 0
        if report is not None:
            metrics.leases_expired.inc(report.crashed)
            metrics.quarantined.inc(report.quarantined)
            if report.crashed:
                _log.warning(
                    "jobs taken back from silent workers",
                    count=report.crashed,
                    quarantined=report.quarantined,
                )
            pushed = await self._channel.push(report.hints)
            metrics.hints_repushed.inc(max(0, min(pushed, report.overdue)))
        await self._apart(self._keep_schedules)
        await self._apart(self._upkeep)
        if self._after_sweep is not None:
            await self._apart(self._after_sweep)
        return report is not None and report.overdue >= _SWEEP_LIMIT and pushed >= _SWEEP_LIMIT // 2

    async def _apart(self, work: Callable[[], Awaitable[None]]) -> None:
        """Work whose failure does not keep what comes after it from being done. Raises where the store is away."""
        try:
            await work()
        except Exception as error:
            if is_store_away(error):
                raise
            metrics.store_errors.inc()
            _log.exception("a part of the sweep failed")

    async def _keep_schedules(self) -> None:
        if self._schedules:
            await self._channel.push(await self._engine.store.due_slots(self._schedules))

    async def _upkeep(self) -> None:
        engine, now = self._engine, time.monotonic()
        if now - self._counted_at >= _COUNT_INTERVAL_SECONDS:
            self._counted_at = now
            show_depth(await engine.store.count())
        if now >= self._purge_at:
            self._purge_at = now + _PURGE_INTERVAL_SECONDS
            count = await engine.store.purge(older_than=timedelta(days=engine.settings.retention_days))
            if count:
                _log.info("old jobs deleted", count=count)
            count = await idempotency.purge(engine.resources.database)
            if count:
                _log.info("old idempotency keys deleted", count=count)


def show_depth(counts: Sequence[QueueCount]) -> None:
    """Sets the gauges of depth and age from a fresh count; a queue that has nothing shows nothing."""
    metrics.depth.clear()
    metrics.oldest_seconds.clear()
    for count in counts:
        metrics.depth.labels(count.queue, JobState(count.state).label).set(count.count)
        if count.state == JobState.QUEUED:
            metrics.oldest_seconds.labels(count.queue).set(count.oldest_age_seconds)
