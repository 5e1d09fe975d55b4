"""Each kind of panel, drawn from what Prometheus answered."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from grafana.source.answers import Series, Source
from grafana.source.drawing import FAINT, FRAME, INK, PALETTE, Canvas, Rectangle, color_of, figure

TITLE, LEGEND, AXIS = 18.0, 12.0, 54.0
MOST_IN_LEGEND = 6
Points = list[tuple[float, float]]


def draw(canvas: Canvas, area: Rectangle, panel: dict[str, Any], source: Source) -> None:
    """One panel with its frame and title; one without an answer says so."""
    canvas.box(area, stroke=FRAME, radius=3)
    canvas.text(area.x + 7, area.y + 13, panel["title"], size=10.5, weight="bold", room=area.width - 14)
    inner = Rectangle(area.x + 7, area.y + TITLE, area.width - 14, area.height - TITLE - 5)
    answers = source.answers(panel)
    if not any(answers):
        words = panel["fieldConfig"]["defaults"].get("noValue", "no data")
        canvas.text(
            inner.x + inner.width / 2, inner.y + inner.height / 2, words, color=FAINT, anchor="middle"
        )
        return
    _KINDS[panel["type"]](canvas, inner, panel, answers, source)


def _number(
    canvas: Canvas, area: Rectangle, panel: dict[str, Any], answers: list[list[Series]], source: Source
) -> None:
    series = answers[0][0]
    defaults = panel["fieldConfig"]["defaults"]
    color = _by_limits(series.last, defaults["thresholds"]["steps"])
    below = Rectangle(area.x, area.y + area.height * 0.5, area.width, area.height * 0.5)
    highest = max(*(value for _, value in series.points), 1e-12)
    points = _placed(series.points, below, source, lowest=min(0.0, series.last), highest=highest)
    canvas.area(_down_to_base(points, below), color=color, opacity=0.15)
    text = figure(series.last, defaults["unit"], defaults.get("decimals"))
    middle = area.x + area.width / 2
    canvas.text(
        middle, area.y + area.height * 0.6, text, size=21, color=color, weight="bold", anchor="middle"
    )


def _lines(
    canvas: Canvas, area: Rectangle, panel: dict[str, Any], answers: list[list[Series]], source: Source
) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    every = [series for one in answers for series in one]
    is_stacked = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"
    shown = _stacked(every) if is_stacked else [list(series.points) for series in every]
    values = [value for points in shown for _, value in points]
    lowest = min(*values, defaults.get("min", math.inf))
    highest = defaults.get("max", max(values))
    if highest <= lowest:
        highest = lowest + (abs(lowest) or 1.0)
    names = min(len(every), MOST_IN_LEGEND)
    plot = Rectangle(
        area.x + AXIS, area.y + 3, area.width - AXIS - 4, area.height - 10 - LEGEND * math.ceil(names / 2)
    )
    _scale(canvas, plot, lowest, highest, defaults["unit"])
    for step in defaults.get("thresholds", {}).get("steps", []):
        limit = step.get("value")
        if limit is not None and lowest <= limit <= highest and "thresholdsStyle" in defaults["custom"]:
            y = plot.y + plot.height * (1 - (limit - lowest) / (highest - lowest))
            canvas.line(
                [(plot.x, y), (plot.x + plot.width, y)],
                color=color_of(step["color"]),
                width=0.8,
                dash="4 3",
            )
    for index in reversed(range(len(shown))):
        color = PALETTE[index % len(PALETTE)]
        points = _placed(tuple(shown[index]), plot, source, lowest=lowest, highest=highest)
        if is_stacked:
            canvas.area(_down_to_base(points, plot), color=color, opacity=0.3)
        canvas.line(points, color=color)
    for index, series in enumerate(every[:names]):
        x = area.x + (index % 2) * area.width / 2
        y = area.y + area.height - LEGEND * (math.ceil(names / 2) - 1 - index // 2)
        canvas.box(Rectangle(x, y - 4, 9, 3), fill=PALETTE[index % len(PALETTE)])
        name = series.name or panel["title"]
        if index == names - 1 and len(every) > names:
            name = f"{name}, and {len(every) - names} more"
        last = figure(series.last, defaults["unit"], defaults.get("decimals"))
        canvas.text(x + 13, y, f"{name}  {last}", size=8.5, color=FAINT, room=(area.width / 2 - 16))


def _heat(
    canvas: Canvas, area: Rectangle, panel: dict[str, Any], answers: list[list[Series]], source: Source
) -> None:
    """Cumulative buckets by time → what is in each bucket alone."""
    buckets = sorted(answers[0], key=lambda series: float(series.labels["le"]))
    counts: list[dict[float, float]] = []
    below: dict[float, float] = {}
    for series in buckets:
        here = dict(series.points)
        counts.append({at: max(0.0, value - below.get(at, 0.0)) for at, value in here.items()})
        below = here
    while counts and not any(counts[-1].values()):
        counts.pop()
    most = max((value for one in counts for value in one.values()), default=0.0) or 1.0
    plot = Rectangle(area.x + AXIS, area.y + 3, area.width - AXIS - 4, area.height - 12)
    height = plot.height / max(1, len(counts))
    width = plot.width * source.step_seconds / (source.end - source.start)
    for index, one in enumerate(counts):
        y = plot.y + plot.height - (index + 1) * height
        limit = float(buckets[index].labels["le"])
        label = "more" if math.isinf(limit) else figure(limit, "s")
        canvas.text(plot.x - 5, y + 4, label, size=8, color=FAINT, anchor="end")
        for at, value in one.items():
            if value > 0:
                x = plot.x + plot.width * (at - source.start) / (source.end - source.start)
                share = (value / most) ** 0.5
                cell = Rectangle(min(x, plot.x + plot.width - width), y + 0.5, width, max(1.0, height - 1))
                canvas.box(cell, fill=_warm(share))
    canvas.box(plot, stroke=FRAME)


def _states(
    canvas: Canvas, area: Rectangle, panel: dict[str, Any], answers: list[list[Series]], source: Source
) -> None:
    names = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    every = [series for one in answers for series in one]
    height = min(34.0, area.height / len(every))
    for index, series in enumerate(every):
        y = area.y + index * height
        canvas.text(area.x, y + 9, series.name, size=8.5, color=FAINT, room=area.width)
        runs: list[tuple[float, float, float]] = []
        for at, value in series.points:
            if runs and runs[-1][2] == value:
                runs[-1] = (runs[-1][0], at, value)
            else:
                runs.append((at, at, value))
        for start, end, value in runs:
            left, right = (_across(area, at, source) for at in (start, end + source.step_seconds))
            right = min(right, area.x + area.width)
            state = names[f"{value:g}"]
            bar = Rectangle(left, y + 12, max(1.0, right - left), height - 17)
            canvas.box(bar, fill=color_of(state["color"]), opacity=0.75)
            canvas.text(
                left + 4, y + 12 + bar.height / 2 + 3, state["text"], size=9, color="#ffffff", room=bar.width
            )


def _table(
    canvas: Canvas, area: Rectangle, panel: dict[str, Any], answers: list[list[Series]], _source: Source
) -> None:
    options = panel["transformations"][-1]["options"]
    names = sorted(options["indexByName"], key=options["indexByName"].__getitem__)
    keys = [name for name in names if not name.startswith("Value")]
    headings = [options["renameByName"][name] for name in names]
    units: dict[str, dict[str, Any]] = {
        override["matcher"]["options"]: {one["id"]: one["value"] for one in override["properties"]}
        for override in panel["fieldConfig"]["overrides"]
    }
    rows: dict[tuple[str, ...], list[str]] = {}
    for column, found in enumerate(answers):
        rule = units[headings[len(keys) + column]]
        for series in found:
            row = rows.setdefault(tuple(series.labels.get(key, "") for key in keys), ["" for _ in answers])
            row[column] = figure(series.last, rule["unit"], rule["decimals"])
    ordered = sorted(rows.items(), key=lambda row: _leading(row[1][0]), reverse=True)
    width = area.width / len(headings)
    for column, heading in enumerate(headings):
        canvas.text(area.x + column * width + 2, area.y + 11, heading, size=9, weight="bold", room=width - 4)
    fitting = int((area.height - 16) / 14)
    for index, (labels, values) in enumerate(ordered[:fitting]):
        y = area.y + 27 + index * 14
        canvas.line([(area.x, y - 11), (area.x + area.width, y - 11)], color=FRAME, width=0.6)
        for column, text in enumerate([*labels, *values]):
            canvas.text(area.x + column * width + 2, y, text, size=9, color=INK, room=width - 4)


_KINDS: dict[str, Callable[[Canvas, Rectangle, dict[str, Any], list[list[Series]], Source], None]] = {
    "stat": _number,
    "timeseries": _lines,
    "heatmap": _heat,
    "state-timeline": _states,
    "table": _table,
}


def _scale(canvas: Canvas, plot: Rectangle, lowest: float, highest: float, unit: str) -> None:
    for part in (0.0, 0.5, 1.0):
        y = plot.y + plot.height * (1 - part)
        canvas.line([(plot.x, y), (plot.x + plot.width, y)], color=FRAME, width=0.6)
        value = lowest + part * (highest - lowest)
        canvas.text(plot.x - 5, y + 3, figure(value, unit), size=8, color=FAINT, anchor="end")


def _across(area: Rectangle, at: float, source: Source) -> float:
    return area.x + area.width * (at - source.start) / (source.end - source.start)


def _placed(
    points: tuple[tuple[float, float], ...],
    area: Rectangle,
    source: Source,
    *,
    lowest: float,
    highest: float,
) -> Points:
    """Where the points lie on the canvas; what is out of the scale lies at its edge."""
    result = []
    for at, value in points:
        share = min(1.0, max(0.0, (value - lowest) / (highest - lowest)))
        result.append((_across(area, at, source), area.y + area.height * (1 - share)))
    return result


def _down_to_base(points: Points, area: Rectangle) -> Points:
    base = area.y + area.height
    return [(points[0][0], base), *points, (points[-1][0], base)]


def _stacked(every: list[Series]) -> list[Points]:
    """Each series on top of those before it."""
    sums: dict[float, float] = {}
    result = []
    for series in every:
        points = []
        for at, value in series.points:
            sums[at] = sums.get(at, 0.0) + value
            points.append((at, sums[at]))
        result.append(points)
    return result


def _by_limits(value: float, steps: list[dict[str, Any]]) -> str:
    color = steps[0]["color"]
    for step in steps[1:]:
        if value >= step["value"]:
            color = step["color"]
    return color_of("#b08800" if color == "#EAB839" else color)


def _warm(share: float) -> str:
    """From pale yellow to dark red."""
    low, high = (255, 237, 160), (165, 15, 21)
    mixed = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _leading(text: str) -> float:
    try:
        return float(text.split(" ", maxsplit=1)[0])
    except ValueError:
        return -math.inf
