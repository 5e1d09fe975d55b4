"""`grafana/picture`: what the dashboards show of a Prometheus, drawn as SVG without a Grafana.

Not a copy of Grafana: the same panels at the same places with the same queries, units and colours, so that a reader sees what
there is to see. Each dashboard becomes one file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from grafana.source.answers import Source
from grafana.source.drawing import Canvas, Rectangle
from grafana.source.panels import draw

REPOSITORY = Path(__file__).resolve().parents[2]
WIDTH, HEADER, MARGIN = 1200, 46, 8
COLUMN, LINE = (WIDTH - 2 * MARGIN) / 24, 24.0


def picture(dashboard: dict[str, Any], source: Source) -> str:
    """The dashboard as SVG. RuntimeError where Prometheus refuses a query."""
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    height = HEADER + max(at["y"] + at["h"] for at in places) * LINE + MARGIN
    canvas = Canvas(WIDTH, height)
    canvas.text(MARGIN + 4, 22, dashboard["title"], size=17, weight="bold")
    canvas.text(MARGIN + 4, 39, dashboard["description"], size=11, color="#57606a")
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        area = Rectangle(MARGIN + at["x"] * COLUMN, HEADER + at["y"] * LINE, at["w"] * COLUMN, at["h"] * LINE)
        if panel["type"] == "row":
            canvas.text(area.x + 4, area.y + 17, panel["title"], size=13, weight="bold")
        else:
            draw(canvas, area.shrunk(3), panel, source)
    return canvas.svg(dashboard["title"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="grafana/picture", description="Draw the dashboards as SVG.")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address (%(default)s)")
    parser.add_argument("--namespace", required=True, help="the namespace that is shown")
    parser.add_argument("--minutes", type=float, default=60.0, help="how far back (%(default)s)")
    parser.add_argument("--rate-interval", default="1m", help="Grafana's $__rate_interval (%(default)s)")
    options = parser.parse_args()
    now = time.time()
    source = source_of(
        options.prometheus, options.namespace, options.rate_interval, now - options.minutes * 60, now
    )
    try:
        for path in write(options.folder, source):
            sys.stdout.write(f"{path}\n")
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"{error}\nnext: is {options.prometheus} a Prometheus that answers?\n")
        return 1
    return 0


def source_of(url: str, namespace: str, rate_interval: str, start: float, end: float) -> Source:
    """A Prometheus whose dashboards show everything in one namespace."""
    every = dict.fromkeys(("route", "queue", "kind", "job"), ".*")
    variables = {"__rate_interval": rate_interval, "namespace": namespace, **every}
    return Source(url.rstrip("/"), start, end, variables)


def write(folder: Path, source: Source) -> list[Path]:
    """Draws every dashboard into the folder; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file in sorted((REPOSITORY / "grafana").glob("*.json")):
        path = folder / f"dashboard-{file.stem}.svg"
        path.write_text(picture(json.loads(file.read_text()), source))
        written.append(path)
    return written
