"""`python -m tests.bench.overload`: slow clients and too much load, as figures (rows 8 and 11 of docs/requirements.md).

Slow clients: steady requests with and without 500 stalled sockets beside them, in turn within each round. Too much load: the most
that a process answers, by wrk over the number of connections that is best for this work, then three times that, which does not wait
for answers, then the most once more: machines change their speed, so the peak is the mean of before and after. One API
process as its image runs it, on a core of its own; the load and the stores are on the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY
from tests.bench import bystanders, load, open_loop, overload_report, sections, stalled
from tests.bench.machine import OTHER_CORE, Clock, check_machine
from tests.bench.overload_report import Flood, Stall
from tests.bench.servers import Platform
from tests.bench.stores import Stores
from tests.bench.works import CREATE, LIST, READ, Work

WORKS = {work.name: work for work in (READ, LIST, CREATE)}
TIMES = 3.0
STALLED = 500
OPENING_SECONDS = 1.0
# Of the loads' own processes, which keep the stores' core busy while they start: not measured.
STARTING_SECONDS = 1.5
STALL_SECONDS = 12.0  # the opening, the ten seconds that are asked, and a little more
WATCH_SECONDS = (
    STARTING_SECONDS + STALL_SECONDS + 1.0
)  # its own start is over when the first request that counts is sent
HEALTHY_SHARE = 0.3  # of the most that the process answers
PROBES_PER_SECOND = 10.0
CONNECTIONS = (16, 32, 64, 128)


class Bench:
    """One API process and the loads on it."""

    def __init__(self, server: Platform, stores: Stores, *, seconds: int, warm_up_seconds: float) -> None:
        self._server = server
        self._stores = stores
        self._seconds = seconds
        self._warm_up_seconds = warm_up_seconds
        self._best: dict[str, int] = {}  # connections, by work

    def peak(self, work: Work) -> float:
        """The most good answers a second, over the number of connections with which there were most at first."""
        call = self._server.call(work)
        if work.name not in self._best:
            self._best[work.name] = max(CONNECTIONS, key=lambda connections: self._rate(call, connections))
        return self._rate(call, self._best[work.name])

    def _rate(self, call: load.Call, connections: int) -> float:
        outcome = load.run(call, seconds=self._seconds, connections=connections, folder=self._stores.folder)
        return (outcome.requests - outcome.bad) / outcome.seconds

    def flood(self, work: Work) -> Flood:
        """The peak, three times as much, and the peak again."""
        call = self._server.call(work)
        before = self.peak(work)
        flows = [open_loop.Flow("work", raw_request(call), TIMES * before), *_probes()]
        roots = [self._server.child.pid, *self._stores.pids]
        clock, cpu, began = Clock.read(roots), self._server.cpu_seconds(), time.monotonic()
        told = self._send(flows, self._seconds, self._warm_up_seconds)
        seconds = time.monotonic() - began
        foreign_percent = Clock.read(roots).foreign_percent(clock, seconds)
        cpu_percent = (self._server.cpu_seconds() - cpu) / seconds * 100
        time.sleep(1)
        return Flood(
            work=work,
            peak=(before + self.peak(work)) / 2,
            told=told,
            foreign_percent=foreign_percent,
            cpu_percent=cpu_percent,
        )

    def stall(self, per_second: float, *, is_first_without: bool) -> Stall:
        """The same steady load without and with stalled sockets beside it."""
        request = raw_request(self._server.call(READ))
        flows = [open_loop.Flow("work", request, per_second)]
        told: dict[bool, dict[str, Any]] = {}
        ends: dict[str, Any] = {}
        roots = [self._server.child.pid, *self._stores.pids]
        watch = bystanders.Plan(bystanders.find(roots), WATCH_SECONDS)
        clock, began = Clock.read(roots), time.monotonic()
        for is_with in (False, True) if is_first_without else (True, False):
            watching = _start("tests.bench.bystanders", watch.as_json())
            plan = stalled.Plan(self._server.port, STALLED, OPENING_SECONDS, STARTING_SECONDS)
            # They are other machines': here they get what the stores and the steady requests leave of their core.
            stalling = _start("tests.bench.stalled", plan.as_json(), is_last=True) if is_with else None
            sent = self._send(flows, STALL_SECONDS, STARTING_SECONDS, tells_each=True)
            told[is_with] = _with_undisturbed(sent, _finish(watching))
            if stalling is not None:
                ends = _finish(stalling)
        foreign = Clock.read(roots).foreign_percent(clock, time.monotonic() - began)
        return Stall(per_second, told[False], told[True], ends, foreign)

    def _send(
        self,
        flows: list[open_loop.Flow],
        seconds: float,
        warm_up_seconds: float,
        *,
        tells_each: bool = False,
    ) -> dict[str, Any]:
        plan = open_loop.Plan(self._server.port, flows, seconds, warm_up_seconds, tells_each)
        return _finish(_start("tests.bench.open_loop", plan.as_json()))


def raw_request(call: load.Call) -> str:
    """The request as it goes over the wire."""
    path = call.url.split("/", 3)[3]
    lines = [f"{call.method} /{path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in (call.headers or {}).items()]
    if call.body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(call.body.encode())}"]
    return "\r\n".join([*lines, "", call.body or ""])


def _probes() -> list[open_loop.Flow]:
    return [
        open_loop.Flow(
            name, f"GET {name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", PROBES_PER_SECOND, is_fresh=True
        )
        for name in overload_report.PROBES
    ]


def _with_undisturbed(sent: dict[str, Any], watched: dict[str, Any]) -> dict[str, Any]:
    """The generator's report, with the figures of those requests that no other program fell into in place of each answer."""
    first, last = sent["measured"]
    if watched["began"] > first or watched["ended"] < last:
        raise DevError("other programs were not watched from the first request to the last")
    answers = sent.pop("good")
    kept = bystanders.undisturbed(answers, watched["runs"])
    sent["undisturbed"] = {
        "share": len(kept) / max(1, len(answers)),
        "p95_ms": open_loop.percentile(kept, 95) * 1e3,
        "p99_ms": open_loop.percentile(kept, 99) * 1e3,
    }
    return sent


