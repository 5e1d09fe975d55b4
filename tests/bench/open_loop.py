"""Load at a rate that does not depend on the answers: `python -m tests.bench.open_loop < plan.json`.

Requests leave at random moments (Poisson) of a given mean rate, each on an idle connection or on a new one, so that a server
that falls behind is not asked less. Times run from the sending; how late the sending itself was is told too, because a
generator that falls behind measures itself. Only 127.0.0.1, and bounded in time, rate and connections.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import random
import resource
import select
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

HOST = "127.0.0.1"
MAX_SECONDS = 60.0
MAX_PER_SECOND = 50_000.0
MAX_CONNECTIONS = 3_000
DRAIN_SECONDS = 5.0
_AGAIN = {errno.EAGAIN, errno.EWOULDBLOCK}


@dataclass(frozen=True, slots=True)
class Flow:
    """One kind of request. `is_fresh`: each on a connection of its own, as a probe comes."""

    name: str
    request: str
    per_second: float
    is_fresh: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send to which port; what is sent in the warm-up is not counted.

    tells_each: the report has each good answer, too: when it was asked for (`time.perf_counter`), and its seconds.
    """

    port: int
    flows: list[Flow]
    seconds: float
    warm_up_seconds: float = 1.0
    tells_each: bool = False

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Plan:
        """Raises ValueError for more than the bounds of this module."""
        plan = cls(**{**raw, "flows": [Flow(**flow) for flow in raw["flows"]]})
        if plan.seconds > MAX_SECONDS or sum(flow.per_second for flow in plan.flows) > MAX_PER_SECOND:
            raise ValueError("the load is bounded")
        return plan


@dataclass(slots=True)
class Connection:
    """One connection with at most one request under way."""

    socket: socket.socket
    flow: Flow
    sent_at: float = 0.0
    is_counted: bool = False
    is_busy: bool = False
    status: int = 0
    missing_bytes: int = 0
    head: bytes = b""


@dataclass(slots=True)
class Tally:
    """What came back: by flow and status the seconds of each answer."""

    seconds: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    late: list[float] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    finished: Counter[tuple[str, int]] = field(default_factory=Counter)  # within the measured time
    broken: Counter[str] = field(default_factory=Counter)  # connections that ended before their answer
    unsent: int = 0  # for want of connections
    good: list[tuple[float, float]] = field(default_factory=list)  # when asked for, seconds; if told to


