"""Right across processes, at the figures of the requirements (row 5)."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from tests.integration.rate_limit.conftest import within_a_window

REQUESTS = Path(__file__).with_name("requests.py")


async def process(url: str, rate: str, tries: int, at_once: int) -> Process:
    arguments = [str(REQUESTS), url, rate, str(tries), str(at_once)]
    child = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=PIPE, stdout=PIPE)
    assert child.stdout is not None
    async with asyncio.timeout(60):
        assert (await child.stdout.readline()).strip() == b"ready"
    return child


@pytest.mark.parametrize(("quota", "at_once"), [(1000, 16), (1000, 1), (7, 16), (6000, 64)])
async def test_10_000_requests_from_4_processes_are_admitted_up_to_the_quota(
    redis_url: str, quota: int, at_once: int
) -> None:
    await within_a_window()
    children = await asyncio.gather(*(process(redis_url, f"{quota}/day", 2500, at_once) for _ in range(4)))
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"\n")
    outputs = [(await child.communicate())[0] for child in children]
    counts = [int(output.splitlines()[-1]) for output in outputs]  # log lines may come before
    assert sum(counts) <= quota
    # All of it can be used: only what a process had leased when it ended is lost.
    assert sum(counts) >= 0.9 * quota
