"""What rules and dashboards ask for, and promtool to judge it.

The rules are those that the chart renders, the queries those of the generated dashboards with Grafana's variables filled in.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.chart.helm import NAME, REPOSITORY, render

GRAFANA = REPOSITORY / "grafana"
RUNBOOKS = REPOSITORY / "docs" / "runbooks"
API_JOB, WORKER_JOB = f"{NAME}-api", f"{NAME}-worker"
NAMESPACE, RELEASE = "demo", "sfs"

VARIABLES = {
    "$__rate_interval": "5m",
    "$__range": "1h",
    "$namespace": NAMESPACE,
    "$route": ".*",
    "$queue": ".*",
    "$kind": ".*",
    "$job": ".*",
}
# A name before a selector, or before an aggregation's end: what Prometheus reads as a metric.
METRIC = re.compile(r"(?<![\w:\"$])([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")


@dataclass(frozen=True)
class Query:
    """One query of a dashboard."""

    dashboard: str
    panel: str
    expr: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}"


def tool(name: str) -> str:
    """The program, from the cache of the developer tools or PATH; the test is skipped where there is none."""
    cache_root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scalable-fastapi-system"
    found = shutil.which(name, path=f"{cache_root / 'tools' / 'bin'}:{os.environ['PATH']}")
    if not found:
        pytest.skip(f"{name} is not installed: `hack/tools/install {name}` builds it")
    return found


def groups(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The rule groups as the chart gives them, every alert among them."""
    settings = {"monitoring.prometheusRule.disabled": [], **(values or {})}
    found: list[dict[str, Any]] = render("everything", settings).one("PrometheusRule", "")["spec"]["groups"]
    return found


def rules(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [rule for group in groups(values) for rule in group["rules"]]


def alerts() -> list[str]:
    """Names, each once, in the order of the rules."""
    return list(dict.fromkeys(rule["alert"] for rule in rules() if "alert" in rule))


def dashboards() -> dict[str, dict[str, Any]]:
    """File name without its ending -> the dashboard."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(GRAFANA.glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(variables: dict[str, str] | None = None) -> list[Query]:
    """Every query of every dashboard, its variables filled in."""
    return [
        Query(name, panel["title"], filled(target["expr"], variables))
        for name, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


def filled(expr: str, variables: dict[str, str] | None = None) -> str:
    """The query as Grafana would send it."""
    for name, value in {**VARIABLES, **(variables or {})}.items():
        expr = expr.replace(name, value)
    return expr


def metrics_of(expr: str) -> list[tuple[str, set[str]]]:
    """Each metric that the query selects, with the labels it asks for."""
    return [
        (name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)))
        for name, matchers in METRIC.findall(expr)
    ]


def check_rules(rule_groups: list[dict[str, Any]], folder: Path) -> str:
    """What promtool has against these rules; empty where it has nothing."""
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": rule_groups}, sort_keys=False))
    done = subprocess.run(
        [tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def judge(tests: list[dict[str, Any]], folder: Path, values: dict[str, Any] | None = None) -> None:
    """Has promtool run these tests of the chart's rules; fails with what it says."""
    (folder / "rules.yaml").write_text(_rule_file() if values is None else _as_file(values))
    (folder / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run(
        [tool("promtool"), "test", "rules", str(folder / "tests.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


@cache
def _rule_file() -> str:
    return _as_file()


def _as_file(values: dict[str, Any] | None = None) -> str:
    return yaml.safe_dump({"groups": groups(values)}, sort_keys=False)
