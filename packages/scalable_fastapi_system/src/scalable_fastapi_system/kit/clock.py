"""Time, injectable. The product asks a `Clock`; tests hand in one that they move."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the present comes from. `now()` is aware and in UTC."""

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


SYSTEM_CLOCK = SystemClock()


def utc_now() -> datetime:
    """The present, aware, in UTC. For column defaults; services take a `Clock`."""
    return datetime.now(UTC)
