"""hack/hostkube: NetworkPolicies as packet filter rules."""

from __future__ import annotations

from typing import Any

import pytest

from hack.hostkube.netpolicy import (
    EGRESS,
    INGRESS,
    Cluster,
    chain_rules,
    directions,
    ruleset,
    selects,
    without,
)

ADDRESSES = {"web": "10.0.0.1", "db": "10.0.0.2", "stranger": "10.0.0.3"}


def pod(name: str, namespace: str = "a", **changes: Any) -> dict:
    ports = [{"name": "http", "containerPort": 8000}, {"containerPort": 9000}]
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": [{"ports": ports}], **changes.pop("spec", {})},
        "status": {"podIP": ADDRESSES[name], "phase": "Running", **changes.pop("status", {})},
    }


def policy(namespace: str = "a", **spec: Any) -> dict:
    return {"metadata": {"name": "p", "namespace": namespace}, "spec": {"podSelector": {}, **spec}}


def cluster(*policies: dict, pods: list[dict] | None = None) -> Cluster:
    namespaces = [
        {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}} for name in ("a", "b")
    ]
    return Cluster.of(pods or [pod("web"), pod("db"), pod("stranger", "b")], namespaces, policies)


def rules(state: Cluster, name: str, direction: str) -> list[str] | None:
    return chain_rules(next(one for one in state.pods if one.name == name), direction, state)


def ingress(**rule: Any) -> list[str]:
    state = cluster(policy(podSelector={"matchLabels": {"app": "web"}}, ingress=[rule]))
    found = rules(state, "web", INGRESS)
    assert found is not None
    assert (found[0], found[-1]) == ("-s 10.0.0.1/32 -j RETURN", "-j DROP")
    return [line.removesuffix(" -j RETURN") for line in found[1:-1]]


def egress(**rule: Any) -> list[str]:
    found = rules(cluster(policy(egress=[rule])), "web", EGRESS)
    assert found is not None
    return [line.removesuffix(" -j RETURN") for line in found[1:-1]]


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "db"}}, False),
        ({"matchLabels": {"other": "web"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "other", "operator": "NotIn", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_label_selectors(selector: dict, selected: bool) -> None:
    assert selects(selector, {"app": "web"}) is selected


def test_a_pod_that_no_policy_selects_is_open() -> None:
    state = cluster(policy(podSelector={"matchLabels": {"app": "web"}}))
    assert rules(state, "db", INGRESS) is None
    assert rules(state, "stranger", INGRESS) is None
    assert rules(state, "web", EGRESS) is None


def test_a_policy_without_rules_denies_all_but_the_pod_itself() -> None:
    assert rules(cluster(policy()), "web", INGRESS) == ["-s 10.0.0.1/32 -j RETURN", "-j DROP"]
    state = cluster(policy(policyTypes=["Egress"]))
    assert rules(state, "web", EGRESS) == ["-d 10.0.0.1/32 -j RETURN", "-j DROP"]
    assert rules(state, "web", INGRESS) is None


def test_the_directions_of_a_policy() -> None:
    assert directions(policy()) == [INGRESS]
    assert directions(policy(egress=[{}])) == [INGRESS, EGRESS]
    assert directions(policy(policyTypes=["Egress"])) == [EGRESS]


def test_an_empty_rule_allows_everything() -> None:
    assert ingress() == ["-s 0.0.0.0/0"]
    assert egress() == ["-d 0.0.0.0/0"]


def test_a_pod_selector_alone_means_the_policys_own_namespace() -> None:
    assert ingress(**{"from": [{"podSelector": {}}]}) == ["-s 10.0.0.2/32"]


def test_a_namespace_selector_reaches_other_namespaces() -> None:
    other = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "b"}}}
    assert ingress(**{"from": [other]}) == ["-s 10.0.0.3/32"]
    assert ingress(**{"from": [{**other, "podSelector": {"matchLabels": {"app": "db"}}}]}) == []
    assert ingress(**{"from": [{"namespaceSelector": {}}]}) == ["-s 10.0.0.2/32", "-s 10.0.0.3/32"]


def test_an_ip_block_without_its_exceptions() -> None:
    block = {"cidr": "10.0.0.0/30", "except": ["10.0.0.0/31"]}
    assert egress(to=[{"ipBlock": block}]) == ["-d 10.0.0.2/31"]
    assert egress(to=[{"ipBlock": {"cidr": "fd00::/8"}}]) == []


@pytest.mark.parametrize(
    ("exceptions", "left"),
    [
        ([], ["10.0.0.0/24"]),
        (["10.0.0.128/25"], ["10.0.0.0/25"]),
        (["10.0.0.0/8"], []),
        (["192.168.0.0/16"], ["10.0.0.0/24"]),
        (["10.0.0.0/25", "10.0.0.128/26"], ["10.0.0.192/26"]),
    ],
)
def test_networks_without_exceptions(exceptions: list[str], left: list[str]) -> None:
    assert without("10.0.0.0/24", exceptions) == left


def test_ports_by_number_range_protocol_and_name() -> None:
    assert ingress(ports=[{"port": 8000}]) == ["-s 0.0.0.0/0 -p tcp --dport 8000"]
    assert ingress(ports=[{"port": 1, "endPort": 9, "protocol": "UDP"}]) == [
        "-s 0.0.0.0/0 -p udp --dport 1:9"
    ]
    assert ingress(ports=[{"protocol": "UDP"}]) == ["-s 0.0.0.0/0 -p udp"]
    assert ingress(ports=[{"port": "http"}]) == ["-s 0.0.0.0/0 -p tcp --dport 8000"]
    assert ingress(ports=[{"port": "unknown"}]) == []


def test_a_named_port_of_egress_is_the_port_of_the_pod_that_is_called() -> None:
    to_db = [{"podSelector": {"matchLabels": {"app": "db"}}}]
    assert egress(to=to_db, ports=[{"port": "http"}]) == ["-d 10.0.0.2/32 -p tcp --dport 8000"]
    assert egress(to=to_db, ports=[{"port": 53, "protocol": "UDP"}]) == ["-d 10.0.0.2/32 -p udp --dport 53"]


def test_policies_add_up() -> None:
    web = {"matchLabels": {"app": "web"}}
    state = cluster(policy(), policy(podSelector=web, ingress=[{"from": [{"podSelector": {}}]}]))
    assert len(rules(state, "web", INGRESS) or []) == 3
    assert len(rules(state, "db", INGRESS) or []) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"hostNetwork": True}},
        {"status": {"podIP": ""}},
        {"status": {"phase": "Succeeded"}},
    ],
)
def test_only_pods_with_an_address_of_their_own_count(changes: dict) -> None:
    assert cluster(pods=[pod("web", **changes)]).pods == []


def test_a_rule_set_replaces_what_an_earlier_one_left() -> None:
    state = cluster(policy(podSelector={"matchLabels": {"app": "web"}}))
    chain = state.pods[0].chain(INGRESS)
    lines = ruleset(state, existing=[chain, "HOSTKUBE-I-gone"]).splitlines()
    assert lines[0] == "*mangle"
    assert lines[-1] == "COMMIT"
    assert f":{chain} - [0:0]" in lines
    assert f"-A HOSTKUBE -d 10.0.0.1/32 -j {chain}" in lines
    assert "-X HOSTKUBE-I-gone" in lines
    assert f"-X {chain}" not in lines
    assert len(chain) <= 28
