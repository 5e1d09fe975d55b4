"""More processes of the API: on the cores that there are, one of which the load and the stores share."""

from __future__ import annotations

import contextlib
import os

from tests.bench.growth.measure import Figure, Plan, Turn, measure, say
from tests.bench.machine import SERVER_CORE
from tests.bench.servers import Platform
from tests.bench.stores import Stores
from tests.bench.works import ME, READ

COUNTS = (1, 2, 4)
CORES = "each process on a core as far as there are cores, wrk and the stores on one of them"


def grow(stores: Stores, plan: Plan) -> list[tuple[int, str, Figure]]:
    """Measures at each number of processes that may say something here: at most two a core."""
    dsn = stores.new_database("bench_growth_processes")
    points: list[tuple[int, str]] = []
    turns: list[Turn] = []
    cores = len(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        for count in COUNTS:
            if count > 2 * cores:
                continue
            server = Platform(
                f"ours-{count}",
                stores,
                dsn=dsn,
                cores=f"{SERVER_CORE}-{min(count, cores) - 1}",
                environment={"API__WORKERS": str(count)},
            )
            if not turns:
                server.migrate()
            stack.callback(server.stop)
            server.start(probe="/users/me")
            server.prepare()
            say(f"{count} processes are ready")
            for work in (ME, READ):
                points.append((count, work.title))
                turns.append(Turn(f"{count} processes, {work.name}", server, server.call(work)))
            server.child.freeze()
        figures = measure(turns, plan, stores)
    return [(count, title, figure) for (count, title), figure in zip(points, figures, strict=True)]
