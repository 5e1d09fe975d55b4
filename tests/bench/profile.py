"""`python -m tests.bench.profile`: where a request's time goes, by layer, as py-spy samples the process under load.

Processor time of a request is measured first, without the profiler; the samples then say which share of it each layer has. py-spy
stops the process for each sample, so its run counts for shares only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from hack.dev.errors import DevError
from tests.bench import load, sections
from tests.bench.layers import COLLECTOR, LAYERS, OTHER, shares
from tests.bench.machine import OTHER_CORE, check_machine
from tests.bench.servers import Limit, Platform, Server, seed_limits
from tests.bench.stores import Stores
from tests.bench.works import CACHED, CREATE, ENQUEUE, LIST, ME, READ, Work

WORKS = {work.name: work for work in (ME, READ, LIST, CACHED, CREATE, ENQUEUE)}
PER_SECOND = 250


@dataclass(frozen=True, slots=True)
class Profile:
    """One work of one server. shares: by layer, of the processor time of its process."""

    target: str
    work: Work
    cpu_us: float
    shares: dict[str, float]


def main() -> int:
    """Exit code 0, or 2 where nothing was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("--works", default=",".join(WORKS), help="comma-separated")
    parser.add_argument("--seconds", type=int, default=8, help=f"of one turn, at most {load.MAX_SECONDS - 3}")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--write", action="store_true", help="writes the table into docs/performance.md")
    arguments = parser.parse_args()
    works = [WORKS[name] for name in arguments.works.split(",") if name in WORKS]
    try:
        check_machine()
        load_before = os.getloadavg()[0]
        with Stores() as stores:
            profiles = _measure(works, stores, seconds=arguments.seconds, connections=arguments.connections)
    except DevError as error:
        print(error.describe(), file=sys.stderr)
        return 2
    text = table(profiles)
    print(text)
    if arguments.write:
        measured = sections.paragraph(sections.origin("bench-profile", load_before))
        sections.write("profile", f"{measured}\n\n{text}")
    return 0


def _measure(works: list[Work], stores: Stores, *, seconds: int, connections: int) -> list[Profile]:
    dsn = stores.new_database("bench_limits")
    seed_limits(dsn)
    platform = Platform("ours", stores, dsn=stores.new_database("bench_ours"))
    platform.migrate()
    servers: list[Server] = [platform, Limit("handwritten", "handwritten:app", stores, dsn=dsn)]
    found: list[Profile] = []
    for server in servers:
        server.start(probe="/users/me")
        try:
            server.prepare()
            for work in works:
                if work is ENQUEUE and server is not platform:
                    continue
                found.append(_profile(server, work, stores, seconds=seconds, connections=connections))
                print(f"{server.name} {work.name}: {found[-1].cpu_us:.0f} µs", file=sys.stderr, flush=True)
        finally:
            server.stop()
    return found


def _profile(server: Server, work: Work, stores: Stores, *, seconds: int, connections: int) -> Profile:
    call = server.call(work)
    load.run(call, seconds=2, connections=connections, folder=stores.folder)
    cpu = server.cpu_seconds()
    outcome = load.run(call, seconds=seconds, connections=connections, folder=stores.folder)
    cpu_us = (server.cpu_seconds() - cpu) / max(1, outcome.requests) * 1e6
    raw = stores.folder / f"{server.name}-{work.name}.txt"
    sampling = subprocess.Popen(
        ["taskset", "-c", str(OTHER_CORE), *_record(_serving_pid(server), raw, seconds)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    load.run(call, seconds=seconds + 2, connections=connections, folder=stores.folder)
    _, errors = sampling.communicate(timeout=60)
    if sampling.returncode != 0 or not raw.exists():
        raise DevError("py-spy could not look into the server", log=errors.splitlines()[-5:])
    return Profile(server.name, work, cpu_us, shares(raw.read_text(encoding="utf-8")))


def _record(pid: int, raw: Path, seconds: int) -> list[str]:
    spy = Path(sys.executable).with_name("py-spy")
    command = [
        str(spy),
        "record",
        "--pid",
        str(pid),
        "--native",
        "--format",
        "raw",
        "--rate",
        str(PER_SECOND),
    ]
    return [*command, "--duration", str(seconds), "--output", str(raw)]


def _serving_pid(server: Server) -> int:
    """The process that answers: gunicorn's child, or uvicorn itself."""
    children = psutil.Process(server.child.pid).children(recursive=True)
    return children[-1].pid if children else server.child.pid


def table(profiles: list[Profile]) -> str:
    """A column a work, a row a layer: microseconds of a request, and their share."""
    rows = []
    for target in dict.fromkeys(one.target for one in profiles):
        of_target = [one for one in profiles if one.target == target]
        name = {"ours": "ours, everything on", "handwritten": "hand-written"}[target]
        if rows:
            rows.append("")
        rows.append("| " + " | ".join([name, *(one.work.title for one in of_target)]) + " |")
        rows.append("| --- " + "| ---: " * len(of_target) + "|")
        rows.append(
            "| **processor time of a request** | "
            + " | ".join(f"**{one.cpu_us:.0f} µs**" for one in of_target)
            + " |"
        )
        for layer in [*LAYERS, COLLECTOR, OTHER]:
            of_layer = [one.shares.get(layer, 0.0) for one in of_target]
            if max(of_layer) < 0.005:
                continue
            cells = [
                f"{share * one.cpu_us:.0f} ({share:.0%})"
                for share, one in zip(of_layer, of_target, strict=True)
            ]
            rows.append(f"| {layer} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
