"""`python -m tests.chaos [--quick] [NUMBER…]`: runs the cases, prints a ledger for each, exits 1 if one is not good."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any

from tests.chaos import cases_api, cases_postgres, cases_redis, cases_rules, cases_worker
from tests.chaos.checker import Ledger
from tests.chaos.client import ChaosClient
from tests.chaos.scale import FULL, QUICK, Scale
from tests.chaos.world import World

CASES = sorted(
    (
        case
        for module in (cases_redis, cases_worker, cases_postgres, cases_api, cases_rules)
        for case in module.CASES
    ),
    key=lambda case: int((case.__doc__ or "0").split()[0]),
)


async def run_case(case: Any, scale: Scale, *, keep_logs: bool) -> Ledger:
    """One case in a world of its own."""
    number, _, title = (case.__doc__ or "").partition(" ")
    ledger = Ledger(int(number), title.rstrip("."))
    async with World.make() as world:
        try:
            async with ChaosClient.make(world) as client:
                await case(world, client, ledger, scale)
        except Exception as error:  # noqa: BLE001 - a case that breaks is a case that failed
            ledger.problems.append(f"{type(error).__name__}: {error}")
        if not ledger.is_good or keep_logs:
            for child in world.workers:
                print(f"--- {child.name}\n{world.log_of(child)[-300_000:]}", file=sys.stderr)
    return ledger


def show(ledger: Ledger, seconds: float) -> None:
    """A ledger, for people."""
    verdict = "good" if ledger.is_good else "NOT GOOD"
    recovery = "-" if ledger.recovery_seconds is None else f"{ledger.recovery_seconds:.1f} s"
    print(f"{ledger.number:>2} {ledger.title}: {verdict} ({seconds:.0f} s)")
    print(
        f"   accepted {ledger.accepted}, done {ledger.done}, failed {ledger.failed}, lost {ledger.lost}, "
        f"duplicated effects {ledger.duplicates}, recovery {recovery}"
    )
    for note in ledger.notes:
        print(f"   {note}")
    for problem in ledger.problems:
        print(f"   PROBLEM: {problem}")
    sys.stdout.flush()


def main() -> int:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("numbers", nargs="*", type=int, help="which cases (all)")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter")
    parser.add_argument("--logs", action="store_true", help="show the workers' logs of good cases too")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL
    bad = 0
    for index, case in enumerate(CASES, 1):
        if arguments.numbers and index not in arguments.numbers:
            continue
        started = time.monotonic()
        ledger = asyncio.run(run_case(case, scale, keep_logs=arguments.logs))
        show(ledger, time.monotonic() - started)
        bad += not ledger.is_good
    print("all good" if not bad else f"{bad} not good")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
