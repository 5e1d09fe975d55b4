"""What the rate limits count."""

from __future__ import annotations

from prometheus_client import Counter

refused = Counter("rate_limit_refused_total", "Requests answered 429, by policy.", ["policy"])
decided_alone = Counter(
    "rate_limit_decided_alone_total", "Decisions by the process's own count because Redis did not answer."
)
