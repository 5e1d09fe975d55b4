"""Warming: functions that fill the cache when the process starts and, where they say so, again and again.

Of all processes one runs each function at a time: it claims the turn in Redis. A function that fails is logged and
has its next turn; it never keeps the process from starting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from scalable_fastapi_system.infra.ending import end_tasks
from scalable_fastapi_system.infra.redis import RedisAwayError

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.cache.manager import CacheManager

WarmFunction = Callable[[], Awaitable[Mapping[str, Any] | None]]

# Processes that start within this time of one another are one start.
_START_CLAIM_SECONDS = 60.0
_log = structlog.get_logger("cache.warming")


@dataclass(frozen=True, slots=True)
class _Warmer:
    name: str
    function: WarmFunction
    every_seconds: float | None
    ttl_seconds: float
    tags: tuple[str, ...]


class Warming:
    """The warming functions of one cache."""

    def __init__(self, cache: CacheManager) -> None:
        self._cache = cache
        self._warmers: list[_Warmer] = []
        self._tasks: list[asyncio.Task[None]] | None = None

    def add(
        self,
        function: WarmFunction,
        *,
        every_seconds: float | None,
        ttl_seconds: float,
        tags: tuple[str, ...],
        name: str | None,
    ) -> None:
        """Registers a function; begins with it at once where `start` was called already."""
        if every_seconds is not None and every_seconds <= 0:
            raise ValueError("every_seconds must be positive")
        name = (
            name or f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
        )
        warmer = _Warmer(name, function, every_seconds, ttl_seconds, tags)
        self._warmers.append(warmer)
        if self._tasks is not None:
            self._tasks.append(asyncio.get_running_loop().create_task(self._run(warmer)))

    def start(self) -> None:
        """Begins on the running loop, in the background."""
        if self._tasks is None:
            self._tasks = [asyncio.create_task(self._run(warmer)) for warmer in self._warmers]

    async def stop(self) -> None:
        """Ends what is under way."""
        tasks, self._tasks = self._tasks or [], None
        await end_tasks(tasks)

    async def _run(self, warmer: _Warmer) -> None:
        while True:
            try:
                if await self._is_our_turn(warmer):
                    await self._warm(warmer)
            except Exception:  # noqa: BLE001 - whatever a product's function raises is no reason to stop
                _log.exception("warming failed", warmer=warmer.name)
            if warmer.every_seconds is None:
                return
            await asyncio.sleep(warmer.every_seconds)

    async def _is_our_turn(self, warmer: _Warmer) -> bool:
        if self._cache.redis.is_away:
            return True
        # A little less than the period, so that the next turn is not missed by a hair.
        seconds = _START_CLAIM_SECONDS if warmer.every_seconds is None else 0.9 * warmer.every_seconds
        try:
            return await self._cache.shared.claim(f"warm:{warmer.name}", seconds)
        except RedisAwayError:
            return True

    async def _warm(self, warmer: _Warmer) -> None:
        values = await warmer.function()
        if values is not None:
            await self._cache.set_many(values, warmer.ttl_seconds, tags=warmer.tags)
