"""Background tasks end, also where a library loses the first cancel."""

from __future__ import annotations

import asyncio

import pytest
from scalable_fastapi_system.infra.ending import end_tasks


async def _deaf_once() -> None:
    """A loop around a call that loses a cancel, as asyncmy's reading does on Python 3.11."""
    lost = 0
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            lost += 1
            if lost > 1:
                raise


async def test_a_loop_that_loses_the_first_cancel_ends_all_the_same() -> None:
    task = asyncio.create_task(_deaf_once())
    await asyncio.sleep(0)
    await end_tasks([task])
    assert task.cancelled()


async def test_tasks_that_have_ended_by_themselves_are_no_trouble() -> None:
    async def fail() -> None:
        raise ValueError

    async def succeed() -> None: ...

    tasks = [asyncio.create_task(fail()), asyncio.create_task(succeed())]
    await asyncio.wait(tasks)
    await end_tasks(tasks)
    await end_tasks([])


async def test_one_that_cannot_be_ended_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalable_fastapi_system.infra.ending._PAUSE_SECONDS", 0.001)
    is_over = asyncio.Event()

    async def deaf() -> None:
        while not is_over.is_set():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await end_tasks([task])
    assert not task.done()
    is_over.set()
    task.cancel()
    await task
