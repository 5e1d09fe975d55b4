"""Requests that came to a full process, for the moment until there is room or they are refused.

Clients that ask again as soon as they are refused would have the process do nothing but refuse: two thousand such ask some forty
thousand times a second. So refusals are given out in turns: a few for each request that has ended since the last turn, which is a
share of the processor, and as many a second as a process of little use may give in any case. At three times what the process
can do nobody waits for more than the next turn; far beyond that refusals come later, and the process goes on serving.

Room that has come free by a turn is given to those that wait, oldest first: who comes a moment too early is not refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from scalable_fastapi_system.web.refusals import Refusals

TURN_SECONDS = 0.005
REFUSED_PER_ENDED = 8
LEAST_REFUSED_PER_SECOND = 5000.0
PARSED = 5  # a refusal by the middleware costs so many of those by the bytes


class Held(Protocol):
    """A connection whose request waits here."""

    @property
    def is_held(self) -> bool:
        """Whether its request still waits."""

    def begin_held(self) -> None:
        """Begins with the request."""

    def refuse_held(self, refusals: Refusals) -> bool:
        """Refuses the request. Whether by its bytes, which is cheap."""


class WaitingLine:
    """One a process, in its loop's thread."""

    def __init__(self, refusals: Refusals, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.room = refusals.room
        self._refusals = refusals
        self._clock = clock
        self._line: deque[Held] = deque()
        self._turn_at = 0.0
        self._ended = 0

    def take(self, connection: Held, data: bytes) -> bool:
        """Whether the connection waits here with these bytes; not with those that no full process refuses, such as probes."""
        if not self._refusals.may_refuse(data):
            return False
        if not self._line:
            self._turn_at, self._ended = self._clock(), self.room.ended
            self._plan_turn()
        self._line.append(connection)
        return True

    def _plan_turn(self) -> None:
        asyncio.get_running_loop().call_later(TURN_SECONDS, self._turn)

    def _turn(self) -> None:
        try:
            self._give_room()
            self._refuse()
        finally:  # whatever one connection does, the others are not forgotten
            if self._line:
                self._plan_turn()

    def _give_room(self) -> None:
        room, line = self.room, self._line
        while line and not room.is_full:
            connection = line.popleft()
            if connection.is_held:
                connection.begin_held()

    def _refuse(self) -> None:
        room, line = self.room, self._line
        now = self._clock()
        left = max(
            (now - self._turn_at) * LEAST_REFUSED_PER_SECOND, (room.ended - self._ended) * REFUSED_PER_ENDED
        )
        self._turn_at, self._ended = now, room.ended
        while line and left > 0:
            connection = line.popleft()
            if connection.is_held:  # its client may have gone
                left -= 1 if connection.refuse_held(self._refusals) else PARSED
