"""What is made of the figures."""

from __future__ import annotations

from dataclasses import replace

from tests.bench.growth import tables
from tests.bench.growth.measure import Figure, middle
from tests.bench.growth.rows import Size

FIGURE = Figure(
    per_second=1000,
    p50_ms=10,
    p99_ms=20,
    cpu_us=300,
    store_us=50,
    memory_mib=120,
    foreign_percent=5,
)


def test_the_middle_is_taken_value_by_value():
    others = [replace(FIGURE, p50_ms=30, p99_ms=5), replace(FIGURE, p50_ms=12, p99_ms=90)]
    assert middle([FIGURE, *others]) == replace(FIGURE, p50_ms=12)


def test_a_table_shows_its_growth_beside_the_smallest():
    sizes = [
        Size(1000, {"one row": FIGURE}, keyset_ms=0.5, offset_ms=1, count_ms=0.2),
        Size(10_000, {"one row": replace(FIGURE, p50_ms=15)}, keyset_ms=0.5, offset_ms=9, count_ms=2),
    ]
    text = tables.of_rows(sizes)
    assert "| 1 000 | one row | 1000 | 10.0 | 20.0 | 300 | 50 | 1.00× |" in text
    assert "| 10 000 | one row | 1000 | 15.0 | 20.0 | 300 | 50 | 1.50× |" in text
    assert "| 10 000 | 0.50 | 9.00 | 2.00 |" in text


def test_failures_are_told_apart():
    assert tables.share(FIGURE) == ""
    assert tables.share(replace(FIGURE, refused=0.25, broken=0.0001)) == "25.0% refused"
    assert tables.share(replace(FIGURE, refused=0.5, broken=0.01)) == "50.0% refused, 1.0% broken"
