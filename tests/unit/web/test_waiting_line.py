"""Who comes to a full process is refused at once or waits for its turn, and refusals leave the process time to serve."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from scalable_fastapi_system.web.refusals import Refusals
from scalable_fastapi_system.web.room import Room
from scalable_fastapi_system.web.route_table import RouteTable
from scalable_fastapi_system.web.waiting_line import (
    BY_BYTES,
    LEAST_REFUSED_PER_SECOND,
    PARSED,
    REFUSED_PER_ENDED,
    TURN_SECONDS,
    WaitingLine,
)

REQUEST = b"GET /things HTTP/1.1\r\nHost: test\r\n\r\n"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A connection that notes what became of its request."""

    def __init__(self, room: Room, *, is_plain: bool = True) -> None:
        self._room = room
        self._is_plain = is_plain
        self.is_held = True
        self.fate = ""

    def begin_held(self) -> None:
        self.is_held = False
        self.fate = "begun"
        self._room.starting += 1

    def refuse_held(self, refusals: Refusals) -> int:
        self.is_held = False
        self.fate = "refused"
        return BY_BYTES if self._is_plain else PARSED


def plan_by_hand(monkeypatch: pytest.MonkeyPatch) -> list[WaitingLine]:
    """Turns are noted and not taken."""
    planned: list[WaitingLine] = []

    def plan(line: WaitingLine) -> None:
        line._is_turn_planned = True
        planned.append(line)

    monkeypatch.setattr(WaitingLine, "_plan_turn", plan)
    return planned


@pytest.fixture
def room() -> Room:
    room = Room(1, 1)
    room.starting = 1  # full
    return room


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def line(room: Room, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> WaitingLine:
    """A line whose turns are taken by hand."""
    app = FastAPI()

    @app.get("/things")
    async def things() -> None: ...

    @app.get("/health/live")
    async def live() -> None: ...

    routes = RouteTable(app, body_limit_bytes=1000, timeout_seconds=1)
    plan_by_hand(monkeypatch)
    return WaitingLine(Refusals(room, routes, None, []), clock=clock)


FIRST = round(TURN_SECONDS * LEAST_REFUSED_PER_SECOND)  # are refused before the first turn


def come(line: WaitingLine, room: Room, count: int, *, is_plain: bool = True) -> list[Client]:
    clients = [Client(room, is_plain=is_plain) for _ in range(count)]
    assert all(line.take(client, REQUEST) for client in clients)
    return clients


def wait(line: WaitingLine, room: Room, count: int, *, is_plain: bool = True) -> list[Client]:
    """Clients that are not refused at once."""
    come(line, room, FIRST)
    clients = come(line, room, count, is_plain=is_plain)
    assert fates(clients) == [""] * count
    return clients


def fates(clients: list[Client]) -> list[str]:
    return [client.fate for client in clients]


def test_a_few_are_refused_at_once(line: WaitingLine, room: Room) -> None:
    clients = come(line, room, FIRST + 3)

    assert fates(clients) == ["refused"] * FIRST + [""] * 3


def test_room_that_comes_free_goes_to_the_one_that_waits_longest(
    line: WaitingLine, room: Room, clock: Clock
) -> None:
    clients = wait(line, room, 3)
    room.starting = 0
    clock.now += TURN_SECONDS

    line._turn()

    assert fates(clients) == ["begun", "refused", "refused"]


def test_refusals_are_a_few_for_each_request_that_ended_and_the_rest_wait(
    line: WaitingLine, room: Room, clock: Clock
) -> None:
    clients = wait(line, room, 1000)
    room.ended += 50
    clock.now += TURN_SECONDS

    line._turn()
    assert fates(clients).count("refused") == 50 * REFUSED_PER_ENDED
    assert fates(clients)[-1] == ""  # the oldest were first

    clock.now += TURN_SECONDS
    line._turn()
    assert fates(clients).count("refused") == pytest.approx(50 * REFUSED_PER_ENDED + FIRST, abs=1)


def test_what_a_turn_leaves_of_its_refusals_is_given_at_once(
    line: WaitingLine, room: Room, clock: Clock
) -> None:
    wait(line, room, 100)
    room.ended += 50
    clock.now += TURN_SECONDS
    line._turn()

    clients = come(line, room, 50 * REFUSED_PER_ENDED)

    assert fates(clients) == ["refused"] * (50 * REFUSED_PER_ENDED - 100) + [""] * 100


def test_who_comes_while_others_wait_waits_behind_them(line: WaitingLine, room: Room, clock: Clock) -> None:
    first = wait(line, room, 100)
    clock.now += TURN_SECONDS
    line._turn()
    assert "" in fates(first)
    line._left = 1.0

    assert fates(come(line, room, 1)) == [""]


def test_turns_end_when_nobody_is_refused_any_more(
    line: WaitingLine, clock: Clock, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan_by_hand(monkeypatch)
    come(line, room, 1)
    for _ in range(2):
        clock.now += TURN_SECONDS
        line._turn()

    assert len(planned) == 2  # with the first that came, and at the first turn


def test_a_refusal_that_has_to_be_parsed_counts_for_several(
    line: WaitingLine, room: Room, clock: Clock
) -> None:
    clients = wait(line, room, 1000, is_plain=False)
    room.ended += 50
    clock.now += TURN_SECONDS

    line._turn()

    assert fates(clients).count("refused") == 50 * REFUSED_PER_ENDED / PARSED


def test_one_that_has_gone_takes_nobody_s_place(line: WaitingLine, room: Room, clock: Clock) -> None:
    gone, there = wait(line, room, 2)
    gone.is_held = False
    room.starting = 0
    clock.now += TURN_SECONDS

    line._turn()

    assert fates([gone, there]) == ["", "begun"]


@pytest.mark.parametrize(
    "data",
    [b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n", b"HEAD /things HTTP/1.1\r\n\r\n", b"GET /thi"],
)
def test_what_is_not_refused_is_not_taken(line: WaitingLine, room: Room, data: bytes) -> None:
    client = Client(room)
    assert not line.take(client, data)
    assert client.fate == ""


def test_a_connection_that_breaks_does_not_stop_the_turns(
    line: WaitingLine, room: Room, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = wait(line, room, 2)
    planned = plan_by_hand(monkeypatch)

    def fail(_refusals: Refusals) -> int:
        raise RuntimeError("broken")

    broken.refuse_held = fail  # type: ignore[method-assign]
    clock.now += TURN_SECONDS

    with pytest.raises(RuntimeError):
        line._turn()
    assert planned == [line]
    line._turn()
    clock.now += TURN_SECONDS
    line._turn()
    assert other.fate == "refused"
