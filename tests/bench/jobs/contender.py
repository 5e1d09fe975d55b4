"""One contender's process: `python -m tests.bench.jobs.contender NAME work|enqueue|pickup [COUNT] [KIND]`.

Prints one line of JSON when it has done what it was asked for; a worker prints a line when it starts and then nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from typing import Any

from tests.bench.jobs.contenders import Contender, make
from tests.bench.jobs.tally import Tally

_PICKUP_PAUSE_SECONDS = (0.05, 0.15)
_PICKUP_TIMEOUT_SECONDS = 5.0


async def enqueue(contender: Contender, count: int, kind: str) -> dict[str, Any]:
    """So many jobs; jobs a second."""
    await contender.open()
    started = time.perf_counter()
    await contender.enqueue_many(kind, count)
    seconds = time.perf_counter() - started
    await contender.close()
    return {"enqueue_per_second": count / seconds, "seconds": seconds}


async def pickup(contender: Contender, count: int) -> dict[str, Any]:
    """From the call to the handler's start, one job at a time at random moments, in milliseconds."""
    tally = Tally.of_worker()
    await contender.open()
    waits: list[float] = []
    for index in range(count + 5):
        await asyncio.sleep(random.uniform(*_PICKUP_PAUSE_SECONDS))
        before = tally.total()
        asked = time.monotonic_ns()
        await contender.enqueue("noop")
        deadline = time.monotonic() + _PICKUP_TIMEOUT_SECONDS
        while tally.total() == before and time.monotonic() < deadline:
            await asyncio.sleep(0.0005)
        if index >= 5:  # the first ones open connections
            waits.append((tally.last_start_ns() - asked) / 1e6)
    await contender.close()
    waits.sort()
    return {"p50_ms": waits[len(waits) // 2], "p99_ms": waits[min(len(waits) - 1, int(len(waits) * 0.99))]}


def main() -> None:
    """Does what the arguments ask for, on uvloop."""
    import uvloop

    logging.disable(logging.CRITICAL)
    _quiet_structlog()
    name, what, *rest = sys.argv[1:]
    contender = make(name)
    if what == "work":
        print(json.dumps({"started": True}), flush=True)
        uvloop.run(contender.work())
    elif what == "enqueue":
        kind = rest[1] if len(rest) > 1 else "noop"
        print(json.dumps(uvloop.run(enqueue(contender, int(rest[0]), kind))))
    else:
        print(json.dumps(uvloop.run(pickup(contender, int(rest[0])))))


def _quiet_structlog() -> None:
    """As logging.disable does for the others."""
    try:
        import structlog
    except ImportError:
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


if __name__ == "__main__":
    main()
