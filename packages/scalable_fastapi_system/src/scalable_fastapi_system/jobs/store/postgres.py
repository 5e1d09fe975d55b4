"""`PostgresStore`: the engine's tables through asyncpg, in batches.

A batch of claims is one statement and one commit, and so is a batch of successes: that is what makes a durable job
cheaper than a volatile one of a plain arq worker. Rare work (schedules, retention, the list of workers) is inherited
from `SharedStore`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.database.connecting import close_pool
from scalable_fastapi_system.jobs.records import (
    Claim,
    ClaimResult,
    Ending,
    Hint,
    NewJob,
    Outcome,
    Renewal,
    SweepReport,
)
from scalable_fastapi_system.jobs.states import JobState
from scalable_fastapi_system.jobs.store import postgres_sql as sql
from scalable_fastapi_system.jobs.store.base import FinishReport, Inserted, SweepRules
from scalable_fastapi_system.jobs.store.deliveries import delivery_job
from scalable_fastapi_system.jobs.store.postgres_pool import create_pool, insert_rows
from scalable_fastapi_system.jobs.store.shared import SharedStore
from scalable_fastapi_system.jobs.store.silence import blame, crash_note, state_after_crash
from scalable_fastapi_system.jobs.tables import NEVER

_SWEEP_LOCK = 0x5FA5_7A92
_POOL_SIZE = 3  # ends, heartbeat and sweep can each be under way at once
# Claims and progress do not wait for the disk. A claim that a crash of the server undoes leaves the job queued; the
# worker's later writes name an attempt that is not there, so they change nothing, and the job is run again. The commit
# that ends a job is waited for, and with it everything before it is on disk.
_QUICK_POOL_SIZE = 2


class PostgresStore(SharedStore):
    """See `JobStore`. Its pool belongs to the loop that called `start()`."""

    def __init__(self, database: DatabaseManager) -> None:
        super().__init__(database)
        self._pool: asyncpg.Pool | None = None
        self._quick_pool: asyncpg.Pool | None = None
        self._starting = asyncio.Lock()
        self._cursor: dict[str, tuple[int, int]] = {}

    async def start(self) -> None:
        """Opens the pools. Raises what asyncpg raises where the server is away; may be called again then."""
        async with self._starting:
            if self._pool is None:
                self._pool = await create_pool(self._database, size=_POOL_SIZE)
            if self._quick_pool is None:
                self._quick_pool = await create_pool(
                    self._database, size=_QUICK_POOL_SIZE, waits_for_disk=False
                )

    async def stop(self) -> None:
        pools = (self._pool, self._quick_pool)
        self._pool = self._quick_pool = None
        for pool in pools:
            if pool is not None:
                await close_pool(pool)

    @property
    def pool(self) -> asyncpg.Pool:
        if self._pool is None:
            raise asyncpg.InterfaceError("the job store is not connected")
        return self._pool

    @property
    def quick_pool(self) -> asyncpg.Pool:
        if self._quick_pool is None:
            raise asyncpg.InterfaceError("the job store is not connected")
        return self._quick_pool

    async def now(self) -> datetime:
        moment: datetime = await self.pool.fetchval("SELECT now()")
        return moment

    async def insert(self, rows: Sequence[NewJob]) -> list[Inserted]:
        return await insert_rows(self.pool, rows)

    # -- claiming -----------------------------------------------------------------------------------

    async def claim(
        self, job_ids: Sequence[UUID], *, worker_id: str, kinds: Sequence[str], lease_seconds: float
    ) -> ClaimResult:
        lease = timedelta(seconds=lease_seconds)
        rows = await self.quick_pool.fetch(sql.CLAIM, job_ids, worker_id, lease, kinds)
        claims = [Claim(*row) for row in rows]
        result = ClaimResult(claims)
        if len(rows) < len(job_ids):
            await self._explain_missing(job_ids, result, worker_id=worker_id, kinds=kinds, lease=lease)
        if len(claims) > 1:
            place = {job_id: index for index, job_id in enumerate(job_ids)}
            claims.sort(key=lambda claim: place[claim.job_id])
        return result

    async def _explain_missing(
        self,
        job_ids: Sequence[UUID],
        result: ClaimResult,
        *,
        worker_id: str,
        kinds: Sequence[str],
        lease: timedelta,
    ) -> None:
        """Why some of the hinted jobs could not be taken; takes those that only had to be taken one by one."""
        taken = {claim.job_id for claim in result.claims}
        known = set(kinds)
        keyed: list[UUID] = []
        for row in await self.quick_pool.fetch(sql.WHY_NOT, [one for one in job_ids if one not in taken]):
            if row["wait_seconds"] > 0 or (row["kind"] in known and row["concurrency_key"] is None):
                # not due; or due, but locked by somebody or changed in that very moment: look again soon
                delay_seconds = max(0.05, row["wait_seconds"])
                lane = row["owner_id"] or 0
                result.early.append(
                    Hint(row["id"], row["attempt"], row["queue"], lane, row["priority"], delay_seconds)
                )
            elif row["kind"] not in known:
                result.foreign.append(row["id"])
            else:
                keyed.append(row["id"])
        if keyed:
            claims = await self._claim_keyed(keyed, worker_id, lease)
            result.claims += claims
            result.blocked += set(keyed) - {claim.job_id for claim in claims}

    async def _claim_keyed(self, job_ids: Sequence[UUID], worker_id: str, lease: timedelta) -> list[Claim]:
        """Claims jobs with concurrency keys: under a lock for each key, taken in one order by everybody."""
        async with self.quick_pool.acquire() as connection, connection.transaction():
            await connection.execute(sql.LOCK_KEYS_OF, job_ids)
            return [Claim(*row) for row in await connection.fetch(sql.CLAIM_KEYED, job_ids, worker_id, lease)]

    async def claim_next(
        self,
        queues: Sequence[str],
        limit: int,
        *,
        worker_id: str,
        kinds: Sequence[str],
        lease_seconds: float,
    ) -> list[Claim]:
        lease = timedelta(seconds=lease_seconds)
        claims: list[Claim] = []
        for queue in queues:
            room = limit - len(claims)
            if room <= 0:
                break
            lanes, has_keys = await self._next_lanes(queue, room)
            if not lanes:
                continue
            share = -(-room // len(lanes))
            priorities, owners = zip(*lanes, strict=True)
            statement = sql.CLAIM_LANES_AND_KEYS if has_keys else sql.CLAIM_LANES
            rows = await self.quick_pool.fetch(
                statement, queue, priorities, owners, kinds, share, room, worker_id, lease
            )
            claims += [Claim(*row) for row in rows if row["attempt"] is not None]
            keyed = [row["id"] for row in rows if row["attempt"] is None]
            if keyed:
                claims += await self._claim_keyed(keyed, worker_id, lease)
        return claims

    async def _next_lanes(self, queue: str, limit: int) -> tuple[list[tuple[int, int]], bool]:
        """(priority, owner) of the next lines to serve: the best priority's first, in it after the one served last.

        And whether there are jobs with concurrency keys.
        """
        found = await self.quick_pool.fetchrow(sql.TOP_PRIORITY, queue)
        if found is None:
            return [], False
        top, has_keys = found
        priority, lane = self._cursor.get(queue, (top, -1))
        start = (priority, lane) if priority == top else (top, -1)
        lanes = [(row[0], row[1]) for row in await self.quick_pool.fetch(sql.LANES, queue, *start, limit)]
        if len(lanes) < limit and start[1] >= 0:
            first = await self.quick_pool.fetch(sql.LANES, queue, top, -1, limit - len(lanes))
            seen = set(lanes)
            lanes += [(row[0], row[1]) for row in first if (row[0], row[1]) not in seen]
        if lanes:
            same = [lane for lane in lanes if lane[0] == top]
            self._cursor[queue] = same[-1] if same else (top, -1)
        return lanes, has_keys

    # -- running ------------------------------------------------------------------------------------

    async def finish(
        self, endings: Sequence[Ending], *, worker_id: str, webhook_owners: frozenset[int]
    ) -> FinishReport:
        report = FinishReport()
        plain: list[Ending] = []
        other: list[Ending] = []
        keys: set[str] = set()
        for ending in endings:
            claim = ending.claim
            is_plain = (
                ending.outcome is Outcome.SUCCEEDED
                and claim.then_id is None
                and claim.owner_id not in webhook_owners
            )
            (plain if is_plain else other).append(ending)
            if claim.concurrency_key is not None:
                keys.add(claim.concurrency_key)
        if plain and not other:
            rows = await self.pool.fetch(sql.SUCCEED, *_success_columns(plain), worker_id)
            report.written.update(row[0] for row in rows)
        else:
            async with self.pool.acquire() as connection, connection.transaction():
                if plain:
                    rows = await connection.fetch(sql.SUCCEED, *_success_columns(plain), worker_id)
                    report.written.update(row[0] for row in rows)
                await self._settle(connection, other, worker_id, report, webhook_owners)
        if keys:
            report.hints += _hints(await self.pool.fetch(sql.NEXT_OF_KEYS, sorted(keys)))
        return report

    async def _settle(
        self,
        connection: Any,
        endings: Sequence[Ending],
        worker_id: str,
        report: FinishReport,
        webhook_owners: frozenset[int],
    ) -> None:
        """Endings of every kind, their history, and what follows for jobs that waited."""
        by_id = {ending.claim.job_id: ending for ending in endings}
        ordered = sorted(endings, key=lambda ending: ending.claim.job_id)  # one lock order for all workers
        rows = await connection.fetch(
            sql.SETTLE,
            [ending.claim.job_id for ending in ordered],
            [ending.claim.attempt for ending in ordered],
            [int(ending.state) for ending in ordered],
            [ending.delay_seconds for ending in ordered],
            [ending.outcome in {Outcome.FAILED, Outcome.RETRIED} for ending in ordered],
            [ending.outcome is Outcome.INTERRUPTED for ending in ordered],
            [ending.result for ending in ordered],
            [ending.error for ending in ordered],
            [ending.progress for ending in ordered],
            worker_id,
        )
        history: list[tuple[Any, ...]] = []
        ended: list[tuple[UUID, bool]] = []
        told: list[UUID] = []
        for row in rows:
            ending = by_id[row["id"]]
            claim = ending.claim
            state = JobState(row["state"])
            report.written.add(claim.job_id)
            outcome = Outcome.CANCELLED if state is JobState.CANCELLED else ending.outcome
            if outcome not in {Outcome.SUCCEEDED, Outcome.SNOOZED}:
                history.append(
                    (
                        claim.job_id,
                        claim.attempt,
                        row["started_at"],
                        outcome.value,
                        worker_id,
                        ending.error,
                    )
                )
            if not state.is_terminal:
                lane, delay_seconds = claim.owner_id or 0, ending.delay_seconds
                report.hints.append(
                    Hint(claim.job_id, claim.attempt, claim.queue, lane, claim.priority, delay_seconds)
                )
                continue
            if claim.then_id is not None:
                ended.append((claim.job_id, state is JobState.SUCCEEDED))
            if claim.owner_id in webhook_owners:
                told.append(claim.job_id)
        if history:
            await connection.execute(sql.REMEMBER_ATTEMPTS, *map(list, zip(*history, strict=True)))
        report.hints += await _release_waiting(connection, ended)
        report.hints += await _plan_deliveries(connection, told)

    async def renew(
        self, running: Sequence[tuple[UUID, int]], *, worker_id: str, lease_seconds: float | None
    ) -> Renewal:
        ids = [job_id for job_id, _ in running]
        attempts = [attempt for _, attempt in running]
        if lease_seconds is None:
            rows = await self.pool.fetch(sql.LOOK, ids, attempts, worker_id)
        else:
            rows = await self.pool.fetch(
                sql.RENEW, ids, attempts, worker_id, timedelta(seconds=lease_seconds)
            )
        mine = {row[0]: row[1] for row in rows}
        return Renewal(
            cancelled={job_id for job_id, is_cancelled in mine.items() if is_cancelled},
            lost={job_id for job_id in ids if job_id not in mine},
        )

    async def save_progress(self, progress: Sequence[tuple[UUID, int, str]], *, worker_id: str) -> None:
        ids, attempts, snapshots = (list(column) for column in zip(*progress, strict=True))
        await self.quick_pool.execute(sql.SAVE_PROGRESS, ids, attempts, snapshots, worker_id)

    async def release_strays(self, keep: Sequence[UUID], *, worker_id: str) -> list[Hint]:
        return _hints(await self.pool.fetch(sql.RELEASE_STRAYS, list(keep), worker_id))

    # -- sweeping -----------------------------------------------------------------------------------

    async def sweep(self, rules: SweepRules) -> SweepReport | None:
        report = SweepReport()
        async with self.pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _SWEEP_LOCK):
                return None
            if rules.may_judge:
                await self._recover_crashed(connection, rules, report)
            promoted = _hints(await connection.fetch(sql.PROMOTE, rules.limit))
            report.promoted = len(promoted)
            report.hints += promoted
        overdue = timedelta(seconds=rules.overdue_seconds)
        for queue in rules.queues:
            lanes = await self.pool.fetch(sql.LANES, queue, -32768, -1, rules.limit)
            if lanes:
                share = -(-rules.limit // len(lanes))
                priorities, owners = zip(*lanes, strict=True)
                found = _hints(
                    await self.pool.fetch(
                        sql.OVERDUE, queue, priorities, owners, rules.kinds, share, rules.limit, overdue
                    )
                )
                report.overdue += len(found)
                report.hints += found
        return report

    async def _recover_crashed(self, connection: Any, rules: SweepRules, report: SweepReport) -> None:
        workers = [row[0] for row in await connection.fetch(sql.SILENT_WORKERS)]
        if not workers:
            return
        silent = timedelta(seconds=rules.silent_seconds)
        alive = {row[0] for row in await connection.fetch(sql.ALIVE_OF, workers, silent)}
        rows = await connection.fetch(
            sql.ROWS_OF_SILENT, workers, [one for one in workers if one not in alive], rules.limit
        )
        changes: list[tuple[Any, ...]] = []
        ended: list[tuple[UUID, bool]] = []
        verdicts = blame([(row["worker_id"], row["crashes"]) for row in rows], alive)
        for row, is_blamed in zip(rows, verdicts, strict=True):
            crashes = row["crashes"] + is_blamed
            state = state_after_crash(
                crashes, is_blamed=is_blamed, is_cancelled=row["cancel_requested_at"] is not None, rules=rules
            )
            note = orjson.dumps(crash_note(row["worker_id"], row["attempt"], crashes, state)).decode()
            outcome = Outcome.CRASHED if is_blamed else Outcome.INTERRUPTED
            changes.append((row["id"], row["attempt"], int(state), is_blamed, note, outcome.value))
            report.quarantined += state is JobState.QUARANTINED
            if state.is_terminal:
                ended.append((row["id"], False))
        if changes:
            found = await connection.fetch(sql.TAKE_BACK, *map(list, zip(*changes, strict=True)))
            report.crashed = len(found)
            report.hints += _hints([row for row in found if row["state"] == JobState.QUEUED])
            report.hints += await _release_waiting(connection, ended)
            report.hints += await _plan_deliveries(connection, [job_id for job_id, _ in ended])


def _success_columns(endings: Sequence[Ending]) -> tuple[list[Any], ...]:
    return (
        [ending.claim.job_id for ending in endings],
        [ending.claim.attempt for ending in endings],
        [ending.result for ending in endings],
        [ending.progress for ending in endings],
    )


def _hints(rows: Iterable[Any]) -> list[Hint]:
    return [
        Hint(row["id"], row["attempt"], row["queue"], row["owner_id"] or 0, row["priority"]) for row in rows
    ]


async def _release_waiting(connection: Any, ended: Sequence[tuple[UUID, bool]]) -> list[Hint]:
    """As `ending.release_waiting`, for a connection of asyncpg's."""
    released: list[UUID] = []
    all_cancelled: list[UUID] = []
    wave = dict(ended)
    while wave:
        counts: Counter[UUID] = Counter()
        unsuccessful: set[UUID] = set()
        for job_id, then_id in await connection.fetch(sql.WAITING_ON, list(wave)):
            counts[then_id] += 1
            if not wave[job_id]:
                unsuccessful.add(then_id)
        cancelled = (
            {row[0] for row in await connection.fetch(sql.CANCEL_WAITING, sorted(unsuccessful))}
            if unsuccessful
            else set()
        )
        rest = sorted((then_id, count) for then_id, count in counts.items() if then_id not in cancelled)
        if rest:
            ids, numbers = (list(column) for column in zip(*rest, strict=True))
            released += [row[0] for row in await connection.fetch(sql.COUNT_OFF, ids, numbers, NEVER)]
        wave = dict.fromkeys(cancelled, False)
        all_cancelled += cancelled
    hints = _hints(await connection.fetch(sql.HINTS_OF, released)) if released else []
    return hints + await _plan_deliveries(connection, all_cancelled)


async def _plan_deliveries(connection: Any, job_ids: Sequence[UUID]) -> list[Hint]:
    """As `deliveries.plan_deliveries`, for a connection of asyncpg's."""
    if not job_ids:
        return []
    planned = await connection.fetch(sql.PLAN_DELIVERIES, job_ids)
    if not planned:
        return []
    rows = [delivery_job(*row) for row in planned]
    await insert_rows(connection, rows)
    return [Hint(row.id, 0, row.queue) for row in rows]
