"""Single flight between processes, at the figures of the requirements (row 30)."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

from scalable_fastapi_system.infra.cache import CacheManager

CALLERS = Path(__file__).with_name("callers.py")


async def process(url: str, *, callers: int, load_seconds: float, lock_seconds: float) -> Process:
    """Callers that are ready to begin."""
    arguments = [url, "hot", str(callers), str(load_seconds), str(lock_seconds)]
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(CALLERS), *arguments, stdin=PIPE, stdout=PIPE
    )
    assert await said(child) == "ready"
    return child


async def said(child: Process) -> str:
    assert child.stdout is not None
    async with asyncio.timeout(30):
        return (await child.stdout.readline()).decode().strip()


def begin(child: Process) -> None:
    assert child.stdin is not None
    child.stdin.write(b"\n")


async def result(child: Process) -> dict[str, Any]:
    out, _ = await child.communicate()
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


async def test_500_cold_callers_in_4_processes_make_one_load(redis_url: str) -> None:
    children = await asyncio.gather(
        *(process(redis_url, callers=125, load_seconds=0.3, lock_seconds=10) for _ in range(4))
    )
    for child in children:
        begin(child)
    results = [await result(child) for child in children]
    assert sum(found["answers"] for found in results) == 500
    assert sum(found["loads"] for found in results) == 1
    assert len({maker for found in results for maker in found["makers"]}) == 1


async def test_a_dead_lock_holder_is_recovered_in_its_locks_time(redis_url: str) -> None:
    lock_seconds = 5.0  # it is renewed each third of this: the rest is what a busy machine may take
    holder = await process(redis_url, callers=1, load_seconds=600, lock_seconds=lock_seconds)
    begin(holder)
    assert await said(holder) == "loading"
    waiting = await process(redis_url, callers=50, load_seconds=0, lock_seconds=lock_seconds)
    begin(waiting)
    await asyncio.sleep(1.3 * lock_seconds)  # it lives, so its lock does
    assert waiting.returncode is None
    holder.kill()
    await holder.wait()
    died = time.monotonic()
    found = await result(waiting)
    assert time.monotonic() - died < 30  # not the 600 s that its load would have taken
    assert found == {"loads": 1, "answers": 50, "makers": [waiting.pid]}


async def test_a_process_whose_load_fails_leaves_the_lock_to_the_next(
    cache: CacheManager, redis_url: str
) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.3)
        raise RuntimeError("the database is away")

    failing = asyncio.create_task(cache.get_or_load("hot", fail))
    waiting = await process(redis_url, callers=3, load_seconds=0, lock_seconds=30)
    begin(waiting)
    started = time.monotonic()
    found = await result(waiting)
    assert time.monotonic() - started < 25  # not the lock's 30 s
    assert found["loads"] == 1
    assert isinstance((await asyncio.gather(failing, return_exceptions=True))[0], RuntimeError)
