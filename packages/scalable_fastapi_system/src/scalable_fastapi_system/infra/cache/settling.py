"""Tells Redis what it has missed, before anything in it is believed again.

Whoever asks for something first tells what is missed. The others wait for that as long as they would wait for Redis,
and then do without it. A process that asks for nothing more tells it in the background.
"""

from __future__ import annotations

import asyncio
import threading

import structlog

from scalable_fastapi_system.infra.cache.changes import Changes, MissedChanges
from scalable_fastapi_system.infra.cache.shared import SharedLevel, change_message
from scalable_fastapi_system.infra.ending import end_tasks
from scalable_fastapi_system.infra.redis import RedisAwayError

_CHUNK = 1000
_FIRST_POLL_SECONDS = 0.005
_LAST_POLL_SECONDS = 0.1
_log = structlog.get_logger("cache.settling")


class Settling:
    """Makes the missed changes of one process known."""

    def __init__(self, shared: SharedLevel, missed: MissedChanges) -> None:
        self._shared = shared
        self._redis = shared.redis
        self._missed = missed
        self._busy = threading.Lock()  # several loops may share a cache
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to settle in the background of the running loop, after each pause of Redis."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="cache-settling")

    async def stop(self) -> None:
        """Ends what `start` began. The loop must be the one of `start`."""
        task, self._task = self._task, None
        if task is not None:
            await end_tasks([task])

    async def settle(self) -> None:
        """Returns when Redis has missed nothing. Raises RedisAwayError where it is not told within its time limit."""
        while self._missed:
            if self._redis.is_away or not await self._has_turn():
                raise RedisAwayError("changes that Redis has missed are not made known yet")
            try:
                with self._missed.telling() as changes:
                    await self._tell(changes)
            finally:
                self._busy.release()

    async def _has_turn(self) -> bool:
        """Waits for the others, as long as one waits for Redis: what they have taken must not be read before they end."""
        now, pause = asyncio.get_running_loop().time, _FIRST_POLL_SECONDS
        deadline = now() + self._redis.settings.command_timeout_seconds
        while not self._busy.acquire(blocking=False):
            if now() >= deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 1.6, _LAST_POLL_SECONDS)
        return True

    async def _tell(self, changes: Changes) -> None:
        keys, tags, locks = list(changes.keys), list(changes.tags), list(changes.locks)
        for start in range(0, len(keys), _CHUNK):
            some = keys[start : start + _CHUNK]
            await self._shared.drop(some, (), change_message(keys=some))
        if tags:
            await self._shared.drop((), tags, change_message(tags=tags))
        for prefix in changes.prefixes:
            await self._shared.drop_prefix(prefix, change_message(prefix=prefix))
        for start in range(0, len(locks), _CHUNK):
            await self._shared.give_up(locks[start : start + _CHUNK])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._redis.settings.retry_after_failure_seconds)
            try:
                await self.settle()
            except RedisAwayError:
                continue  # still, or again
            except Exception:  # noqa: BLE001 - a process that stopped to settle would leave old values to the others
                _log.exception("changes that Redis has missed could not be made known")
