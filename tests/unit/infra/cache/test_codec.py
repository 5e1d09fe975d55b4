"""Values as the cache keeps them."""

from __future__ import annotations

import tracemalloc

from scalable_fastapi_system.infra.cache.codec import encode


def test_a_payload_takes_no_more_memory_than_its_bytes() -> None:
    """The bound of memory counts the bytes of the payloads; room that they hold beside them would not be counted."""
    value = {"id": 4711, "name": "Ada Lovelace", "scopes": ["datasets:read", "datasets:write"]}
    encode(value)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [encode(value) for _ in range(500)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(kept) < len(kept[0]) + 200
