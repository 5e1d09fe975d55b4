"""What was measured, as Markdown: a table for each dimension, and a line on how quiet the machine was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.bench.growth.measure import Figure, Plan, Turn
from tests.bench.growth.routes import Point
from tests.bench.growth.rows import LIMIT, Size
from tests.bench.sections import markdown

_HEAD = ("requests/s", "p50 ms", "p99 ms", "CPU µs/request")
_NOTABLE = 0.0005


def of_rows(sizes: Sequence[Size]) -> str:
    """Two tables: through the API, and the queries alone."""
    served = [
        [
            _grouped(size.rows) if number == 0 else "",
            work,
            *_cells(figure),
            f"{figure.store_us:.0f}",
            f"{figure.p50_ms / sizes[0].figures[work].p50_ms:.2f}×",
        ]
        for size in sizes
        for number, (work, figure) in enumerate(size.figures.items())
    ]
    head = (
        "rows",
        f"keyset pages of {LIMIT}; a row",
        *_HEAD,
        "stores' CPU µs",
        "p50 of the smallest table's",
    )
    alone = [
        [
            _grouped(size.rows),
            f"{size.keyset_ms:.2f}",
            f"{size.offset_ms:.2f}",
            f"{size.count_ms:.2f}",
        ]
        for size in sizes
    ]
    beside = ("rows", "page at 90 % by keyset, ms", "the same by OFFSET, ms", "count of all, ms")
    tables = [markdown(head, served, words=2), markdown(beside, alone)]
    return "\n\n".join([*tables, noise(figure for size in sizes for figure in size.figures.values())])


def of_connections(taken: Sequence[tuple[Turn, Figure]]) -> str:
    """By the number of connections."""
    rows = [
        [turn.name, str(turn.connections), *_cells(figure), f"{figure.memory_mib:.0f}", share(figure)]
        for turn, figure in taken
    ]
    head = ("work", "connections", *_HEAD, "memory MiB", "not answered 2xx")
    return f"{markdown(head, rows, words=1)}\n\n{noise(figure for _, figure in taken)}"


def of_routes(points: Sequence[Point]) -> str:
    """By the number of routes."""
    rows = [
        [
            str(point.routes),
            point.server,
            point.route,
            *_cells(point.figure),
            f"{point.start_seconds:.1f}",
            f"{point.figure.memory_mib:.0f}",
        ]
        for point in points
    ]
    head = ("routes", "application", "the route registered", *_HEAD, "ready after s", "memory MiB")
    return f"{markdown(head, rows, words=3)}\n\n{noise(point.figure for point in points)}"


def of_processes(taken: Sequence[tuple[int, str, Figure]]) -> str:
    """By the number of processes."""
    rows = [
        [str(count), work, *_cells(figure), f"{figure.memory_mib:.0f}"]
        for count, work, figure in sorted(taken, key=lambda one: one[1])
    ]
    head = ("processes", "work", *_HEAD, "memory MiB")
    return f"{markdown(head, rows, words=2)}\n\n{noise(figure for _, _, figure in taken)}"


def conditions(
    plan: Plan, *, cores: str = "one process on a core of its own, wrk and the stores on the other"
) -> str:
    """How each figure came about."""
    return f"Medians of {plan.rounds} rounds of {plan.seconds} s, 32 connections where nothing else is said, {cores}."


def share(figure: Figure) -> str:
    """Of the requests, those that were refused and those that got no answer; empty where there are next to none."""
    parts = [
        f"{value:.1%} {word}"
        for value, word in ((figure.refused, "refused"), (figure.broken, "broken"))
        if value >= _NOTABLE
    ]
    return ", ".join(parts)


def noise(figures: Iterable[Figure]) -> str:
    """What other programs took."""
    return f"Other programs took at most {max(figure.foreign_percent for figure in figures):.0f} % of a core (medians)."


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _cells(figure: Figure) -> list[str]:
    return [
        f"{figure.per_second:.0f}",
        f"{figure.p50_ms:.1f}",
        f"{figure.p99_ms:.1f}",
        f"{figure.cpu_us:.0f}",
    ]
