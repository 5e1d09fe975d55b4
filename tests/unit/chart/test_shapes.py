"""What each supported shape of the chart consists of."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.unit.chart.helm import CHART, NAME, SHAPES, RenderError, helm, render, shape_file

CORE = {
    "ConfigMap/",
    "ServiceAccount/",
    "Deployment/-api",
    "Deployment/-worker",
    "Service/-api",
    "Service/-worker",
    "Job/-migrate-#",
    "NetworkPolicy/-api",
    "NetworkPolicy/-worker",
    "NetworkPolicy/-jobs",
    "ConfigMap/-test",
    "Pod/-test-schema",
    "Pod/-test-api",
    "Pod/-test-worker",
    "Pod/-test-job",
}
EMBEDDED = {
    "Secret/-postgres",
    "Service/-postgres",
    "StatefulSet/-postgres",
    "NetworkPolicy/-postgres",
    "Secret/-redis",
    "ConfigMap/-redis",
    "Service/-redis",
    "StatefulSet/-redis",
    "NetworkPolicy/-redis",
}
SCALING = {"HorizontalPodAutoscaler/-api", "PodDisruptionBudget/-api"}
CPU = {"HorizontalPodAutoscaler/-worker"}
MONITORS = {
    "ServiceMonitor/-api",
    "ServiceMonitor/-worker",
    "PrometheusRule/",
    "ConfigMap/-dashboard-api",
    "ConfigMap/-dashboard-jobs",
    "ConfigMap/-dashboard-runtime",
    "ConfigMap/-dashboard-slo",
}

EXPECTED = {
    "default": CORE | EMBEDDED | SCALING | CPU | {"Secret/"},
    "ephemeral": CORE | EMBEDDED | {"Secret/", "Deployment/-schema"},
    "external": CORE | SCALING | CPU | {"Secret/"},
    "gitops": CORE | SCALING | CPU,
    "high-availability": CORE | SCALING | CPU | MONITORS | {"PodDisruptionBudget/-worker", "HTTPRoute/-api"},
    "everything": CORE
    | EMBEDDED
    | SCALING
    | MONITORS
    | {
        "Secret/",
        "ScaledObject/-worker",
        "PodDisruptionBudget/-worker",
        "Deployment/-worker-heavy",
        "Service/-worker-heavy",
        "NetworkPolicy/-worker-heavy",
        "PodDisruptionBudget/-worker-heavy",
        "ServiceMonitor/-worker-heavy",
        "Ingress/-api",
        "HTTPRoute/-api",
        "NetworkPolicy/-egress",
        "CronJob/-doctor",
        "ServiceAccount/-doctor",
        "Role/-doctor",
        "RoleBinding/-doctor",
        "ClusterRole/demo-sfs-scalable-fastapi-system-doctor",
        "ClusterRoleBinding/demo-sfs-scalable-fastapi-system-doctor",
        "ConfigMap/sfs-extra",
        "ConfigMap/-extra-text",
    },
}


def test_every_shape_has_an_expectation():
    assert set(SHAPES) == set(EXPECTED)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_exactly_these_objects(shape):
    assert render(shape).names() == EXPECTED[shape]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_object_carries_the_recommended_labels_and_its_namespace(shape):
    for item in render(shape).objects:
        if "-extra" in item["metadata"]["name"]:
            continue
        labels = item["metadata"]["labels"]
        assert item["metadata"].get("namespace") == (None if item["kind"].startswith("Cluster") else "demo")
        assert labels["app.kubernetes.io/name"] == "scalable-fastapi-system"
        assert labels["app.kubernetes.io/instance"] == "sfs"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/component"]
        assert labels["helm.sh/chart"].startswith("scalable-fastapi-system-")


@pytest.mark.parametrize("shape", SHAPES)
def test_no_object_is_named_twice(shape):
    names = [(item["apiVersion"], item["kind"], item["metadata"]["name"]) for item in render(shape).objects]
    assert len(names) == len(set(names))


def test_common_labels_and_annotations_reach_every_object():
    for item in render("everything").objects:
        if "-extra" not in item["metadata"]["name"]:
            assert item["metadata"]["labels"]["team"] == "platform", item["metadata"]["name"]
            assert item["metadata"]["annotations"]["example.com/owner"] == "platform", item["metadata"][
                "name"
            ]


def test_common_labels_cannot_take_over_a_selector():
    hijack = {"commonLabels": {"app.kubernetes.io/component": "mine", "team": "platform"}}
    with pytest.raises(RenderError):
        render("default", hijack)


def test_names_stay_short_enough_for_every_suffix():
    rendered = render(
        "default", {"fullnameOverride": "a-name-that-is-far-too-long-for-kubernetes-to-take-with-a-suffix"}
    )
    longest = max(len(item["metadata"]["name"]) for item in rendered.objects)
    assert longest <= 63
    for item in rendered.kind("StatefulSet"):  # a pod's label adds a hash of 11 characters
        assert len(item["metadata"]["name"]) <= 52


def test_a_release_named_like_the_chart_does_not_say_its_name_twice():
    text = helm(
        "template", "scalable-fastapi-system", str(CHART), "--show-only", "templates/api/service.yaml"
    )
    assert "name: scalable-fastapi-system-api\n" in text


def scalars(node):
    if isinstance(node, dict):
        node = [*node, *node.values()]
    if isinstance(node, list):
        for item in node:
            yield from scalars(item)
    else:
        yield node


@pytest.mark.parametrize("shape", SHAPES)
def test_names_of_nothing_but_digits_stay_text(shape):
    text = helm(
        *("template", "777", str(CHART), "--namespace", "4815162", "--values", str(shape_file(shape))),
        *("--set", "fullnameOverride=sfs", "--set-string", "nameOverride=108"),
    )
    found = set(scalars(list(yaml.safe_load_all(text))))
    assert {"777", "4815162", "108"} <= found
    assert not {777, 4815162, 108} & found


def notes_of(*arguments):
    text = helm("install", "sfs", str(CHART), "--namespace", "demo", "--dry-run=client", *arguments)
    return text.partition("NOTES:")[2]


def test_the_notes_give_the_port_forward_line_and_the_next_commands():
    notes = notes_of()
    assert f"kubectl -n demo port-forward service/{NAME}-api 8000:8000" in notes
    assert "helm -n demo test sfs" in notes
    assert f"data-{NAME}-postgres-0" in notes


def test_the_commands_of_the_notes_give_a_host_that_the_api_takes():
    assert "Host:" not in notes_of()
    notes = notes_of("--set=config.SECURITY__ALLOWED_HOSTS=api.example.com")
    for path in ("/auth/register", "/auth/login", "/datasets"):
        assert f"{path} -H 'Host: api.example.com' " in notes


@pytest.mark.parametrize("way", ["ingress", "httpRoute"])
def test_the_notes_ask_for_the_addresses_of_the_proxy_until_they_are_given(way):
    to = {"ingress": {"hosts": ["a"]}, "httpRoute": {"parentRefs": [{"name": "a"}]}}[way]
    routed = f"--set-json={way}={json.dumps({'enabled': True, **to})}"
    assert "SECURITY__TRUSTED_PROXIES" not in notes_of()
    assert "SECURITY__TRUSTED_PROXIES" in notes_of(routed)
    for where in ("config", "api.config"):
        given = notes_of(routed, f"--set={where}.SECURITY__TRUSTED_PROXIES=10.0.0.0/8")
        assert "SECURITY__TRUSTED_PROXIES" not in given


def test_the_ephemeral_values_keep_nothing():
    rendered = render("default", files=(CHART / "values-ephemeral.yaml",))
    for item in rendered.kind("StatefulSet"):
        assert "volumeClaimTemplates" not in item["spec"]
        assert {"name": "data", "emptyDir": {}} in item["spec"]["template"]["spec"]["volumes"]


@pytest.mark.parametrize("shape", SHAPES)
def test_lint_is_content(shape):
    helm("lint", "--strict", str(CHART), "--values", str(CHART / "ci" / f"{shape}-values.yaml"))


@pytest.mark.parametrize("version", ["1.30.0", "1.33.0", "1.36.0"])
def test_it_renders_for_every_supported_kubernetes(version):
    assert render("everything", extra=("--kube-version", version)).objects


def test_an_older_kubernetes_is_refused():
    with pytest.raises(RenderError, match=r"1\.29\.0"):
        render("default", extra=("--kube-version", "1.29.0"))
