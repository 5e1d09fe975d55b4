"""The limiter: whether one more request is admitted, most of the time without asking anybody.

A process leases quota from Redis in batches and gives it out from memory; what it does not use it gives back after a
second, or it lapses with the window. Small quotas are not leased. Those who wait for Redis at one moment wait for one
round trip together. In an aligned window all processes together admit at most the quota, as long as Redis answers.

While Redis is away, or does not answer within `RATE_LIMIT__STORE_TIMEOUT_SECONDS`, each process keeps the same quota
by its own count, which it always has: a limit gets laxer, by the number of processes at the most, and never fails.
What was admitted so is charged when Redis answers again. No process ever admits more than the quota by its own count,
whatever Redis says: one that has lost its data does not give a guesser the quota again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextvars import Context

from scalable_fastapi_system.infra.rate_limit import metrics
from scalable_fastapi_system.infra.rate_limit.bucket import IDLE_SECONDS, Bucket
from scalable_fastapi_system.infra.rate_limit.decision import Decision
from scalable_fastapi_system.infra.rate_limit.policies import Policy
from scalable_fastapi_system.infra.rate_limit.store import Ask, Return, SharedCounts
from scalable_fastapi_system.infra.redis import RedisAwayError, RedisConnections

MAX_BUCKETS = 20_000
DEFAULT_STORE_TIMEOUT_SECONDS = 0.04
_MAX_ASKS = 200
# An alarm that is later than this tells of a busy loop, not of a late answer.
_LAG_SECONDS = 0.01

_Waiting = dict[Bucket, list[asyncio.Future[Decision | None]]]


class _Desk:
    """Those of one loop who wait for Redis. One round trip is under way at a time."""

    __slots__ = ("is_late", "oldest", "sweep", "task", "trip", "waiting")

    def __init__(self) -> None:
        self.waiting: _Waiting = {}
        self.oldest = 0.0  # since when the first of them waits
        self.is_late = False  # whether the round trip under way takes too long to wait for
        self.trip: _Waiting | None = None  # whom the round trip under way is for; perhaps nobody who waits
        self.task: asyncio.Task[None] | None = None
        self.sweep: asyncio.TimerHandle | None = None


class RateLimiter:
    """Admits requests of this process; one per application."""

    def __init__(
        self,
        redis: RedisConnections,
        *,
        store_timeout_seconds: float = DEFAULT_STORE_TIMEOUT_SECONDS,
        max_buckets: int = MAX_BUCKETS,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Connects to nothing yet. max_buckets: callers of routes remembered, least recently seen out first."""
        self._redis = redis
        self._shared = SharedCounts(redis)
        self._timeout = store_timeout_seconds
        self._max_buckets = max_buckets
        self._monotonic = monotonic
        self._wall = wall
        self._server_ahead = 0.0  # seconds that the server's clock is before ours
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, str, str], Bucket] = OrderedDict()
        self._leasing: set[Bucket] = set()
        self._returns: list[Return] = []
        self._desks: dict[asyncio.AbstractEventLoop, _Desk] = {}

    def check(self, policy: Policy, identity: str, route: str) -> Decision | Awaitable[Decision]:
        """Counts one request of this identity under the route's template, on an event loop. Raises nothing.

        A `Decision` where this process can tell by itself; else an awaitable of one, which asks Redis and takes at
        most the store's time-out.
        """
        now = self._monotonic()
        key = (policy.key, identity, route)
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is None:
                bucket = self._add(key, policy, now)
            else:
                self._buckets.move_to_end(key)
            if bucket.tokens > 0 and now < bucket.lease_until:
                bucket.tokens -= 1
                if bucket.tokens == bucket.low_water and bucket.low_water:
                    self._order(bucket, now)  # the next lease is there before this one is used up
                return bucket.admit(now)
            if now < bucket.denied_until:
                return bucket.deny(now)
            if self._redis.is_away or self._desk().is_late:
                return self._decide_alone(bucket, now)
            if bucket.own_room(now, self._server_now()) < 1:
                return bucket.deny_by_own_count(now, self._server_now())
            future: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
            self._order(bucket, now, future)
        return self._wait(bucket, future)

    async def stop(self) -> None:
        """Gives back every lease, so that others have at once what this process will not use."""
        with self._lock:
            desk = self._desks.pop(asyncio.get_running_loop(), None)
        if desk is not None:
            if desk.task is not None:
                await asyncio.wait((desk.task,))  # what is being leased comes first
            if desk.sweep is not None:
                desk.sweep.cancel()
        with self._lock:
            now = self._monotonic()
            for bucket in self._leasing:
                self._returns += bucket.give_back(now)
            self._leasing.clear()
            returns, self._returns = self._returns, []
        if returns and not self._redis.is_away:
            try:
                await self._shared.take((), returns)
            except RedisAwayError:
                return  # they lapse with their windows

    # -- the lock is held -----------------------------------------------------------------------------------

    def _add(self, key: tuple[str, str, str], policy: Policy, now: float) -> Bucket:
        if len(self._buckets) >= self._max_buckets:
            _, oldest = self._buckets.popitem(last=False)
            self._leasing.discard(oldest)
            self._returns += oldest.give_back(now)
        bucket = self._buckets[key] = Bucket(policy, self._shared.keys("|".join(key), policy.rates))
        return bucket

    def _decide_alone(self, bucket: Bucket, now: float) -> Decision:
        if self._redis.is_configured:
            metrics.decided_alone.inc()
        return bucket.decide_alone(now, self._server_now(), is_owed=self._redis.is_configured)

    def _server_now(self) -> float:
        return self._wall() + self._server_ahead

    def _desk(self) -> _Desk:
        loop = asyncio.get_running_loop()
        desk = self._desks.get(loop)
        if desk is None:
            for other in [other for other in self._desks if other.is_closed()]:
                del self._desks[other]
            desk = self._desks[loop] = _Desk()
        return desk

    def _order(
        self, bucket: Bucket, now: float, future: asyncio.Future[Decision | None] | None = None
    ) -> None:
        """Has the bucket asked for in the next round trip. Without a future: where that can be done at all."""
        desk = self._desk()
        if future is None and (desk.is_late or self._redis.is_away):
            return
        if not desk.waiting:
            desk.oldest = now
        waiting = desk.waiting.setdefault(bucket, [])
        if future is not None:
            waiting.append(future)
        self._begin(desk)

    def _begin(self, desk: _Desk) -> None:
        if desk.task is None:
            # It asks for many: its log lines and spans, and those of the sweep, are not of the request that it began with.
            desk.task = asyncio.get_running_loop().create_task(self._serve(desk), context=Context())

    def _watch(self, desk: _Desk) -> None:
        if self._leasing and desk.sweep is None:
            desk.sweep = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep, desk)

    # -- asking Redis ---------------------------------------------------------------------------------------

    async def _wait(self, bucket: Bucket, future: asyncio.Future[Decision | None]) -> Decision:
        decision = await future
        if decision is not None:
            return decision
        with self._lock:
            return self._decide_alone(bucket, self._monotonic())

    async def _serve(self, desk: _Desk) -> None:
        """Asks for all who wait, again and again until nobody does."""
        try:
            while True:
                with self._lock:
                    batch = {bucket: desk.waiting.pop(bucket) for bucket in list(desk.waiting)[:_MAX_ASKS]}
                    returns, self._returns = self._returns[:_MAX_ASKS], self._returns[_MAX_ASKS:]
                    if not batch and not returns:
                        desk.task = None
                        return
                    now = self._monotonic()
                    asks = {
                        bucket: bucket.ask(len(waiting), now, self._server_now())
                        for bucket, waiting in batch.items()
                    }
                    oldest = desk.oldest if batch else now
                await self._round_trip(desk, batch, asks, returns, oldest)
        except BaseException:
            with self._lock:
                desk.task = None
                waiting, desk.waiting = desk.waiting, {}
            _release(waiting)
            raise

    async def _round_trip(
        self, desk: _Desk, batch: _Waiting, asks: dict[Bucket, Ask], returns: list[Return], oldest: float
    ) -> None:
        loop = asyncio.get_running_loop()
        sent = self._monotonic()
        due = loop.time() + max(0.0, oldest + self._timeout - sent)
        alarm = loop.call_at(due, self._on_alarm, desk, batch, due)
        desk.trip = batch
        try:
            server_now, grants = await self._shared.take(list(asks.values()), returns)
        except RedisAwayError:
            # What is owed stays owed. The returns are not sent again: perhaps they were taken, and twice gives too much.
            _release(batch)
        except BaseException:
            _release(batch)
            raise
        else:
            with self._lock:
                now = self._monotonic()
                # Half of the way there and back is the best guess at when the server looked at its clock.
                self._server_ahead = server_now - (self._wall() - (now - sent) / 2)
                for (bucket, ask), grant in zip(asks.items(), grants, strict=True):
                    bucket.take(ask, grant, sent=sent, now=now, server_now=server_now)
                    for future in batch[bucket]:
                        if not future.done():
                            future.set_result(bucket.serve(grant, now=now, server_now=server_now))
                    if bucket.tokens > 0:
                        self._leasing.add(bucket)
                self._watch(desk)
        finally:
            alarm.cancel()
            desk.trip = None
            desk.is_late = False

    def _on_alarm(self, desk: _Desk, batch: _Waiting, due: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - due > _LAG_SECONDS:
            # Not Redis was late but this loop: perhaps the answer lies unread in the socket.
            loop.call_later(_LAG_SECONDS / 2, self._let_go, desk, batch)
        else:
            self._let_go(desk, batch)

    def _let_go(self, desk: _Desk, batch: _Waiting) -> None:
        """Those who wait decide by their own count. The answer may still come; then it is used.

        Also where nobody waits for this answer: whoever comes now would wait for the next one, which is behind it.
        """
        if desk.trip is not batch:
            return  # it has ended meanwhile
        with self._lock:
            desk.is_late = True
            waiting, desk.waiting = desk.waiting, {}
        _release(batch)
        _release(waiting)

    def _sweep(self, desk: _Desk) -> None:
        """Gives back what nobody has used for a while."""
        with self._lock:
            desk.sweep = None
            now = self._monotonic()
            for bucket in list(self._leasing):
                if now - bucket.used_at >= IDLE_SECONDS:
                    self._returns += bucket.give_back(now)
                if bucket.tokens <= 0:
                    self._leasing.discard(bucket)
            if self._returns and not self._redis.is_away:
                self._begin(desk)
            self._watch(desk)


def _release(waiting: _Waiting) -> None:
    for futures in waiting.values():
        for future in futures:
            if not future.done():
                future.set_result(None)
