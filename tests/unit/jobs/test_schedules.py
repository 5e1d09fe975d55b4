"""Cron slots: which are due, which were missed, and what daylight saving does to them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalable_fastapi_system.jobs import JobContext, JobRegistry, job
from scalable_fastapi_system.jobs.schedules import MAX_CAUGHT_UP, CronSchedule, cron

NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


def schedule(expression: str, **options: Any) -> CronSchedule:
    @job("reports.nightly", registry=JobRegistry())
    async def nightly(ctx: JobContext) -> None: ...

    return CronSchedule("nightly", expression, nightly, **options)


def minutes(*numbers: int) -> list[datetime]:
    return [NOON + timedelta(minutes=number) for number in numbers]


def test_a_slot_on_time_runs_under_every_policy() -> None:
    for misfire in ("skip", "once", "all"):
        every_minute = schedule("* * * * *", misfire=misfire)
        assert every_minute.slots_to_run(NOON, NOON + timedelta(seconds=61)) == minutes(1)


@pytest.mark.parametrize(
    ("misfire", "expected"), [("skip", []), ("once", minutes(10)), ("all", minutes(*range(1, 11)))]
)
def test_missed_slots_are_treated_by_the_policy(misfire: Any, expected: list[datetime]) -> None:
    every_minute = schedule("* * * * *", misfire=misfire)
    assert every_minute.slots_to_run(NOON, NOON + timedelta(minutes=10, seconds=45)) == expected


def test_a_slot_on_time_takes_the_place_of_those_missed_before_it() -> None:
    now = NOON + timedelta(minutes=10, seconds=2)
    assert schedule("* * * * *", misfire="once").slots_to_run(NOON, now) == minutes(10)
    assert schedule("* * * * *", misfire="skip").slots_to_run(NOON, now) == minutes(10)


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
def test_slots_of_the_last_half_minute_run_under_every_policy(misfire: Any) -> None:
    slots = schedule("* * * * * */5", misfire=misfire).slots_to_run(NOON, NOON + timedelta(seconds=22))
    assert [slot.second for slot in slots] == [5, 10, 15, 20]


def test_catching_up_is_bounded() -> None:
    year = timedelta(days=365)
    slots = schedule("* * * * *", misfire="all").slots_to_run(NOON - year, NOON)
    assert len(slots) == MAX_CAUGHT_UP
    assert slots[-1] == NOON


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
@pytest.mark.parametrize("expression", ["* * * * * *", "* * 1 1 * *"])
def test_a_long_outage_costs_no_more_than_a_short_one(
    expression: str, misfire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0
    moments = CronSchedule._moments

    def counted(self: CronSchedule, after: datetime) -> Iterator[datetime]:
        nonlocal looked_at
        for moment in moments(self, after):
            looked_at += 1
            assert looked_at < 20_000  # of 35 million, or 86 400
            yield moment

    every_second = schedule(expression, misfire=misfire)
    monkeypatch.setattr(CronSchedule, "_moments", counted)
    slots = every_second.slots_to_run(NOON - timedelta(days=400), NOON)
    # the other one has its seconds on the first of January alone
    policies = {"skip": 31, "once": 31} if expression == "* * * * * *" else {"skip": 0, "once": 1}
    assert len(slots) == policies.get(misfire, MAX_CAUGHT_UP)


CHANGES_OF_CLOCK = {
    "Europe/Berlin": [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)],
    "America/New_York": [datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)],
    "Australia/Lord_Howe": [datetime(2026, 4, 4, 15, tzinfo=UTC), datetime(2026, 10, 3, 15, 30, tzinfo=UTC)],
    "UTC": [NOON],
}


@settings(max_examples=150, deadline=None)
@given(
    zone_and_change=st.sampled_from([(zone, at) for zone, times in CHANGES_OF_CLOCK.items() for at in times]),
    expression=st.sampled_from(
        [
            "*/7 * * * *",
            "30 * * * *",
            "15 */2 * * *",
            "*/20 1-3 * * *",
            "30 2 * * *",
            "0 0 * * *",
            "* 2 * * * */20",
        ]
    ),
    until_seconds=st.integers(-2 * 3600, 4 * 3600),
    since_seconds=st.one_of(st.integers(0, 60), st.integers(0, 36 * 3600)),
)
def test_where_clocks_change_the_last_slots_are_those_that_a_walk_comes_by(
    zone_and_change: tuple[str, datetime], expression: str, until_seconds: int, since_seconds: int
) -> None:
    zone, change = zone_and_change
    until = change + timedelta(seconds=until_seconds)
    after = until - timedelta(seconds=since_seconds)
    skip, once, every = (
        schedule(expression, timezone=zone, misfire=each) for each in ("skip", "once", "all")
    )
    walked = []
    for moment in every._moments(after):
        if moment > until:
            break
        walked.append(moment)
    assert every.slots_to_run(after, until) == walked[-MAX_CAUGHT_UP:]
    punctual = [moment for moment in walked if until - moment <= timedelta(seconds=30)]
    assert skip.slots_to_run(after, until) == punctual
    assert once.slots_to_run(after, until) == (punctual or walked[-1:])


def test_seconds_are_a_sixth_field() -> None:
    slots = schedule("* * * * * */10").slots(NOON, NOON + timedelta(seconds=30))
    assert [slot.second for slot in slots] == [10, 20, 30]


def test_slots_keep_their_wall_clock_time_over_daylight_saving() -> None:
    daily = schedule("30 9 * * *", timezone="Europe/Berlin")
    before = daily.next_after(datetime(2026, 3, 28, 0, 0, tzinfo=UTC))
    after = daily.next_after(before)
    assert before == datetime(2026, 3, 28, 8, 30, tzinfo=UTC)
    assert after == datetime(2026, 3, 29, 7, 30, tzinfo=UTC)


def test_an_hour_that_occurs_twice_runs_a_daily_slot_once() -> None:
    daily = schedule("30 2 * * *", timezone="Europe/Berlin")
    slots = daily.slots(datetime(2026, 10, 24, 12, tzinfo=UTC), datetime(2026, 10, 25, 12, tzinfo=UTC))
    assert len(slots) == 1


def test_an_hour_that_occurs_twice_runs_an_hourly_slot_twice() -> None:
    hourly = schedule("30 * * * *", timezone="Europe/Berlin")
    slots = hourly.slots(datetime(2026, 10, 25, 0, tzinfo=UTC), datetime(2026, 10, 25, 2, tzinfo=UTC))
    assert [slot.hour for slot in slots] == [0, 1]


def test_an_hour_that_is_skipped_does_not_lose_the_day() -> None:
    daily = schedule("30 2 * * *", timezone="Europe/Berlin")
    slots = daily.slots(datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 3, 29, 12, tzinfo=UTC))
    assert len(slots) == 1


@pytest.mark.parametrize(
    ("expression", "zone"),
    [("nonsense", "UTC"), ("@daily", "UTC"), ("* * * * *", "Mars/Base"), ("0 0 30 2 *", "UTC")],
)
def test_nonsense_is_refused_where_it_is_declared(expression: str, zone: str) -> None:
    with pytest.raises(ValueError, match=r"no cron expression|Mars|no day"):
        schedule(expression, timezone=zone)


@pytest.mark.parametrize("arguments", [{}, {"dya": 1}, {"day": "Monday"}])
def test_arguments_that_do_not_fit_are_refused_where_they_are_declared(arguments: dict[str, Any]) -> None:
    @job("reports.of_day", registry=JobRegistry())
    async def of_day(ctx: JobContext, *, day: int) -> None: ...

    with pytest.raises(ValueError, match="cannot run its job"):
        cron("* * * * *", **arguments)(of_day)


def test_the_job_of_a_slot_is_unique_to_it() -> None:
    found = schedule("* * * * *")
    assert found.job_for(NOON).unique_key == f"cron:nightly:{NOON.isoformat()}"
