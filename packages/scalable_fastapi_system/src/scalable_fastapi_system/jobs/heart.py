"""`Heart`: tells the tables that this worker lives, prolongs its leases, and hears of cancels, losses and orders.

One beat is one statement for all running jobs. Leases are prolonged when a third of their time is gone; between, the
beat only looks, so that a cancel is seen soon without rewriting rows all the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from scalable_fastapi_system.jobs import metrics
from scalable_fastapi_system.jobs.engine import Engine, is_store_away
from scalable_fastapi_system.jobs.records import Orders, WorkerFacts

_log = structlog.get_logger("jobs.heart")

_AWAY_PAUSE_SECONDS = 0.3


class Heart:
    """See the module. `facts` describes the worker at this moment."""

    def __init__(self, engine: Engine, facts: Callable[[], WorkerFacts]) -> None:
        self._engine = engine
        self._facts = facts
        self.orders = Orders()
        self.beat_at = float("-inf")
        self.steady_since = float("inf")
        self._renewed_at = time.monotonic()

    @property
    def renewal_seconds(self) -> float:
        return self._engine.settings.lease_seconds / 3

    @property
    def silent_seconds(self) -> float:
        """After this long without a beat, a worker whose lease ran out is taken for dead."""
        return max(self.renewal_seconds, 3 * self._engine.settings.heartbeat_seconds)

    def may_judge(self) -> bool:
        """Whether this worker may take jobs from silent ones.

        After an outage of the database all leases may have run out although everybody lives: then everybody gets the
        time to beat first.
        """
        settle_seconds = min(5.0, self.silent_seconds)
        now = time.monotonic()
        is_fresh = now - self.beat_at < self.silent_seconds
        return is_fresh and now - self.steady_since >= settle_seconds

    async def run(self) -> None:
        """Beats until it is cancelled."""
        while True:
            try:
                await self.beat()
            except Exception as error:  # noqa: BLE001 - a heart that stops costs every job
                if not is_store_away(error):
                    _log.exception("heartbeat failed")
                self.steady_since = float("inf")
                metrics.store_errors.inc()
                await asyncio.sleep(_AWAY_PAUSE_SECONDS)
                continue
            await asyncio.sleep(self._engine.settings.heartbeat_seconds)

    async def beat(self) -> None:
        """One beat. Raises what the store raises."""
        engine = self._engine
        now = time.monotonic()
        self.orders = await engine.store.beat(self._facts())
        engine.webhook_owners = self.orders.webhook_owners
        mine = [
            (job_id, run.claim.attempt) for job_id, run in list(engine.running.items()) if not run.is_ending
        ]
        is_due = now - self._renewed_at >= self.renewal_seconds or self.steady_since == float("inf")
        if mine:
            renewal = await engine.store.renew(
                mine,
                worker_id=engine.worker_id,
                lease_seconds=engine.settings.lease_seconds if is_due else None,
            )
            attempts = dict(mine)
            for job_id in renewal.lost:
                run = engine.running.get(job_id)
                # meanwhile its end may have been written, or it may have been claimed anew
                if run is not None and run.claim.attempt == attempts[job_id] and not run.is_finished:
                    run.stop("lost")
            for job_id in renewal.cancelled:
                run = engine.running.get(job_id)
                if run is not None and run.claim.attempt == attempts[job_id]:
                    run.stop("cancel")
        if is_due:
            self._renewed_at = now
        moment = time.monotonic()
        self.beat_at = moment
        metrics.last_beat_timestamp_seconds.set_to_current_time()
        if self.steady_since == float("inf"):
            self.steady_since = moment
