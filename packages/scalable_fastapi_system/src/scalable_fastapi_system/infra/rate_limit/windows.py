"""The arithmetic of a sliding window of two aligned ones, the same as in the script of `store`."""

from __future__ import annotations

import math

from scalable_fastapi_system.infra.rate_limit.policies import Rate

_MOMENT = 1e-9


def room(rate: Rate, count: int, before: int, past_seconds: float) -> int:
    """How many more requests fit, this far into the window. Negative where there were too many."""
    window = rate.window_seconds
    return rate.limit - count - math.floor(before * (window - past_seconds) / window)


def wait_seconds(rate: Rate, count: int, before: int, past_seconds: float) -> float:
    """How long until one more request fits, if nobody makes one; 0 where one fits now."""
    window = rate.window_seconds
    if room(rate, count, before, past_seconds) >= 1:
        return 0.0
    left = window - past_seconds
    if count < rate.limit:
        # The window before fades until it weighs less than this one leaves: where it weighs just that, for a moment.
        return max(_MOMENT * window, left - (rate.limit - count) * window / before)
    # This window is used up. In the next one it is the one before, and fades from its whole weight.
    return left + max(0.0, window - rate.limit * window / count)


class LocalWindow:
    """What this process itself has admitted under one rate."""

    __slots__ = ("before", "count", "index")

    def __init__(self) -> None:
        self.index = -2
        self.count = 0
        self.before = 0

    def roll(self, index: int) -> None:
        """Moves on to this window. A clock that was set back does not give the quota again."""
        if index <= self.index:
            return
        self.before = self.count if index == self.index + 1 else 0
        self.count = 0
        self.index = index

    def add(self, index: int, amount: int) -> None:
        """Counts requests that were admitted in this window, or in the one before."""
        self.roll(index)
        if index == self.index:
            self.count += amount
        elif index == self.index - 1:
            self.before += amount
