"""`python -m tests.bench.caches`: the cache beside cashews in one run, on one Redis, the same value and the same load.

Rounds go over the contenders in turn, so that a noisy machine is noisy for all; the median of the rounds counts. What to
read is the ratios: absolute figures belong to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from redis.asyncio import Redis as Client

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY
from hack.dev.ports import find_free
from hack.dev.redis_server import Redis
from tests.bench.caches.contenders import CONTENDERS, HERD, LEVELS

OTHER_PYTHON = REPOSITORY / ".venv-bench" / "bin" / "python"
TIMES = {
    "get": "`get`, hit",
    "get_at_once": "the same, 50 callers at once",
    "call": "decorated function, hit",
    "miss_and_set": "`get` that misses, then `set`",
    "call_miss": "decorated function with a tag, miss",
    "invalidate": "a tag of all entries voided",
}
TRIPS = {
    "get": "`get`, hit",
    "call": "decorated function, hit",
    "miss_and_set": "`get` that misses, then `set`",
    "call_miss": "decorated function with a tag, miss",
    "invalidate": "a tag of 201 entries voided",
}
COUNTED = 200
PROCESSES = 2
HERD_START_SECONDS = 15.0  # a busy machine takes its time to start them
Figures = dict[tuple[str, str], dict[str, list[dict[str, float]]]]


class Stage:
    """One Redis, and contenders as processes on it."""

    def __init__(self, folder: Path) -> None:
        self.redis = Redis(
            folder / "redis", port=find_free(), password="bench", log_path=folder / "redis.log"
        )

    async def run(self, name: str, level: str, what: str, count: int) -> dict[str, Any]:
        """What one process measured. DevError where it failed, with what it said."""
        python = sys.executable if name == "ours" else str(OTHER_PYTHON)
        process = await asyncio.create_subprocess_exec(
            *(python, "-m", "tests.bench.caches.contender", name, level, what, str(count)),
            cwd=REPOSITORY,
            env={**os.environ, "REDIS_URL": self.redis.url()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, said = await process.communicate()
        if process.returncode:
            raise DevError(f"{name} ({level}, {what}) failed", advice=said.decode(errors="replace")[-2000:])
        answer: dict[str, Any] = json.loads(out)
        return answer

    async def clear(self) -> None:
        """An empty Redis."""
        async with Client.from_url(self.redis.url()) as client:
            await client.flushall()

    async def used_bytes(self) -> int:
        """What Redis holds."""
        async with Client.from_url(self.redis.url()) as client:
            return int((await client.info("memory"))["used_memory_dataset"])


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """A Redis of its own, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="sfs-bench-caches-"))
    made = Stage(folder)
    try:
        await asyncio.to_thread(made.redis.start)
        yield made
    finally:
        if made.redis.is_running:
            await asyncio.to_thread(made.redis.kill)
        shutil.rmtree(folder, ignore_errors=True)


async def herd(scene: Stage, name: str, level: str) -> float:
    """How often HERD callers in each of PROCESSES, at the same moment, load what nobody has."""
    await scene.clear()
    start = int((time.time() + HERD_START_SECONDS) * 10)
    answers = await asyncio.gather(*(scene.run(name, level, "herd", start) for _ in range(PROCESSES)))
    return float(sum(answer["loads"] for answer in answers))


async def weight(scene: Stage, name: str, entries: int) -> tuple[float, float]:
    """Bytes an entry: of Redis, and of a process that has them all in memory as well."""
    await scene.clear()
    before = await scene.used_bytes()
    answer = await scene.run(name, "both", "memory", entries)
    return (await scene.used_bytes() - before) / entries, float(answer["bytes"])


async def measure(arguments: argparse.Namespace) -> int:
    """All of it, printed as Markdown."""
    if not OTHER_PYTHON.exists():
        raise DevError("cashews has no environment here", advice="Make it: make .venv-bench/.setup")
    plain = [name for name in CONTENDERS if "lock" not in name]
    times: Figures = {(level, name): {} for level in LEVELS for name in plain}
    async with stage() as scene:
        for number in range(arguments.rounds):
            for level, name in times:
                await scene.clear()
                answer = await scene.run(name, level, "times", arguments.count)
                for what, value in answer.items():
                    times[level, name].setdefault(what, []).append(value)
            print(f"round {number + 1} done", file=sys.stderr, flush=True)
        print(times_table(times, plain))
        counted: dict[tuple[str, str], dict[str, float]] = {}
        for level, name in times:
            if level != "memory":
                await scene.clear()
                counted[level, name] = await scene.run(name, level, "trips", COUNTED)
        print(trips_table(counted, plain), flush=True)
        herds = {
            (level, name): [await herd(scene, name, level) for _ in range(arguments.herds)]
            for level in ("redis", "both")
            for name in CONTENDERS
        }
        weights = {name: await weight(scene, name, arguments.entries) for name in plain}
    print(f"\nLoads of {PROCESSES} processes with {HERD} callers each, in each round:\n")
    for (level, name), loads in herds.items():
        print(f"- {name}, {level}: {', '.join(f'{count:.0f}' for count in loads)}")
    print(f"\nBytes an entry, of {arguments.entries} with one tag:\n")
    for name, (redis_bytes, process_bytes) in weights.items():
        print(f"- {name}: {redis_bytes:.0f} in Redis, {process_bytes:.0f} in a process that has it in memory")
    return 0


def times_table(times: Figures, names: list[str]) -> str:
    """Medians of microseconds for one operation."""
    lines = [
        "| level | operation | "
        + " | ".join(f"{name}: time | own CPU | Redis' CPU" for name in names)
        + " |",
        "|---|---|" + "---|" * (3 * len(names)),
    ]
    for level in LEVELS:
        for what, label in TIMES.items():
            cells = [
                f"{statistics.median(cost[part] for cost in times[level, name][what]):.1f}"
                for name in names
                for part in ("wall", "own", "redis")
            ]
            lines.append(f"| {level} | {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def trips_table(counted: dict[tuple[str, str], dict[str, float]], names: list[str]) -> str:
    """Redis round trips of one operation."""
    lines = ["\n| level | Redis round trips | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for level in LEVELS[1:]:
        for what, label in TRIPS.items():
            cells = " | ".join(f"{counted[level, name][what]:.2f}" for name in names)
            lines.append(f"| {level} | {label} | {cells} |")
    return "\n".join(lines)


def main() -> int:
    """Measures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.caches", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=3000, help="operations of each kind in a round")
    parser.add_argument("--herds", type=int, default=3, help="how often the herd comes")
    parser.add_argument(
        "--entries", type=int, default=8000, help="entries for the weight; cashews keeps 10 000"
    )
    try:
        return asyncio.run(measure(parser.parse_args()))
    except DevError as error:
        sys.stderr.write(error.describe() + "\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
