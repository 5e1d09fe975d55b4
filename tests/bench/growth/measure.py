"""Turns of several requests, round after round, the servers that are not asked stopped; the medians count."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench import load
from tests.bench.growth.idle import idle_connections
from tests.bench.machine import Clock, family_memory_bytes, family_seconds
from tests.bench.servers import Server
from tests.bench.stores import Stores

_WARM_UP_SECONDS = 2
_PAUSE_SECONDS = 0.4
_REST_SECONDS = 30.0
_AT_REST = 0.1  # of a core
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """For how long, and to what size."""

    rounds: int = 3
    seconds: int = 3
    most_rows: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Turn:
    """One request to one server. `idle`: further connections that are held open and say nothing."""

    name: str
    server: Server
    call: load.Call
    connections: int = 32
    idle: int = 0


@dataclass(frozen=True, slots=True)
class Figure:
    """What one turn came to. CPU is the server's own and the stores'; the memory is at its end (PSS)."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    store_us: float
    memory_mib: float
    foreign_percent: float
    refused: float = 0.0  # share of the requests that were answered, with 4xx or 5xx
    broken: float = 0.0  # share of those without an answer


def measure(turns: Sequence[Turn], plan: Plan, stores: Stores) -> list[Figure]:
    """A figure for each turn. The servers run and are left stopped (SIGSTOP)."""
    taken: list[list[Figure]] = [[] for _ in turns]
    for turn in turns:
        turn.server.child.freeze()
    for number in range(plan.rounds + 1):
        stores.checkpoint()
        for turn, figures in zip(turns, taken, strict=True):
            turn.server.child.thaw()
            figure = _take(turn, _WARM_UP_SECONDS if number == 0 else plan.seconds, stores)
            _await_rest(turn.server)
            turn.server.child.freeze()
            if number > 0:
                figures.append(figure)
            say(
                f"{'warm-up' if number == 0 else f'round {number}'} {turn.name:40} {turn.connections:4} connections "
                f"{figure.per_second:7.0f}/s {figure.cpu_us:6.0f} µs"
            )
    return [middle(figures) for figures in taken]


def middle(figures: Sequence[Figure]) -> Figure:
    """The median of each value."""
    return Figure(
        **{name: median(getattr(figure, name) for figure in figures) for name in Figure.__dataclass_fields__}
    )


def say(line: str) -> None:
    """Shows how far it is."""
    print(line, file=sys.stderr, flush=True)


def _take(turn: Turn, seconds: int, stores: Stores) -> Figure:
    roots = [turn.server.child.pid, *stores.pids]
    with idle_connections(turn.server.port, turn.idle):
        clock, cpu, store_cpu = Clock.read(roots), turn.server.cpu_seconds(), _store_seconds(stores)
        outcome = load.run(turn.call, seconds=seconds, connections=turn.connections, folder=stores.folder)
        later, used = Clock.read(roots), turn.server.cpu_seconds() - cpu
        store_used = _store_seconds(stores) - store_cpu
        memory = family_memory_bytes(turn.server.child.pid)
    count = max(1, outcome.requests)
    return Figure(
        per_second=outcome.per_second,
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        cpu_us=used / count * 1e6,
        store_us=store_used / count * 1e6,
        memory_mib=memory / _MIB,
        foreign_percent=later.foreign_percent(clock, outcome.seconds),
        refused=outcome.refused / count,
        broken=(outcome.bad - outcome.refused) / count,
    )


def _await_rest(server: Server) -> None:
    """Until it has finished what wrk left under way; after half a minute the next turn begins all the same."""
    deadline = time.monotonic() + _REST_SECONDS
    used = server.cpu_seconds()
    while time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
        before, used = used, server.cpu_seconds()
        if used - before < _AT_REST * _PAUSE_SECONDS:
            return
    say(f"{server.name} was still at work after {_REST_SECONDS:.0f} s")


def _store_seconds(stores: Stores) -> float:
    return sum(family_seconds(pid) for pid in stores.pids)
