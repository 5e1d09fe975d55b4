"""The dashboards: made from their source, right in themselves, and linked to what exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.unit.chart.helm import NAME, REPOSITORY, render
from tests.unit.monitoring.promql import alerts, check_rules, dashboards, panels, queries, rules

UIDS = {"slo": "sfs-slo", "api": "sfs-api", "jobs": "sfs-jobs", "runtime": "sfs-runtime"}
# Grafana's own, beside the dashboard's variables
BUILT_IN = {"__rate_interval", "__url_time_range", "__value"}


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "grafana" / "generate"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_files_are_what_the_source_makes():
    done = generate("--check")
    assert done.returncode == 0, done.stderr


def test_a_file_that_was_changed_by_hand_is_found(monkeypatch, tmp_path):
    from grafana.source import generate as source

    for folder in ("here", "chart"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(source, "REPOSITORY", tmp_path)
    monkeypatch.setattr(source, "FOLDERS", (tmp_path / "here", tmp_path / "chart"))
    assert sum("missing" in line for line in source.differences()) == 2 * len(UIDS)
    source.write()
    assert source.differences() == []
    (tmp_path / "here" / "slo.json").write_text("{}")
    (tmp_path / "chart" / "old.json").write_text("{}")
    assert source.differences() == [
        "here/slo.json is not what grafana/source makes",
        "chart/old.json has no source",
    ]


def test_identities_are_for_ever():
    assert {name: dashboard["uid"] for name, dashboard in dashboards().items()} == UIDS


@pytest.mark.parametrize("name", UIDS)
def test_a_dashboard_is_complete(name):
    dashboard = dashboards()[name]
    assert dashboard["title"].startswith("Scalable FastAPI System / ")
    assert dashboard["description"]
    assert dashboard["tags"] == ["scalable-fastapi-system"]
    variables = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert variables[:2] == ["datasource", "namespace"]
    identities = [panel["id"] for panel in dashboard["panels"]]
    assert len(identities) == len(set(identities))
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(titles) == len(set(titles)), "a title told twice tells two panels apart from nobody"


@pytest.mark.parametrize("name", UIDS)
def test_a_panel_says_what_it_shows_in_which_unit(name):
    for panel in panels(dashboards()[name]):
        assert len(panel["description"]) > 15, panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        if panel["type"] == "table":
            units = [
                one["value"]
                for override in panel["fieldConfig"]["overrides"]
                for one in override["properties"]
                if one["id"] == "unit"
            ]
            assert len(units) == len(panel["targets"]), panel["title"]
        elif panel["type"] == "heatmap":
            assert panel["options"]["yAxis"]["unit"] == "s"
        else:
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@pytest.mark.parametrize("name", UIDS)
def test_panels_fill_the_grid_and_never_overlap(name):
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboards()[name]["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, (panel["title"], taken[(x, y)])
                taken[(x, y)] = panel["title"]
    for y in {y for _, y in taken}:
        assert {x for x, row in taken if row == y} == set(range(24)), f"a gap in line {y}"


@pytest.mark.parametrize("name", UIDS)
def test_variables_and_links_lead_to_what_exists(name):
    dashboard = dashboards()[name]
    text = json.dumps(dashboard)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", text))
    assert used <= variables | BUILT_IN
    assert variables - {"datasource", "namespace"} <= used
    links = re.findall(r'"url": "([^"]+)"', text)
    assert links
    for link in links:
        uid, _, query = link.removeprefix("/d/").partition("?")
        (target,) = [other for other in dashboards().values() if other["uid"] == uid]
        known = {variable["name"] for variable in target["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", query)) <= known
        assert query.endswith("${__url_time_range}")
        assert "var-namespace=${namespace}" in query


def test_every_query_is_valid_and_stays_in_the_namespace(tmp_path):
    group = [
        {"record": f"query:{number}", "expr": query.expr} for number, query in enumerate(queries(), start=1)
    ]
    assert check_rules([{"name": "queries", "rules": group}], tmp_path) == ""
    for query in queries():
        for matchers in re.findall(r"\{([^}]*)\}", query.expr):
            assert 'namespace="demo"' in matchers, query


def test_variable_queries_are_valid(tmp_path):
    found = []
    for dashboard in dashboards().values():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                (series,) = re.findall(r"^label_values\((.+), \w+\)$", variable["query"]["query"])
                found.append(series.replace("$namespace", "demo"))
    group = [{"record": f"variable:{number}", "expr": expr} for number, expr in enumerate(found)]
    assert check_rules([{"name": "variables", "rules": group}], tmp_path) == ""


def test_an_alert_names_a_dashboard_that_exists():
    named = {rule["annotations"]["dashboard"] for rule in rules() if rule.get("alert") in alerts()}
    assert named <= set(UIDS.values())


def test_the_chart_ships_them_for_grafanas_sidecar():
    rendered = render("everything")
    for name, dashboard in dashboards().items():
        found = rendered.one("ConfigMap", f"-dashboard-{name}")
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert found["metadata"]["annotations"]["grafana_folder"] == "Platform"
        assert list(found["data"]) == [f"{name}.json"]
        assert json.loads(found["data"][f"{name}.json"]) == dashboard
        # kubectl apply keeps a copy in an annotation, which may have 256 KiB
        assert len(found["data"][f"{name}.json"]) < 200_000
    assert not [
        item
        for item in render("default").kind("ConfigMap")
        if item["metadata"]["name"].startswith(f"{NAME}-dashboard")
    ]
