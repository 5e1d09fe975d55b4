"""What `@job` and `enqueue` refuse: at once, where it is written, and with what to write instead."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from scalable_fastapi_system.jobs import Backoff, JobContext, JobRegistry, job


async def handler(ctx: JobContext, *, shop: int = 1, page: int = 1) -> None: ...


def declare(function: Any = handler, **options: Any) -> Any:
    return job("shop.work", registry=JobRegistry(), **options)(function)


@pytest.mark.parametrize("backoff", [3, 0, 2.5, timedelta(seconds=3), "3", Backoff, (2, 600)])
def test_a_back_off_is_a_backoff(backoff: Any) -> None:
    with pytest.raises(TypeError, match=r"shop\.work: backoff is a Backoff, such as Backoff\(2, 600\)"):
        declare(backoff=backoff)


@pytest.mark.parametrize("seconds", ["2", None, True, timedelta(seconds=2)])
def test_a_backoffs_times_are_numbers(seconds: Any) -> None:
    with pytest.raises(TypeError, match="base_seconds is a number of seconds"):
        Backoff(seconds)
    with pytest.raises(TypeError, match="cap_seconds is a number of seconds"):
        Backoff(1, seconds)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_a_backoffs_times_are_finite_and_not_below_nothing(seconds: float) -> None:
    with pytest.raises(ValueError, match="base_seconds is a number of seconds"):
        Backoff(seconds)
    with pytest.raises(ValueError, match="cap_seconds is a number of seconds"):
        Backoff(1, seconds)


def test_no_back_off_is_the_usual_one() -> None:
    assert (declare().backoff.base_seconds, declare().backoff.cap_seconds) == (2.0, 600.0)
    assert declare(backoff=Backoff(0, 0)).backoff.delay_seconds(5, lambda: 1.0) == 0
