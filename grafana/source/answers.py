"""What a Prometheus answers to the panels of a dashboard: the queries as Grafana would send them."""

from __future__ import annotations

import json
import math
import re
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

TIMEOUT_SECONDS = 30
MAX_POINTS = 120  # a line of a small panel has no room for more


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend, its labels, and points (Unix seconds, value) without those that are no number."""

    name: str
    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True)
class Source:
    """A Prometheus, and what is asked of it: the time from `start` to `end` (Unix seconds), and values for the variables."""

    url: str
    start: float
    end: float
    variables: dict[str, str]

    @property
    def step_seconds(self) -> float:
        return max(1.0, math.ceil((self.end - self.start) / MAX_POINTS))

    def answers(self, panel: dict[str, Any]) -> list[list[Series]]:
        """The series of each of a panel's queries. RuntimeError with Prometheus' words where it refuses one."""
        return [self._series(target) for target in panel["targets"]]

    def _series(self, target: dict[str, Any]) -> list[Series]:
        expr = target["expr"]
        for name, value in self.variables.items():
            expr = expr.replace(f"${name}", value)
        if target.get("instant"):
            found = self._ask("query", query=expr, time=self.end)
        else:
            found = self._ask(
                "query_range", query=expr, start=self.start, end=self.end, step=self.step_seconds
            )
        result = []
        for one in found:
            pairs = one.get("values") or [one["value"]]
            points = tuple((at, float(text)) for at, text in pairs if math.isfinite(float(text)))
            if points:
                labels: dict[str, str] = one["metric"]
                result.append(Series(_legend(target, labels), labels, points))
        return result

    def _ask(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        body = urllib.parse.urlencode(parameters).encode()
        request = urllib.request.Request(f"{self.url}/api/v1/{path}", data=body)  # noqa: S310 - given by the operator
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{parameters['query']}: {error.read().decode()}") from error
        return result


def _legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    form = target.get("legendFormat", "__auto")
    if form == "__auto":
        return ", ".join(value for name, value in labels.items() if name != "__name__")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form)
