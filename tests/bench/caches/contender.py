"""One contender's process: `python -m tests.bench.caches.contender NAME LEVEL WHAT COUNT`, with REDIS_URL.

Prints one line of JSON. WHAT is a method of `Tasks`; each leaves its process with an answer in numbers alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tests.bench.caches.contenders import CONTENDERS, HERD, TAG, Cache
from tests.bench.jobs.counting import CountingProxy

SCOPES = ["datasets:read", "datasets:write", "tasks:read"]
PROFILE = {"name": "Ada Lovelace", "city": "London", "score": 0.75}
VALUE = {
    "id": 4711,
    "username": "ada.lovelace",
    "email": "ada@example.com",
    "role": "user",
    "is_active": True,
    "created_at": "2026-01-02T03:04:05+00:00",
    "scopes": SCOPES,
    "profile": PROFILE,
}
AT_ONCE = 50
LOAD_SECONDS = 0.3
HERDED = -1  # the number that takes so long to load
WARM_UP = 300


Cost = dict[str, float]


class Tasks:
    """What is measured. Microseconds for one operation unless said otherwise."""

    def __init__(self, cache: Cache, count: int) -> None:
        self.cache = cache
        self.count = count

    async def times(self) -> dict[str, Cost]:
        """What each operation costs one caller, one after another."""
        cache = self.cache
        await cache.set("number:0", VALUE)
        assert await cache.get("number:0") == VALUE
        answer = {"get": await self._each(lambda _: cache.get("number:0"))}
        assert (await cache.cached(0))["id"] == 0
        assert (await cache.cached(0))["id"] == 0
        answer["call"] = await self._each(lambda _: cache.cached(0))

        async def miss_and_set(number: int) -> None:
            if await cache.get(f"new:{number}") is None:
                await cache.set(f"new:{number}", VALUE)

        answer["miss_and_set"] = await self._each(miss_and_set)
        answer["call_miss"] = await self._each(lambda number: cache.cached(number + 1))
        left = iter(range(self.count))

        async def caller() -> None:
            for _ in left:
                await cache.get("number:0")

        async def all_callers() -> None:
            await asyncio.gather(*(caller() for _ in range(AT_ONCE)))

        answer["get_at_once"] = await self._cost(all_callers(), self.count)
        answer["invalidate"] = await self._cost(cache.invalidate(TAG), 1)  # of count + 1 entries
        return answer

    async def _each(self, operation: Callable[[int], Awaitable[Any]]) -> Cost:
        async def all_of_them() -> None:
            for number in range(self.count):
                await operation(number)

        return await self._cost(all_of_them(), self.count)

    async def _cost(self, work: Awaitable[Any], count: int) -> Cost:
        """Wall clock, this process' CPU and Redis' CPU."""
        redis_cpu = await _redis_cpu()
        started, cpu = time.perf_counter(), time.process_time()
        await work
        spent = time.perf_counter() - started, time.process_time() - cpu, await _redis_cpu() - redis_cpu
        wall, own, redis = (seconds / count * 1e6 for seconds in spent)
        return {"wall": wall, "own": own, "redis": redis}

    async def trips(self) -> dict[str, float]:
        """Bursts sent to Redis for one operation, by the proxy that `run` has put before it."""
        cache, count = self.cache, self.count
        await cache.set("number:0", VALUE)
        await cache.get("number:0")
        await cache.cached(0)
        await cache.cached(0)

        async def miss_and_set(number: int) -> None:
            await cache.get(f"new:{number}")
            await cache.set(f"new:{number}", VALUE)

        answer = {}
        for name, operation in (
            ("get", lambda _: cache.get("number:0")),
            ("call", lambda _: cache.cached(0)),
            ("miss_and_set", miss_and_set),
            ("call_miss", lambda number: cache.cached(number + 1)),
        ):
            before = PROXY.round_trips
            await self._each(operation)
            answer[name] = (PROXY.round_trips - before) / count
        before = PROXY.round_trips
        await cache.invalidate(TAG)  # of count + 1 entries
        answer["invalidate"] = PROXY.round_trips - before
        return answer

    async def memory(self) -> dict[str, float]:
        """Bytes of this process for an entry that is copied into memory."""
        for number in range(WARM_UP):
            await self.cache.cached(-number - 2)
        gc.collect()
        before = _resident_bytes()
        for number in range(self.count):
            await self.cache.cached(number)
        gc.collect()
        return {"bytes": (_resident_bytes() - before) / self.count}

    async def herd(self) -> dict[str, float]:
        """HERD callers of one entry that nobody has, from a moment on that `count` says, in tenths of a second."""
        await self.cache.get("connect")
        wait = self.count / 10 - time.time()
        assert wait > 0, "too late: this machine is too busy to start the herd at one moment"
        await asyncio.sleep(wait)
        await asyncio.gather(*(self.cache.cached(HERDED) for _ in range(HERD)))
        return {"loads": float(LOADS.count(HERDED))}


LOADS: list[int] = []
PROXY = CountingProxy(urlsplit(os.environ.get("REDIS_URL", "")).port or 6379)


async def load(number: int) -> Any:
    """What is cached. The herd's takes its time."""
    LOADS.append(number)
    if number == HERDED:
        await asyncio.sleep(LOAD_SECONDS)
    return {**VALUE, "id": number, "scopes": [*SCOPES], "profile": {**PROFILE}}


async def _redis_cpu() -> float:
    """Seconds of CPU that Redis has had, but for its housekeeping threads."""
    from redis.asyncio import Redis

    async with Redis.from_url(os.environ["REDIS_URL"]) as client:
        spent = await client.info("cpu")
    return float(spent["used_cpu_user"] + spent["used_cpu_sys"])


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


async def run(name: str, level: str, what: str, count: int) -> dict[str, Any]:
    """Opens the contender's cache, does it, closes."""
    cache = CONTENDERS[name]()
    url = os.environ["REDIS_URL"]
    async with contextlib.AsyncExitStack() as stack:
        if what == "trips":
            await stack.enter_async_context(PROXY.running())
            parts = urlsplit(url)
            url = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{PROXY.port}")))
        await cache.open(url, level, load)
        answer: dict[str, Any] = await getattr(Tasks(cache, count), what)()
        await cache.close()
    return answer


def main() -> None:
    """Does what the arguments ask for, on uvloop."""
    import uvloop

    logging.disable(logging.CRITICAL)
    name, level, what, count = sys.argv[1:]
    print(json.dumps(uvloop.run(run(name, level, what, int(count)))))


if __name__ == "__main__":
    main()
