"""The table of a comparison, for a terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.compare import Plan, Row
from tests.bench.works import TITLES

_HEAD = (
    "work",
    "target",
    "requests/s",
    "spread",
    "p50 ms",
    "p99 ms",
    "CPU µs/request",
    "by CPU",
    "of hand-written",
    "asked",
)


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(_HEAD) + " |", "| --- | --- " + "| ---: " * (len(_HEAD) - 2) + "|"]
    previous = ""
    for row in rows:
        rates = [sample.per_second for sample in row.samples]
        spread = (max(rates) - min(rates)) / row.middle("per_second")
        cells = [
            row.work.title if row.work.title != previous else "",
            TITLES[row.target],
            f"{row.middle('per_second'):.0f}",
            f"{spread:.0%}",
            f"{row.middle('p50_ms'):.1f}",
            f"{row.middle('p99_ms'):.1f}",
            f"{row.middle('cpu_us'):.0f}",
            "" if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}×",
            "" if row.ratio is None else f"{row.ratio:.2f}×",
            _asked(row),
        ]
        bad = sum(sample.bad for sample in row.samples)
        if bad:
            cells[2] += f" ({bad} failed)"
        previous = row.work.title
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def conditions(rows: Sequence[Row], plan: Plan) -> str:
    """How the figures came about, and how quiet the machine was."""
    samples = [sample for row in rows for sample in row.samples]
    return (
        f"{plan.rounds} round{'s' if plan.rounds > 1 else ''} of {plan.seconds} s for each figure, {plan.connections} connections, one process on a core "
        f"of its own, wrk and the stores on the other. Other programs took at most "
        f"{max(sample.foreign_percent for sample in samples):.0f} % of a core during a figure, the hypervisor at most "
        f"{max(sample.steal_percent for sample in samples):.0f} %."
    )


def failures(rows: Sequence[Row]) -> list[str]:
    """What is not as it should be."""
    problems = [
        f"{row.work.name}: {row.ratio:.2f}× of the hand-written one, and {row.work.at_least}× is asked"
        for row in rows
        if row.is_enough is False
    ]
    problems += [
        f"{row.work.name} on {row.target}: answers that were no success"
        for row in rows
        if any(sample.bad for sample in row.samples)
    ]
    return problems


def _asked(row: Row) -> str:
    if row.is_enough is None:
        return ""
    return f"{row.work.at_least}× {'✓' if row.is_enough else '✗'}"
