"""Clients that stall, and when they are let go: `python -m tests.bench.stalled < plan.json`.

Each connection says the beginning of something and then nothing more, or asks for much and reads none of it. What is measured
is the time from its opening until the server ends it. Only 127.0.0.1, and bounded in number and time.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.open_loop import HOST, MAX_CONNECTIONS, allow_files

MOST_SECONDS = 30.0
# As from another machine: the loopback's own segments are so large that the kernel would take a whole answer.
SEGMENT_BYTES, WINDOW_BYTES = 1460, 4096
KINDS = {
    "silent": b"",
    "in the head": b"GET /items HTTP/1.1\r\nHost: bench\r\nX-Long: ",
    "in the body": b"POST /auth/login HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
    "not reading": b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: bench\r\n\r\n",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How many, opened evenly over so long. `wait_seconds`: before the first."""

    port: int
    count: int
    opening_seconds: float
    wait_seconds: float = 0.0

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def run(plan: Plan) -> dict[str, Any]:
    """Opens them all and waits for their ends: by kind how many, how many were never ended, and the longest time."""
    if not 0 < plan.count <= MAX_CONNECTIONS:
        raise ValueError("the number of connections is bounded")
    names = list(KINDS)
    open_since: dict[int, tuple[socket.socket, str, float]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    poll = select.epoll()
    time.sleep(plan.wait_seconds)
    began = time.monotonic()
    number = 0
    while number < plan.count or open_since:
        now = time.monotonic()
        while number < plan.count and now >= began + number * plan.opening_seconds / plan.count:
            name = names[number % len(names)]
            client = _open(plan.port, KINDS[name])
            open_since[client.fileno()] = (client, name, time.monotonic())
            poll.register(client.fileno(), select.EPOLLRDHUP)  # and, as always, EPOLLHUP and EPOLLERR
            number += 1
        if now > began + plan.opening_seconds + MOST_SECONDS:
            break
        for file, _ in poll.poll(0.001 if number < plan.count else 0.05):
            client, name, since = open_since.pop(file)
            seconds[name].append(time.monotonic() - since)
            poll.unregister(file)
            client.close()
    never = len(open_since)
    for client, _, _ in open_since.values():
        client.close()
    return {
        "opened": number,
        "never_ended": never,
        "most_seconds": {name: max(values, default=0.0) for name, values in seconds.items()},
    }


def _open(port: int, first: bytes) -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
    client.settimeout(10)
    client.connect((HOST, port))
    if first:
        with contextlib.suppress(OSError):  # ended already: the poll tells
            client.send(first)
    return client


def main() -> int:
    raw: Mapping[str, Any] = json.load(sys.stdin)
    allow_files()
    print(json.dumps(run(Plan(**raw))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
