"""Profiles of public tables (those of the vega_datasets wheel), against figures that csv and statistics compute."""

from __future__ import annotations

import csv
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import vega_datasets
from domains.datasets.profiling import ProfileRun

TABLES = Path(vega_datasets.__file__).parent / "_data"
CSV_TABLES = sorted(path.name for path in TABLES.glob("*.csv"))
JSON_TABLES = ["cars.json", "barley.json", "iris.json", "wheat.json"]


def profile(folder: Path, content: bytes) -> dict[str, Any]:
    run = ProfileRun(folder)
    run.source.write_bytes(content)
    return run.run()


def as_csv(name: str) -> bytes:
    """A table of the wheel as CSV."""
    path = TABLES / name
    if path.suffix == ".csv":
        return path.read_bytes()
    records: list[dict[str, Any]] = json.loads(path.read_text())
    names = list(dict.fromkeys(key for record in records for key in record))
    lines = [",".join(names)]
    for record in records:
        cells = ("" if record.get(key) is None else str(record[key]) for key in names)
        lines.append(",".join(f'"{cell}"' if "," in cell else cell for cell in cells))
    return "\n".join(lines).encode() + b"\n"


def numbers(cells: Sequence[str]) -> list[float] | None:
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        return None


@pytest.mark.parametrize("name", CSV_TABLES + JSON_TABLES)
def test_every_figure_is_that_of_an_independent_count(name: str, tmp_path: Path) -> None:
    content = as_csv(name)
    found = profile(tmp_path, content)
    header, *rows = csv.reader(content.decode().splitlines())

    assert found["rows"] == len(rows)
    assert [column["name"] for column in found["columns"]] == header
    assert found["size_bytes"] == len(content)
    for index, column in enumerate(found["columns"]):
        cells = [row[index] for row in rows if row[index].strip()]
        assert column["missing"] == len(rows) - len(cells), column["name"]
        if column["type"] in {"integer", "number"}:
            check_numbers(column, cells)
        else:
            check_values(column, cells)


def check_numbers(column: dict[str, Any], cells: list[str]) -> None:
    values = numbers(cells)
    assert values is not None
    assert column["distinct"] == len(set(values))
    assert (column["min"], column["max"]) == (min(values), max(values))
    assert column["mean"] == pytest.approx(statistics.fmean(values), rel=1e-9)
    assert column["std"] == pytest.approx(statistics.stdev(values), rel=1e-9)
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    expected = {"p05": cuts[0], "p25": cuts[4], "p50": cuts[9], "p75": cuts[14], "p95": cuts[18]}
    assert column["quantiles"] == pytest.approx(expected, rel=1e-9)
    assert column["has_exact_quantiles"]
    check_top(column, Counter(values))


def check_values(column: dict[str, Any], cells: list[str]) -> None:
    assert numbers(cells) is None, f"{column['name']} is made of numbers and was taken for {column['type']}"
    assert column["distinct"] == len(set(cells))
    if column["type"] == "text":
        lengths = [len(cell) for cell in cells]
        assert (column["min_length"], column["max_length"]) == (min(lengths), max(lengths))
        assert column["mean_length"] == pytest.approx(statistics.fmean(lengths))
        check_top(column, Counter(cells))


def check_top(column: dict[str, Any], counts: Counter[Any]) -> None:
    top = column["top_values"]
    expected = sorted(counts.values(), reverse=True)[:10]
    assert [entry["count"] for entry in top] == [count for count in expected if count > 1 or len(counts) < 10]
    assert all(counts[entry["value"]] == entry["count"] for entry in top)


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("seattle-weather.csv", ["date", "number", "number", "number", "number", "text"]),
        ("seattle-temps.csv", ["timestamp", "number"]),
        ("stocks.csv", ["text", "text", "number"]),
        ("iowa-electricity.csv", ["date", "text", "integer"]),
        (
            "cars.json",
            ["text", "number", "integer", "number", "integer", "integer", "number", "date", "text"],
        ),
    ],
)
def test_columns_have_the_types_that_a_reader_sees(name: str, types: list[str], tmp_path: Path) -> None:
    assert [column["type"] for column in profile(tmp_path, as_csv(name))["columns"]] == types


def test_a_known_table_has_its_known_figures(tmp_path: Path) -> None:
    columns = {
        column["name"]: column for column in profile(tmp_path, as_csv("seattle-weather.csv"))["columns"]
    }

    assert columns["weather"]["top_values"][:2] == [
        {"value": "sun", "count": 714},
        {"value": "fog", "count": 411},
    ]
    assert (columns["date"]["min"], columns["date"]["max"]) == ("2012-01-01", "2015-12-31")
    assert columns["temp_max"]["quantiles"]["p50"] == 15.6