def _start(module: str, plan: str, *, is_last: bool = False) -> subprocess.Popen[str]:
    """is_last: it runs only while no other program of its core would."""
    order = ["chrt", "--idle", "0"] if is_last else []
    started = subprocess.Popen(
        [*order, "taskset", "-c", str(OTHER_CORE), sys.executable, "-m", module],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdin is not None
    started.stdin.write(plan)
    started.stdin.close()
    return started


def _finish(started: subprocess.Popen[str]) -> dict[str, Any]:
    assert started.stdout is not None
    output = started.stdout.read()
    if started.wait(timeout=120) != 0:
        raise DevError("the load generator failed")
    told: dict[str, Any] = json.loads(output)
    return told


def main() -> int:
    """Exit code 0 where all that is asked is reached, 1 where something is not, 2 where nothing was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overload", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help=f"of one turn, at most {load.MAX_SECONDS}")
    parser.add_argument(
        "--warm-up", type=float, default=3.0, help="seconds of too much load before it is measured"
    )
    parser.add_argument("--works", default=",".join(WORKS), help="comma-separated")
    parser.add_argument("--only", choices=("slow", "load"), help="one of the two measurements")
    parser.add_argument("--write", action="store_true", help="writes the tables into docs/performance.md")
    arguments = parser.parse_args()
    works = [WORKS[name] for name in arguments.works.split(",") if name in WORKS]
    try:
        check_machine()
        load_before = os.getloadavg()[0]
        with Stores() as stores:
            floods, stalls = _measure(arguments, works, stores)
    except DevError as error:
        print(error.describe(), file=sys.stderr)
        return 2
    text = overload_report.table(floods, stalls)
    print(text)
    if arguments.write:
        measured = sections.origin("bench-overload", load_before)
        for name, of in (("slow-clients", ((), stalls)), ("overload", (floods, ()))):
            if any(of):
                conditions = sections.paragraph(f"{measured} {overload_report.conditions(*of)}")
                sections.write(name, f"{conditions}\n\n{overload_report.table(*of)}")
    problems = overload_report.failures(floods, stalls)
    for problem in problems:
        print(f"not reached: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _measure(
    arguments: argparse.Namespace, works: Sequence[Work], stores: Stores
) -> tuple[list[Flood], list[Stall]]:
    floods: list[Flood] = []
    stalls: list[Stall] = []
    server = Platform("ours", stores, dsn=stores.new_database("bench_ours"))
    server.migrate()
    server.start(probe="/users/me")
    try:
        server.prepare()
        bench = Bench(server, stores, seconds=arguments.seconds, warm_up_seconds=arguments.warm_up)
        load.run(server.call(READ), seconds=2, connections=32, folder=stores.folder)
        for number in range(arguments.rounds):
            if arguments.only != "slow":
                for work in works:
                    floods.append(bench.flood(work))
                    _say(f"round {number + 1} {overload_report.line(floods[-1])}")
                    time.sleep(2)
            if arguments.only != "load":
                healthy = HEALTHY_SHARE * bench.peak(READ)
                stalls.append(bench.stall(healthy, is_first_without=number % 2 == 0))
                _say(f"round {number + 1} {overload_report.line(stalls[-1])}")
    finally:
        server.stop()
    return floods, stalls


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
