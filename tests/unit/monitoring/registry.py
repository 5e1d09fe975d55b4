"""Every metric that the code registers, with its type and labels: all modules are imported, whoever uses them."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from typing import Any

import domains
import scalable_fastapi_system
from prometheus_client import REGISTRY
from scalable_fastapi_system.infra.metrics import MetricsManager
from scalable_fastapi_system.infra.observation import redis_gauges

# Run by alembic alone.
NOT_IMPORTED = "migrations"
# What prometheus_client shows of the process and the interpreter.
FOREIGN = ("process_", "python_")
SUFFIXES = {
    "counter": {"_total": set()},
    "histogram": {"_bucket": {"le"}, "_count": set(), "_sum": set()},
    "summary": {"_count": set(), "_sum": set()},
}


@dataclass(frozen=True)
class Family:
    """One metric by the name that it was given in the code."""

    name: str
    type: str
    labels: frozenset[str]

    @property
    def is_ours(self) -> bool:
        return not self.name.startswith(FOREIGN)

    def samples(self) -> dict[str, set[str]]:
        """Name in PromQL -> labels."""
        base = self.name.removesuffix("_total")
        return {
            base + suffix: set(self.labels) | more
            for suffix, more in SUFFIXES.get(self.type, {"": set()}).items()
        }


@cache
def registered() -> tuple[Family, ...]:
    """What API and worker show, prometheus_client's own collectors among it."""
    for package in (scalable_fastapi_system, domains):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if NOT_IMPORTED not in module.name.split("."):
                importlib.import_module(module.name)
    MetricsManager()
    redis_gauges()
    found = []
    for collector in REGISTRY._collector_to_names:
        labels = set(getattr(collector, "_labelnames", ()))
        family: Any
        for family in collector.describe() if hasattr(collector, "describe") else collector.collect():
            own = labels | (
                {label for sample in family.samples for label in sample.labels} - {"le", "quantile"}
            )
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found.append(Family(name, family.type, frozenset(own)))
    return tuple(found)
