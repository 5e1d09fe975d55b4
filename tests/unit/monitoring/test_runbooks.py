"""The runbooks: one page for each alert, in one shape, naming only commands, settings, values and panels that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from uuid import UUID

import pytest
from scalable_fastapi_system import cli
from scalable_fastapi_system.infra.settings import Settings

from tests.unit.chart.test_values import SCHEMA, resolved
from tests.unit.monitoring.promql import RUNBOOKS, alerts, dashboards, rules

SECTIONS = ["Meaning", "Impact", "Look", "Act", "Over"]
PAGES = sorted(path.stem for path in RUNBOOKS.glob("*.md") if path.stem != "README")
CHART_VALUES = (
    "api",
    "worker",
    "extraWorkers",
    "migrate",
    "postgres",
    "redis",
    "networkPolicy",
    "monitoring",
)
AN_ID = str(UUID(int=7))
# In italics without being the name of a panel: what the API says to a caller.
QUOTED = {"The request took too long"}


def text_of(page: str) -> str:
    return (RUNBOOKS / f"{page}.md").read_text()


def test_every_alert_has_its_page_and_every_page_its_alert():
    assert sorted(alerts()) == PAGES


def test_annotations_lead_to_the_pages():
    base = "https://example.com/docs/runbooks"
    found = [rule for rule in rules({"monitoring.prometheusRule.runbookUrl": f"{base}/"}) if "alert" in rule]
    assert found
    for rule in found:
        url = rule["annotations"]["runbook_url"]
        assert url == f"{base}/{rule['alert']}.md"
        assert (RUNBOOKS / Path(url).name).is_file()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_the_shape_of_all(page):
    text = text_of(page)
    assert text.startswith(f"# {page}\n")
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    assert parts[1::2] == SECTIONS
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        assert len(body.strip()) > 20, name


def test_the_list_of_pages_has_each_alert_with_its_severities():
    severities: dict[str, set[str]] = {}
    for rule in rules():
        if "alert" in rule:
            severities.setdefault(rule["alert"], set()).add(rule["labels"]["severity"])
    listed = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| ([a-z, ]+) \|", text_of("README"), re.MULTILINE)
    assert {name: set(text.split(", ")) for name, target, text in listed if name == target} == severities


@pytest.mark.parametrize("page", [*PAGES, "README"])
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", text_of(page)):
        assert (RUNBOOKS / target).is_file(), target


@pytest.mark.parametrize("page", PAGES)
def test_operators_commands_are_ones_that_the_command_line_takes(page, capsys):
    parser = cli._parser()
    for command in re.findall(r"\bmanage ((?:[a-z-]+)(?: [^`|#;\n()]+)?)", text_of(page)):
        words = shlex.split(command.strip().replace(" ID", f" {AN_ID}"))
        try:
            parser.parse_args(words)
        except SystemExit:
            pytest.fail(f"manage {command}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES)
def test_settings_and_values_are_ones_that_there_are(page):
    text = text_of(page)
    for section, name in re.findall(r"`([A-Z_]+?)__([A-Z_]+)[`=]", text):
        model = Settings.model_fields[section.lower()].annotation
        assert name.lower() in model.model_fields, f"{section}__{name}"
    for path in re.findall(rf"`((?:{'|'.join(CHART_VALUES)})(?:\.\w+)+)(?::[^`]*)?`", text):
        assert is_value(path), path


def is_value(path: str) -> bool:
    """Whether the chart has this value; what is below a free map (`resources`) is Kubernetes' own."""
    node = resolved(SCHEMA)
    for key in path.split("."):
        if "properties" not in node:
            return True
        if key not in node["properties"]:
            return False
        node = resolved(node["properties"][key])
    return True


@pytest.mark.parametrize("page", PAGES)
def test_panels_are_ones_that_a_dashboard_has(page):
    known = set(QUOTED)
    for dashboard in dashboards().values():
        known.add(dashboard["title"].rpartition(" / ")[2])
        known |= {panel["title"] for panel in dashboard["panels"]}
    named = set(re.findall(r"(?<![*\w])\*([A-Z][^*\n]+)\*(?!\*)", text_of(page)))
    assert named <= known
