"""How long and how much: the full size, and a quick one for a look in between."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of the cases. `backlog` jobs, seconds."""

    backlog: int
    crowd: int
    long_seconds: float
    outage_seconds: float
    postgres_outage_seconds: float
    rollouts: int


FULL = Scale(
    backlog=10_000, crowd=100_000, long_seconds=20, outage_seconds=60, postgres_outage_seconds=30, rollouts=20
)
QUICK = Scale(
    backlog=2_000, crowd=30_000, long_seconds=8, outage_seconds=8, postgres_outage_seconds=8, rollouts=5
)
