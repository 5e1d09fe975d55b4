"""docs/observability.md says what the code does: its metrics, its log lines, its alerts and dashboards."""

from __future__ import annotations

import json
import re

import pytest

from tests.unit.chart.helm import REPOSITORY
from tests.unit.monitoring.promql import dashboards, groups, rules
from tests.unit.monitoring.registry import registered

PAGE = REPOSITORY / "docs" / "observability.md"
TEXT = PAGE.read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \|$", re.MULTILINE)
# Given by the server and the request, beside what the line is about.
OF_A_REQUEST = {
    "event",
    "level",
    "timestamp",
    "path",
    "method",
    "route",
    "status",
    "duration_ms",
    "client",
    "user_id",
    "request_id",
}
OF_A_JOB = {"event", "level", "timestamp", "duration_ms", "job_id", "kind", "attempt", "request_id"}


def section(begin: str, end: str) -> str:
    return TEXT.split(begin, 1)[1].split(end, 1)[0]


def test_every_metric_that_the_code_registers_is_there_as_it_is():
    text = section("<!-- metrics:", "<!-- end of metrics -->")
    listed = {
        (name, kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in ROW.findall(text)
    }
    assert listed == {(one.name, one.type, one.labels) for one in registered() if one.is_ours}


@pytest.mark.parametrize(("what", "members"), [("request", OF_A_REQUEST), ("job", OF_A_JOB)])
def test_log_lines_have_the_members_that_are_written(what, members):
    line = section(f"<!-- log-line: {what} -->\n```json\n", "\n```")
    assert set(json.loads(line)) == members


def test_burn_rates_are_those_of_the_rules():
    (burns,) = [group for group in groups() if group["name"].endswith(".burn")]
    wanted = {(rule["labels"]["window"], rule["labels"]["severity"]) for rule in burns["rules"]}
    listed = re.findall(r"\| [\d.]+ \| \d+ \w and (\d+) (\w) \| (\w+) \|", TEXT)
    assert {(f"{number}{unit}", severity) for number, unit, severity in listed} == wanted


def test_every_dashboard_is_named_and_pictured():
    text = section("## Dashboards", "## How it is proven")
    for name, dashboard in dashboards().items():
        title = dashboard["title"].rpartition(" / ")[2]
        assert f"| {title} |" in text
        assert f"![{title}](images/dashboard-{name}.svg)" in text


def test_pictures_show_every_panel_with_data():
    for name, dashboard in dashboards().items():
        picture = (PAGE.parent / "images" / f"dashboard-{name}.svg").read_text()
        assert "no data" not in picture
        for panel in dashboard["panels"]:
            assert f">{panel['title'][:12]}" in picture, panel["title"]


def test_what_reads_kube_state_metrics_alone_is_said():
    alone = {
        rule["alert"]
        for rule in rules()
        if "alert" in rule and all("kube_" in part for part in re.split(r"\bor\b", rule["expr"]))
    }
    assert alone == set(re.findall(r"`(\w+)` has nothing else to read", TEXT))
