"""How many requests are at work in this process, and whether there is room for one more.

The room is as large as the settings say while the process has pauses. A process without a pause is as fast as it can be, and one
request more at work makes none end sooner: it waits, and costs a connection, memory, and room in the processor's caches, so that
all become slower. So a busy process has room for what it ends within `QUEUE_SECONDS`, and for `LEAST` in any case.
Requests that wait for a store or another service leave the process its pauses, however many they are, and so does a burst.
"""

from __future__ import annotations

import time

QUEUE_SECONDS = 0.015
LEAST = 64
INTERVAL_SECONDS = 0.1
BUSY_SHARE = 0.95


class Room:
    """Counts the requests of one process, in its loop's thread. Whoever counts one in counts it out again."""

    __slots__ = (
        "_busy_at",
        "_ended_before",
        "_interval_began",
        "at_work",
        "ended",
        "limit",
        "most",
        "most_streams",
        "starting",
        "streams",
        "waiting",
    )

    def __init__(self, most: int, most_streams: int) -> None:
        """
        most: requests at work for which there is room at best. Those that wait for their clients and streams take none.
        """
        self.most = most
        self.most_streams = most_streams
        self.limit = most  # requests for which there is room now
        self.at_work = 0  # inside the middleware
        self.starting = 0  # read from the socket, and not yet there
        self.waiting = 0  # of those at work, for their clients: to send the body or to read the answer
        self.streams = 0  # of those at work, the ones that follow events: at work for a moment now and then
        self.ended = 0  # requests, ever
        self._ended_before = 0  # this interval
        self._interval_began = time.monotonic()
        self._busy_at = busy_seconds()

    def enter(self) -> None:
        """A request has come to the middleware. A server of another kind does not tell that it starts one."""
        self.at_work += 1
        if self.starting:
            self.starting -= 1
        seconds = time.monotonic() - self._interval_began
        if seconds >= INTERVAL_SECONDS:
            self._judge(seconds)

    def leave(self) -> None:
        """A request is answered."""
        self.at_work -= 1
        self.ended += 1

    @property
    def taken(self) -> int:
        """Requests that keep the process or its stores busy: by them it refuses, and by them pods are scaled."""
        return self.at_work - self.waiting - self.streams

    @property
    def is_full(self) -> bool:
        """Whether one more would be too many."""
        return self.taken + self.starting >= self.limit

    @property
    def is_over(self) -> bool:
        """Whether those inside are too many, the one who asks among them."""
        return self.taken > self.limit

    def note_waiting(self, change: int) -> None:
        """Counts requests that begin (1) or cease (-1) to wait for their clients."""
        self.waiting += change

    def _judge(self, seconds: float) -> None:
        busy_at = busy_seconds()
        if busy_at - self._busy_at < BUSY_SHARE * seconds:
            self.limit = min(self.most, 2 * self.limit)
        else:
            wanted = max(LEAST, round((self.ended - self._ended_before) / seconds * QUEUE_SECONDS))
            self.limit = min(self.most, max(wanted, self.limit // 2))
        self._ended_before = self.ended
        self._busy_at = busy_at
        self._interval_began += seconds


def busy_seconds() -> float:
    """For how long this thread has worked or, on Linux, waited for a processor: one that its container's limit or a neighbour
    holds up is as busy as one at work."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:  # noqa: PTH123 - ten times a second
            at_work, waiting, _ = file.read().split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(at_work) + int(waiting)) / 1e9
