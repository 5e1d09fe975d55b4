"""What a webhook's receiver asks for by Retry-After: it may send anything."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from scalable_fastapi_system.jobs.webhooks import _retry_after

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
DAY_SECONDS = 24 * 3600.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90", 90.0),
        ("9" * 400, DAY_SECONDS),
        ("Thu, 01 Jan 2026 12:01:00 GMT", 60.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("Fri, 01 Jan 2027 12:00:00 GMT", DAY_SECONDS),
    ],
)
def test_a_number_or_a_date_is_obeyed_up_to_a_day(value: str, seconds: float) -> None:
    assert _retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "soon",
        "-5",
        "\xb2",
        "٣",
        "Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Thu, 01 Jan 2026 12:01:00",
    ],
)
def test_what_is_neither_is_passed_over(value: str | None) -> None:
    assert _retry_after(value, NOW) is None
