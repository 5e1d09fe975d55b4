"""Many callers of one entry in a process of its own: `python callers.py REDIS_URL KEY CALLERS LOAD_SECONDS LOCK_SECONDS`.

Prints "ready", waits for a line, calls, and prints what the callers got and how often it loaded.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from scalable_fastapi_system.infra.cache import CacheManager
from scalable_fastapi_system.infra.settings import Settings


async def main(url: str, key: str, callers: int, load_seconds: float, lock_seconds: float) -> None:
    cache = CacheManager(
        Settings(
            _env_file=None,
            environment="test",
            # Patient, because the machine that runs the tests may be busy.
            redis={"redis_url": url, "command_timeout_seconds": 10.0, "connect_timeout_seconds": 10.0},
            cache={"lock_seconds": lock_seconds},
        )
    )
    await cache.start()
    loads = 0

    async def load() -> dict[str, int]:
        nonlocal loads
        loads += 1
        print("loading", flush=True)
        await asyncio.sleep(load_seconds)
        return {"made_by": os.getpid()}

    await cache.redis.ping()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    got = await asyncio.gather(*(cache.get_or_load(key, load, ttl=60) for _ in range(callers)))
    await cache.stop()
    print(
        json.dumps({"loads": loads, "answers": len(got), "makers": sorted({one["made_by"] for one in got})})
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])))
