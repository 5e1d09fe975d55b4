"""The cluster, by a read-only service account: APIs that are missing, labels that nobody selects, storage classes.

Uses the Kubernetes API directly with the pod's own token. What the account may not read is said and left out.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalable_fastapi_system.doctor.findings import Report

AREA = "cluster"
ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
INSTANCE = "app.kubernetes.io/instance"

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Api:
    """An API that the release relies on, and who brings it."""

    group: str
    resource: str
    name: str
    advice: str


APIS: Mapping[str, Api] = {
    "metrics": Api(
        "metrics.k8s.io/v1beta1",
        "pods",
        "the metrics API",
        "Install metrics-server: without it no autoscaler on CPU does anything.",
    ),
    "requests-in-flight": Api(
        "custom.metrics.k8s.io/v1beta1",
        "pods/http_requests_inprogress",
        "the custom metric http_requests_inprogress of pods",
        "Install prometheus-adapter with the rule of k8s/examples/prometheus-adapter, or leave "
        "api.autoscaling.targetRequestsInFlight empty: without the metric the API is never scaled down.",
    ),
    "servicemonitor": Api(
        "monitoring.coreos.com/v1",
        "servicemonitors",
        "ServiceMonitor",
        "Install prometheus-operator, or set monitoring.serviceMonitor.enabled=false.",
    ),
    "prometheusrule": Api(
        "monitoring.coreos.com/v1",
        "prometheusrules",
        "PrometheusRule",
        "Install prometheus-operator, or set monitoring.prometheusRule.enabled=false.",
    ),
    "scaledobject": Api(
        "keda.sh/v1alpha1",
        "scaledobjects",
        "ScaledObject",
        "Install KEDA, or set worker.autoscaling.type=cpu.",
    ),
    "httproute": Api(
        "gateway.networking.k8s.io/v1",
        "httproutes",
        "HTTPRoute",
        "Install the Gateway API's CRDs and a Gateway, or set httpRoute.enabled=false.",
    ),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said. `status` 0: nothing, for `reason`."""

    status: int
    body: Object
    reason: str = ""


