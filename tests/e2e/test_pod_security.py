"""The namespace enforces the `restricted` standard, and everything runs in it as it is meant to."""

from __future__ import annotations

import json

import pytest

from hack.tools.common import ToolError

pytestmark = pytest.mark.e2e


def test_the_namespace_enforces_restricted(system):
    labels = system.get("namespace", system.namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "not-restricted"},
        "spec": {
            "containers": [{"name": "root", "image": "busybox", "securityContext": {"privileged": True}}]
        },
    }
    with pytest.raises(ToolError, match="violates PodSecurity"):
        system.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


@pytest.mark.parametrize("component", ["api", "worker", "postgres", "redis"])
def test_every_component_runs_without_rights(system, component):
    assert system.ready_pods(component)
    for pod in system.pods(component):
        name = pod["metadata"]["name"]
        status = system.kubectl("exec", name, "--", "cat", "/proc/1/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(fields["Uid"].split()[1]) > 0
        assert int(fields["CapEff"], 16) == 0
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"
        with pytest.raises(ToolError, match="Read-only file system"):
            system.kubectl("exec", name, "--", "touch", "/written")
        with pytest.raises(ToolError):
            system.kubectl("exec", name, "--", "ls", "/var/run/secrets/kubernetes.io")


def test_the_settings_in_force_are_told_without_secrets(system):
    pod = system.ready_pods("api")[0]
    settings = {
        row["variable"]: row
        for row in json.loads(
            system.kubectl(
                "exec", pod, "--container", "api", "--", "python", "-m", "services.manage", "config", "--json"
            )
        )
    }
    assert settings["ENVIRONMENT"]["value"] == "production"
    assert settings["STORAGE__URL"]["value"] == "database://"
    assert settings["SECURITY__SECRET_KEY"]["source"] == "environment"
    for variable in ("SECURITY__SECRET_KEY", "DATABASE__DATABASE_URL", "REDIS__REDIS_URL"):
        assert "***" in settings[variable]["value"]
