"""How clients that were cut off come into the log: one at once, then all of a second together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY
from scalable_fastapi_system.web import cut_offs
from scalable_fastapi_system.web.cut_offs import ANSWER, HEAD, CutOffs


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    monkeypatch.setattr(cut_offs, "_SECONDS_BETWEEN_LINES", 0.05)
    with structlog.testing.capture_logs() as captured:
        yield captured


def total(kind: str) -> float:
    return REGISTRY.get_sample_value("http_connections_cut_off_total", {"waiting_for": kind}) or 0.0


async def test_one_is_told_of_at_once_and_the_others_of_a_second_together(lines: list[Any]) -> None:
    told, loop, before = CutOffs(), asyncio.get_running_loop(), total(HEAD)

    for number in range(7):
        told.note(HEAD, f"203.0.113.{number}", loop)
    told.note(ANSWER, "203.0.113.1", loop)
    assert [line["event"] for line in lines] == ["cut off a slow client"]
    assert (lines[0]["waiting_for"], lines[0]["client"]) == (HEAD, "203.0.113.0")
    await asyncio.sleep(0.1)

    (line,) = lines[1:]
    assert (line["count"], line["waiting_for"]) == (7, {HEAD: 6, ANSWER: 1})
    assert line["clients"] == [f"203.0.113.{number}" for number in range(1, 6)]
    assert total(HEAD) - before == 7


async def test_one_after_a_quiet_second_is_told_of_at_once_again(lines: list[Any]) -> None:
    told, loop = CutOffs(), asyncio.get_running_loop()
    told.note(HEAD, None, loop)
    await asyncio.sleep(0.15)

    told.note(HEAD, None, loop)

    assert [line["event"] for line in lines] == ["cut off a slow client"] * 2


def test_a_loop_that_has_ended_holds_nothing_back(lines: list[Any]) -> None:
    told = CutOffs()

    async def cut_off() -> None:
        told.note(HEAD, None, asyncio.get_running_loop())

    for _ in range(2):
        asyncio.run(cut_off())

    assert len(lines) == 2
