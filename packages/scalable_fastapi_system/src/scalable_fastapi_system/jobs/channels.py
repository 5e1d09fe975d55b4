"""How claims reach a worker: by hints from Redis, or straight from the tables with something to wake it.

Both answer `take(limit)` with what to claim next, and wait, without polling, where there is nothing. Neither raises for
a Redis that is away: the worker then claims from the tables until it is back.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from scalable_fastapi_system.infra.settings import RedisSettings
from scalable_fastapi_system.jobs import metrics
from scalable_fastapi_system.jobs.events import publish_progress
from scalable_fastapi_system.jobs.hints import Keys, pop, push
from scalable_fastapi_system.jobs.records import Hint

_log = structlog.get_logger("jobs.hints")

REDIS_AWAY = (RedisError, OSError, TimeoutError)
_CANARY_SECONDS = 86_400
# A blocking pop is ended and begun anew now and then, so that a connection that died silently is noticed.
MAX_BLOCK_SECONDS = 5.0


class LocalChannel:
    """No Redis: an event wakes the worker, the claims come from the tables. Also woken by PostgreSQL's NOTIFY."""

    is_up = False

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """There may be something to claim. On the worker's loop."""
        self._event.set()

    async def wait(self, timeout_seconds: float) -> None:
        """Returns when woken, or after the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()
        self._event.clear()

    async def was_emptied(self) -> bool:
        return False

    async def has_many(self, queues: Sequence[str], count: int) -> bool:
        """Always: with no hints there is nothing to look for; the worker finds overdue jobs by itself."""
        return True

    async def push(self, hints: Sequence[Hint]) -> int:
        if hints:
            self.wake()
        return 0

    async def close(self) -> None:
        """Nothing to close."""


class RedisChannel:
    """Hints through Redis. `is_up` is False while Redis is away, full or read-only."""

    def __init__(self, settings: RedisSettings, client: Any, blocking: Any) -> None:
        """`client` answers at once; `blocking` is for the pop that waits, so its socket is given more time."""
        self._client = client
        self._blocking = blocking
        self._keys = Keys(settings.key_prefix)
        self.is_up = True
        self._has_been_up = False

    async def take(self, queues: Sequence[str], limit: int, timeout_seconds: float) -> list[str]:
        """Up to `limit` hints; waits for the first one for as long as the timeout. Empty where there is none."""
        # a different queue first each time, so that a full one does not starve the others
        order = list(queues)
        if len(order) > 1:
            random.shuffle(order)
        try:
            hints, due_seconds = await pop(self._client, self._keys, order, limit)
            if hints or timeout_seconds <= 0:
                return hints
            if due_seconds is not None:
                timeout_seconds = min(timeout_seconds, due_seconds + 0.001)
            return await self._wait_for_one(order, min(timeout_seconds, MAX_BLOCK_SECONDS))
        except REDIS_AWAY as error:
            self._note_down(error)
            return []

    async def _wait_for_one(self, queues: Sequence[str], timeout_seconds: float) -> list[str]:
        # 0 would wait for ever
        names = [self._keys.ready(queue) for queue in queues]
        found = await self._blocking.bzpopmin(names, timeout=max(0.001, timeout_seconds))
        if found is None:
            return []
        member = found[1].decode()
        return [] if member == "~" else [member]

    async def was_emptied(self) -> bool:
        """Whether the canary is gone that was there before; brings Redis back into use where it works again."""
        try:
            was_missing = await self._client.set(
                self._keys.canary, int(time.time()), nx=True, ex=_CANARY_SECONDS
            )
            if not was_missing:
                # A plain write tells a full or read-only Redis, which `NX` on an existing key may not.
                await self._client.set(self._keys.canary, int(time.time()), ex=_CANARY_SECONDS)
        except REDIS_AWAY as error:
            self._note_down(error)
            return False
        was_up, self.is_up = self.is_up, True
        has_been_up, self._has_been_up = self._has_been_up, True
        if not was_up:
            _log.info("hints by Redis again")
        return bool(was_missing) and has_been_up

    async def has_many(self, queues: Sequence[str], count: int) -> bool:
        if not self.is_up:
            return True
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for queue in queues:
                    pipe.zcard(self._keys.ready(queue))
                return bool(queues) and min(await pipe.execute()) >= count
        except REDIS_AWAY as error:
            self._note_down(error)
            return True

    async def push(self, hints: Sequence[Hint]) -> int:
        if not hints:
            return 0
        if not self.is_up:
            metrics.hints_lost.inc(len(hints))
            return 0
        try:
            return await push(self._client, self._keys, hints)
        except REDIS_AWAY as error:
            metrics.hints_lost.inc(len(hints))
            self._note_down(error)
            return 0

    async def publish(self, progress: Sequence[tuple[UUID, int, str]]) -> None:
        """Appends progress to the jobs' streams; dropped while Redis is away."""
        if self.is_up:
            with suppress(*REDIS_AWAY):
                await publish_progress(self._client, self._keys, progress)

    async def close(self) -> None:
        with suppress(*REDIS_AWAY):
            await self._blocking.aclose()

    def _note_down(self, error: BaseException) -> None:
        if self.is_up:
            self.is_up = False
            _log.warning("Redis is away: claiming from the database", reason=type(error).__name__)
