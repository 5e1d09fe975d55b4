"""A canvas for SVG, and numbers as a reader wants them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

FONT = "-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
INK, FAINT, FRAME = "#24292f", "#57606a", "#d8dee4"
CHARACTER = 0.55  # the mean width of one, of its size
NAMED = {"green": "#2da44e", "red": "#d1242f", "blue": "#1f6feb", "orange": "#e16f24"}
PALETTE = (
    "#2da44e", "#d4a72c", "#1f6feb", "#e16f24", "#d1242f", "#8250df", "#1b7c83", "#bf3989", "#57606a", "#953800",
)  # fmt: skip


@dataclass(frozen=True)
class Rectangle:
    """A place on the canvas, in its units."""

    x: float
    y: float
    width: float
    height: float

    def shrunk(self, by: float) -> Rectangle:
        return Rectangle(self.x + by, self.y + by, self.width - 2 * by, self.height - 2 * by)


class Canvas:
    """Collects shapes; `svg` gives the document."""

    def __init__(self, width: float, height: float) -> None:
        self._width = width
        self._height = height
        self._parts: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 10,
        color: str = INK,
        weight: str = "normal",
        anchor: str = "start",
        room: float | None = None,
    ) -> None:
        """Words on the base line `y`, cut off where they would not fit into `room`."""
        if room is not None:
            most = max(1, int(room / (size * CHARACTER)))
            words = words if len(words) <= most else words[: most - 1] + "…"
        style = "" if weight == "normal" else f' font-weight="{weight}"'
        style += "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._parts.append(
            f'<text x="{_number(x)}" y="{_number(y)}" font-size="{size:g}" fill="{color}"{style}>{escape(words)}</text>'
        )

    def box(
        self,
        at: Rectangle,
        *,
        fill: str = "none",
        stroke: str = "none",
        opacity: float = 1.0,
        radius: float = 0,
    ) -> None:
        style = "" if opacity == 1 else f' fill-opacity="{opacity:g}"'
        style += "" if stroke == "none" else f' stroke="{stroke}"'
        style += "" if radius == 0 else f' rx="{radius:g}"'
        self._parts.append(
            f'<rect x="{_number(at.x)}" y="{_number(at.y)}" width="{_number(at.width)}" '
            f'height="{_number(at.height)}" fill="{fill}"{style}/>'
        )

    def line(
        self, points: list[tuple[float, float]], *, color: str, width: float = 1.2, dash: str = ""
    ) -> None:
        style = f' stroke-dasharray="{dash}"' if dash else ""
        if len(points) == 1:
            x, y = points[0]
            self._parts.append(f'<circle cx="{_number(x)}" cy="{_number(y)}" r="1.5" fill="{color}"/>')
            return
        self._parts.append(
            f'<polyline points="{_points(points)}" fill="none" stroke="{color}" stroke-width="{width:g}"{style}/>'
        )

    def area(self, points: list[tuple[float, float]], *, color: str, opacity: float) -> None:
        self._parts.append(f'<polygon points="{_points(points)}" fill="{color}" fill-opacity="{opacity:g}"/>')

    def svg(self, title: str) -> str:
        """The document, on white, so that it can be read on a dark page too."""
        body = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_number(self._width)} {_number(self._height)}" '
            f'font-family="{FONT}">\n<title>{escape(title)}</title>\n'
            f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
        )


def color_of(name: str) -> str:
    """Grafana's name of a colour, as one that can be read on white."""
    return NAMED.get(name, name)


def figure(value: float, unit: str, decimals: int | None = None) -> str:
    """A value in Grafana's unit, short: `0.25` of `percentunit` is 25 %."""
    if unit == "percentunit":
        return f"{_rounded(value * 100, decimals, 3)} %"
    if unit == "s":
        return _seconds(value, decimals)
    if unit == "bytes":
        size, names = abs(value), ("B", "KiB", "MiB", "GiB", "TiB")
        power = min(int(math.log(size, 1024)), 4) if size >= 1 else 0
        return f"{_rounded(value / 1024**power, decimals, 3)} {names[power]}"
    suffix = {"reqps": " req/s", "ops": " ops/s", "rps": " rd/s"}.get(unit, "")
    size = abs(value)
    if size >= 1e6:
        return f"{_rounded(value / 1e6, decimals, 3)} M{suffix.strip()}"
    if size >= 1e4:
        return f"{_rounded(value / 1e3, decimals, 3)} k{suffix.strip()}"
    return f"{_rounded(value, decimals, 3)}{suffix}"


def _seconds(value: float, decimals: int | None) -> str:
    size = abs(value)
    if size == 0:
        return "0 s"
    for limit, divisor, name in ((1e-3, 1e-6, "µs"), (1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min")):
        if size < limit:
            return f"{_rounded(value / divisor, None if divisor < 1 else decimals, 3)} {name}"
    return f"{_rounded(value / 3600, decimals, 3)} h"


def _rounded(value: float, decimals: int | None, digits: int) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(places, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
