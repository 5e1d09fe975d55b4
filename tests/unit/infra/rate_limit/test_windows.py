"""The sliding window's arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scalable_fastapi_system.infra.rate_limit import Rate
from scalable_fastapi_system.infra.rate_limit.windows import LocalWindow, room, wait_seconds


@pytest.mark.parametrize(
    ("count", "before", "past", "expected"),
    [
        (0, 0, 0.0, 10),
        (4, 0, 30.0, 6),
        (10, 0, 59.0, 0),
        (0, 10, 0.0, 0),  # a full window before counts whole at first
        (0, 10, 30.0, 5),  # and half in the middle
        (0, 10, 59.9, 10),
        (3, 10, 30.0, 2),
        (12, 0, 0.0, -2),
    ],
)
def test_room_is_what_this_window_and_the_share_of_the_last_leave(
    count: int, before: int, past: float, expected: int
) -> None:
    assert room(Rate(10, 60, "r"), count, before, past) == expected


@example(limit=1, window=1, count=0, before=1, share=0.0)
@given(
    limit=st.integers(1, 1000),
    window=st.integers(1, 86_400),
    count=st.integers(0, 2000),
    before=st.integers(0, 2000),
    share=st.floats(0, 0.999),
)
def test_one_fits_after_the_wait_and_none_well_before_it(
    limit: int, window: int, count: int, before: int, share: float
) -> None:
    rate = Rate(limit, window, "r")
    past = share * window
    wait = wait_seconds(rate, count, before, past)
    if wait == 0.0:
        assert room(rate, count, before, past) >= 1
        return

    def room_after(seconds: float) -> int:
        moment = past + seconds
        if moment < window:
            return room(rate, count, before, moment)
        return room(rate, 0, count, moment - window) if moment < 2 * window else limit

    margin = 1e-6 * window
    assert room_after(wait + margin) >= 1
    assert room_after(max(0.0, wait - 2 * margin)) < 1 or wait <= 2 * margin


def test_a_window_moves_on_and_never_back() -> None:
    window = LocalWindow()
    window.add(7, 3)
    assert (window.count, window.before) == (3, 0)
    window.add(8, 2)
    assert (window.count, window.before) == (2, 3)
    window.add(7, 1)  # learned late
    assert (window.count, window.before) == (2, 4)
    window.roll(6)
    assert (window.count, window.before) == (2, 4)
    window.roll(10)
    assert (window.count, window.before) == (0, 0)
