"""Numbers from a values file: Helm reads each as a float64, which Go writes as 1e+06 from a million on."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.unit.chart.helm import container, plain_environment, render
from tests.unit.chart.test_values import SCHEMA, resolved

LARGE = 1_048_576
EXPONENT = re.compile(r"\b\d(\.\d+)?e\+\d\d\b")
# Autoscaled and fixed numbers of pods exclude each other, so that one render shows one of the two.
AUTOSCALED = {
    "api": {"autoscaling": {"enabled": True}},
    "worker": {"autoscaling": {"type": "keda"}},
}
FIXED = {
    "api": {"autoscaling": {"enabled": False}},
    "worker": {"autoscaling": {"type": "none"}},
}
CPU = {"worker": {"autoscaling": {"type": "cpu"}}}


def rendered_with(tmp_path, shape, *values):
    files = []
    for number, some in enumerate(values):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(yaml.safe_dump(some))
    return render(shape, files=files)


def integers(node=SCHEMA):
    """Every whole number that the schema knows, set to a large one, as a values file would hold it."""
    found = {}
    for key, given in node.get("properties", {}).items():
        child = resolved(given)
        choices = [child, *child.get("anyOf", [])]
        if "properties" in child:
            found[key] = integers(child)
        elif any("integer" in choice.get("type", []) for choice in choices):
            found[key] = LARGE
    return {key: value for key, value in found.items() if value != {}}


def test_a_large_setting_reaches_the_application_as_it_was_written(tmp_path):
    values = {
        "config": {"API__MAX_BODY_BYTES": LARGE, "API__SLOW_REQUEST_SECONDS": 0.5},
        "api": {"config": {"API__MAX_HEAD_BYTES": 2_000_000}},
        "worker": {"config": {"JOBS__LEASE_SECONDS": 1_234_567.5, "JOBS__MAX_CRASHES": 5}},
        "secrets": {"extra": {"A_LARGE__NUMBER": 5_000_000}},
    }
    rendered = rendered_with(tmp_path, "default", values)
    of_api = plain_environment(rendered.pod("Deployment", "-api"), "api", rendered)
    of_worker = plain_environment(rendered.pod("Deployment", "-worker"), "worker", rendered)
    assert of_api["API__MAX_BODY_BYTES"] == of_worker["API__MAX_BODY_BYTES"] == "1048576"
    assert of_api["API__SLOW_REQUEST_SECONDS"] == "0.5"
    assert of_api["API__MAX_HEAD_BYTES"] == "2000000"
    assert of_api["A_LARGE__NUMBER"] == "5000000"
    assert (of_worker["JOBS__LEASE_SECONDS"], of_worker["JOBS__MAX_CRASHES"]) == ("1234567.5", "5")


def test_a_large_parameter_reaches_the_embedded_server_as_it_was_written(tmp_path):
    values = {"postgres": {"parameters": {"maintenance_work_mem": LARGE, "random_page_cost": 1.1}}}
    pod = rendered_with(tmp_path, "default", values).pod("StatefulSet", "-postgres")
    args = container(pod, "postgres")["args"]
    assert {"maintenance_work_mem=1048576", "random_page_cost=1.1"} <= set(args)


def test_a_user_of_a_cluster_s_own_range_is_written_as_a_whole_number(tmp_path):
    """OpenShift's ranges begin at a thousand million."""
    values = {"podSecurity": {"runAsUser": 1_000_620_000}, "postgres": {"runAsUser": 1_000_620_001}}
    rendered = rendered_with(tmp_path, "default", values)
    assert "runAsUser: 1000620000\n" in rendered.text
    assert "fsGroup: 1000620001\n" in rendered.text


@pytest.mark.parametrize("scaling", [AUTOSCALED, FIXED, CPU], ids=["autoscaled", "fixed", "cpu"])
@pytest.mark.parametrize("mode", ["embedded", "external"])
def test_no_number_of_the_values_is_written_with_an_exponent(tmp_path, mode, scaling):
    all_on = {
        "secrets": {"secretKey": "k" * 40},
        "api": {"processes": 1},  # what all could want of Postgres would not fit into 64 bits
        "postgres": {
            "mode": mode,
            "auth": {"password": "p"},
            "external": {"url": "postgresql://a:b@c/d", "maxConnections": 0},
            # beyond whatever all those pods could want
            "maxConnections": 10**18,
        },
        "redis": {"auth": {"password": "r"}},
        "doctor": {"enabled": True},
        "monitoring": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]},
    }
    text = rendered_with(tmp_path, "default", integers(), all_on, scaling).text
    assert EXPONENT.findall(text) == []
    assert EXPONENT.search("1.048576e+06")
    assert text.count(str(LARGE)) > 20
