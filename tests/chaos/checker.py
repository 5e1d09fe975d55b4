"""The checker: the client's record on one side, what the jobs did on the other. The server's word is only for liveness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from tests.chaos.client import ChaosClient
from tests.chaos.world import LEASE_SECONDS, World

_TERMINAL = 3


@dataclass
class Ledger:
    """What a case came to."""

    number: int
    title: str
    accepted: int = 0
    done: int = 0
    failed: int = 0
    lost: int = 0
    duplicates: int = 0
    recovery_seconds: float | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.problems and self.lost == 0 and self.duplicates == 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def expect(self, condition: bool, problem: str) -> None:
        """Records a problem where a condition does not hold."""
        if not condition:
            self.problems.append(problem)


async def settle(
    world: World, ids: Iterable[UUID], ledger: Ledger, *, timeout_seconds: float = 120.0
) -> float:
    """Waits until all these jobs have ended; how long that took. A job that never ends is a problem."""
    wanted = list(ids)
    started = time.monotonic()
    while True:
        rows = await world.query(
            "SELECT count(*) AS n FROM jobs WHERE id = ANY($1::uuid[]) AND state < $2", wanted, _TERMINAL
        )
        if rows[0]["n"] == 0:
            return time.monotonic() - started
        if time.monotonic() - started > timeout_seconds:
            ledger.problems.append(f"{rows[0]['n']} jobs had not ended after {timeout_seconds:.0f} s")
            return time.monotonic() - started
        await asyncio.sleep(0.05)


async def check(
    world: World, client: ChaosClient, ledger: Ledger, *, has_effects: bool = True, may_fail: bool = False
) -> None:
    """Fills in the ledger from the client's record.

    lost: accepted, but there is no such job, or it has no end. duplicates: effects beyond the first of a job.
    """
    accepted = list(client.record.accepted)
    ledger.accepted = len(accepted)
    states = {
        row["id"]: row["state"]
        for row in await world.query("SELECT id, state FROM jobs WHERE id = ANY($1::uuid[])", accepted)
    }
    effects = {
        row["job_id"]: row["n"]
        for row in await world.query("SELECT job_id, count(*) AS n FROM chaos_effects GROUP BY job_id")
    }
    succeeded = [one for one in accepted if states.get(one) == _TERMINAL]
    ledger.done = len(succeeded)
    ledger.failed = sum(1 for one in accepted if states.get(one, 0) > _TERMINAL)
    ledger.lost = sum(1 for one in accepted if states.get(one, 0) < _TERMINAL)
    ledger.duplicates = sum(count - 1 for count in effects.values())
    if has_effects:
        without = [one for one in succeeded if one not in effects]
        ledger.expect(not without, f"{len(without)} jobs succeeded without their effect")
        ghosts = [one for one in accepted if one in effects and states.get(one) != _TERMINAL]
        ledger.expect(not ghosts, f"{len(ghosts)} jobs have an effect and did not succeed")
    if not may_fail:
        ledger.expect(ledger.failed == 0, f"{ledger.failed} jobs failed")
    await _no_forgotten_lease(world, ledger)
    if client.record.unknown:
        ledger.note(f"{client.record.unknown} requests without an answer")
    if client.record.refused:
        told = ", ".join(f"{count}× {status}" for status, count in sorted(client.record.refused.items()))
        ledger.note(f"refused: {told}")


async def _no_forgotten_lease(world: World, ledger: Ledger) -> None:
    """No running row whose lease has been over for two sweeps, and the time that living workers are given first."""
    patience_seconds = LEASE_SECONDS + 2
    rows = await world.query(
        "SELECT count(*) AS n FROM jobs WHERE state = 2 AND lease_expires_at < now() - make_interval(secs => $1)",
        patience_seconds,
    )
    ledger.expect(rows[0]["n"] == 0, f"{rows[0]['n']} running rows with a lease long over")
