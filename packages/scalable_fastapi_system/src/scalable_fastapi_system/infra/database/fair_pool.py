"""asyncpg's pool with its connections given out in the order in which they are asked for.

asyncpg keeps them in a queue of asyncio, which wakes the first that waits, and lets whoever comes before that one has run take what
it was woken for; the woken one goes to the end. Where more ask than there are connections some wait for many times as long as others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import asyncpg
from asyncpg.pool import _PoolConnectionHolderQueue
from sqlalchemy.exc import TimeoutError as PoolTimeoutError


class _Line(_PoolConnectionHolderQueue):  # type: ignore[misc] # asyncpg has no types
    """Hands what comes back to the first that waits, so that there is nothing to take before it.

    Who waits first has waited longest: one timer for the first ends all waits, where a clock for each would cost
    more than the rest of the waiting.
    """

    def __init__(self, maxsize: int, patience_seconds: float | None) -> None:
        super().__init__(maxsize)
        self._patience_seconds = patience_seconds
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def get(self) -> Any:
        if not self.empty():
            return self.get_nowait()
        loop = asyncio.get_running_loop()
        handed: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((loop.time(), handed))
        if self._timer is None and self._patience_seconds is not None:
            self._timer = loop.call_later(
                self._patience_seconds, self._end_waits, loop, self._patience_seconds
            )
        try:
            return await handed
        except asyncio.CancelledError:
            if not handed.cancelled() and handed.exception() is None:  # it was given one just as it left
                self.put_nowait(handed.result())
            raise

    def put_nowait(self, item: Any) -> None:
        while self._waiting:
            _, handed = self._waiting.popleft()
            if not handed.done():  # else it was cancelled
                handed.set_result(item)
                return
        super().put_nowait(item)

    def _end_waits(self, loop: asyncio.AbstractEventLoop, patience_seconds: float) -> None:
        self._timer = None
        now = loop.time()
        while self._waiting:
            since, handed = self._waiting[0]
            if not handed.done():
                left = since + patience_seconds - now
                if left > 0:
                    self._timer = loop.call_later(left, self._end_waits, loop, patience_seconds)
                    return
                handed.set_exception(PoolTimeoutError("no connection came free in time"))
            self._waiting.popleft()


class FairPool(asyncpg.Pool):  # type: ignore[misc] # asyncpg has no types
    """See the module."""

    _queue: Any

    def __init__(
        self, dsn: str, *, max_size: int, patience_seconds: float | None = None, **options: Any
    ) -> None:
        """
        patience_seconds: of a wait for a connection, after which it raises SQLAlchemy's TimeoutError; None for no end.
        options: as of `asyncpg.create_pool`.
        """
        defaults: dict[str, Any] = {
            "max_queries": 50_000,
            "max_inactive_connection_lifetime": 300.0,
            "connection_class": asyncpg.Connection,
            "record_class": asyncpg.Record,
            "loop": None,
        }
        super().__init__(dsn, max_size=max_size, **{**defaults, **options})
        self._patience_seconds = patience_seconds

    async def _initialize(self) -> None:
        await super()._initialize()
        line = _Line(self._maxsize, self._patience_seconds)
        while not self._queue.empty():
            line.put_nowait(self._queue.get_nowait())
        self._queue = line
