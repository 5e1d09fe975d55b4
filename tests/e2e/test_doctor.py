"""The chart's doctor, asked as the notes tell: of an installation that is well, and of ones with a fault."""

from __future__ import annotations

import json
import secrets

import pytest

from tests.e2e.system import System, until

pytestmark = pytest.mark.e2e

LABEL = "monitoring.serviceMonitor.labels.release"


@pytest.fixture(scope="module")
def doctor(system):
    """The tested release with a doctor."""
    system.upgrade("--set=doctor.enabled=true")
    yield
    system.upgrade("--set=doctor.enabled=false")


def ask(system: System, **settings: str) -> tuple[str, str]:
    """`healthy` or `ill` by how the Job ends, and what it says. `settings` are in force for it alone."""
    name = f"doctor-{secrets.token_hex(3)}"
    source = f"--from=cronjob/{system.fullname}-doctor"
    job = json.loads(system.kubectl("create", "job", name, source, "--dry-run=client", "--output=json"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    for entry in container["env"]:
        if entry["name"] in settings:
            entry["value"] = settings[entry["name"]]
    system.kubectl("create", "-f", "-", stdin=json.dumps(job))

    def ended() -> str | None:
        conditions = system.get("job", name)["status"].get("conditions", [])
        true = {one["type"] for one in conditions if one["status"] == "True"}
        return "healthy" if "Complete" in true else "ill" if "Failed" in true else None

    end = until(ended, 120, "the doctor has answered")
    said = system.kubectl("logs", f"job/{name}")
    system.kubectl("delete", "job", name)
    return end, said


def findings(said: str, level: str) -> list[str]:
    return [" ".join(line.split()[1:]) for line in said.splitlines() if line.startswith(f"{level} ")]


def test_an_installation_that_is_well_is_said_to_be(system, add_ons, doctor):
    end, said = ask(system)
    assert (end, findings(said, "problem")) == ("healthy", []), said
    well = "\n".join(findings(said, "ok"))
    assert "cluster The cluster has the metrics API." in well, said
    assert "StorageClass" in well, said
    if "prometheus" in add_ons:
        for component in ("api", "worker"):
            assert f"ServiceMonitor {system.fullname}-{component} is selected by Prometheus" in well, said


def test_a_store_under_another_name_is_a_problem_with_its_setting(system, doctor):
    end, said = ask(system, REDIS__REDIS_URL="redis://:$(REDIS_PASSWORD)@nowhere:6379/0")
    (problem,) = findings(said, "problem")
    assert end == "ill"
    assert problem.startswith("redis "), said
    assert "nowhere" in problem, said
    assert "REDIS__REDIS_URL" in said


def test_labels_that_no_prometheus_selects_are_a_problem_with_those_that_it_wants(system, add_ons, doctor):
    if "prometheus" not in add_ons:
        pytest.skip("there is no prometheus-operator in this cluster")
    system.upgrade(f"--set={LABEL}=nobody")
    try:
        end, said = ask(system)
    finally:
        system.upgrade(f"--set={LABEL}=monitoring")
    problems = findings(said, "problem")
    assert end == "ill"
    assert [problem.split()[2] for problem in problems] == [
        f"{system.fullname}-api:",
        f"{system.fullname}-worker:",
    ], said
    for problem in problems:
        assert "selected by no Prometheus" in problem
        assert '{"matchLabels": {"release": "monitoring"}}' in problem
    assert "Set monitoring.serviceMonitor.labels" in said
