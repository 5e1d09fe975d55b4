"""`python -m tests.bench.growth`: how latency and cost grow with rows, connections, routes and processes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable

from hack.dev.errors import DevError
from tests.bench import sections
from tests.bench.growth import connections, processes, routes, rows, tables
from tests.bench.growth.measure import Plan, say
from tests.bench.load import MAX_SECONDS
from tests.bench.machine import check_machine
from tests.bench.stores import Stores

DIMENSIONS: dict[str, Callable[[Stores, Plan], str]] = {
    "rows": lambda stores, plan: tables.of_rows(rows.grow(stores, plan)),
    "connections": lambda stores, plan: tables.of_connections(connections.grow(stores, plan)),
    "routes": lambda stores, plan: tables.of_routes(routes.grow(stores, plan)),
    "processes": lambda stores, plan: tables.of_processes(processes.grow(stores, plan)),
}


def main() -> int:
    """Exit code 0, or 2 where something could not be measured; what was measured before it is printed and written."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--of", default=",".join(DIMENSIONS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help=f"of one turn, at most {MAX_SECONDS}")
    parser.add_argument(
        "--most-rows", type=int, default=1_000_000, help="10000000 takes some minutes and 4 GB of disk more"
    )
    parser.add_argument("--postgres", help="a running server's URL, of a role that makes databases")
    parser.add_argument("--redis", help="a running server's URL")
    parser.add_argument("--write", action="store_true", help="puts the tables into docs/performance.md")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.of.split(",") if name]
    for name in chosen:
        if name not in DIMENSIONS:
            parser.error(f"{name} is not one of {', '.join(DIMENSIONS)}")
    if arguments.most_rows < rows.FEWEST:
        parser.error(f"the smallest table has {rows.FEWEST} rows")
    plan = Plan(rounds=arguments.rounds, seconds=arguments.seconds, most_rows=arguments.most_rows)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that the servers are ended too
    try:
        check_machine()
        with Stores(postgres_url=arguments.postgres, redis_url=arguments.redis) as stores:
            for name in chosen:
                say(f"growth with {name}")
                load_before = os.getloadavg()[0]
                table = DIMENSIONS[name](stores, plan)
                conditions = (
                    tables.conditions(plan, cores=processes.CORES)
                    if name == "processes"
                    else tables.conditions(plan)
                )
                measured = sections.paragraph(sections.origin("bench-growth", load_before))
                body = f"{table} {conditions}\n\n{measured}"
                print(f"\n{body}\n", flush=True)
                if arguments.write:
                    sections.write(f"growth-{name}", body)
    except DevError as error:
        print(error.describe(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
