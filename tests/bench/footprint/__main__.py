"""`python -m tests.bench.footprint`: start-up times, memory, imports and sizes, beside what is asked of them."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from statistics import median

from hack.dev.errors import DevError
from tests.bench import sections
from tests.bench.footprint import environments, imports, launch, services, sizes, tables
from tests.bench.load import MAX_SECONDS
from tests.bench.machine import check_machine
from tests.bench.stores import Stores

SERVICES = ("api", "worker")
SECTION = "footprint"


def main() -> int:
    """Exit code 0 where all that is asked is reached, 1 where something is not, 2 where nothing was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.footprint", description=__doc__)
    parser.add_argument("--starts", type=int, default=3, help="of each service and of make run")
    parser.add_argument("--tries", type=int, default=7, help="of each import")
    parser.add_argument("--seconds", type=int, default=5, help=f"of each load, at most {MAX_SECONDS}")
    parser.add_argument("--images", metavar="TOOL", help="lists the images too: docker, podman or buildah")
    parser.add_argument("--postgres", help="a running server's URL, of a role that makes databases")
    parser.add_argument("--redis", help="a running server's URL")
    parser.add_argument("--write", action="store_true", help="puts the tables into docs/performance.md")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that the servers are ended too
    try:
        check_machine()
        images = sizes.images(arguments.images) if arguments.images else []
        cold_seconds, warm = launch.measure(arguments.starts)
        with Stores(postgres_url=arguments.postgres, redis_url=arguments.redis) as stores:
            pythons = {name: environments.make(stores.folder, name) for name in SERVICES}
            libraries = {
                name: sizes.libraries(environments.site_packages(python)) for name, python in pythons.items()
            }
            taken = imports.measure(pythons["api"], arguments.tries)
            packages = imports.dearest(pythons["api"], tables.MOST_PACKAGES)
            pods = services.measure(stores, pythons, starts=arguments.starts, seconds=arguments.seconds)
        asked = tables.asked(
            run_seconds=median(warm),
            api=next(pod for pod in pods if pod.name == "api"),
            imports=taken,
        )
        parts = [
            tables.of_asked(asked),
            tables.of_services(pods),
            tables.of_imports(taken, cold_seconds=cold_seconds),
            tables.of_packages(packages),
            tables.of_libraries(libraries, sizes.sources()),
        ]
        if images:
            parts.append(tables.of_images(images))
        body = "\n\n".join([*parts, sections.paragraph(sections.origin("bench-footprint", load_before))])
        print(body)
        if arguments.write:
            sections.write(SECTION, body)
    except DevError as error:
        print(error.describe(), file=sys.stderr)
        return 2
    missed = [one for one in asked if not one.is_reached]
    for one in missed:
        print(f"not reached: {one.what}: {one.shown}, and {one.limit} is asked", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