class ApiServer:
    """The Kubernetes API as the pod's own service account sees it."""

    def __init__(self, url: str, token: str, ca_file: Path | None, *, timeout_seconds: float) -> None:
        self._url = url
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None

    @classmethod
    def of_this_pod(cls, *, timeout_seconds: float, folder: Path = ACCOUNT_FOLDER) -> ApiServer | None:
        """None outside a cluster, or where the pod mounts no token."""
        host = os.environ.get("KUBERNETES_SERVICE_HOST")
        token = folder / "token"
        if not host or not token.exists():
            return None
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        shown = f"[{host}]" if ":" in host else host
        return cls(
            f"https://{shown}:{port}",
            token.read_text(),
            folder / "ca.crt",
            timeout_seconds=timeout_seconds,
        )

    def get(self, path: str) -> Answer:
        """One object or list."""
        request = urllib.request.Request(  # noqa: S310 - the address is the pod's own API server
            self._url + path, headers={"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        )
        try:
            with urllib.request.urlopen(  # noqa: S310
                request, timeout=self._timeout_seconds, context=self._context
            ) as answer:
                return Answer(answer.status, json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, {}, str(error.reason))
        except (urllib.error.URLError, OSError) as error:
            return Answer(0, {}, str(getattr(error, "reason", error)))
        except ValueError:
            return Answer(0, {}, "it does not answer in JSON")

    def items(self, path: str) -> list[Object] | Answer:
        """The objects of a list, or the answer where there is none."""
        answer = self.get(path)
        return answer.body.get("items") or [] if answer.status == 200 else answer


@dataclass(frozen=True, slots=True)
class Release:
    """What the chart says about itself: its name, its namespace, and what it relies on."""

    name: str
    namespace: str
    expected: Sequence[str] = ()
    storage_classes: Sequence[str] = ()
    """Names of classes that the stores' claims ask for; an empty name is the cluster's default."""


def examine_cluster(report: Report, server: ApiServer, release: Release) -> None:
    """Says what in the cluster does not fit the release."""
    version = server.get("/version")
    if version.status != 200:
        report.problem(
            AREA,
            f"The Kubernetes API does not answer ({version.reason or version.status}).",
            "Let this pod out to the API server (egress NetworkPolicy), or run without --release.",
        )
        return
    report.ok(AREA, f"Kubernetes {version.body.get('gitVersion', '?')} answers.")
    there = {name for name in APIS if _has_api(report, server, name, is_expected=name in release.expected)}
    if "servicemonitor" in there:
        _look_at_selection(report, server, release, "servicemonitors", "serviceMonitor")
    if "prometheusrule" in there:
        _look_at_selection(report, server, release, "prometheusrules", "rule")
    if release.storage_classes:
        _look_at_storage_classes(report, server, release.storage_classes)


def _has_api(report: Report, server: ApiServer, name: str, *, is_expected: bool) -> bool:
    api = APIS[name]
    answer = server.get(f"/apis/{api.group}")
    found = answer.status == 200 and any(
        entry.get("name") == api.resource for entry in answer.body.get("resources", [])
    )
    if found and is_expected:
        report.ok(AREA, f"The cluster has {api.name}.")
    elif is_expected and answer.status not in {200, 404}:
        report.problem(
            AREA,
            f"The cluster knows {api.name}, and what serves it does not answer ({answer.status} {answer.reason}).",
            f"Look at it: kubectl get apiservice; kubectl get --raw /apis/{api.group}.",
        )
    elif is_expected:
        report.problem(AREA, f"The cluster has no {api.name} ({api.group}).", api.advice)
    return found


def _look_at_selection(
    report: Report, server: ApiServer, release: Release, resource: str, selector: str
) -> None:
    """Whether a Prometheus of the operator picks up our objects of this kind."""
    group = "/apis/monitoring.coreos.com/v1"
    label = f"labelSelector={INSTANCE}%3D{release.name}"
    ours = server.items(f"{group}/namespaces/{release.namespace}/{resource}?{label}")
    readers = server.items(f"{group}/prometheuses")
    namespace = server.get(f"/api/v1/namespaces/{release.namespace}")
    if isinstance(ours, Answer) or isinstance(readers, Answer) or namespace.status != 200:
        report.note(
            AREA,
            f"Whether a Prometheus selects the {resource} was not looked at: this account may not read them.",
            "Let the chart make its role: doctor.clusterAccess=true.",
        )
        return
    if not ours:
        if resource == "servicemonitors":
            report.note(
                AREA,
                "prometheus-operator is here, and the release has no ServiceMonitor: nobody reads its metrics.",
                "Set monitoring.serviceMonitor.enabled=true.",
            )
        return
    if not readers:
        report.warning(
            AREA,
            f"There are {resource}, and no Prometheus that could select them.",
            "Make a Prometheus object, or install kube-prometheus-stack.",
        )
        return
    labels_of_namespace = namespace.body.get("metadata", {}).get("labels") or {}
    for item in ours:
        labels = item["metadata"].get("labels") or {}
        name = f"{item.get('kind') or resource} {item['metadata']['name']}"
        by = [
            reader["metadata"]["name"]
            for reader in readers
            if _selects(
                reader, selector, labels, labels_of_namespace, in_own=_is_in(reader, release.namespace)
            )
        ]
        if by:
            report.ok(AREA, f"{name} is selected by Prometheus {', '.join(sorted(by))}.")
        else:
            wanted = "; ".join(_wish(reader, selector) for reader in readers)
            report.problem(
                AREA,
                f"{name}: its labels, or its namespace's, are selected by no Prometheus. {wanted}.",
                f"Set monitoring.{'serviceMonitor' if selector == 'serviceMonitor' else 'prometheusRule'}.labels "
                "(or label the namespace) so that they match.",
            )


def _is_in(reader: Object, namespace: str) -> bool:
    return bool(reader["metadata"].get("namespace") == namespace)


def _selects(
    reader: Object,
    selector: str,
    labels: Mapping[str, str],
    namespace_labels: Mapping[str, str],
    *,
    in_own: bool,
) -> bool:
    """The operator's rules: no selector selects nothing, an empty one everything; no namespace selector is its own."""
    spec = reader.get("spec", {})
    of_objects = spec.get(f"{selector}Selector")
    of_namespaces = spec.get(f"{selector}NamespaceSelector")
    if of_objects is None or not matches(of_objects, labels):
        return False
    return in_own if of_namespaces is None else matches(of_namespaces, namespace_labels)


def _wish(reader: Object, selector: str) -> str:
    spec = reader.get("spec", {})
    name = reader["metadata"]["name"]
    objects = json.dumps(spec.get(f"{selector}Selector"))
    namespaces = json.dumps(spec.get(f"{selector}NamespaceSelector"))
    return f"Prometheus {name} wants {selector}Selector {objects} in namespaces {namespaces}"


def matches(selector: Object, labels: Mapping[str, str]) -> bool:
    """Kubernetes' label selector: every label and every expression must hold; an empty one always does."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for expression in selector.get("matchExpressions") or []:
        key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not holds:
            return False
    return True


def _look_at_storage_classes(report: Report, server: ApiServer, wanted: Sequence[str]) -> None:
    classes = server.items("/apis/storage.k8s.io/v1/storageclasses")
    if isinstance(classes, Answer):
        report.note(
            AREA,
            "The storage classes were not looked at: this account may not read them.",
            "Let the chart make its role: doctor.clusterAccess=true.",
        )
        return
    names = sorted(item["metadata"]["name"] for item in classes)
    defaults = [
        item["metadata"]["name"]
        for item in classes
        if (item["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"
    ]
    for name in dict.fromkeys(wanted):
        if name and name not in names:
            report.problem(
                AREA,
                f"There is no StorageClass {name}: the store's claim stays Pending. There are: {', '.join(names) or 'none'}.",
                "Correct persistence.storageClassName, or make the class.",
            )
        elif not name and not defaults:
            report.problem(
                AREA,
                f"No StorageClass is the default: the stores' claims stay Pending. There are: {', '.join(names) or 'none'}.",
                "Name one in persistence.storageClassName, or install with values-ephemeral.yaml (data goes with the pod).",
            )
        else:
            report.ok(AREA, f"StorageClass {name or defaults[0]} is there.")
