"""What the cache counts."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter

_reads = Counter(
    "cache_reads_total",
    "Reads through get_or_load and cache_response, by what answered.",
    ["answered_by"],
)
_loads = Counter(
    "cache_loads_total", "Loads of missing or stale entries, by what became of them.", ["outcome"]
)

read_memory: Any = _reads.labels("memory")
read_redis: Any = _reads.labels("redis")
read_stale: Any = _reads.labels("stale")
read_joined: Any = _reads.labels("joined")
read_missing: Any = _reads.labels("load")

load_stored: Any = _loads.labels("stored")
load_failed: Any = _loads.labels("failed")
load_outdated: Any = _loads.labels("outdated")
