"""Every target's turn at every work, round after round, and the medians.

A target's figure is divided by the hand-written application's of the same round, so that what the machine did
to both does not count; the ratio that is reported is the median of the rounds.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from tests.bench import load
from tests.bench.collector import collector
from tests.bench.machine import Clock
from tests.bench.servers import Limit, Platform, Server, seed_limits
from tests.bench.stores import Stores
from tests.bench.works import BASE, TARGETS, WORKS, Work

WARM_UP_SECONDS = 2
MAX_FOREIGN_PERCENT = 15.0
_PAUSE_SECONDS = 0.4


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure and for how long. tries: how often a turn may be repeated that others' programs disturbed."""

    targets: Sequence[str]
    works: Sequence[str]
    rounds: int = 3
    seconds: int = 4
    connections: int = 32
    tries: int = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn. CPU is the server's own; `foreign_percent` and `steal_percent` are of one core."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    foreign_percent: float
    steal_percent: float
    bad: int


@dataclass(slots=True)
class Row:
    """A target's turns at a work."""

    target: str
    work: Work
    samples: list[Sample] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)

    def middle(self, figure: str) -> float:
        """The median of one figure."""
        return median(getattr(sample, figure) for sample in self.samples)

    @property
    def ratio(self) -> float | None:
        """Requests per second, of the hand-written application's."""
        return median(self.ratios) if self.ratios else None

    @property
    def cpu_ratio(self) -> float | None:
        """The same by the server's own processor time, which neighbours move less."""
        return median(self.cpu_ratios) if self.cpu_ratios else None

    @property
    def is_enough(self) -> bool | None:
        """Whether the platform is as near as it has to be; None where nothing is asked."""
        if self.target != "ours" or self.work.at_least is None or self.ratio is None:
            return None
        return self.ratio >= self.work.at_least

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        return {
            "target": self.target,
            "work": self.work.name,
            "ratio": self.ratio,
            "cpu_ratio": self.cpu_ratio,
            "at_least": self.work.at_least if self.target == "ours" else None,
            "samples": [asdict(sample) for sample in self.samples],
        }


def compare(plan: Plan, stores: Stores) -> list[Row]:
    """Measures. Raises DevError where a server does not start or does not answer."""
    with collector() as endpoint, _servers(plan, stores, endpoint) as servers:
        works = [work for work in WORKS if work.name in plan.works]
        turns = [
            (Row(target, work), servers[target], servers[target].call(work))
            for work in works
            for target in plan.targets
            if work in TARGETS[target]
        ]
        for row, server, call in turns:
            server.child.thaw()
            load.run(call, seconds=WARM_UP_SECONDS, connections=plan.connections, folder=stores.folder)
            server.child.freeze()
            _say(f"warm {row.target} {row.work.name}")
        for number in range(1, plan.rounds + 1):
            stores.checkpoint()
            time.sleep(1)
            bases: dict[str, Sample] = {}
            for row, server, call in turns:
                server.child.thaw()
                sample = _quiet_sample(server, call, plan, stores)
                time.sleep(_PAUSE_SECONDS)  # it finishes what wrk left under way
                server.child.freeze()
                row.samples.append(sample)
                if row.target == BASE:
                    bases[row.work.name] = sample
                base = bases.get(row.work.base)
                if base is not None:
                    row.ratios.append(sample.per_second / base.per_second)
                    row.cpu_ratios.append(base.cpu_us / sample.cpu_us)
                _say(
                    f"round {number} {row.work.name:12} {row.target:18} {sample.per_second:7.0f}/s "
                    f"{sample.cpu_us:6.0f} µs"
                )
    return [row for row, _, _ in turns]


@contextlib.contextmanager
def _servers(plan: Plan, stores: Stores, otlp_endpoint: str) -> Iterator[dict[str, Server]]:
    dsn = stores.new_database("bench_limits")
    seed_limits(dsn)
    servers: dict[str, Server] = {}
    try:
        for target in plan.targets:
            server = servers[target] = _make(target, stores, dsn, otlp_endpoint)
            if isinstance(server, Platform):
                server.migrate()
            server.start(probe="/users/me")
            server.prepare()
            _say(f"{target} is ready")
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def _make(target: str, stores: Stores, dsn: str, otlp_endpoint: str) -> Server:
    factories = {
        "starlette": "bare:starlette",
        "fastapi": "bare:fastapi",
        "handwritten": "handwritten:app",
        "handwritten-tuned": "handwritten:tuned",
        "naive": "naive:app",
    }
    if target in factories:
        has_store = target not in {"starlette", "fastapi"}
        return Limit(target, factories[target], stores, dsn=dsn if has_store else "")
    ratio = {"ours-traced": "0.1", "ours-traced-all": "1"}.get(target)
    traced = (
        {}
        if ratio is None
        else {
            "TRACING__ENABLED": "true",
            "TRACING__SAMPLE_RATIO": ratio,
            "TRACING__OTLP_ENDPOINT": otlp_endpoint,
        }
    )
    database = f"bench_{target.replace('-', '_')}"
    return Platform(target, stores, dsn=stores.new_database(database), environment=traced)


def _quiet_sample(server: Server, call: load.Call, plan: Plan, stores: Stores) -> Sample:
    """A turn in which others took little of the machine, else the quietest of some."""
    best: Sample | None = None
    for attempt in range(1, plan.tries + 1):
        sample = _sample(server, call, plan, stores)
        if best is None or sample.foreign_percent < best.foreign_percent:
            best = sample
        if best.foreign_percent < MAX_FOREIGN_PERCENT:
            break
        if attempt < plan.tries:
            _say(f"  others took {sample.foreign_percent:.0f} % of a core: again")
            time.sleep(attempt)
    assert best is not None
    return best


def _sample(server: Server, call: load.Call, plan: Plan, stores: Stores) -> Sample:
    roots = [server.child.pid, *stores.pids]
    clock, cpu = Clock.read(roots), server.cpu_seconds()
    outcome = load.run(call, seconds=plan.seconds, connections=plan.connections, folder=stores.folder)
    later, used = Clock.read(roots), server.cpu_seconds() - cpu
    return Sample(
        per_second=outcome.per_second,
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        cpu_us=used / max(1, outcome.requests) * 1e6,
        foreign_percent=later.foreign_percent(clock, outcome.seconds),
        steal_percent=later.steal_percent(clock, outcome.seconds),
        bad=outcome.bad,
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
