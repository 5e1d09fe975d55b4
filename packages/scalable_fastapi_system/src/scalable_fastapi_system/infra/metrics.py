"""Prometheus metrics of HTTP requests and of the process.

The HTTP metrics carry the names, labels and grouping of prometheus-fastapi-instrumentator, so that dashboards
made for it work; that library serves `/metrics`. The measuring is done in the platform's one middleware pass
with label children looked up once, because the library's own middleware searches all routes per request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Summary

UNMATCHED = "none"  # the handler label of requests that fit no route: one series, whatever the path
# OpenTelemetry's. A server takes some thirty, and whoever sends the others is not to make series and span names of them.
KNOWN_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
OTHER_METHOD = "_OTHER"

_HIGH_RESOLUTION = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5,
    3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60, float("inf"),
)  # fmt: skip
_LOW_RESOLUTION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, float("inf"))


class _Collectors:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "http_requests_total",
            "Total number of requests by method, status and handler.",
            ["method", "status", "handler"],
            registry=registry,
        )
        self.request_size = Summary(
            "http_request_size_bytes",
            "Content length of incoming requests by handler.",
            ["handler"],
            registry=registry,
        )
        self.response_size = Summary(
            "http_response_size_bytes",
            "Content length of outgoing responses by handler.",
            ["handler"],
            registry=registry,
        )
        self.latency_high = Histogram(
            "http_request_duration_highr_seconds",
            "Latency with many buckets but no API specific labels.",
            buckets=_HIGH_RESOLUTION,
            registry=registry,
        )
        self.latency_low = Histogram(
            "http_request_duration_seconds",
            "Latency with only few buckets by handler.",
            ["method", "handler"],
            buckets=_LOW_RESOLUTION,
            registry=registry,
        )
        self.in_progress = Gauge(
            "http_requests_inprogress",
            "Requests at work.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.shed = Counter(
            "http_requests_shed_total", "Requests refused because the process was full.", registry=registry
        )


_collectors: WeakKeyDictionary[CollectorRegistry, _Collectors] = WeakKeyDictionary()


class _Children:
    """The label children of one (method, endpoint, status group): resolved once, then only incremented."""

    __slots__ = ("count", "latency_high", "latency_low", "request_size", "response_size")

    def __init__(self, collectors: _Collectors, method: str, endpoint: str, status: str) -> None:
        self.count: Any = collectors.requests.labels(method, status, endpoint)
        self.latency_high: Any = collectors.latency_high
        self.latency_low: Any = collectors.latency_low.labels(method, endpoint)
        self.request_size: Any = collectors.request_size.labels(endpoint)
        self.response_size: Any = collectors.response_size.labels(endpoint)


class MetricsManager:
    """Records requests. Managers on one registry share their collectors, so making several is harmless."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        found = _collectors.get(registry)
        if found is None:
            found = _collectors[registry] = _Collectors(registry)
        self._collectors = found
        self._children: dict[tuple[str, str, int], _Children] = {}
        self._count_in_progress: Callable[[], int] | None = None
        self.in_progress: Any = found.in_progress
        self.shed: Any = found.shed

    def prepare(self, method: str, endpoint: str) -> None:
        """Shows the counters of a route before its first request: a counter that appears with its first error hides it."""
        for status in ("2xx", "5xx"):
            self._collectors.requests.labels(_label_of(method), status, endpoint)

    def watch_in_progress(self, count: Callable[[], int]) -> None:
        """Has the requests at work counted by `count`."""
        self._count_in_progress = count

    def show_in_progress(self) -> None:
        """Sets the gauge of requests at work: called now and then, because setting it twice a request costs more."""
        if self._count_in_progress is not None:
            self.in_progress.set(self._count_in_progress())

    def record_request(
        self,
        method: str,
        endpoint: str,
        status: int,
        duration: float | None,
        *,
        request_bytes: int = 0,
        response_bytes: int = 0,
    ) -> None:
        """Counts one finished request.

        endpoint: the route's template, never a concrete path (a path with ids in it makes a series each).
        duration: seconds; None where it says nothing, because it is the client who decides how long it takes.
        """
        children = self._children_of(method, endpoint, status)
        children.count.inc()
        if duration is not None:
            children.latency_high.observe(duration)
            children.latency_low.observe(duration)
        children.request_size.observe(request_bytes)
        children.response_size.observe(response_bytes)

    def record_refused(self, method: str, endpoint: str, count: int = 1) -> None:
        """Counts requests that a full process refused with 503.

        Their durations and sizes are nowhere: they would make those of the served ones look better than they are.
        """
        self.shed.inc(count)
        self._children_of(method, endpoint, 503).count.inc(count)

    def _children_of(self, method: str, endpoint: str, status: int) -> _Children:
        key = (method, endpoint, status // 100)
        children = self._children.get(key)
        if children is None:
            if len(self._children) > 10_000:  # concrete paths were handed in: keep the memory bounded
                self._children.clear()
            children = _Children(self._collectors, _label_of(method), endpoint, f"{status // 100}xx")
            self._children[key] = children
        return children


def _label_of(method: str) -> str:
    return method if method in KNOWN_METHODS else OTHER_METHOD