class Generator:
    """Sends a plan and keeps the tally."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._epoll = select.epoll()
        self._by_file: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self.tally = Tally()
        self.most_connections = 0
        self._measured = (0.0, 0.0)
        self._busy = 0
        self._requests = {flow.name: flow.request.encode() for flow in plan.flows}

    def run(self) -> None:
        """Sends for the planned time, then waits a little for what is under way."""
        began = time.perf_counter()
        end = began + self._plan.warm_up_seconds + self._plan.seconds
        self._measured = (began + self._plan.warm_up_seconds, end)
        dice = random.Random(20)
        due = {flow: began + dice.expovariate(flow.per_second) for flow in self._plan.flows}
        while True:
            now = time.perf_counter()
            for flow, at in due.items():
                while at <= now and at < end:
                    self._send(flow, at)
                    at += dice.expovariate(flow.per_second)  # noqa: PLW2901 - the next one's time
                due[flow] = at
            following = min(due.values())
            if following >= end:
                break
            self._take(max(0.0, following - time.perf_counter()))
        while self._busy and time.perf_counter() < end + DRAIN_SECONDS:
            self._take(0.05)
        for connection in list(self._by_file.values()):
            self._close(connection)
        self._epoll.close()

    def _send(self, flow: Flow, due: float) -> None:
        connection = self._connection(flow)
        if connection is None:
            self.tally.unsent += 1
            return
        now = time.perf_counter()
        connection.sent_at = now
        connection.flow = flow
        connection.is_counted = due >= self._measured[0]
        if connection.is_counted:
            self.tally.sent[flow.name] += 1
            self.tally.late.append(now - due)
        connection.is_busy = True
        self._busy += 1
        with contextlib.suppress(OSError):  # a connection that has ended is found by the next reading
            connection.socket.send(self._requests[flow.name])

    def _connection(self, flow: Flow) -> Connection | None:
        if self._idle and not flow.is_fresh:
            return self._idle.pop()
        if len(self._by_file) >= MAX_CONNECTIONS:
            return None
        made = socket.create_connection((HOST, self._plan.port), timeout=5)
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self._by_file[made.fileno()] = Connection(made, flow)
        self.most_connections = max(self.most_connections, len(self._by_file))
        self._epoll.register(made.fileno(), select.EPOLLIN)
        return connection

    def _take(self, seconds: float) -> None:
        for file, _ in self._epoll.poll(seconds):
            connection = self._by_file[file]
            try:
                data = connection.socket.recv(262_144)
            except OSError as error:
                if error.errno in _AGAIN:
                    continue
                data = b""
            if data:
                self._read(connection, data)
            else:
                self._end(connection)

    def _read(self, connection: Connection, data: bytes) -> None:
        if not connection.missing_bytes:
            data = connection.head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                connection.head = data
                return
            connection.head = b""
            connection.status = int(data[9:12])
            at = data.find(b"content-length: ", 0, end) + 16
            connection.missing_bytes = end + 4 + int(data[at : data.find(b"\r", at)])
        connection.missing_bytes -= len(data)
        if not connection.missing_bytes:
            self._finish(connection)

    def _finish(self, connection: Connection) -> None:
        now = time.perf_counter()
        key = (connection.flow.name, connection.status)
        if connection.is_counted:
            self.tally.seconds[key].append(now - connection.sent_at)
            if self._plan.tells_each and 200 <= connection.status < 300:
                self.tally.good.append((connection.sent_at, now - connection.sent_at))
        if self._measured[0] <= now < self._measured[1]:
            self.tally.finished[key] += 1
        connection.is_busy = False
        self._busy -= 1
        if connection.flow.is_fresh:
            self._close(connection)
        else:
            self._idle.append(connection)

    def _end(self, connection: Connection) -> None:
        """The server has ended it."""
        if connection.is_busy:
            self._busy -= 1
            self.tally.broken[connection.flow.name] += 1
        else:
            self._idle.remove(connection)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        del self._by_file[connection.socket.fileno()]
        connection.socket.close()

    def report(self) -> dict[str, Any]:
        """The figures, for JSON."""
        flows: dict[str, Any] = {}
        for flow in self._plan.flows:
            statuses = {
                str(status): {
                    "answers": len(seconds),
                    "per_second": self.tally.finished[name, status] / self._plan.seconds,
                    "p50_ms": percentile(seconds, 50) * 1e3,
                    "p95_ms": percentile(seconds, 95) * 1e3,
                    "p99_ms": percentile(seconds, 99) * 1e3,
                    "most_ms": max(seconds) * 1e3,
                }
                for (name, status), seconds in self.tally.seconds.items()
                if name == flow.name
            }
            answered = sum(figures["answers"] for figures in statuses.values())
            flows[flow.name] = {
                "sent_per_second": self.tally.sent[flow.name] / self._plan.seconds,
                "unanswered": self.tally.sent[flow.name] - answered,
                "broken": self.tally.broken[flow.name],
                "statuses": statuses,
            }
        return {
            "flows": flows,
            "late_p99_ms": percentile(self.tally.late, 99) * 1e3,
            "unsent": self.tally.unsent,
            "most_connections": self.most_connections,
            "measured": self._measured,
            "good": self.tally.good,
        }


def percentile(values: list[float], share: float) -> float:
    """The value that so many percent do not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]


def allow_files() -> None:
    """A connection is a file: lifts the usual limit of 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + 200
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def main() -> int:
    allow_files()
    generator = Generator(Plan.of(json.load(sys.stdin)))
    gc.disable()  # a pause of ours would look like the server's
    generator.run()
    print(json.dumps(generator.report()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
