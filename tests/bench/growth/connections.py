"""More and more clients at once, and clients that only keep their connection open."""

from __future__ import annotations

import resource

from hack.dev.errors import DevError
from tests.bench.growth.measure import Figure, Plan, Turn, measure
from tests.bench.servers import Platform
from tests.bench.stores import Stores
from tests.bench.works import ME, READ

ACTIVE = (8, 32, 128, 512, 2000)
IDLE = 2000
_FILES = 3 * max(*ACTIVE, IDLE)


def grow(stores: Stores, plan: Plan) -> list[tuple[Turn, Figure]]:
    """Measures at each number of connections."""
    _allow_files()
    server = Platform("ours-connections", stores, dsn=stores.new_database("bench_growth_connections"))
    server.migrate()
    server.start(probe="/users/me")
    try:
        server.prepare()
        me, read = server.call(ME), server.call(READ)
        turns = [
            Turn(work, server, call, connections=count)
            for work, call in ((ME.title, me), (READ.title, read))
            for count in ACTIVE
        ]
        turns.append(Turn(f"{ME.title}; {IDLE} idle ones beside", server, me, idle=IDLE))
        return list(zip(turns, measure(turns, plan, stores), strict=True))
    finally:
        server.stop()


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _FILES:
        raise DevError(
            f"a process here may hold {hard} files, and {_FILES} are needed",
            advice=f"Raise the limit: ulimit -Hn {_FILES}",
        )
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, hard))
