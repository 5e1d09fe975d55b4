"""The Prometheus in the cluster, asked as a person would ask it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from tests.e2e.system import System


@dataclass(frozen=True)
class Prometheus:
    """A client of its HTTP API, and the release that is asked about."""

    client: httpx.Client
    system: System

    def get(self, path: str, **parameters: str) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expression: str) -> list[Any]:
        return list(self.get("query", query=expression)["result"])

    def over_time(self, expression: str, began: float, step_seconds: int) -> list[Any]:
        """The series from a time (Unix seconds) until now."""
        window = {"start": str(began), "end": str(time.time()), "step": str(step_seconds)}
        return list(self.get("query_range", query=expression, **window)["result"])

    def up(self, system: System) -> dict[str, str]:
        """Pod -> `up`, `down` or `unknown`, of a release's scraped pods."""
        targets = self.get("targets", state="active")["activeTargets"]
        return {
            target["labels"]["pod"]: target["health"]
            for target in targets
            if target["labels"]["namespace"] == system.namespace
        }

    def rules(self, kind: str) -> list[Any]:
        """The release's rules of a kind, `record` or `alert`."""
        groups = self.get("rules", type=kind)["groups"]
        file = f"/{self.system.namespace}-{self.system.fullname}-"  # the operator's name for it begins so
        return [
            rule
            for group in groups
            if group["name"].startswith(f"{self.system.fullname}.") and file in group["file"]
            for rule in group["rules"]
        ]

    def firing(self) -> set[str]:
        """The release's alerts that fire."""
        return {
            alert["labels"]["alertname"]
            for alert in self.get("alerts")["alerts"]
            if alert["state"] == "firing" and alert["labels"].get("namespace") == self.system.namespace
        }


@contextmanager
def cluster_prometheus(system: System) -> Iterator[Prometheus]:
    """A client of it, through a port-forward of its own."""
    monitoring = replace(system, namespace="monitoring")
    with (
        monitoring.forward("service/prometheus-operated", 9090) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield Prometheus(client, system)
