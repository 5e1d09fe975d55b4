"""What the overload bench says of its figures."""

from __future__ import annotations

from typing import Any

from tests.bench import overload_report
from tests.bench.overload_report import Flood, Stall
from tests.bench.works import CREATE, LIST, READ, Work


def _status(per_second: float, p99_ms: float) -> dict[str, float]:
    return {"answers": per_second, "per_second": per_second, "p95_ms": p99_ms / 2, "p99_ms": p99_ms}


def _flood(work: Work, *, good: float, refused_p99_ms: float = 20.0) -> Flood:
    probes = {"statuses": {"200": _status(10, 30.0)}, "unanswered": 0}
    answers = {"200": _status(good, 40.0), "503": _status(3000 - good, refused_p99_ms)}
    flows: dict[str, Any] = dict.fromkeys(overload_report.PROBES, probes)
    flows["work"] = {"statuses": answers, "unanswered": 0, "sent_per_second": 3000.0}
    return Flood(work, 1000.0, {"flows": flows, "unsent": 0, "late_p99_ms": 1.0}, 0.0, 99.0)


def _stall(p99_beside_ms: float, *, refused_without: int = 0, refused_beside: int = 0) -> Stall:
    def told(p99_ms: float, refused: int) -> dict[str, Any]:
        undisturbed = {"share": 0.97, "p95_ms": p99_ms / 2, "p99_ms": p99_ms}
        statuses = {"200": _status(300, 2 * p99_ms), "503": _status(refused, 1.0)}
        flows = {"work": {"statuses": statuses, "unanswered": 0}}
        return {"flows": flows, "undisturbed": undisturbed}

    ends = {"opened": 500, "never_ended": 0, "most_seconds": {"silent": 9.0}}
    return Stall(300.0, told(10.0, refused_without), told(p99_beside_ms, refused_beside), ends, 0.0)


def test_each_work_has_its_lines_over_all_rounds() -> None:
    floods = [_flood(work, good=good) for good in (700, 820, 900) for work in (READ, LIST, CREATE)]

    table = overload_report.table(floods, [])

    rows = [row for row in table.splitlines() if "good answers" in row]
    assert [row.split("|")[1].split(":")[0].strip() for row in rows] == [
        work.title for work in (READ, LIST, CREATE)
    ]
    assert all("82%" in row and "✓" in row for row in rows)
    assert "3 rounds: medians." in overload_report.conditions(floods, [])


def test_what_is_not_reached_is_named() -> None:
    floods = [_flood(READ, good=700, refused_p99_ms=60.0)]

    assert len(overload_report.failures(floods, [_stall(11.0)])) == 2
    assert len(overload_report.failures([], [_stall(13.0)])) == 1
    assert (
        "+30%, half of the rounds from +30% to +30% (13.0 ms beside them, 10.0 without); p95 6.5 ms beside them, 5.0 without; "
        "p99 with what other programs delayed 26.0 ms beside them, 20.0 without"
    ) in overload_report.table([], [_stall(13.0)])
    assert overload_report.failures([_flood(READ, good=900)], [_stall(11.0)]) == []


def test_the_share_that_met_no_other_program_is_told() -> None:
    assert "at least 97% of the healthy requests" in overload_report.conditions([], [_stall(11.0)])


def test_a_ratio_is_the_median_with_the_quartiles() -> None:
    table = overload_report.table([], [_stall(p99) for p99 in (2.0, 9.0, 11.0, 12.0, 40.0)])

    assert "+10%, half of the rounds from -10% to +20% " in table


def test_only_those_refused_beside_the_stalled_sockets_speak_against_them() -> None:
    without, beside = [_stall(11.0, refused_without=55)], [_stall(11.0, refused_beside=3)]

    assert "not answered by 200: 0 beside them, 55 without" in overload_report.table([], without)
    assert overload_report.failures([], without) == []
    assert len(overload_report.failures([], beside)) == 1
