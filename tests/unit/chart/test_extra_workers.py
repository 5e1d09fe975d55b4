"""Further deployments of workers: made like `worker`, told from it by every selector, counted and guarded with it."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.unit.chart.helm import NAME, REPOSITORY, RenderError, container, plain_environment, render

HEAVY = {"queues": ["heavy", "slow"], "concurrency": 2}
FIXED = {
    "secrets.secretKey": "k" * 40,
    "postgres.auth.password": "postgres-word",
    "redis.auth.password": "redis-word",
}


def heavy(shape="default", more=None, values=None):
    workers = {"heavy": {**HEAVY, **(more or {})}}
    return render(shape, {"postgres.maxConnections": 900, "extraWorkers": workers, **(values or {})})


def test_without_one_nothing_is_different():
    assert render("default", FIXED).text == render("default", {**FIXED, "extraWorkers": {}}).text
    assert not any("-worker-" in name for name in render("default").names())


def test_it_takes_its_own_queues_and_all_else_as_the_worker_has_it():
    values = {"worker.config": {"LOGGING__LEVEL": "DEBUG"}, "worker.shutdown.drainSeconds": 90}
    rendered = heavy(values=values)
    own = plain_environment(rendered.pod("Deployment", "-worker-heavy"), "worker", rendered)
    first = plain_environment(rendered.pod("Deployment", "-worker"), "worker", rendered)
    changed = {"JOBS__QUEUES": "heavy,slow", "JOBS__CONCURRENCY": "2"}
    assert own == {**first, **changed}
    assert own["LOGGING__LEVEL"] == "DEBUG"
    pods = [rendered.pod("Deployment", name) for name in ("-worker", "-worker-heavy")]
    for key in ("terminationGracePeriodSeconds", "securityContext", "volumes"):
        assert pods[0]["spec"][key] == pods[1]["spec"][key]
    assert container(pods[0], "worker")["resources"] == container(pods[1], "worker")["resources"]


def test_a_map_of_its_own_is_laid_over_the_worker_s_and_nothing_is_false_by_mistake():
    more = {
        "resources": {"limits": {"memory": "4Gi"}},
        "database": {"maxOverflow": 0},
        "podDisruptionBudget": {"enabled": False},
        "autoscaling": {"minReplicas": 2},
        "tolerations": [],
    }
    rendered = heavy(more=more, values={"worker.tolerations": [{"key": "spot"}]})
    pod = rendered.pod("Deployment", "-worker-heavy")
    own = container(pod, "worker")
    assert own["resources"] == {
        "requests": {"cpu": "200m", "memory": "256Mi"},
        "limits": {"memory": "4Gi"},
    }
    environment = {entry["name"]: entry.get("value") for entry in own["env"]}
    assert (environment["DATABASE__MAX_OVERFLOW"], environment["DATABASE__POOL_SIZE"]) == ("0", "10")
    assert not rendered.kind("PodDisruptionBudget")[1:]
    assert "tolerations" not in pod["spec"]
    assert rendered.pod("Deployment", "-worker")["spec"]["tolerations"] == [{"key": "spot"}]


def matches(selector, pod):
    return selector.items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("shape", ["default", "everything"])
def test_no_selector_of_one_takes_in_pods_of_the_other(shape):
    """An autoscaler would count them, and a pod with two budgets cannot be evicted at all."""
    rendered = heavy(
        shape,
        more={"replicas": 2},
        values={"worker.autoscaling.minReplicas": 2, "postgres.maxConnections": 900},
    )
    for kind in ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor"):
        for item in rendered.kind(kind):
            spec = item["spec"]
            selector = spec.get("podSelector") or spec.get("selector")
            selector = selector.get("matchLabels", selector)
            if "matchExpressions" in (spec.get("podSelector") or {}):
                continue  # those of many components
            chosen = [
                label
                for label, pod in rendered.pods()
                if label.startswith("Deployment") and matches(selector, pod)
            ]
            assert len(chosen) <= 1, (kind, item["metadata"]["name"], chosen)


def test_it_scales_by_its_own_numbers():
    rendered = heavy(more={"autoscaling": {"minReplicas": 2, "maxReplicas": 3}})
    own = rendered.one("HorizontalPodAutoscaler", "-worker-heavy")["spec"]
    assert (own["minReplicas"], own["maxReplicas"]) == (2, 3)
    assert own["scaleTargetRef"]["name"] == f"{NAME}-worker-heavy"
    assert "replicas" not in rendered.one("Deployment", "-worker-heavy")["spec"]
    assert rendered.one("PodDisruptionBudget", "-worker-heavy")
    keda = heavy(more={"autoscaling": {"type": "keda", "minReplicas": 0, "keda": {"namespace": "scaling"}}})
    (trigger,) = keda.one("ScaledObject", "-worker-heavy")["spec"]["triggers"]
    assert "queue IN ('heavy', 'slow')" in trigger["metadata"]["query"]
    assert trigger["metadata"]["targetQueryValue"] == "2"
    peers = keda.one("NetworkPolicy", "-postgres")["spec"]["ingress"][0]["from"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "scaling"}}} in peers


def test_it_reaches_the_stores_and_what_it_may_call():
    rendered = heavy(values={"networkPolicy.egress.enabled": True})
    for name in ("-postgres", "-redis"):
        (expression,) = rendered.one("NetworkPolicy", name)["spec"]["ingress"][0]["from"][0]["podSelector"][
            "matchExpressions"
        ]
        assert "worker-heavy" in expression["values"]
    (expression,) = rendered.one("NetworkPolicy", "-egress")["spec"]["podSelector"]["matchExpressions"]
    assert "worker-heavy" in expression["values"]
    assert rendered.one("NetworkPolicy", "-worker-heavy")


def test_its_connections_are_in_the_budget():
    # (5 + 5 + 5 + 3) x (6 + 1) + (10 + 5 + 2 + 8) x (4 + 1) + (10 + 5 + 2 + 8) x (1 + 1) + 10
    more = {"autoscaling": {"type": "none"}}
    assert heavy(more=more, values={"postgres.maxConnections": 311}).objects
    with pytest.raises(RenderError, match=r"could want 311 .*worker-heavy: 25 a pod x 1 pods \+ 1"):
        heavy(more=more, values={"postgres.maxConnections": 310})
    of_doctor = heavy(more=more, values={"postgres.maxConnections": 400, "doctor.enabled": True})
    arguments = container(of_doctor.pod("CronJob", "-doctor"), "doctor")["args"]
    assert "--wanted-connections=311" in arguments


def test_its_metrics_are_of_the_job_that_rules_and_dashboards_ask_for():
    rendered = render("everything")
    (endpoint,) = rendered.one("ServiceMonitor", "-worker-heavy")["spec"]["endpoints"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": f"{NAME}-worker"}]
    for name in ("-api", "-worker"):
        (endpoint,) = rendered.one("ServiceMonitor", name)["spec"]["endpoints"]
        assert "relabelings" not in endpoint


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        ({"concurrency": 2}, "queues"),
        ({"queues": []}, "queues"),
        ({"queues": ["a"], "nonsense": 1}, "nonsense"),
        ({"queues": ["a"], "config": {"JOBS__QUEUES": "b"}}, r"extraWorkers\.heavy\.config\.JOBS__QUEUES"),
        (
            {"queues": ["a"], "extraEnv": [{"name": "JOBS__CONCURRENCY", "value": "9"}]},
            r"extraWorkers\.heavy\.extraEnv: JOBS__CONCURRENCY",
        ),
        (
            {"queues": ["a"], "autoscaling": {"minReplicas": 9}},
            r"extraWorkers\.heavy\.autoscaling: minReplicas 9",
        ),
        ({"queues": ["a"], "autoscaling": {"minReplicas": 0}}, r"extraWorkers\.heavy\.autoscaling.*KEDA can"),
        ({"queues": ["a"], "rollout": {"maxSurge": 0}}, r"extraWorkers\.heavy\.rollout"),
    ],
)
def test_one_that_would_not_work_is_refused_by_name(worker, message):
    with pytest.raises(RenderError, match=message):
        render("default", {"extraWorkers": {"heavy": worker}})


@pytest.mark.parametrize("name", ["Upper", "a_b", "-a", "a-", "fifteen-letters"])
def test_a_name_that_objects_could_not_have_is_refused(name):
    with pytest.raises(RenderError, match=f"'{name}' does not match"):
        render("default", {"extraWorkers": {name: {"queues": ["a"]}}})


def test_the_longest_name_fits():
    values = {
        "postgres.maxConnections": 900,
        "fullnameOverride": "a-name-that-is-as-long-as-the-chart-take",
        "extraWorkers": {"fourteen-chars": {"queues": ["a"]}},
    }
    names = [item["metadata"]["name"] for item in render("default", values).objects]
    assert max(len(name) for name in names) <= 63
    assert any(name.endswith("-worker-fourteen-chars") for name in names)


def test_the_page_s_example_fits_the_chart_s_own_postgres():
    text = (REPOSITORY / "docs" / "chart.md").read_text()
    (example,) = re.findall(r"```yaml\n(extraWorkers:\n.*?)```", text, re.DOTALL)
    rendered = render("default", yaml.safe_load(example))
    assert rendered.one("Deployment", "-worker-heavy")
