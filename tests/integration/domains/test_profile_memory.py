"""The bound on memory, shown: a table of 200 MB, profiled in a process whose peak is read from the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.profile_memory import MB, measure, write_table

# The worker's pod is given 1 GiB, and half of that would do.
MAX_PEAK_BYTES = 384 * MB


@pytest.mark.slow
def test_a_table_of_200_mb_is_profiled_in_bounded_memory(tmp_path: Path) -> None:
    source = tmp_path / "large.csv"
    facts = write_table(source, 200 * MB)

    measured = measure(source)

    profile = measured["profile"]
    columns = {column["name"]: column for column in profile["columns"]}
    assert measured["peak_bytes"] < MAX_PEAK_BYTES
    assert profile["rows"] == facts["rows"]
    assert columns["session"]["distinct"] == facts["rows"]
    assert columns["amount"]["missing"] == facts["missing"]
    assert columns["amount"]["mean"] == pytest.approx(facts["mean"], rel=1e-9)
    top = columns["category"]["top_values"][0]
    assert [top["value"], top["count"]] == facts["top"]
    assert [column["type"] for column in profile["columns"]] == [
        "integer",
        "timestamp",
        "text",
        "text",
        "number",
        "boolean",
        "text",
    ]
