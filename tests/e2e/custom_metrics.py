"""A custom metrics API for the cluster, with the rule of the example for prometheus-adapter; see `custom_metrics_api.py`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from hack.tools.common import REPOSITORY, run
from tests.e2e.pods import api_image, manifest
from tests.e2e.system import System, until

NAME = "custom-metrics"
SERVICE = "v1beta1.custom.metrics.k8s.io"
SCRIPT = Path(__file__).with_name("custom_metrics_api.py").read_text()
EXAMPLE = REPOSITORY / "k8s" / "examples" / "prometheus-adapter" / "adapter-values.yaml"
CERTIFICATE = "/certificate/server.pem"
Object = dict[str, Any]


def certificate() -> str:
    """A key and a certificate of its own, in one text."""
    with tempfile.TemporaryDirectory() as folder:
        key, public = Path(folder, "key"), Path(folder, "certificate")
        request = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
        ]
        run(["openssl", *request, f"/CN={NAME}", "-keyout", key, "-out", public])
        return key.read_text() + public.read_text()


def account(namespace: str) -> list[Object]:
    """One that may list the pods of the namespace."""
    named = {"metadata": {"name": NAME}}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME}
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": namespace}
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    rights = "rbac.authorization.k8s.io/v1"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", **named},
        {"apiVersion": rights, "kind": "Role", **named, "rules": [rule]},
        {"apiVersion": rights, "kind": "RoleBinding", **named, "roleRef": role, "subjects": [subject]},
    ]


def server(system: System) -> list[Object]:
    """The pod that answers, its certificate and its address."""
    example = yaml.safe_load(EXAMPLE.read_text())
    (rule,) = example["rules"]["custom"]
    address = f"{example['prometheus']['url']}:{example['prometheus']['port']}"
    command = ["python", "-u", "-c", SCRIPT, address, json.dumps(rule), CERTIFICATE]
    pod = manifest(NAME, api_image(system), command, {"app": NAME})
    spec = pod["spec"]
    spec |= {"serviceAccountName": NAME, "automountServiceAccountToken": True}
    spec["volumes"].append({"name": "certificate", "secret": {"secretName": NAME}})
    (container,) = spec["containers"]
    container["volumeMounts"].append({"name": "certificate", "mountPath": "/certificate"})
    container["readinessProbe"] = {"tcpSocket": {"port": 6443}, "periodSeconds": 1}
    named = {"metadata": {"name": NAME}}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            **named,
            "stringData": {Path(CERTIFICATE).name: certificate()},
        },
        pod,
        {
            "apiVersion": "v1",
            "kind": "Service",
            **named,
            "spec": {"selector": {"app": NAME}, "ports": [{"port": 443, "targetPort": 6443}]},
        },
    ]


def registration(namespace: str) -> Object:
    """What has the API server send here whoever asks for custom metrics."""
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": SERVICE},
        "spec": {
            "group": "custom.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": NAME, "namespace": namespace},
        },
    }


@contextmanager
def custom_metrics(system: System) -> Iterator[None]:
    """The API is there in the block and gone afterwards."""
    objects = [*account(system.namespace), *server(system), registration(system.namespace)]
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    try:
        system.kubectl("create", "-f", "-", stdin=everything)

        def is_available() -> bool:
            conditions = system.get("apiservice", SERVICE).get("status", {}).get("conditions", [])
            return {"type": "Available", "status": "True"}.items() <= next(iter(conditions), {}).items()

        until(is_available, 120, "the custom metrics API answers")
        yield
    finally:
        # the registration first: the API server would look for what it names
        system.kubectl("delete", "apiservice", SERVICE, "--ignore-not-found")
        system.kubectl("delete", "-f", "-", "--ignore-not-found", "--wait=false", stdin=everything)
