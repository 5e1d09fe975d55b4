# ruff: noqa: S608 - these statements are made of our own parts only; what is in the table is never a part of one
"""The type and the figures of one column, from cells that are all text.

The type is the first of boolean, integer, number, date, timestamp that every value is. In columns of these the
usual marks for "no value" (NA, null, -, …) count as missing; in text they are values, since NA is Namibia.
Digits after a leading zero are text: a postal code is no number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb

from domains.datasets.profiling.engine import quoted
from domains.datasets.profiling.limits import EXACT_ROWS, MAX_SHOWN_CHARACTERS, QUANTILES, TOP_VALUES

MISSING_MARKS = ("NA", "N/A", "#N/A", "null", "NULL", "None", "NaN", "nan", "-")
_SAMPLE_ROWS = 5000
_DAY = "[0-9]{4}[-/][0-9]{1,2}[-/][0-9]{1,2}"
_TIME = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
_ZONE = "(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
# A plain cast to TIMESTAMP drops the zone. So every value gets one (UTC where it has none) and is brought to UTC.
_IN_UTC = (
    f"make_timestamp(epoch_us(TRY_CAST(CASE WHEN regexp_matches(v, '[0-9] ?{_ZONE}$') THEN v ELSE v || 'Z' END "
    "AS TIMESTAMPTZ)))"
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A type: what a value `v` looks like, and what it becomes."""

    name: str
    fits: str
    value: str
    is_numeric: bool = False


def _matches(pattern: str) -> str:
    return f"regexp_full_match(v, {quoted(pattern)})"


