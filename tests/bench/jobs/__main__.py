"""`python -m tests.bench.jobs`: job queues side by side in one run, by the same driver, with the same handlers.

Rounds go over the contenders in turn, so that a noisy machine is noisy for all; the median of the rounds counts. What to
read is the ratios: absolute figures belong to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY
from tests.bench.jobs.aging import held_transaction, long_history
from tests.bench.jobs.contenders import CONTENDERS, DURABLE, IN_OTHER_ENVIRONMENT
from tests.bench.jobs.counting import CountingProxy
from tests.bench.jobs.stage import Stage

BASE = "arq-tuned"
OTHER_PYTHON = REPOSITORY / ".venv-bench" / "bin" / "python"


@dataclass
class Figures:
    """What was measured of one contender, a value a round."""

    enqueue: list[float] = field(default_factory=list)
    noop_1: list[float] = field(default_factory=list)
    noop_2: list[float] = field(default_factory=list)
    sleep_1: list[float] = field(default_factory=list)
    end_to_end: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    commits: float | None = None
    redis_trips: float | None = None
    postgres_trips: float | None = None
    missing: int = 0


async def drain(stage: Stage, name: str, kind: str, count: int, workers: int) -> tuple[float, float]:
    """A backlog is enqueued, then worked off; jobs a second of the first and of the second."""
    await stage.clear(name)
    enqueued = await stage.run(name, "enqueue", str(count), kind)
    async with stage.workers(name, workers):
        return enqueued["enqueue_per_second"], await stage.until_run(count)


async def end_to_end(stage: Stage, name: str, count: int) -> float:
    """Jobs a second from the first call to the last start, enqueued while two workers run."""
    await stage.clear(name)
    async with stage.workers(name, 1):
        await stage.run(name, "enqueue", "20", "noop")
        await stage.until_run(20)
        loop = asyncio.get_running_loop()
        enqueueing = asyncio.create_task(stage.run(name, "enqueue", str(count), "noop"))
        while stage.tally.total() <= 20 and not enqueueing.done():
            await asyncio.sleep(0.001)
        started = loop.time()
        await enqueueing
        await stage.until_run(count + 20)
        return count / (loop.time() - started)


async def pickup(stage: Stage, name: str, count: int) -> tuple[float, float]:
    """Milliseconds from the call to the start in an idle worker: p50 and p99."""
    await stage.clear(name)
    async with stage.workers(name, 1):
        await stage.run(name, "enqueue", "5", "noop")
        await stage.until_run(5)
        await asyncio.sleep(1.0)
        answer = await stage.run(name, "pickup", str(count))
    return answer["p50_ms"], answer["p99_ms"]


async def costs(stage: Stage, name: str, count: int) -> tuple[float, float, float]:
    """Commits, Redis round trips and Postgres round trips a job, enqueue and work together, in a backlog."""
    await stage.clear(name)
    postgres = CountingProxy(stage.postgres.port)
    redis = CountingProxy(urlsplit(stage.redis.url()).port or 0)
    async with postgres.running(), redis.running():
        ports = (postgres.port, redis.port)
        before = await stage.commits(name)
        await stage.run(name, "enqueue", str(count), "noop", ports=ports)
        async with stage.workers(name, 1, ports=ports):
            await stage.until_run(count)
            after = await stage.commits(name)
        return (after - before) / count, redis.round_trips / count, postgres.round_trips / count


def middle(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def table(found: dict[str, Figures]) -> str:
    """The figures as a Markdown table, with ratios to tuned arq."""
    base = found.get(BASE)

    def cell(values: Sequence[float], base_values: Sequence[float] | None) -> str:
        value, reference = middle(values), middle(base_values or ())
        if value is None:
            return "-"
        return f"{value:.0f}" + (f" ({value / reference:.2f}×)" if reference else "")

    lines = [
        (
            "| | durable | enqueue/s | no-op/s, 1 worker | no-op/s, 2 workers | 10 ms/s, 1 worker | end to end/s | "
            "pick-up p50 | p99 | commits/job | Redis trips/job | Postgres trips/job | never ran |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in found.items():
        cells = [
            cell(getattr(figures, part), getattr(base, part) if base else None)
            for part in ("enqueue", "noop_1", "noop_2", "sleep_1", "end_to_end")
        ]
        p50, p99 = middle(figures.p50_ms), middle(figures.p99_ms)
        cells += [
            f"{p50:.1f} ms" if p50 is not None else "-",
            f"{p99:.1f} ms" if p99 is not None else "-",
            *(
                f"{value:.3f}" if value is not None else "-"
                for value in (figures.commits, figures.redis_trips, figures.postgres_trips)
            ),
            str(figures.missing),
        ]
        lines.append(f"| {name} | {'yes' if name in DURABLE else 'no'} | {' | '.join(cells)} |")
    return "\n".join(lines)


async def measure(arguments: argparse.Namespace) -> int:
    """All of it."""
    names = arguments.contenders or list(CONTENDERS)
    other = OTHER_PYTHON if OTHER_PYTHON.exists() else None
    if other is None:
        left_out = [name for name in names if name in IN_OTHER_ENVIRONMENT]
        names = [name for name in names if name not in IN_OTHER_ENVIRONMENT]
        if left_out:
            print(f"without {', '.join(left_out)}: there is no {OTHER_PYTHON.relative_to(REPOSITORY)}")
    found = {name: Figures() for name in names}
    async with Stage.set(other) as stage:
        for number in range(arguments.rounds):
            for name in names:
                await one_round(stage, name, found[name], arguments.jobs)
                found[name].missing += stage.missing
                stage.missing = 0
                print(f"round {number + 1}: {name} done", file=sys.stderr, flush=True)
        for name in names:
            figures = found[name]
            figures.commits, figures.redis_trips, figures.postgres_trips = await costs(
                stage, name, arguments.jobs // 4
            )
        print(table(found))
        if "ours" in names and not arguments.no_aging:
            print(await long_history(stage, rows=arguments.history, jobs=arguments.jobs))
            print(await held_transaction(stage, seconds=arguments.hold_seconds, jobs=arguments.jobs))
    return 0


async def one_round(stage: Stage, name: str, figures: Figures, jobs: int) -> None:
    """Every figure of one contender, once. arq's defaults get fewer jobs: they would take minutes."""
    count = jobs // 10 if name == "arq" else jobs
    rate, noop_rate = await drain(stage, name, "noop", count, 1)
    figures.enqueue.append(rate)
    figures.noop_1.append(noop_rate)
    figures.noop_2.append((await drain(stage, name, "noop", count, 2))[1])
    figures.sleep_1.append((await drain(stage, name, "sleep", count // 2, 1))[1])
    figures.end_to_end.append(await end_to_end(stage, name, count))
    p50, p99 = await pickup(stage, name, 30)
    figures.p50_ms.append(p50)
    figures.p99_ms.append(p99)


def main() -> int:
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.jobs", description=__doc__)
    parser.add_argument("contenders", nargs="*", choices=[*CONTENDERS, []], help="which (all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=4000, help="jobs in a backlog")
    parser.add_argument("--history", type=int, default=1_000_000, help="ended rows for the test of history")
    parser.add_argument("--hold-seconds", type=float, default=600, help="how long a transaction is held open")
    parser.add_argument("--no-aging", action="store_true", help="without history and held transaction")
    try:
        return asyncio.run(measure(parser.parse_args()))
    except DevError as error:
        sys.stderr.write(error.describe() + "\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
