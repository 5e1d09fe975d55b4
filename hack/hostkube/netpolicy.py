"""From NetworkPolicies to packet filter rules: pure functions on the API's JSON.

A pod that a policy selects has a chain for that direction: what some policy allows returns from it, all else is
dropped, as in the usual network plugins. Ports are those of the pods, after a service's address was translated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

Json = dict[str, Any]

CHAIN = "HOSTKUBE"
ANYWHERE = "0.0.0.0/0"
INGRESS, EGRESS = "Ingress", "Egress"


@dataclass(frozen=True)
class Pod:
    """What rules need to know of a pod."""

    namespace: str
    name: str
    address: str
    labels: Json
    named_ports: dict[tuple[str, str], int]

    def chain(self, direction: str) -> str:
        digest = hashlib.sha256(f"{self.namespace}/{self.name}".encode()).hexdigest()[:12]
        return f"{CHAIN}-{direction[0]}-{digest}"


@dataclass(frozen=True)
class Cluster:
    """The state of the cluster as far as policies depend on it."""

    pods: list[Pod]
    namespaces: dict[str, Json]
    policies: list[Json]

    @classmethod
    def of(cls, pods: Iterable[Json], namespaces: Iterable[Json], policies: Iterable[Json]) -> Cluster:
        labels = {item["metadata"]["name"]: item["metadata"].get("labels", {}) for item in namespaces}
        return cls([pod_of(item) for item in pods if has_own_address(item)], labels, list(policies))


def has_own_address(item: Json) -> bool:
    status = item.get("status", {})
    on_the_node = item["spec"].get("hostNetwork", False)
    return bool(status.get("podIP")) and not on_the_node and status.get("phase") in ("Pending", "Running")


def pod_of(item: Json) -> Pod:
    spec = item["spec"]
    ports = [
        port
        for container in spec.get("initContainers", []) + spec["containers"]
        for port in container.get("ports", [])
    ]
    return Pod(
        item["metadata"]["namespace"],
        item["metadata"]["name"],
        item["status"]["podIP"],
        item["metadata"].get("labels", {}),
        {(p.get("protocol", "TCP"), p["name"]): p["containerPort"] for p in ports if "name" in p},
    )


def selects(selector: Json, labels: Json) -> bool:
    """Whether a label selector selects something with these labels; an empty selector selects everything."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for requirement in selector.get("matchExpressions") or []:
        value = labels.get(requirement["key"])
        satisfied = {
            "In": value in requirement.get("values", []),
            "NotIn": value not in requirement.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not satisfied[requirement["operator"]]:
            return False
    return True


def directions(policy: Json) -> list[str]:
    spec = policy["spec"]
    return spec.get("policyTypes") or [INGRESS, *([EGRESS] if spec.get("egress") else [])]


def is_version_4(network: str) -> bool:
    return ":" not in network


def without(network: str, exceptions: Iterable[str]) -> list[str]:
    """The networks that are left of a network when some parts of it are taken out."""
    left = [IPv4Network(network, strict=False)]
    for text in exceptions:
        exception = IPv4Network(text, strict=False)
        remaining: list[IPv4Network] = []
        for part in left:
            if exception.subnet_of(part):
                remaining += part.address_exclude(exception)
            elif not part.subnet_of(exception):
                remaining.append(part)
        left = remaining
    return [str(part) for part in left]


def peer_addresses(peer: Json, namespace: str, cluster: Cluster) -> Iterator[str]:
    """The addresses that an entry of `from` or `to` stands for; a policy's own namespace counts unless it names one."""
    if block := peer.get("ipBlock"):
        if is_version_4(block["cidr"]):
            yield from without(block["cidr"], filter(is_version_4, block.get("except") or []))
        return
    for pod in cluster.pods:
        if "namespaceSelector" in peer:
            in_scope = selects(peer["namespaceSelector"] or {}, cluster.namespaces.get(pod.namespace, {}))
        else:
            in_scope = pod.namespace == namespace
        if in_scope and selects(peer.get("podSelector") or {}, pod.labels):
            yield f"{pod.address}/32"


def port_matches(port: Json, targets: Iterable[Pod]) -> Iterator[tuple[str, str]]:
    """Where a port applies (an address, or anywhere) and how the packet filter matches it."""
    protocol = port.get("protocol", "TCP")
    wanted = port.get("port")
    option = f"-p {protocol.lower()}"
    if wanted is None:
        yield ANYWHERE, option
    elif isinstance(wanted, int):
        last = port.get("endPort")
        yield ANYWHERE, f"{option} --dport {wanted}" + (f":{last}" if last else "")
    else:
        for pod in targets:
            if number := pod.named_ports.get((protocol, wanted)):
                yield f"{pod.address}/32", f"{option} --dport {number}"


def allowed(rule: Json, direction: str, pod: Pod, namespace: str, cluster: Cluster) -> Iterator[str]:
    """The matches of what one ingress or egress rule allows for one pod."""
    peers = rule.get("from" if direction == INGRESS else "to")
    if peers:
        addresses = [address for peer in peers for address in peer_addresses(peer, namespace, cluster)]
    else:
        addresses = [ANYWHERE]
    if direction == INGRESS:
        ports = list(ports_of(rule, [pod]))
        for source in addresses:
            for _, match in ports:
                yield f"-s {source} {match}".rstrip()
        return
    ports = list(ports_of(rule, cluster.pods))
    for destination in addresses:
        for only, match in ports:
            if IPv4Network(only).subnet_of(IPv4Network(destination)):
                yield f"-d {only} {match}".rstrip()
            elif only == ANYWHERE:
                yield f"-d {destination} {match}".rstrip()


def ports_of(rule: Json, targets: Iterable[Pod]) -> Iterator[tuple[str, str]]:
    if not rule.get("ports"):
        yield ANYWHERE, ""
    for port in rule.get("ports") or []:
        yield from port_matches(port, targets)


def chain_rules(pod: Pod, direction: str, cluster: Cluster) -> list[str] | None:
    """The rules of a pod's chain for one direction; None when no policy selects the pod for it."""
    policies = [
        policy
        for policy in cluster.policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction in directions(policy)
        and selects(policy["spec"].get("podSelector") or {}, pod.labels)
    ]
    if not policies:
        return None
    itself = "-s" if direction == INGRESS else "-d"
    matches = [f"{itself} {pod.address}/32"]
    for policy in policies:
        for rule in policy["spec"].get(direction.lower()) or []:
            matches += allowed(rule, direction, pod, pod.namespace, cluster)
    return [*(f"{match} -j RETURN" for match in dict.fromkeys(matches)), "-j DROP"]


def ruleset(cluster: Cluster, existing: Iterable[str] = ()) -> str:
    """The input for `iptables-restore --noflush` that replaces the chains of an earlier state by those of this one."""
    entry = ["-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"]
    chains: dict[str, list[str]] = {CHAIN: entry}
    for pod in cluster.pods:
        for direction, option in ((EGRESS, "-s"), (INGRESS, "-d")):
            rules = chain_rules(pod, direction, cluster)
            if rules is not None:
                chains[pod.chain(direction)] = rules
                entry.append(f"{option} {pod.address}/32 -j {pod.chain(direction)}")
    stale = sorted(set(existing) - chains.keys())
    lines = ["*mangle", *(f":{chain} - [0:0]" for chain in (*chains, *stale))]
    lines += [f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules]
    lines += [*(f"-X {chain}" for chain in stale), "COMMIT", ""]
    return "\n".join(lines)
