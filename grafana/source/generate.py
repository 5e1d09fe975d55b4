"""`grafana/generate`: write the dashboards as JSON, here and where the chart can read them.

A chart cannot read outside its folder, so `charts/…/files/dashboards` holds copies. With `--check` nothing is written: the
exit code is 1, and what differs is named, where a file is not what the source makes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.source import api, jobs, runtime, slo

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = (
    REPOSITORY / "grafana",
    REPOSITORY / "charts" / "scalable-fastapi-system" / "files" / "dashboards",
)
DASHBOARDS: dict[str, Callable[[], Dashboard]] = {
    "slo": slo.build,
    "api": api.build,
    "jobs": jobs.build,
    "runtime": runtime.build,
}


def rendered() -> dict[str, str]:
    """The JSON of each dashboard by file name."""
    return {f"{name}.json": to_json(build()) for name, build in DASHBOARDS.items()}


def to_json(dashboard: Dashboard) -> str:
    """One dashboard with panels numbered from 1, which is what links and alerts refer to."""
    model = dashboard.build()
    for number, panel in enumerate(model.panels or [], start=1):
        panel.id_val = number
    return json.dumps(model, cls=JSONEncoder, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def differences() -> list[str]:
    """What is missing, different, or there without a source."""
    wanted = rendered()
    found = []
    for folder in FOLDERS:
        for name, text in wanted.items():
            path = folder / name
            if not path.exists():
                found.append(f"{path.relative_to(REPOSITORY)} is missing")
            elif path.read_text() != text:
                found.append(f"{path.relative_to(REPOSITORY)} is not what grafana/source makes")
        found += [
            f"{path.relative_to(REPOSITORY)} has no source"
            for path in sorted(folder.glob("*.json"))
            if path.name not in wanted
        ]
    return found


def write() -> None:
    for folder in FOLDERS:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in rendered().items():
            (folder / name).write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="grafana/generate", description="Write the dashboards as JSON.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file would change")
    if not parser.parse_args().check:
        write()
        return 0
    found = differences()
    if found:
        sys.stderr.write("\n".join([*found, "next: run grafana/generate and commit what it writes"]) + "\n")
        return 1
    sys.stdout.write(f"The {len(DASHBOARDS)} dashboards are what their source makes, here and in the chart\n")
    return 0
