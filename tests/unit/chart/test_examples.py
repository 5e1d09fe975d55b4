"""What the examples under k8s/ give the chart: it renders, twice the same where a GitOps tool renders it."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import yaml

from tests.unit.chart.helm import CHART, REPOSITORY, helm, render

K8S = REPOSITORY / "k8s"


def argo_cd():
    (application,) = yaml.safe_load_all((K8S / "examples/argo-cd/application.yaml").read_text())
    source = application["spec"]["source"]
    return source["helm"]["releaseName"], source["targetRevision"], source["helm"]["valuesObject"]


def flux():
    repository, release = yaml.safe_load_all((K8S / "examples/flux/release.yaml").read_text())
    assert release["spec"]["chartRef"]["name"] == repository["metadata"]["name"]
    return release["spec"]["releaseName"], repository["spec"]["ref"]["semver"], release["spec"]["values"]


@pytest.mark.parametrize("example", [argo_cd, flux])
def test_a_gitops_example_renders_twice_the_same_and_makes_no_secret(tmp_path, example):
    name, version, values = example()
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["version"] in version
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    renders = [helm("template", name, str(CHART), "--values", str(file)) for _ in range(2)]
    assert renders[0] == renders[1]
    assert "kind: Secret\n" not in renders[0]


def test_the_adapter_is_told_of_the_metric_that_the_autoscaler_asks_for():
    folder = K8S / "examples/prometheus-adapter"
    (rule,) = yaml.safe_load((folder / "adapter-values.yaml").read_text())["rules"]["custom"]
    (_, metric) = render(files=[folder / "values.yaml"]).one("HorizontalPodAutoscaler", "-api")["spec"][
        "metrics"
    ]
    assert rule["seriesQuery"].startswith(f"{metric['pods']['metric']['name']}{{")
    # what the ServiceMonitors label each sample with, and what they stand for
    assert rule["resources"]["overrides"] == {name: {"resource": name} for name in ("namespace", "pod")}


@pytest.mark.parametrize("name", ["production", "examples/gateway", "examples/ingress"])
def test_behind_a_proxy_clients_are_told_apart(name):
    assert (
        "SECURITY__TRUSTED_PROXIES" in render(files=[K8S / name / "values.yaml"]).one("ConfigMap", "")["data"]
    )


def test_the_gateway_of_the_example_ends_no_event_stream():
    route = render(files=[K8S / "examples/gateway/values.yaml"]).one("HTTPRoute", "-api")
    assert route["spec"]["rules"][0]["timeouts"] == {"request": "0s"}


def kustomized(folder):
    program = shutil.which("kubectl")
    if program is None:
        from hack.tools.common import cache_root

        cached = cache_root() / "tools" / "bin" / "kubectl"
        if not cached.exists():
            pytest.skip("no kubectl: `hack/tools/install kubectl` builds one where Go is installed")
        program = str(cached)
    text = subprocess.run(
        [program, "kustomize", str(K8S / folder)], capture_output=True, text=True, check=True
    ).stdout
    return [item for item in yaml.safe_load_all(text) if item]


def images(objects):
    pods = [item["spec"]["template"]["spec"] for item in objects if "template" in item.get("spec", {})]
    return {
        one["image"]
        for pod in pods
        for one in [*pod.get("initContainers", []), *pod["containers"]]
        if "scalable-fastapi-system" in one["image"]
    }


def test_the_overlay_for_development_is_small_and_complete():
    objects = kustomized("dev")
    kinds = {item["kind"] for item in objects}
    assert not {"HorizontalPodAutoscaler", "PodDisruptionBudget"} & kinds
    assert {item["spec"]["replicas"] for item in objects if item["kind"] == "Deployment"} == {1}
    (secret,) = [item for item in objects if item["kind"] == "Secret"]
    assert set(secret["data"]) == {"SECURITY__SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD"}
    (settings,) = [item for item in objects if "ENVIRONMENT" in item.get("data", {})]
    assert settings["data"]["ENVIRONMENT"] == "development"
    assert images(objects) == {
        f"localhost:5001/scalable-fastapi-system/{name}:dev" for name in ("api", "worker")
    }


def test_the_overlay_for_production_takes_its_secrets_from_elsewhere():
    objects = kustomized("production")
    assert "Secret" not in {item["kind"] for item in objects}
    assert all(image.startswith("registry.example.com/") for image in images(objects))
