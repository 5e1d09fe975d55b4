"""Pods of the tests' own, as strict as the `restricted` standard wants them, with the API's image: Python is all they need."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.e2e.system import System, until


def api_image(system: System) -> str:
    """The image that the API runs from: it is on the node."""
    for container in system.pods("api")[0]["spec"]["containers"]:
        if container["name"] == "api":
            return str(container["image"])
    raise AssertionError("the API's pod has no container `api`")


def manifest(name: str, image: str, command: Sequence[str], labels: Mapping[str, str]) -> dict[str, Any]:
    """A pod that runs a command once, without rights."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": name,
                    "image": image,
                    "command": list(command),
                    # without a request the kernel lets it wait for seconds while others are busy
                    "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


def phase(system: System, name: str) -> str:
    return str(system.get("pod", name)["status"]["phase"])


def ended(system: System, name: str, seconds: float) -> str:
    """How a pod ended, once it has."""
    return until(
        lambda: found if (found := phase(system, name)) in {"Succeeded", "Failed"} else None,
        seconds,
        f"pod {name} ends",
    )


@contextmanager
def pod(
    system: System, name: str, command: Sequence[str], labels: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A pod that is there in the block and gone afterwards."""
    wanted = manifest(name, api_image(system), command, labels or {"app": name})
    system.kubectl("create", "-f", "-", stdin=json.dumps(wanted))
    try:
        yield name
    finally:
        system.kubectl("delete", "pod", name, "--wait=false", "--grace-period=0")
