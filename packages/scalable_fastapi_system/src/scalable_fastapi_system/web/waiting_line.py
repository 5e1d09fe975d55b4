"""Which of the requests that come to a full process are refused at once, and which wait.

Clients that ask again as soon as they are refused would have the process do nothing but refuse: two thousand such ask some forty
thousand times a second. So there may be a few refusals for each request that ended in the last turn of some thousandths of a
second, which is a share of the processor, and as many as a process of little use may give in any case. At three times what the
process can do that is enough to refuse at once; far beyond that the others wait, refusals come later, and the process goes on serving.

Who waits gets the room that has come free by the next turn, oldest first.
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
BY_BYTES = 1
PARSED = 5  # a refusal by the middleware costs so many of those by the bytes


class Held(Protocol):
    """A connection whose request waits here."""

    @property
    def is_held(self) -> bool:
        """Whether its request still waits: its client may have gone, or have sent more."""

    def begin_held(self) -> None:
        """Begins with the request."""

    def refuse_held(self, refusals: Refusals) -> int:
        """Refuses the request, if it still waits. What that cost: `BY_BYTES`, `PARSED`, or 0 where none waited."""


class WaitingLine:
    """One a process, in its loop's thread."""

    def __init__(self, refusals: Refusals, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.room = refusals.room
        self._refusals = refusals
        self._clock = clock
        self._line: deque[Held] = deque()
        self._is_turn_planned = False
        self._turn_at = 0.0
        self._ended = 0
        self._allowed = 0.0  # refusals from one turn to the next
        self._left = 0.0  # of these

    def take(self, connection: Held, data: bytes) -> bool:
        """Refuses the connection's request, which these bytes begin, now or later; or begins with it later.

        False for one that no full process refuses, such as a probe: it is to be read.
        """
        if not self._refusals.may_refuse(data):
            return False
        if not self._is_turn_planned:
            self._turn_at, self._ended = self._clock(), self.room.ended
            self._left = self._allowed = TURN_SECONDS * LEAST_REFUSED_PER_SECOND
            self._plan_turn()
        if self._left > 0 and not self._line:
            self._left -= connection.refuse_held(self._refusals)
        else:
            self._line.append(connection)
        return True

    def _plan_turn(self) -> None:
        self._is_turn_planned = True
        asyncio.get_running_loop().call_later(TURN_SECONDS, self._turn)

    def _turn(self) -> None:
        self._is_turn_planned = False
        is_refusing = self._left < self._allowed
        try:
            self._give_room()
            self._refuse()
        finally:  # whatever one connection does, the others are not forgotten
            if self._line or is_refusing:
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
        self._left = self._allowed = max(
            (now - self._turn_at) * LEAST_REFUSED_PER_SECOND, (room.ended - self._ended) * REFUSED_PER_ENDED
        )
        self._turn_at, self._ended = now, room.ended
        while line and self._left > 0:
            self._left -= line.popleft().refuse_held(self._refusals)
