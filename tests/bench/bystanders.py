"""When other programs of this machine ran: `python -m tests.bench.bystanders < plan.json`.

A supervisor that looks around once a second for ten milliseconds makes a hundredth of all requests late, and p99 is then about
it alone. What ran is read from each thread's account of its time on a processor (`/proc/<pid>/task/<tid>/schedstat`), which
says nothing of requests: so no request is left out for being slow.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.bench.machine import family

MAX_SECONDS = 60.0
LEAST_SHARE = 0.002  # of a core: less is not worth a look
MOST_THREADS = 24
LOOK_SECONDS = 0.002
LEAST_RUN_SECONDS = 0.0002  # within a look: less makes nobody late
_KERNEL = 2  # the parent of the kernel's threads, which work for us too

Span = tuple[float, float]  # from and to, by time.perf_counter, which is one clock for all processes


@dataclass(frozen=True, slots=True)
class Plan:
    """Whose accounts to read, and for how long."""

    accounts: list[str]
    seconds: float

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def find(ours: Iterable[int], *, seconds: float = 3.0) -> list[str]:
    """The accounts of the programs that run beside us, those with the most time within the next `seconds` first.

    ours: the processes whose families are not looked at; this one is not either.
    """
    known = {process.pid for pid in [*ours, os.getpid()] for process in family(pid)}
    before = {pid: _run_seconds(_accounts(pid)) for pid in psutil.pids() if pid not in known}
    time.sleep(seconds)
    shares: dict[int, float] = {}
    for pid, already in before.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            if _KERNEL not in (pid, psutil.Process(pid).ppid()):
                shares[pid] = (_run_seconds(_accounts(pid)) - already) / seconds
    busy = sorted((pid for pid in shares if shares[pid] >= LEAST_SHARE), key=lambda pid: -shares[pid])
    return [account for pid in busy for account in _accounts(pid)][:MOST_THREADS]


def disturbances(runs: Sequence[Span]) -> list[Span]:
    """The times that somebody's running made late: each run, and as long again for what had to wait meanwhile."""
    joined: list[Span] = []
    for start, end in sorted(runs):
        if joined and start <= joined[-1][1] + LOOK_SECONDS:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return [(start, end + (end - start)) for start, end in joined]


def undisturbed(answers: Sequence[tuple[float, float]], runs: Sequence[Span]) -> list[float]:
    """The seconds of those answers that were not under way in a disturbance. answers: when it was asked for, seconds."""
    times = disturbances(runs)
    kept: list[float] = []
    at = 0
    for sent_at, seconds in sorted(answers):
        while at < len(times) and times[at][1] < sent_at:
            at += 1
        if at == len(times) or sent_at + seconds < times[at][0]:
            kept.append(seconds)
    return kept


def watch(plan: Plan) -> dict[str, Any]:
    """When somebody ran, and when the watching began and ended."""
    if plan.seconds > MAX_SECONDS:
        raise ValueError("the watch is bounded")
    runs: list[Span] = []
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(Path(account).open("rb", buffering=0)) for account in plan.accounts]
        began = at = time.perf_counter()
        had = _read(files)
        while at < began + plan.seconds:
            time.sleep(LOOK_SECONDS)
            now, has = time.perf_counter(), _read(files)
            ran = has - had
            if ran >= LEAST_RUN_SECONDS:
                # An account is written at the clock's ticks and when the thread leaves: the run may be older than the look.
                runs.append((min(at, now - ran), now))
            at, had = now, has
    return {"runs": runs, "began": began, "ended": at}


def _read(files: Sequence[Any]) -> float:
    nanoseconds = 0
    for file in files:
        file.seek(0)
        with contextlib.suppress(ProcessLookupError):  # the thread has ended
            nanoseconds += int(file.read(64).split()[0])
    return nanoseconds / 1e9


def _accounts(pid: int) -> list[str]:
    return [str(path) for path in sorted(Path(f"/proc/{pid}/task").glob("*/schedstat"))]


def _run_seconds(accounts: Iterable[str]) -> float:
    nanoseconds = 0
    for account in accounts:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            nanoseconds += int(Path(account).read_text(encoding="ascii").split()[0])
    return nanoseconds / 1e9


def main() -> int:
    print(json.dumps(watch(Plan(**json.load(sys.stdin)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
