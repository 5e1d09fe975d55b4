"""The picture of a comparison: requests a second by work and target, and the rate that is asked of the platform."""

from __future__ import annotations

from collections.abc import Sequence

from grafana.source.drawing import FAINT, FRAME, INK, Canvas, Rectangle
from tests.bench.compare import Row
from tests.bench.works import BASE, TITLES

WIDTH = 860.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 150.0, 70.0, 52.0, 34.0
_BAR, _GAP, _HEADING = 15.0, 5.0, 24.0
_OTHER, _BASE, _OURS, _TRACED, _ASKED = "#c4ccd4", "#57606a", "#2da44e", "#a5d6b0", "#d1242f"


def picture(rows: Sequence[Row]) -> str:
    """An SVG: a bar a row, grouped by work. A red mark is the rate that the asked ratio makes of the hand-written one's."""
    works = list({row.work.name: row.work for row in rows}.values())
    height = _TOP + sum(_HEADING for _ in works) + len(rows) * (_BAR + _GAP) + _BOTTOM
    most = max(row.middle("per_second") for row in rows)
    scale = (WIDTH - _LEFT - _RIGHT) / most
    canvas = Canvas(WIDTH, height)
    canvas.text(12, 22, "Requests a second, one process on a core of its own", size=14, weight="600")
    canvas.text(12, 38, "The longer the better. The red mark: what is asked of “ours”.", size=10, color=FAINT)
    y = _TOP
    for work in works:
        canvas.text(12, y + 14, work.title.replace("`", ""), size=11, weight="600")
        y += _HEADING
        of_work = [row for row in rows if row.work == work]
        base = _base_rate(rows, work.base)
        for row in of_work:
            rate = row.middle("per_second")
            canvas.text(_LEFT - 6, y + 11, TITLES[row.target], size=10, color=INK, anchor="end")
            canvas.box(Rectangle(_LEFT, y, max(1.0, rate * scale), _BAR), fill=_color(row.target), radius=1)
            canvas.text(_LEFT + rate * scale + 5, y + 11, f"{rate:.0f}", size=10, color=FAINT)
            if row.target == "ours" and work.at_least is not None and base is not None:
                asked = _LEFT + base * work.at_least * scale
                canvas.line([(asked, y - 2), (asked, y + _BAR + 2)], color=_ASKED, width=2)
            y += _BAR + _GAP
    canvas.line([(_LEFT, _TOP), (_LEFT, y)], color=FRAME)
    return canvas.svg("Requests a second by work and target")


def _base_rate(rows: Sequence[Row], name: str) -> float | None:
    rates = [row.middle("per_second") for row in rows if row.target == BASE and row.work.name == name]
    return rates[0] if rates else None


def _color(target: str) -> str:
    if target == "ours":
        return _OURS
    if target == BASE:
        return _BASE
    return _TRACED if target.startswith("ours") else _OTHER
