"""What the dashboards ask, one query at a time, and the numbers in an answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tests.unit.monitoring.promql import Query, dashboards, filled, panels

FALLBACK = " or vector(0)"


def asked(variables: dict[str, str]) -> Iterator[tuple[str, Query, bool]]:
    """Each query of each panel, without the zero that some show in place of nothing: a name, itself, whether it is a table's."""
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                expr = filled(target["expr"], variables).removesuffix(FALLBACK)
                query = Query(name, panel["title"], expr)
                yield f"{query} {target['refId']}", query, panel["type"] == "table"


def figures(series: list[dict[str, Any]]) -> list[float]:
    """The numbers in an answer; NaN and infinities are shown as nothing."""
    values = [value for one in series for _, value in one.get("values") or [one["value"]]]
    return [number for number in map(float, values) if math.isfinite(number)]
