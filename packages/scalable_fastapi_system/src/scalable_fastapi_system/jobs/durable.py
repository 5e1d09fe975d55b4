"""`DurableWorker`: arq's worker, with claims in the database in the place of its locks in Redis.

What arq 0.28 gives: the loop and its slots, signals and the wait for running jobs at the end, the registered function,
hooks, burst mode, the health key. What is replaced, because there jobs are lost or run twice: a poll takes a batch of
hints and claims their rows in one statement; a job runs under a lease; its end is a fenced write; Redis or the database
going away ends nothing. `tests/unit/jobs/test_arq_contract.py` holds arq to what this class relies on.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from signal import Signals
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from arq.connections import ArqRedis
from arq.worker import Worker, func
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from scalable_fastapi_system.infra.ending import end_tasks
from scalable_fastapi_system.infra.settings import RedisSettings
from scalable_fastapi_system.jobs import metrics
from scalable_fastapi_system.jobs.channels import MAX_BLOCK_SECONDS, REDIS_AWAY, LocalChannel, RedisChannel
from scalable_fastapi_system.jobs.engine import Engine, is_store_away
from scalable_fastapi_system.jobs.heart import Heart
from scalable_fastapi_system.jobs.hints import parse_member
from scalable_fastapi_system.jobs.limits import decode
from scalable_fastapi_system.jobs.reconciler import Reconciler
from scalable_fastapi_system.jobs.records import Claim, Ending, Hint, Outcome, WorkerFacts
from scalable_fastapi_system.jobs.registry import JobRegistry, registry
from scalable_fastapi_system.jobs.running import Running
from scalable_fastapi_system.jobs.schedules import CronSchedule
from scalable_fastapi_system.jobs.store import create_store

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.resources import Resources

_log = structlog.get_logger("jobs.worker")

ENTRY = "jobs.run"
# Of the jobs that went through a crash, a worker runs few at once, so that the one that kills is found without the
# others; of those that would be quarantined next, one.
SUSPECTS_AT_ONCE = 10
_SUSPECT_PAUSE_SECONDS = 1.0
_FOREIGN_PAUSE_SECONDS = 0.5
_STORE_AWAY_PAUSE_SECONDS = 0.3


async def run_claim(ctx: dict[str, Any], run: Running) -> None:
    """The one function that arq knows: runs a claimed job. Never raises."""
    engine: Engine = ctx["engine"]
    await engine.run(run)


def new_worker_id() -> str:
    """The host, the process, and something that no later process with the same number has."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{secrets.token_hex(4)}"


def connect_arq(settings: RedisSettings, *, timeout_seconds: float | None = None) -> ArqRedis:
    """arq's client for the Redis of the settings; connects at its first use and fails fast."""
    url = str(settings.redis_url)
    if settings.redis_ssl and url.startswith("redis://"):
        url = url.replace("redis://", "rediss://", 1)
    client: ArqRedis = ArqRedis.from_url(
        url,
        db=settings.redis_db,  # a number in the URL's path is stronger
        socket_connect_timeout=settings.connect_timeout_seconds,
        socket_timeout=timeout_seconds or settings.command_timeout_seconds,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        lib_name=None,
        lib_version=None,
    )
    client.job_serializer, client.job_deserializer = _dumps, decode
    return client


