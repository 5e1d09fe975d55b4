"""How many requests are at work in this process, and whether there is room for one more."""

from __future__ import annotations


class Room:
    """Counts the requests of one process. Whoever counts one in counts it out again."""

    __slots__ = ("at_work", "most", "most_streams", "starting", "streams", "waiting")

    def __init__(self, most: int, most_streams: int) -> None:
        """
        most: requests at work for which there is room. Those that wait for their clients and streams take none.
        """
        self.most = most
        self.most_streams = most_streams
        self.at_work = 0  # inside the middleware
        self.starting = 0  # read from the socket, and not yet there
        self.waiting = 0  # of those at work, for their clients: to send the body or to read the answer
        self.streams = 0  # of those at work, the ones that follow events: at work for a moment now and then

    def enter(self) -> None:
        """A request has come to the middleware. A server of another kind does not tell that it starts one."""
        self.at_work += 1
        if self.starting:
            self.starting -= 1

    @property
    def taken(self) -> int:
        """Requests that keep the process or its stores busy: by them it refuses, and by them pods are scaled."""
        return self.at_work - self.waiting - self.streams

    @property
    def is_full(self) -> bool:
        """Whether one more would be too many."""
        return self.taken + self.starting >= self.most

    @property
    def is_over(self) -> bool:
        """Whether those inside are too many, the one who asks among them."""
        return self.taken > self.most

    def note_waiting(self, change: int) -> None:
        """Counts requests that begin (1) or cease (-1) to wait for their clients."""
        self.waiting += change
