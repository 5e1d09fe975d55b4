"""Ends tasks that run in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

_TRIES = 10
_PAUSE_SECONDS = 0.2


async def end_tasks(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels tasks and waits until they have ended, for two seconds at most.

    More than once, because a cancel may be lost: redis-py catches some, and `asyncio.wait_for` of Python 3.11, by which
    asyncmy reads, returns its result where that came in the same turn. A loop that was asked once then goes on for ever.
    """
    for _ in range(_TRIES):
        left = [task for task in tasks if not task.done()]
        if not left:
            break
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_PAUSE_SECONDS)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # seen: nobody asks for it any more