class DurableWorker(Worker):
    """See the module. Make it on the running loop; `await serve()` runs it to its end."""

    def __init__(
        self,
        resources: Resources,
        *,
        registry: JobRegistry = registry,
        schedules: Sequence[CronSchedule] = (),
        worker_id: str | None = None,
        use_redis: bool = True,
        **arq_options: Any,
    ) -> None:
        settings = resources.settings
        self.worker_id = worker_id or new_worker_id()
        self.queues = tuple(settings.jobs.queues)
        redis = None
        if use_redis and settings.redis.redis_url:
            redis = connect_arq(settings.redis)
        options: dict[str, Any] = {
            "functions": [func(run_claim, name=ENTRY, keep_result=0, max_tries=1)],
            "queue_name": self.queues[0],
            "max_jobs": settings.jobs.concurrency,
            "job_completion_wait": max(1, round(settings.jobs.drain_seconds)),
            "health_check_key": f"{settings.redis.key_prefix}:{{jobs}}:worker:{self.worker_id}",
            "health_check_interval": 10,
            "keep_result": 0,
            "log_results": False,
            "handle_signals": True,
            "job_serializer": _dumps,
            "job_deserializer": decode,
        }
        super().__init__(redis_pool=redis, **{**options, **arq_options})
        self.resources = resources
        self.engine = Engine(
            resources,
            create_store(resources.database),
            registry,
            worker_id=self.worker_id,
            announce=self.announce,
            publish=self._publish,
        )
        self.ctx["engine"] = self.engine
        self.local = LocalChannel()
        self.channel: RedisChannel | LocalChannel = (
            RedisChannel(
                settings.redis,
                redis,
                connect_arq(
                    settings.redis,
                    # a pop that waits is answered when its wait is over; later than that Redis is away
                    timeout_seconds=min(settings.jobs.poll_seconds, MAX_BLOCK_SECONDS)
                    + settings.redis.command_timeout_seconds,
                ),
            )
            if redis is not None
            else self.local
        )
        self.heart = Heart(self.engine, self.facts)
        self.reconciler = Reconciler(
            self.engine,
            self.heart,
            self.channel,
            queues=self.open_queues,
            schedules=schedules,
            after_sweep=self._after_sweep,
        )
        self.ticked_at = time.monotonic()
        self._kinds = registry.kinds()
        self._slot_freed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_drained = asyncio.Event()
        self._may_have_strays = False
        self._suspects = 0
        self._last_suspects = 0
        self._helpers: list[asyncio.Task[None]] = []
        self._giving_back: asyncio.Task[None] | None = None
        metrics.slots.set(self.max_jobs)
        metrics.prepare(self._kinds, self.queues)

    # -- life ---------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Runs until a signal (or `request_stop`) and the drain that follows it; then everything is closed."""
        self.main_task = asyncio.create_task(self.main())
        try:
            await self.main_task
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
        finally:
            await self.close()

    def request_stop(self) -> None:
        """As SIGTERM does: take nothing more, finish what fits the grace, hand the rest back."""
        self.handle_sig_wait_for_completion(signal.SIGTERM)

    async def main(self) -> None:
        """arq's main loop, without its exit where Redis is away."""
        await self.engine.insist(self.engine.store.start, "start")
        await self.engine.insist(self.heart.beat, "first beat")  # it tells which queues are paused
        self.ctx["redis"] = self._pool
        self._helpers = [
            asyncio.create_task(self.heart.run()),
            asyncio.create_task(self.reconciler.run()),
            asyncio.create_task(self._tick()),
            asyncio.create_task(self._listen()),
        ]
        if self.on_startup:
            await self.on_startup(self.ctx)
        _log.info(
            "worker started", worker_id=self.worker_id, queues=list(self.queues), kinds=len(self._kinds),
            concurrency=self.max_jobs,
        )  # fmt: skip
        while True:
            if not self.allow_pick_jobs:
                await self._is_drained.wait()
                return
            try:
                await self._poll_iteration()
            except Exception as error:  # noqa: BLE001 - a worker goes on whatever happens
                if not is_store_away(error):
                    _log.exception("poll failed")
                self._may_have_strays = True
                metrics.store_errors.inc()
                await asyncio.sleep(_STORE_AWAY_PAUSE_SECONDS * (0.5 + self.engine.random()))

    async def close(self) -> None:
        """Writes the last ends, hands back what runs, leaves the list of workers, closes connections."""
        self.allow_pick_jobs = False
        self._stopping.set()
        await self._hand_back()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self.engine.drain_endings()
        if self._giving_back is not None:
            await asyncio.wait({self._giving_back}, timeout=2)
        await end_tasks(self._helpers)
        try:
            async with asyncio.timeout(2):
                # The end of the main loop may have cut off the answer to a claim.
                await self._release_strays()
                await self.engine.store.leave(self.worker_id)
        except Exception as error:  # noqa: BLE001 - the list forgets it by itself
            _log.warning("could not leave the list of workers", reason=type(error).__name__)
        if self.on_shutdown:
            await self.on_shutdown(self.ctx)
        await self.engine.close_http()
        await self.engine.store.stop()
        await self.channel.close()
        if self._pool is not None:
            with suppress(Exception):
                await self._pool.delete(self.health_check_key)
            with suppress(Exception):
                await self._pool.aclose(close_connection_pool=True)
            self._pool = None
        _log.info("worker stopped", worker_id=self.worker_id)

    async def _tick(self) -> None:
        """Shows that the loop turns; read by the watchdog's thread."""
        while True:
            self.ticked_at = time.monotonic()
            metrics.running.set(len(self.engine.running))
            if self.heart.orders.must_drain and self.allow_pick_jobs:
                _log.info("told to drain", worker_id=self.worker_id)
                self.request_stop()
            await asyncio.sleep(0.5)

    async def _after_sweep(self) -> None:
        if isinstance(self.channel, RedisChannel) and self.channel.is_up:
            with suppress(Exception):
                await self.record_health()

    async def _listen(self) -> None:
        """Without Redis, PostgreSQL's NOTIFY wakes the worker, unless a pooler is between them."""
        if self.channel is not self.local or self.resources.database.backend != "postgresql":
            return
        if not self.resources.settings.database.prepared_statements:
            # A LISTEN would hear nothing, and stay behind on a server that others are given next.
            _log.info("behind a pooler nothing wakes a worker without Redis: it polls")
            return
        from scalable_fastapi_system.jobs.notify import listen

        await listen(self.resources.database, self.local.wake)

    # -- taking -------------------------------------------------------------------------------------

    def open_queues(self) -> list[str]:
        """The queues of this worker that are not paused."""
        paused = self.heart.orders.paused_queues
        return [queue for queue in self.queues if queue not in paused] if paused else list(self.queues)

    async def _poll_iteration(self) -> None:
        free = self.max_jobs - self.job_counter
        if free <= 0:
            self._slot_freed.clear()
            await self._slot_freed.wait()
            return
        if self._may_have_strays:
            await self._release_strays()
        queues = self.open_queues()
        poll_seconds = self.engine.settings.poll_seconds
        if not queues:
            await self._wait_locally(poll_seconds)
            return
        if isinstance(self.channel, RedisChannel) and self.channel.is_up:
            hints = await self._take_hints(self.channel, queues, free, poll_seconds)
            if hints:
                await self.start_jobs([hint.encode() for hint in hints])
            return
        claims = await self.engine.store.claim_next(
            queues,
            free,
            worker_id=self.worker_id,
            kinds=self._kinds,
            lease_seconds=self.engine.settings.lease_seconds,
        )
        if claims:
            await self._start(claims)
        else:
            await self._wait_locally(poll_seconds)

    async def _take_hints(
        self, channel: RedisChannel, queues: Sequence[str], limit: int, timeout_seconds: float
    ) -> list[str]:
        """Hints to claim. When the worker is told to stop, the wait for them ends by itself and what it got is given back.

        It is not cancelled: redis-py may swallow a cancel, and an answer under way would be lost.
        """
        taking = asyncio.create_task(channel.take(queues, limit, timeout_seconds))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({taking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if not self._stopping.is_set():
            return taking.result()
        self._giving_back = asyncio.create_task(self._give_back(taking))
        return []

    async def _give_back(self, taking: asyncio.Task[list[str]]) -> None:
        job_ids = [job_id for job_id in map(parse_member, await taking) if job_id is not None]
        if job_ids:
            await self._leave_to_others(job_ids)

    async def _wait_locally(self, timeout_seconds: float) -> None:
        waiting = asyncio.create_task(self.local.wait(timeout_seconds))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            stopping.cancel()

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Claims the jobs of a batch of hints in one statement and starts those that it got."""
        wanted = list(dict.fromkeys(job_id for job_id in map(_job_of, job_ids) if job_id is not None))
        fresh = [job_id for job_id in wanted if job_id not in self.engine.running]
        if not fresh:
            return
        result = await self.engine.store.claim(
            fresh,
            worker_id=self.worker_id,
            kinds=self._kinds,
            lease_seconds=self.engine.settings.lease_seconds,
        )
        await self._start(result.claims)
        if result.early:
            await self.channel.push(result.early)
        if result.foreign:
            metrics.unknown_kinds.inc(len(result.foreign))
            await self._leave_to_others(result.foreign, pause_seconds=_FOREIGN_PAUSE_SECONDS)
        stale = (
            len(fresh) - len(result.claims) - len(result.early) - len(result.foreign) - len(result.blocked)
        )
        if stale > 0:
            metrics.hints_stale.inc(stale)

    async def _leave_to_others(self, job_ids: Sequence[UUID], *, pause_seconds: float = 0.0) -> None:
        """Pushes hints of jobs that this worker does not take: of kinds that only another version knows, or at its end."""
        from scalable_fastapi_system.jobs.store.reading import hints_for

        async with self.resources.database.transaction() as session:
            hints = await hints_for(session, job_ids)
        pause_seconds *= 0.5 + self.engine.random()
        await self.channel.push([replace(hint, delay_seconds=pause_seconds) for hint in hints])

    async def _start(self, claims: Sequence[Claim]) -> None:
        now = time.time()
        postponed: list[Ending] = []
        for claim in claims:
            if claim.crashes and not self._admit_suspect(claim):
                postponed.append(Ending(claim, Outcome.SNOOZED, delay_seconds=_SUSPECT_PAUSE_SECONDS))
                continue
            metrics.observe_wait(claim.queue, now - claim.run_at.timestamp())
            run = Running(claim)
            self.engine.running[claim.job_id] = run
            self.job_counter += 1
            task = self.loop.create_task(self.functions[ENTRY].coroutine(self.ctx, run))
            run.task = task
            key = claim.job_id.hex
            self.tasks[key] = task
            task.add_done_callback(lambda _task, run=run, key=key: self._free_slot(run, key))  # type: ignore[misc]
        if postponed:
            report = await self.engine.store.finish(
                postponed, worker_id=self.worker_id, webhook_owners=frozenset()
            )
            await self.announce(report.hints)

    def _admit_suspect(self, claim: Claim) -> bool:
        is_last = claim.crashes + 1 >= self.engine.settings.max_crashes
        if self._suspects >= SUSPECTS_AT_ONCE or (is_last and self._last_suspects):
            return False
        self._suspects += 1
        self._last_suspects += is_last
        return True

    def _free_slot(self, run: Running, key: str) -> None:
        self.job_counter -= 1
        self.jobs_complete += 1
        if self.tasks.get(key) is run.task:
            del self.tasks[key]
        if run.claim.crashes:
            self._suspects -= 1
            self._last_suspects -= run.claim.crashes + 1 >= self.engine.settings.max_crashes
        self._slot_freed.set()

    async def _release_strays(self) -> None:
        """After a lost answer: gives back what the tables say we run and we do not."""
        hints = await self.engine.store.release_strays(list(self.engine.running), worker_id=self.worker_id)
        self._may_have_strays = False
        if hints:
            _log.warning("released claims whose answer was lost", count=len(hints))
            await self.announce(hints)

    async def announce(self, hints: Sequence[Hint]) -> None:
        """Tells the workers, this one included, that jobs may be ready."""
        await self.channel.push(hints)
        self.local.wake()

    async def _publish(self, progress: Sequence[tuple[UUID, int, str]]) -> None:
        """Progress for those who follow; a courtesy, which an absent Redis may drop."""
        if isinstance(self.channel, RedisChannel):
            await self.channel.publish(progress)

    # -- stopping -----------------------------------------------------------------------------------

    def handle_sig_wait_for_completion(self, signum: Signals) -> None:
        if self._stopping.is_set():
            return
        _log.info(
            "worker draining", worker_id=self.worker_id, signal=Signals(signum).name, running=len(self.engine.running)
        )  # fmt: skip
        self._stopping.set()
        super().handle_sig_wait_for_completion(signum)

    def handle_sig(self, signum: Signals) -> None:
        """arq's immediate end is not for durable jobs: every end is a drain."""
        self.handle_sig_wait_for_completion(signum)

    async def _sleep_until_tasks_complete(self) -> None:
        while self.engine.running:
            await asyncio.wait([run.task for run in self.engine.running.values() if run.task], timeout=0.1)

    async def _wait_for_tasks_to_complete(self, signum: Signals) -> None:
        """Waits for running jobs as long as the grace lasts, then hands them back and ends the main loop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.engine.settings.drain_seconds):
                await self._sleep_until_tasks_complete()
        await self._hand_back()
        self._is_drained.set()
        if self.main_task is not None:
            self.main_task.cancel()  # a wait for jobs; where the cancel is lost (see infra/ending.py), it ends by itself
        if self.on_stop:
            self.on_stop(signum)

    async def _hand_back(self) -> None:
        """Interrupts what still runs; again and again, because a handler or a library may swallow it."""
        if self.engine.running:
            _log.info("handing back running jobs", count=len(self.engine.running))
        for _ in range(10):
            left = [run for run in self.engine.running.values() if run.task is not None]
            if not left:
                return
            for run in left:
                run.stop("drain")
            await asyncio.wait([run.task for run in left if run.task is not None], timeout=0.5)

    # -- telling ------------------------------------------------------------------------------------

    def facts(self) -> WorkerFacts:
        """What this worker tells the list of workers."""
        return WorkerFacts(
            worker_id=self.worker_id,
            hostname=socket.gethostname()[:100],
            version=self.resources.settings.api.version[:32],  # as many as the list keeps
            queues=self.queues,
            kinds=tuple(self._kinds),
            concurrency=self.max_jobs,
            running=len(self.engine.running),
            is_draining=not self.allow_pick_jobs,
        )

    async def can_reach_redis(self) -> bool:
        """Whether Redis answers now."""
        try:
            return bool(await self.pool.ping())
        except REDIS_AWAY:
            return False


def _job_of(hint: bytes) -> UUID | None:
    return parse_member(hint.decode("ascii", "replace"))


def _dumps(value: Any) -> bytes:
    import orjson

    return orjson.dumps(value, default=str)
