"""The room of a process that is busy, and of one that waits."""

from __future__ import annotations

import pytest
from scalable_fastapi_system.web import room as module
from scalable_fastapi_system.web.room import INTERVAL_SECONDS, LEAST, QUEUE_SECONDS, Room, busy_seconds

MOST = 512


class Clock:
    """Time, and how much of it the process was busy."""

    def __init__(self) -> None:
        self.now = self.busy = 0.0

    def pass_by(self, room: Room, seconds: float, *, busy_share: float, ended: int = 0) -> None:
        for _ in range(ended):
            room.at_work += 1
            room.leave()
        self.now += seconds * 1.001  # not a hair less, as sums of floats may be
        self.busy += busy_share * seconds * 1.001
        room.enter()
        room.at_work -= 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(module, "busy_seconds", lambda: clock.busy)
    return clock


def test_a_busy_process_has_room_for_what_it_ends_within_its_queue_time(clock: Clock) -> None:
    room = Room(MOST, 1)
    for _ in range(6):
        clock.pass_by(room, INTERVAL_SECONDS, busy_share=1.0, ended=600)
    assert room.limit == pytest.approx(600 / INTERVAL_SECONDS * QUEUE_SECONDS, abs=1)
    for _ in range(6):
        clock.pass_by(room, INTERVAL_SECONDS, busy_share=1.0, ended=2)
    assert room.limit == LEAST


def test_a_process_with_pauses_has_all_its_room_and_gets_it_back(clock: Clock) -> None:
    room = Room(MOST, 1)
    for _ in range(6):
        clock.pass_by(room, INTERVAL_SECONDS, busy_share=0.8, ended=10)
    assert room.limit == MOST
    for _ in range(6):
        clock.pass_by(room, INTERVAL_SECONDS, busy_share=1.0, ended=10)
    assert room.limit == LEAST
    for _ in range(4):
        clock.pass_by(room, INTERVAL_SECONDS, busy_share=0.5, ended=10)
    assert room.limit == MOST


def test_one_busy_moment_takes_at_most_half_of_the_room(clock: Clock) -> None:
    room = Room(MOST, 1)
    clock.pass_by(room, INTERVAL_SECONDS, busy_share=1.0)
    assert room.limit == MOST // 2


def test_a_room_that_is_set_smaller_than_the_least_stays_as_it_is_set(clock: Clock) -> None:
    room = Room(3, 1)
    for busy_share in (1.0, 1.0, 0.1):
        clock.pass_by(room, INTERVAL_SECONDS, busy_share=busy_share)
        assert room.limit == 3


def test_the_time_at_work_grows_with_work() -> None:
    began = busy_seconds()
    while busy_seconds() - began < 0.02:
        sum(range(10_000))


def test_whoever_came_past_the_server_is_judged_by_the_same_room(clock: Clock) -> None:
    room = Room(MOST, 1)
    for _ in range(6):
        clock.pass_by(room, INTERVAL_SECONDS, busy_share=1.0)
    room.at_work = LEAST
    assert room.is_full
    assert not room.is_over
    room.at_work = LEAST + 1
    assert room.is_over
