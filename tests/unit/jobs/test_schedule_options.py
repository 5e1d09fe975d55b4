"""What a schedule refuses where it is declared: later, its tick would fail each time."""

from __future__ import annotations

from typing import Any

import pytest
from scalable_fastapi_system.jobs import JobContext, JobRegistry, cron, job
from scalable_fastapi_system.jobs import schedules as schedules_module
from scalable_fastapi_system.jobs.schedules import CronSchedule
from scalable_fastapi_system.jobs.tables import cron_schedules

EVERY_MINUTE = ",".join(map(str, range(60))) + " * * * *"


@job("reports.nightly", registry=JobRegistry())
async def nightly(ctx: JobContext) -> None: ...


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"expression": EVERY_MINUTE}, "the expression has 1 to 100 characters, and not 177"),
        ({"name": "n" * 101}, "the name has 1 to 100 characters, and not 101"),
        ({"name": ""}, "the name has 1 to 100 characters, and not 0"),
        ({"name": "a\0b"}, "U\\+0000"),
        ({"timezone": "Z" * 65}, "the time zone has 1 to 64 characters, and not 65"),
        ({"misfire": "twice"}, "misfire is one of skip, once, all, and not 'twice'"),
        ({"misfire": None}, "misfire is one of skip, once, all, and not None"),
    ],
)
def test_what_the_tables_have_no_room_for_is_refused(options: dict[str, Any], reason: str) -> None:
    facts: dict[str, Any] = {"name": "nightly", "expression": "0 3 * * *", "handler": nightly}
    with pytest.raises(ValueError, match=reason):
        CronSchedule(**facts | options)


def test_a_refused_schedule_is_not_kept() -> None:
    with pytest.raises(ValueError, match="a step, such as"):
        cron(EVERY_MINUTE, name="too.long")(nightly)
    assert "too.long" not in schedules_module.schedules


def test_what_just_fits_is_taken() -> None:
    expression = ",".join(map(str, range(10, 41))) + " * * * *"
    assert len(expression) == 100
    assert CronSchedule("n" * 100, expression, nightly, misfire="all").misfire == "all"


def test_the_limits_are_those_of_the_table() -> None:
    columns: Any = cron_schedules.c
    limits = (
        schedules_module.MAX_NAME_LENGTH,
        schedules_module.MAX_EXPRESSION_LENGTH,
        schedules_module.MAX_TIMEZONE_LENGTH,
    )
    assert limits == tuple(columns[name].type.length for name in ("name", "expression", "timezone"))
