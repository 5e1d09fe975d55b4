"""What a test that was stopped for its time was waiting for: the coroutines of its event loop, outermost first."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any


def describe_waiting_tasks() -> str:
    """Each unfinished task of this process with the chain of what it awaits. The stack alone shows a loop's `select`."""
    waiting = [one for one in gc.get_objects() if isinstance(one, asyncio.Task) and not one.done()]
    return "\n".join(line for task in waiting for line in _describe(task))


def _describe(task: asyncio.Task[Any]) -> Iterator[str]:
    yield f"{task.get_name()}:"
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
        yield f"    {getattr(awaited, '__qualname__', awaited)} {place}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
