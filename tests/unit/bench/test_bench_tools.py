"""What the benches are made of: layers of a stack, percentiles, the section of a page."""

from __future__ import annotations

import pytest

from tests.bench.layers import HTTP, LOOP, OTHER, layer_of, shares
from tests.bench.open_loop import percentile

ROOT = [
    "<module> (gunicorn/__main__.py:10)",
    "asyncio_run (uvicorn/_compat.py:30)",
    "Runner.run (asyncio/runners.py:118)",
]
TASK = ["uv_run (core.c:452)", "task_step (_asynciomodule.c:1)", "RequestResponseCycle.run_asgi (uvicorn/protocols/http/httptools_impl.py:422)"]  # fmt: skip
PASS = [*TASK, "PlatformMiddleware._admit (scalable_fastapi_system/web/middleware.py:193)"]


@pytest.mark.parametrize(
    ("frames", "layer"),
    [
        (["uv_run (core.c:452)"], LOOP),
        ([], OTHER),
        (TASK, HTTP),
        ([*TASK, "write (loop.c:1)", "write (libc.so.6)"], LOOP),
        (PASS, "the ASGI pass"),
        ([*PASS, "inc (prometheus_client/values.py:1)", "__exit__ (threading.py:9)"], "metrics"),
        (
            [*PASS, "bind_execute (protocol.c:1)", "write (loop.c:1)", "write (libc.so.6)"],
            "SQL (asyncpg, SQLAlchemy)",
        ),
        ([*PASS, "gc_collect_main (libpython3.11.so.1.0)"], "garbage collection"),
    ],
)
def test_a_stack_belongs_to_its_innermost_layer(frames: list[str], layer: str) -> None:
    assert layer_of([*ROOT, *frames]) == layer


def test_shares_are_of_what_takes_the_processor() -> None:
    waits = ";".join([*ROOT, "uv_run (core.c:452)", "epoll_pwait (libc.so.6)"])
    raw = f"{';'.join([*ROOT, *PASS])} 3\n{';'.join([*ROOT, *TASK])} 1\n{waits} 90\nrun (threading.py:1) 50\n"
    found = shares(raw)
    assert (found["the ASGI pass"], found[HTTP]) == (0.75, 0.25)
    assert sum(found.values()) == pytest.approx(1)
    assert shares("") == {}


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([], 99) == 0
    assert percentile([3.0, 1.0, 2.0], 50) == 2
    assert percentile([float(number) for number in range(1000)], 99) == 990
