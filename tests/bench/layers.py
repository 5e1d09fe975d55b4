"""Which layer of a service a sample of its stack belongs to.

The innermost frame that says something decides: what the C library, the interpreter and the standard library do, they do for
whoever called them. What the event loop does for the HTTP protocol or for nobody, sockets mostly, is its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

HTTP, LOOP, COLLECTOR, OTHER = (
    "HTTP (uvicorn, httptools)",
    "event loop, sockets",
    "garbage collection",
    "other",
)
# In the order of the table. A frame belongs to the first layer whose pattern its file matches; extension modules are
# known by the names of their sources, which py-spy finds in what debuggers read.
LAYERS: dict[str, str] = {
    LOOP: r"uvloop|^(loop|core|linux|stream|tcp|timer|loop-watcher|uv-common)\.c$|^(heap-inl|queue)\.h$",
    HTTP: r"uvicorn/protocols|uvicorn/middleware|httptools|/web/(http_protocol|acceptor|refusals|room)|^(parser|llhttp|api|http|url_parser|http_parser)\.c$",
    "FastAPI, Starlette": r"fastapi/|starlette/",
    "the ASGI pass": r"/web/(middleware|route_table|hosts|security_headers|slow_body)",
    "who calls (identity, tokens)": r"scalable_fastapi_system/identity/|joserfc|jwt/|cryptography|libcrypto|_hashopenssl",
    "limiter": r"infra/rate_limit/|/web/(rate_limit|client_address)",
    "SQL (asyncpg, SQLAlchemy)": r"asyncpg|sqlalchemy|infra/database/|^(protocol|pgproto|recordobj)\.c$",
    "Redis": r"redis/|hiredis",
    "cache": r"infra/cache/|/web/cached_endpoints",
    "jobs": r"scalable_fastapi_system/jobs/",
    "serialisation": r"orjson|/web/envelope|^json/",
    "validation (pydantic)": r"pydantic",
    "metrics": r"infra/metrics|prometheus_client",
    "log line": r"infra/logging|structlog|/web/request_logging|^logging/",
    "tracing": r"opentelemetry|infra/tracing",
    "beside requests (what ticks)": r"infra/(observation|health)|uvicorn/server\.py|gunicorn/workers",
    "the endpoint": r"bench/product/|bench/limits/|^(handwritten|shapes)\.py$",
}
_PATTERNS = {layer: re.compile(pattern) for layer, pattern in LAYERS.items()}
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^()]+?)(?::\d+)?\)$")
_ROOT = "asyncio/runners.py"  # what is outside of it is the same in every sample


def layer_of(frames: Sequence[str]) -> str:
    """The layer of a stack, outermost frame first, as py-spy writes it: `function (file:line)`."""
    is_in_loop = False
    for frame in reversed(frames):
        found = _FRAME.match(frame)
        if found is None:
            continue
        if found["file"].endswith(_ROOT):
            break
        if found["function"].startswith("gc_collect"):
            return COLLECTOR
        layer = next((layer for layer, pattern in _PATTERNS.items() if pattern.search(found["file"])), None)
        if layer == LOOP:
            is_in_loop = True
        elif layer == HTTP and is_in_loop:
            return LOOP
        elif layer is not None:
            return layer
    return LOOP if is_in_loop else OTHER


def shares(raw: str) -> dict[str, float]:
    """The share of each layer in py-spy's raw output: a line a stack, its frames between semicolons, then its count."""
    counts: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        # Not the pool's threads, and not the loop where it waits for something to do: neither takes the processor.
        if any(_ROOT in frame for frame in frames) and not frames[-1].startswith("epoll_"):
            counts[layer_of(frames)] += int(count)
    total = counts.total()
    return {layer: counts[layer] / total for layer in [*LAYERS, COLLECTOR, OTHER]} if total else {}