_TEXT = _Kind("text", "true", "v")
_KINDS = (
    _Kind("boolean", "lower(v) IN ('true', 'false')", "lower(v) = 'true'"),
    # 18 digits are what a BIGINT surely holds, 38 a HUGEINT, which takes twice the memory. As DOUBLEs they would be
    # the same from the 17th digit on.
    _Kind("integer", _matches("[+-]?(0|[1-9][0-9]{0,17})"), "CAST(v AS BIGINT)", is_numeric=True),
    _Kind("integer", _matches("[+-]?(0|[1-9][0-9]{0,37})"), "CAST(v AS HUGEINT)", is_numeric=True),
    _Kind(
        "number",
        _matches(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
        + " AND isfinite(TRY_CAST(v AS DOUBLE))",
        "CAST(v AS DOUBLE)",
        is_numeric=True,
    ),
    _Kind("date", _matches(_DAY) + " AND TRY_CAST(v AS DATE) IS NOT NULL", "CAST(v AS DATE)"),
    _Kind(
        "timestamp",
        _matches(f"{_DAY}[T ]{_TIME}( ?{_ZONE})?") + f" AND {_IN_UTC} IS NOT NULL",
        _IN_UTC,
    ),
)
_MARKS = ", ".join(quoted(mark) for mark in MISSING_MARKS)


def measure(connection: duckdb.DuckDBPyConnection, number: int, name: str, rows: int) -> dict[str, Any]:
    """The profile of the column c`number`. Raises what DuckDB raises."""
    cell = f"c{number}"
    # White space around a value is part of it in text only; nothing but white space is no value in any column.
    as_text = f"SELECT {cell} AS v FROM cells WHERE trim({cell}) <> ''"
    as_other = f"SELECT trim({cell}) AS v FROM cells WHERE trim({cell}) NOT IN ('', {_MARKS})"
    profile: dict[str, Any] = {"name": name, "type": "empty", "missing": rows}
    kind = _kind_of(connection, as_other, rows)
    if kind is None:
        return profile | {"distinct": 0, "top_values": []}
    values = f"SELECT {kind.value} AS x FROM ({as_text if kind is _TEXT else as_other})"
    figures = _figures(connection, values, kind, has_exact_quantiles=rows <= EXACT_ROWS)
    profile |= {"type": kind.name, "missing": rows - figures.pop("present")}
    return profile | _frequencies(connection, values) | figures


def _kind_of(connection: duckdb.DuckDBPyConnection, source: str, rows: int) -> _Kind | None:
    """The column's type, None where it has no values. A sample rules most types out; one is proven on every row."""
    wanted = {kind.value: f"bool_and(coalesce({kind.fits}, false))" for kind in _KINDS}
    sample = f"{source} LIMIT {_SAMPLE_ROWS}"
    count, *fits = _row(connection, {"count": "count(*)", **wanted}, sample)
    if count == 0:
        return None
    for kind, fits_sample in zip(_KINDS, fits, strict=True):
        if fits_sample and (rows <= _SAMPLE_ROWS or _fits_all(connection, source, kind)):
            return kind
    return _TEXT


def _fits_all(connection: duckdb.DuckDBPyConnection, source: str, kind: _Kind) -> bool:
    misfit = f"SELECT 1 FROM ({source}) WHERE NOT coalesce({kind.fits}, false) LIMIT 1"
    return connection.execute(misfit).fetchone() is None


def _figures(
    connection: duckdb.DuckDBPyConnection, values: str, kind: _Kind, *, has_exact_quantiles: bool
) -> dict[str, Any]:
    wanted = {"present": "count(x)"}
    if kind.name != "boolean":
        wanted |= {"min": "min(x)", "max": "max(x)"}
    if kind is _TEXT:
        wanted |= {
            "min_length": "min(length(x))",
            "max_length": "max(length(x))",
            "mean_length": "avg(length(x))",
        }
    if kind.is_numeric:
        quantile = "quantile_cont" if has_exact_quantiles else "approx_quantile"
        shares = ", ".join(str(share) for share in QUANTILES.values())
        wanted |= {
            "mean": "avg(CAST(x AS DOUBLE))",
            "std": "stddev_samp(CAST(x AS DOUBLE))",
            "quantiles": f"{quantile}(CAST(x AS DOUBLE), [{shares}])",
        }
    try:
        row = _row(connection, wanted, values)
    except duckdb.OutOfRangeException:  # the squares of values beyond 1e154 are no numbers any more
        row = _row(connection, wanted | {"std": "NULL"}, values)
    figures = {name: _plain(value) for name, value in zip(wanted, row, strict=True)}
    if kind.is_numeric:
        figures["quantiles"] = dict(zip(QUANTILES, figures["quantiles"], strict=True))
        figures["has_exact_quantiles"] = has_exact_quantiles
    return figures


def _frequencies(connection: duckdb.DuckDBPyConnection, values: str) -> dict[str, Any]:
    """How many distinct values there are, and the most frequent. Of many, only those that are there more than once."""
    found = connection.execute(
        f"WITH counts AS MATERIALIZED (SELECT x, count(*) AS n FROM ({values}) GROUP BY x) "
        f"SELECT x, n, (SELECT count(*) FROM counts) FROM counts ORDER BY n DESC, x LIMIT {TOP_VALUES}"
    ).fetchall()
    are_many = len(found) == TOP_VALUES
    top = [{"value": _plain(value), "count": n} for value, n, _ in found if n > 1 or not are_many]
    return {"distinct": found[0][2], "top_values": top}


def _row(connection: duckdb.DuckDBPyConnection, wanted: dict[str, str], values: str) -> tuple[Any, ...]:
    found = connection.execute(f"SELECT {', '.join(wanted.values())} FROM ({values})").fetchone()
    assert found is not None  # noqa: S101 - an aggregate without GROUP BY gives one row
    return found


def _plain(value: Any) -> Any:
    """The value as JSON can say it, and every database store it; text cut to what a reader can take in."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date):  # datetime too
        return value.isoformat()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(value, str) and len(value) > MAX_SHOWN_CHARACTERS:
        return value[:MAX_SHOWN_CHARACTERS] + "…"
    return value
