"""Who may reach whom."""

from __future__ import annotations

import pytest

from tests.unit.chart.helm import NAME, RenderError, render


def policy(name, shape="default", values=None):
    return render(shape, values).one("NetworkPolicy", name)["spec"]


def components(rule_from):
    for peer in rule_from:
        for expression in peer.get("podSelector", {}).get("matchExpressions", []):
            yield from expression["values"]


def test_every_pod_of_the_release_is_covered():
    for shape in ("default", "external", "everything"):
        rendered = render(shape)
        for label, pod in rendered.pods():
            labels = pod["metadata"]["labels"]
            assert any(
                selects(item["spec"]["podSelector"], labels) for item in rendered.kind("NetworkPolicy")
            ), label


def selects(selector, labels):
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(item["key"]) in item["values"] for item in selector.get("matchExpressions", [])
    )


def test_only_pods_that_need_a_store_reach_it():
    for store in ("postgres", "redis"):
        (rule,) = policy(f"-{store}")["ingress"]
        assert sorted(components(rule["from"])) == ["api", "doctor", "migrate", "test", "worker"]
        assert rule["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "sfs"
        assert rule["ports"] == [{"port": store, "protocol": "TCP"}]


def test_a_store_calls_nobody():
    for store in ("postgres", "redis"):
        assert policy(f"-{store}")["policyTypes"] == ["Ingress", "Egress"]
        assert policy(f"-{store}")["egress"] == []


def test_nobody_calls_migrations_tests_and_the_doctor():
    found = policy("-jobs")
    assert found["ingress"] == []
    assert found["podSelector"]["matchExpressions"][0]["values"] == ["migrate", "doctor", "test"]


def test_the_api_is_open_unless_told_otherwise():
    assert "from" not in policy("-api")["ingress"][0]
    peers = policy("-api", "everything")["ingress"][0]["from"]
    namespaces = [
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in peers[:2]
    ]
    assert namespaces == ["gateways", "monitoring"]
    assert peers[2]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"


@pytest.mark.parametrize(
    "scraped", [{"monitoring.serviceMonitor.enabled": True}, {"api.autoscaling.targetRequestsInFlight": 20}]
)
def test_callers_of_the_api_are_not_named_without_who_scrapes_it(scraped):
    some = [{"podSelector": {}}]
    only = {"networkPolicy.api.from": some}
    with pytest.raises(RenderError, match=r"networkPolicy\.metrics\.from"):
        render("default", {**only, **scraped})
    assert render("default", only).objects
    assert render("default", {**only, **scraped, "networkPolicy.metrics.from": some}).objects
    assert render("default", {**only, **scraped, "networkPolicy.enabled": False}).objects


def test_calls_of_the_pods_are_free_unless_told_otherwise():
    assert "NetworkPolicy/-egress" not in render().names()
    rules = policy("-egress", "everything")["egress"]
    assert {"port": 53, "protocol": "UDP"} in rules[0]["ports"]
    assert "to" not in rules[0]
    assert rules[1]["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "sfs"
    assert rules[2] == {"ports": [{"port": 443, "protocol": "TCP"}]}


@pytest.mark.parametrize(
    ("values", "stores"),
    [
        ({}, "Postgres and Redis"),
        ({"redis.mode": "embedded"}, "Postgres"),
        ({"postgres.mode": "embedded"}, "Redis"),
    ],
)
def test_calls_are_not_restricted_without_where_the_external_stores_are(values, stores):
    restricted = {"networkPolicy.egress.enabled": True, **values}
    with pytest.raises(RenderError, match=rf"external {stores}; say in networkPolicy\.egress\.to"):
        render("external", restricted)
    some = [{"ports": [{"port": 5432, "protocol": "TCP"}]}]
    assert render("external", {**restricted, "networkPolicy.egress.to": some}).objects
    assert render("external", {**restricted, "networkPolicy.enabled": False}).objects
    assert render("default", {"networkPolicy.egress.enabled": True}).objects


def test_keda_reaches_the_database_that_it_asks():
    peers = policy("-postgres", "everything")["ingress"][0]["from"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}} in peers
    assert {"podSelector": {"matchLabels": {"app": "backup"}}} in peers


def test_they_can_be_left_out():
    assert not render("default", {"networkPolicy.enabled": False}).kind("NetworkPolicy")


def test_routes_lead_to_the_service_of_the_api():
    rendered = render("everything")
    port = rendered.one("Service", "-api")["spec"]["ports"][0]
    backend = rendered.one("Ingress", "-api")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": f"{NAME}-api", "port": {"name": port["name"]}}
    route = rendered.one("HTTPRoute", "-api")["spec"]["rules"][0]["backendRefs"][0]
    assert route == {"name": f"{NAME}-api", "port": port["port"]}


def test_monitors_scrape_ports_that_the_services_have():
    rendered = render("everything")
    for name in ("-api", "-worker"):
        service, monitor = rendered.one("Service", name), rendered.one("ServiceMonitor", name)
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert endpoint["path"] == "/metrics"
        assert monitor["metadata"]["labels"]["release"] == "monitoring"
