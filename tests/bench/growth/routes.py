"""More and more routes in the application: the one registered first and the one registered last, beside bare FastAPI."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.growth.many import ROUTES_OF_A_DOMAIN, path
from tests.bench.growth.measure import Figure, Plan, Turn, measure, say
from tests.bench.servers import Limit, Platform, Server
from tests.bench.stores import Stores
from tests.bench.works import Work

COUNTS = (10, 50, 100, 500)


@dataclass(frozen=True, slots=True)
class Point:
    """One route of an application with so many. `start_seconds`: from the command to the first answer."""

    routes: int
    server: str
    route: str
    start_seconds: float
    figure: Figure


def grow(stores: Stores, plan: Plan) -> list[Point]:
    """Measures at each number of routes, both applications in turn."""
    points: list[tuple[int, str, str, float]] = []
    turns: list[Turn] = []
    with _servers(stores) as servers:
        for count, title, server, seconds in servers:
            for route, domain in (("first", 0), ("last", count // ROUTES_OF_A_DOMAIN - 1)):
                call = server.call(Work("thing", "", path(domain)))
                points.append((count, title, route, seconds))
                turns.append(Turn(f"{count} routes, {title}, {route}", server, call))
            server.child.freeze()
        figures = measure(turns, plan, stores)
    return [Point(*point, figure) for point, figure in zip(points, figures, strict=True)]


@contextlib.contextmanager
def _servers(stores: Stores) -> Iterator[list[tuple[int, str, Server, float]]]:
    dsn = stores.new_database("bench_growth_routes")
    servers: list[tuple[int, str, Server, float]] = []
    is_migrated = False
    with contextlib.ExitStack() as stack:
        for count in COUNTS:
            environment = {"DOMAINS": str(count // ROUTES_OF_A_DOMAIN)}
            limit = Limit(f"fastapi-{count}", "many:fastapi", stores, environment=environment)
            ours = Platform(
                f"ours-{count}",
                stores,
                dsn=dsn,
                environment=environment,
                application="tests.bench.growth.many_ours:app",
            )
            if not is_migrated:
                ours.migrate()
                is_migrated = True
            for title, server, probe in (("bare FastAPI", limit, path(0)), ("ours", ours, "/users/me")):
                stack.callback(server.stop)
                seconds = server.start(probe=probe)
                server.prepare()
                servers.append((count, title, server, seconds))
                say(f"{title} with {count} routes is ready after {seconds:.1f} s")
        yield servers
